"""Where the budget went: rounds, and the clusters as arms."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clusterucb.run.score_table import ScoreTable
from clusterucb.run.summary import Share
from clusterucb.run.view.model import Arm, Round, SearchView
from clusterucb.types import IntArray

Labels = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

_ROUNDS = 40
_ARMS = 60


def search_view(
    drawn: ScoreTable,
    selected_B: Flags,
    labels_N: Labels | None,
    codes_N: Labels,
    sources: Sequence[str],
    limit: int,
) -> SearchView:
    """Tell rounds and arms of the drawn samples; `selected_B` says which of them are selected."""
    columns_B, spans = _columns(drawn.round_B)
    reward_B = drawn.reward_B
    rounds = [
        Round(
            first=first,
            last=last,
            draws=int(among.sum()),
            mean=float(reward_B[among].mean()),
            best=float(reward_B[among].max()),
            selected=int((among & selected_B).sum()),
        )
        for column, (first, last) in enumerate(spans)
        if (among := columns_B == column).any()
    ]
    arms, rest, rest_draws = _arms(drawn, selected_B, labels_N, codes_N, sources, columns_B, len(spans))
    return SearchView(
        limit=limit,
        drawn=len(drawn.samples_B),
        rounds=tuple(rounds),
        arms=arms,
        num_arms=0 if labels_N is None else int(labels_N.max(initial=-1)) + 1,
        other_arms_draws_by_round=rest_draws,
        other_arms=rest,
    )


def _columns(round_B: Labels) -> tuple[IntArray, list[tuple[int, int]]]:
    """Put rounds that follow each other together until few are left; -1, outside the search, counts as a round."""
    present, index_B = np.unique(round_B, return_inverse=True)
    groups = np.array_split(present, min(_ROUNDS, len(present))) if len(present) else []
    column_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return column_of[index_B].astype(np.int64), [(int(group[0]), int(group[-1])) for group in groups]


def _arms(
    drawn: ScoreTable,
    selected_B: Flags,
    labels_N: Labels | None,
    codes_N: Labels,
    sources: Sequence[str],
    columns_B: IntArray,
    num_columns: int,
) -> tuple[tuple[Arm, ...], Share | None, tuple[int, ...]]:
    if labels_N is None:
        return (), None, ()
    num_arms = int(labels_N.max(initial=-1)) + 1
    size_K = np.bincount(labels_N[labels_N >= 0], minlength=num_arms)
    arm_B, reward_B = labels_N[drawn.samples_B], drawn.reward_B
    count_K = np.bincount(arm_B, minlength=num_arms)
    chosen_K = np.bincount(arm_B[selected_B], minlength=num_arms)
    failed_B = labels_N[np.asarray([failure.sample for failure in drawn.failures], np.int64)]
    failed_K = np.bincount(failed_B[failed_B >= 0], minlength=num_arms)
    mean_K = np.bincount(arm_B, reward_B, num_arms) / np.maximum(count_K, 1)
    squares_K = np.bincount(arm_B, (reward_B - mean_K[arm_B]) ** 2, num_arms)
    std_K = np.sqrt(squares_K / np.maximum(count_K - 1, 1))
    best_K = np.full(num_arms, -np.inf)
    np.maximum.at(best_K, arm_B, reward_B)
    draws_KR = np.bincount(arm_B * np.int64(max(num_columns, 1)) + columns_B, minlength=num_arms * max(num_columns, 1))
    draws_KR = draws_KR.reshape(num_arms, max(num_columns, 1))[:, :num_columns]
    order = np.lexsort((np.arange(num_arms), -count_K, -chosen_K))
    shown, others = order[:_ARMS], order[_ARMS:]
    described = _sources_of(shown, labels_N, codes_N, sources)
    arms = tuple(
        Arm(
            cluster=k,
            size=int(size_K[k]),
            draws=int(count_K[k]),
            failed=int(failed_K[k]),
            selected=int(chosen_K[k]),
            mean=float(mean_K[k]) if count_K[k] else None,
            std=float(std_K[k]) if count_K[k] > 1 else None,
            best=float(best_K[k]) if count_K[k] else None,
            draws_by_round=tuple(draws_KR[k].tolist()),
            sources=names,
            source_share=share,
        )
        for k, (names, share) in zip(shown.tolist(), described, strict=True)
    )
    if not len(others):
        return arms, None, ()
    together = Share(
        name=f"{len(others)} more",
        pool=int(size_K[others].sum()),
        scored=int(count_K[others].sum()),
        selected=int(chosen_K[others].sum()),
    )
    return arms, together, tuple(draws_KR[others].sum(axis=0).tolist())


def _sources_of(
    arms: IntArray, labels_N: Labels, codes_N: Labels, sources: Sequence[str]
) -> list[tuple[tuple[str, ...], float]]:
    """Return, for each of these arms, its two most frequent sources and their share of it."""
    place_K = np.full(int(labels_N.max(initial=-1)) + 1, -1, np.int64)
    place_K[arms] = np.arange(len(arms))
    place_N = np.where(labels_N >= 0, place_K[np.maximum(labels_N, 0)], -1)
    among = place_N >= 0
    pairs, times = np.unique(place_N[among] * np.int64(len(sources)) + codes_N[among], return_counts=True)
    described: list[tuple[tuple[str, ...], float]] = []
    for place in range(len(arms)):
        mine = slice(*np.searchsorted(pairs, [place * len(sources), (place + 1) * len(sources)]).tolist())
        codes, counts = pairs[mine] - place * len(sources), times[mine]
        best = np.lexsort((codes, -counts))[:2]
        chosen: list[int] = codes[best].tolist()
        names = tuple(shortened(sources[code]) for code in chosen)
        described.append((names, float(counts[best].sum() / max(int(counts.sum()), 1))))
    return described


def shortened(name: str, characters: int = 120) -> str:
    """Return a name that is no longer than a name should be."""
    return name if len(name) <= characters else name[: characters - 1] + "…"
