"""One model judged in one folder: losses, generated answers, tasks of others.

Invariant: what was found is on disk, batch by batch, and is not computed again; which examples share a batch follows
from the examples alone, so that an evaluation that was interrupted ends as one that was not.
"""

# transformers and peft are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable

import numpy as np
import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from clusterucb.checkpoint.model import load_model, load_tokenizer
from clusterucb.config import RunConfig
from clusterucb.data.chat import ChatEncoder
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import Stopped
from clusterucb.evaluation.answers import extracted, same
from clusterucb.evaluation.generation import AnyModel, answers, prompt_batches, stop_tokens
from clusterucb.evaluation.harness import harness_results
from clusterucb.evaluation.held_out import NAME, tokens_of
from clusterucb.evaluation.judged import Judged, by_subtask, judged, measure
from clusterucb.evaluation.lines import Lines
from clusterucb.evaluation.questions import questions
from clusterucb.evaluation.summary import Answer, EvaluationSummary, Matches, matches
from clusterucb.run.batching import micro_batches
from clusterucb.run.disk import write_atomically
from clusterucb.run.events import Emit, Evaluated, Progressed, StageFinished, StageStarted
from clusterucb.run.run_folder import RunFolder
from clusterucb.training.batches import output_embedding


def evaluate(
    config: RunConfig,
    folder: RunFolder,
    device: torch.device,
    emit: Emit,
    stopped: Callable[[], bool] = lambda: False,
) -> EvaluationSummary:
    """Judge the configuration's model in a prepared folder and write the summary. Raises Stopped on request."""
    model = load_model(config.model, device, config.seed, ()).model
    tokenizer = load_tokenizer(config.model)
    found = judge_store(
        model, TokenStore.open(folder.state / NAME), config.evaluation.batch_tokens, device,
        Lines(folder.state / "judged.jsonl", Judged), emit, stopped,
    )  # fmt: skip
    by_answers: tuple[Answer, ...] = ()
    if config.evaluation.exact_match is not None:
        by_answers = _answered(config, model, tokenizer, folder, device, emit, stopped)
    harness = config.evaluation.harness
    tasks = None if harness is None else harness_results(model, tokenizer, harness)
    groups = by_subtask(found)
    answered = _by_subtask(by_answers)
    summary = EvaluationSummary(
        run=folder.name,
        base=config.model.base,
        adapter=config.model.adapter,
        held_out=measure(found),
        subtasks={name: measure(group) for name, group in groups.items()} if len(groups) > 1 else {},
        exact_match=matches(list(by_answers)) if by_answers else None,
        exact_match_by_subtask=answered if len(answered) > 1 else {},
        harness=tasks,
    )
    _write(folder, found, by_answers, summary)
    measured, right = summary.held_out, summary.exact_match
    share = None if right is None else right.share
    emit(Evaluated(what=folder.name, loss=measured.loss, accuracy=measured.accuracy, exact_match=share))
    return summary


def judge_store(
    model: torch.nn.Module,
    store: TokenStore,
    batch_tokens: int,
    device: torch.device,
    lines: Lines[Judged],
    emit: Emit,
    stopped: Callable[[], bool],
) -> tuple[Judged, ...]:
    """Judge every usable example; returns them in the store's order."""
    head = output_embedding(model)
    known = {each.id for each in lines.found}
    usable = np.flatnonzero(store.usable_N)
    emit(StageStarted(stage="held-out loss", total=len(usable), done=len(known)))
    for samples_B in micro_batches(usable, store.lengths_N, batch_tokens):
        ids = [store.ids[sample] for sample in samples_B.tolist()]
        if known.issuperset(ids):
            continue
        if stopped():
            raise Stopped("stopped; what was judged is kept")
        batch = store.batch(samples_B)
        found = judged(model, head, batch, device)
        subtasks = [store.subtasks[sample] for sample in samples_B.tolist()]
        lines.add(
            Judged(id=name, subtask=subtask, loss=loss, labels=labels, right=right)
            for name, subtask, (loss, labels, right) in zip(ids, subtasks, found, strict=True)
            if name not in known
        )
        emit(_progress("held-out loss", len(ids), len(batch.tokens_T)))
    emit(StageFinished(stage="held-out loss"))
    place = {store.ids[sample]: sample for sample in usable.tolist()}
    return tuple(sorted(lines.found, key=lambda each: place[each.id]))


def _answered(
    config: RunConfig,
    model: AnyModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: RunFolder,
    device: torch.device,
    emit: Emit,
    stopped: Callable[[], bool],
) -> tuple[Answer, ...]:
    settings = config.evaluation.exact_match
    assert settings is not None, "the caller sees to it"
    asked = questions(config.evaluation, settings, ChatEncoder(tokenizer, tokens_of(config.tokens, config.evaluation)))
    lines = Lines(folder.state / "answers.jsonl", Answer)
    known = {each.id for each in lines.found}
    stop = stop_tokens(model, tokenizer)
    emit(StageStarted(stage="answers", total=len(asked), done=len(known)))
    for places in prompt_batches([each.prompt for each in asked], settings.batch_size):
        batch = [asked[place] for place in places]
        if known.issuperset(each.id for each in batch):
            continue
        if stopped():
            raise Stopped("stopped; what was answered is kept")
        made = answers(model, [each.prompt for each in batch], stop, settings.max_new_tokens, device)
        texts = [str(tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens in made]
        given = [extracted(text, settings) for text in texts]
        lines.add(
            Answer(id=each.id, subtask=each.subtask, text=text, found=found, wanted=each.wanted,
                   right=same(found, each.wanted))
            for each, text, found in zip(batch, texts, given, strict=True)
            if each.id not in known
        )  # fmt: skip
        emit(_progress("answers", len(batch), sum(len(tokens) for tokens in made)))
    emit(StageFinished(stage="answers"))
    place = {each.id: i for i, each in enumerate(asked)}
    return tuple(sorted(lines.found, key=lambda each: place[each.id]))


def _by_subtask(found: tuple[Answer, ...]) -> dict[str, Matches]:
    names = sorted({each.subtask for each in found})
    return {name: matches([each for each in found if each.subtask == name]) for name in names}


def _progress(stage: str, samples: int, tokens: int) -> Progressed:
    return Progressed(stage=stage, samples=samples, tokens=tokens, seconds=0.0)


def _write(
    folder: RunFolder, found: tuple[Judged, ...], answered: tuple[Answer, ...], summary: EvaluationSummary
) -> None:
    """Write examples, answers and, last, the summary."""
    for name, entries in (("examples.jsonl", found), ("answers.jsonl", answered)):
        if entries:
            write_atomically(folder.path / name, "".join(each.model_dump_json() + "\n" for each in entries))
    write_atomically(folder.summary_file, summary.model_dump_json(indent=1) + "\n")
