"""What can be refused before a study computes anything; then tokens on disk.

Invariant: a new study folder exists afterwards only if the study can start.
"""

from dataclasses import dataclass

from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import RunFolderError
from clusterucb.evaluation.held_out import held_out_rows, tokenise_held_out
from clusterucb.loop.adoption import adopt_tokens
from clusterucb.run.preparation import Claim, prepare_rows
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tokenisation import Progress
from clusterucb.training.preparation import check_training


@dataclass(frozen=True, slots=True)
class PreparedStudy:
    """The held-out examples, and what the user must hear."""

    held_out: TokenStore
    notes: tuple[str, ...]


def prepare_study(config: RunConfig, folder: RunFolder, source: RunFolder | None, progress: Progress) -> PreparedStudy:
    """Check, claim the folder, and tokenise; the tokens of the finished run `source` are taken over."""
    if folder.remote is not None:
        raise RunFolderError(
            f"{folder.location} is a URL: a study trains, and needs a path on storage that all nodes share"
        )
    held_out_rows(config.evaluation)
    check_training(config)
    claim = Claim(config, folder, "study")
    try:
        if source is not None:
            adopt_tokens(source.state, folder)
        prepared = prepare_rows(config, folder, progress, claim)
        held_out, notes = tokenise_held_out(config, folder, progress)
        return PreparedStudy(held_out, (*prepared.notes, *notes))
    except BaseException:
        claim.withdraw()
        raise
