"""Loss and token accuracy of every example, and what they are over all of them.

Two means are told apart: over examples (each counts alike, as in influence) and over label tokens (as in training).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterable, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn import functional

from clusterucb.training.batches import pass_of, supervised_logits
from clusterucb.types import TokenBatch


class Judged(BaseModel):
    """One example: the mean cross-entropy over its label tokens, their number, and how many a greedy guess gets."""

    model_config = ConfigDict(frozen=True)

    id: str
    subtask: str
    loss: float
    labels: int
    right: int


class Measure(BaseModel):
    """Some examples together."""

    model_config = ConfigDict(frozen=True)

    examples: int
    loss: float
    """Mean over the examples of their own mean loss."""
    token_loss: float
    """Mean over the label tokens of all examples."""
    accuracy: float
    """Share of the label tokens that a greedy guess gets."""


@torch.no_grad()
def judged(
    model: nn.Module, head: nn.Module | None, batch: TokenBatch, device: torch.device
) -> tuple[tuple[float, int, int], ...]:
    """Return mean loss, label tokens and right guesses of each of the batch's examples."""
    laid_out = pass_of(batch, False, device)
    logits_LV = supervised_logits(model, head, laid_out)
    losses_L = functional.cross_entropy(logits_LV, laid_out.target_L, reduction="none").double().cpu()
    right_L = (logits_LV.argmax(dim=1) == laid_out.target_L).cpu()
    counts = [int(batch.row(i)[1].sum()) for i in range(len(batch))]
    parts = zip(losses_L.split(counts), right_L.split(counts), counts, strict=True)
    return tuple((float(loss.mean()), count, int(right.sum())) for loss, right, count in parts)


def measure(examples: Sequence[Judged]) -> Measure:
    """Put examples together."""
    labels = sum(each.labels for each in examples)
    return Measure(
        examples=len(examples),
        loss=sum(each.loss for each in examples) / len(examples),
        token_loss=sum(each.loss * each.labels for each in examples) / labels,
        accuracy=sum(each.right for each in examples) / labels,
    )


def by_subtask(examples: Iterable[Judged]) -> dict[str, tuple[Judged, ...]]:
    """Group examples, names ascending."""
    groups: dict[str, list[Judged]] = {}
    for each in examples:
        groups.setdefault(each.subtask, []).append(each)
    return {name: tuple(groups[name]) for name in sorted(groups)}
