"""The held-out examples of an evaluation as tokens, and the refusal of those that are not held out.

Invariant: an example whose tokens are those of a target example or of a sample that is trained on proves nothing; it is
named before anything is computed.
"""

from collections.abc import Iterable

from clusterucb.checkpoint.model import describe, load_tokenizer
from clusterucb.config import Evaluation, RunConfig, Target, Tokens
from clusterucb.data.chat import ChatEncoder
from clusterucb.data.rows import read_rows
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ConfigError, DataError
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tokenisation import Progress, token_store
from clusterucb.types import IntArray

NAME = "held-out"


def held_out_rows(evaluation: Evaluation) -> Target:
    """Return where the examples are. Raises ConfigError where nobody says."""
    if evaluation.held_out is None:
        raise ConfigError(
            "there are no examples to judge by: name a file of them with --held-out, or set evaluation.held_out.path"
        )
    return evaluation.held_out


def tokens_of(tokens: Tokens, evaluation: Evaluation) -> Tokens:
    """Return how held-out examples become tokens."""
    if evaluation.max_length is None:
        return tokens
    return tokens.model_copy(update={"max_length": evaluation.max_length})


def tokenise_held_out(config: RunConfig, folder: RunFolder, progress: Progress) -> tuple[TokenStore, tuple[str, ...]]:
    """Return the examples as tokens, kept in the folder, and what the user must hear about them.

    Raises ConfigError where the model has no positions for the longest.
    """
    evaluation = config.evaluation
    encoder = ChatEncoder(load_tokenizer(config.model), tokens_of(config.tokens, evaluation))
    store = token_store(read_rows(held_out_rows(evaluation)), encoder, folder, NAME, progress)
    longest = int(store.lengths_N[store.usable_N].max())
    positions = describe(config.model, config.gradients).max_positions
    if positions is not None and longest > positions:
        raise ConfigError(
            f"the longest held-out example has {longest} tokens, but model.base has positions for {positions}: set "
            f"evaluation.max_length to {positions} or less"
        )
    notes: list[str] = []
    if not store.usable_N.all():
        notes.append(f"held-out: {int((~store.usable_N).sum())} of {store.num_samples} examples cannot be used")
    if store.num_truncated:
        notes.append(
            f"held-out: {store.num_truncated} of {store.num_samples} examples were cut to "
            f"{encoder.config.max_length} tokens: raise evaluation.max_length"
        )
    return store, tuple(notes)


def check_apart(held_out: TokenStore, other: TokenStore, samples: IntArray, what: str) -> None:
    """Raise DataError where a held-out example is one of these samples, token for token."""
    theirs = {_tokens(other, sample) for sample in samples.tolist()}
    found = [held_out.ids[i] for i in range(len(held_out)) if held_out.usable_N[i] and _tokens(held_out, i) in theirs]
    if found:
        raise DataError(
            f"{len(found)} of {len(held_out)} held-out examples are also {what} ({_some(found)}): remove them from "
            f"either, or the loss on them shows what was seen, not what was learnt"
        )


def _tokens(store: TokenStore, sample: int) -> bytes:
    return store.batch([sample]).tokens_T.tobytes()


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", .." if len(listed) > 3 else "")
