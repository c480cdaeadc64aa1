"""The samples that a person looks at: the best ones, and others evenly down the ranks, with their texts.

Invariant: how many there are, and how much of their texts, has a limit that no pool exceeds.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from clusterucb.data.messages import parse_messages
from clusterucb.data.tokens import TokenStore
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.view.arms import Labels, shortened
from clusterucb.run.view.model import Message, Sample, Samples
from clusterucb.types import IntArray

Texts = Callable[[Iterable[int]], Iterable[dict[str, Any]]]
"""Gives the original rows at positions of the pool, in that order."""

_SELECTED = (200, 100)
_REJECTED = (100, 50)
_CHARACTERS = 4000
_NAME_CHARACTERS = 240


def samples_view(
    pool: TokenStore,
    scored: ScoreTable,
    selected_B: IntArray,
    subtasks: Sequence[str],
    labels_N: Labels | None,
    texts: Texts | None,
) -> Samples:
    """Show samples of the table of everything scored; `selected_B` has the selected ones, best first."""
    at_selected = np.searchsorted(scored.samples_B, selected_B)
    rest = np.ones(len(scored.samples_B), np.bool_)
    rest[at_selected] = False
    at_rejected = np.flatnonzero(rest)
    at_rejected = at_rejected[np.argsort(-scored.reward_B[at_rejected], kind="stable")]
    ranks, chosen = _places(len(at_selected), *_SELECTED), _places(len(at_rejected), *_REJECTED)
    positions = np.concatenate((at_selected[ranks], at_rejected[chosen]))
    samples = scored.samples_B[positions]
    rows = None if texts is None else list(texts(samples.tolist()))
    shown: list[Sample] = []
    places: list[tuple[int, int]] = list(zip(positions.tolist(), samples.tolist(), strict=True))
    for i, (at, sample) in enumerate(places):
        messages, cut = (None, 0) if rows is None else _messages(rows[i])
        shown.append(
            Sample(
                id=shortened(pool.ids[sample], _NAME_CHARACTERS),
                source=shortened(pool.sources[sample]),
                influence=float(scored.reward_B[at]),
                rank=int(ranks[i]) + 1 if i < len(ranks) else None,
                subtask=subtasks[int(scored.subtask_B[at])],
                stage=str(scored.stage_B[at]),
                cluster=None if labels_N is None or labels_N[sample] < 0 else int(labels_N[sample]),
                round=int(scored.round_B[at]) if scored.round_B[at] >= 0 else None,
                loss=float(scored.loss_B[at]),
                tokens=int(pool.lengths_N[sample]),
                label_tokens=int(pool.label_counts_N[sample]),
                messages=messages,
                cut=cut,
            )
        )
    return Samples(
        selected=tuple(shown[: len(ranks)]),
        num_selected=len(at_selected),
        rejected=tuple(shown[len(ranks) :]),
        num_rejected=len(at_rejected),
    )


def _places(count: int, first: int, spread: int) -> IntArray:
    """Return the first places of `count`, and some evenly down the others, the last one included."""
    if count <= first + spread:
        return np.arange(count)
    return np.concatenate((np.arange(first), np.linspace(first, count - 1, spread).astype(np.int64)))


def _messages(row: dict[str, Any]) -> tuple[tuple[Message, ...], int]:
    """Return the chat of a row, cut where it is long, and how many characters were left out."""
    left, cut = _CHARACTERS, 0
    shown: list[Message] = []
    for message in parse_messages(row):
        content = message.content[: max(left, 0)]
        cut += len(message.content) - len(content)
        left -= len(content) + 20  # so that many empty turns come to an end too
        if content or left > 0:
            shown.append(Message(role=message.role, content=content))
    return tuple(shown), cut
