"""Corrections for length: against brute force, and what each promises of the ranking."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from clusterucb.config import AsTheyAre, LengthQuantile, LengthTrend
from clusterucb.selection.length import fit_correction
from clusterucb.selection.length_bias import Quantiles, rank_correlation

seeds = st.integers(0, 2**32 - 1)


def scored(seed: int, count: int = 80, slope: float = -0.05) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 200, count)
    return slope * np.log(lengths) + 0.03 * rng.normal(size=count), lengths


def everything(count: int) -> np.ndarray:
    return np.ones(count, np.bool_)


@given(seed=seeds)
def test_none_changes_nothing(seed: int) -> None:
    influence, lengths = scored(seed)
    correct = fit_correction(AsTheyAre(), influence, lengths, everything(80), lengths)
    np.testing.assert_array_equal(correct(influence, lengths), influence)


@given(seed=seeds, slope=st.floats(-0.2, 0.2))
def test_the_trend_is_that_of_least_squares_over_what_no_reward_led_to(seed: int, slope: float) -> None:
    influence, lengths = scored(seed, slope=slope)
    unsteered = np.random.default_rng(seed).random(80) < 0.4
    correct = fit_correction(LengthTrend(), influence, lengths, unsteered, lengths)
    line = np.polyfit(np.log(lengths[unsteered]), influence[unsteered], 1)
    at_mean = np.polyval(line, np.log(lengths[unsteered]).mean())
    expected = influence - np.polyval(line, np.log(lengths)) + at_mean
    np.testing.assert_allclose(correct(influence, lengths), expected, atol=1e-9)
    left = correct(influence[unsteered], lengths[unsteered])
    assert abs(np.corrcoef(left, np.log(lengths[unsteered]))[0, 1]) < 1e-6


def test_one_length_has_no_trend() -> None:
    influence, lengths = np.arange(5.0), np.full(5, 7)
    correct = fit_correction(LengthTrend(), influence, lengths, everything(5), lengths)
    np.testing.assert_array_equal(correct(influence, lengths), influence)
    nothing = fit_correction(LengthTrend(), influence, lengths, ~everything(5), lengths)
    np.testing.assert_array_equal(nothing(influence, lengths), influence)


def brute_force_quantiles(influence, lengths, pool_lengths, buckets) -> list[float]:
    """One less the share of the class's pool that lies above, counted sample by sample."""
    ordered = sorted(pool_lengths.tolist())
    starts = {ordered[i * len(ordered) // buckets] for i in range(1, buckets)} - {ordered[0]}

    def of(length: int) -> int:
        return sum(start <= length for start in starts)

    values = []
    for x, length in zip(influence, lengths, strict=True):
        among = [y for y, other in zip(influence, lengths, strict=True) if of(other) == of(length)]
        above = sum(y > x for y in among) + sum(y == x for y in among) / 2
        values.append(1 - above / max(sum(of(other) == of(length) for other in pool_lengths), 1))
    return values


@given(seed=seeds, buckets=st.integers(2, 12), ties=st.booleans())
def test_quantiles_are_places_among_answers_as_long(seed: int, buckets: int, ties: bool) -> None:
    influence, lengths = scored(seed, count=50)
    influence = np.round(influence, 2) if ties else influence
    pool_lengths = np.concatenate((lengths, np.random.default_rng(seed + 1).integers(1, 200, 150)))
    kind = LengthQuantile(buckets=buckets)
    correct = fit_correction(kind, influence, lengths, everything(50), pool_lengths)
    expected = brute_force_quantiles(influence, lengths, pool_lengths, buckets)
    np.testing.assert_allclose(correct(influence, lengths), expected)


@given(seed=seeds)
def test_whoever_is_best_by_quantile_is_of_every_length(seed: int) -> None:
    influence, lengths = scored(seed, count=400, slope=-0.5)  # by influence alone only the shortest would do
    correct = fit_correction(LengthQuantile(buckets=4), influence, lengths, everything(400), lengths)
    best = np.argsort(-correct(influence, lengths), kind="stable")[:40]
    starts = np.sort(lengths)[[100, 200, 300]]
    of, sizes = (
        np.bincount(np.searchsorted(starts, each, side="right"), minlength=4) for each in (lengths[best], lengths)
    )
    assert np.abs(of - sizes / 10).max() <= 1


@given(seed=seeds, kind=st.sampled_from([LengthTrend(), LengthQuantile()]))
def test_a_correction_is_a_function_of_influence_and_length(seed: int, kind) -> None:
    """What is corrected later does not change it: an audit may rest on it."""
    influence, lengths = scored(seed)
    correct = fit_correction(kind, influence, lengths, everything(80), lengths)
    others, their_lengths = scored(seed + 1)
    together = correct(np.concatenate((influence, others)), np.concatenate((lengths, their_lengths)))
    np.testing.assert_array_equal(together[:80], correct(influence, lengths))
    np.testing.assert_array_equal(together[80:], correct(others, their_lengths))
    for length in np.unique(their_lengths)[:5]:  # of answers as long, more influence never ranks lower
        same = correct(np.linspace(-1, 1, 50), np.full(50, length))
        assert (np.diff(same) >= 0).all()


@given(seed=seeds, decimals=st.integers(1, 4))
def test_rank_correlation_is_spearman_s(seed: int, decimals: int) -> None:
    influence, lengths = scored(seed)
    influence = np.round(influence, decimals)
    if len(np.unique(influence)) > 1:
        assert rank_correlation(influence, lengths) == pytest.approx(spearmanr(influence, lengths).statistic)


def test_nothing_varies_nothing_correlates() -> None:
    assert rank_correlation(np.ones(4), np.arange(4)) is None
    assert Quantiles.of(np.arange(1, 12)) == Quantiles(2.0, 3.5, 6.0, 8.5, 10.0)
