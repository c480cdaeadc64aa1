"""Diverse selections: lazy greedy is plain greedy, by the definition of each objective; caps and quality hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb.config import FacilityLocation, LogDeterminant, Selection
from clusterucb.selection import Groups, select
from clusterucb.selection.diversity import diverse_order, folded, prepared, scaled
from clusterucb.selection.facility_location import FacilityCoverage
from clusterucb.selection.log_determinant import SpannedVolume

seeds = st.integers(0, 2**32 - 1)
KINDS = (FacilityLocation, LogDeterminant)


class Open:
    """Admits everything, or all but some."""

    def __init__(self, refused: frozenset[int] = frozenset()) -> None:
        self.refused, self.taken = refused, []

    def admits(self, position: int) -> bool:
        return position not in self.refused

    def take(self, position: int) -> None:
        self.taken.append(position)


def material(seed: int, count: int = 40, dim: int = 24, topics: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return rows around a few directions, and falling values."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(topics, dim))
    rows = centres[rng.integers(0, topics, count)] + 0.7 * rng.normal(size=(count, dim)) + 2.0
    return rows.astype(np.float32), np.sort(rng.normal(size=count))[::-1]


def value_of(kind, rows: np.ndarray, relevance: np.ndarray, chosen: list[int], count: int) -> float:
    """The objective by its definition, over the whole kernel."""
    kernel = rows.astype(np.float64) @ rows.T.astype(np.float64)
    quality = kind.quality
    if isinstance(kind, FacilityLocation):
        cover = np.maximum(kernel[:, chosen], 0).max(axis=1).mean() if chosen else 0.0
        return quality * relevance[chosen].sum() / count + (1 - quality) * cover
    among = kernel[np.ix_(chosen, chosen)] + kind.ridge * np.eye(len(chosen))
    volume = (np.linalg.slogdet(among)[1] - len(chosen) * np.log(kind.ridge)) / np.log(1 + 1 / kind.ridge)
    return quality * relevance[chosen].sum() + (1 - quality) * volume


@settings(max_examples=30, deadline=None)
@given(
    seed=seeds,
    kind=st.sampled_from(KINDS),
    quality=st.sampled_from([0.0, 0.3, 0.7]),
    count=st.integers(1, 20),
    refused=st.frozensets(st.integers(0, 39), max_size=25),
    center=st.booleans(),
)
def test_it_is_what_plain_greedy_takes(seed: int, kind, quality: float, count: int, refused, center: bool) -> None:
    rows, values = material(seed)
    diverse = kind(quality=quality, center=center)
    found = diverse_order(diverse, np.arange(40), values, rows, count, Open(refused)).tolist()
    unit = prepared(rows, center)
    assert len(found) == len(set(found)) == min(count, 40 - len(refused))
    for step, element in enumerate(found):
        left = [i for i in range(40) if i not in found[:step] and i not in refused]
        gains = [value_of(diverse, unit, scaled(values), [*found[:step], i], count) for i in left]
        assert element in left
        assert gains[left.index(element)] >= max(gains) - 1e-5  # equal ones are told apart by rounding


@settings(max_examples=20, deadline=None)
@given(seed=seeds, kind=st.sampled_from(KINDS))
def test_gains_are_differences_of_the_objective(seed: int, kind) -> None:
    rows, values = material(seed)
    rows, relevance = prepared(rows, True), scaled(values)
    diverse = kind(quality=0.4)
    objective = (
        FacilityCoverage(rows, np.arange(40), relevance, 0.4, 10)
        if kind is FacilityLocation
        else SpannedVolume(rows, relevance, 0.4, diverse.ridge)
    )
    chosen: list[int] = []
    for element in np.random.default_rng(seed).permutation(40)[:12].tolist():
        before = value_of(diverse, rows, relevance, chosen, 10)
        others = np.setdiff1d(np.arange(40), chosen)
        gains = objective.gains(others)
        for other, gain in zip(others[:5].tolist(), gains, strict=False):
            assert gain == pytest.approx(value_of(diverse, rows, relevance, [*chosen, other], 10) - before, abs=1e-5)
        objective.add(element)
        chosen.append(element)
        assert (objective.gains(others) <= gains + 1e-6).all(), "gains only fall: what laziness rests on"


@settings(max_examples=10, deadline=None)
@given(seed=seeds, kind=st.sampled_from(KINDS), count=st.integers(1, 40))
def test_quality_alone_takes_the_best_in_their_order(seed: int, kind, count: int) -> None:
    rows, values = material(seed)
    found = diverse_order(kind(quality=1.0), np.arange(40), values, rows, count, Open())
    assert found.tolist() == list(range(count))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_come_after_what_differs(kind) -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(6, 64)).astype(np.float32), 3, axis=0)
    found = diverse_order(kind(quality=0.1), np.arange(18), np.linspace(1, 0.9, 18), rows, 18, Open())
    assert sorted(i // 3 for i in found[:6].tolist()) == list(range(6))


@pytest.mark.parametrize("kind", KINDS)
def test_a_selection_is_diverse_within_its_caps_and_its_shortlist(kind) -> None:
    rows, values = material(3, count=60)
    sources = np.arange(60) % 4
    config = Selection(count=12, diversity=kind(quality=0.2, shortlist=2.5), caps={"source": {"count": 3}})
    groups = [Groups("source", sources, str)]
    ids = [f"{i:02}" for i in range(60)]
    order = np.random.default_rng(1).permutation(60)
    subset = select(
        np.arange(60)[order], values[order], [ids[i] for i in order], [Groups("source", sources[order], str)], config,
        60, lambda samples, dim: rows[samples],
    )  # fmt: skip
    plain = select(np.arange(60), values, ids, groups, config, 60, lambda samples, dim: rows[samples])
    assert subset.samples_B.tolist() == plain.samples_B.tolist(), "the order of the scores does not matter"
    assert np.bincount(sources[subset.samples_B]).tolist() == [3, 3, 3, 3]
    assert subset.samples_B.max() < 40  # thirty are listed, with ten of a source at most
    best = select(np.arange(60), values, ids, groups, Selection(count=12, caps={"source": {"count": 3}}), 60)
    assert set(best.samples_B.tolist()) != set(subset.samples_B.tolist())
    assert subset.threshold == values[subset.samples_B].min()


def test_folding_keeps_cosines() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=4000)
    sketches = (rng.normal(size=(50, 4000)) + shared).astype(np.float16)
    folds = folded(sketches, 512)
    assert folds.shape == (50, 512)

    def cosines(rows: np.ndarray) -> np.ndarray:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit @ unit.T

    assert np.abs(cosines(folds) - cosines(sketches.astype(np.float64))).max() < 5 / np.sqrt(512)
    np.testing.assert_array_equal(folded(sketches, 5000), sketches.astype(np.float32))
