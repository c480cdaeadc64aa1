"""Every epoch shows every sample once, any step is found alone, and ranks share passes out without changing them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterucb.config import Training
from clusterucb.training.order import Order, dealt
from clusterucb.training.schedule import learning_rate
from clusterucb.training.stretch import evenly, steps_an_epoch

SETTINGS = st.builds(
    Training,
    batch_size=st.integers(1, 9),
    batch_tokens=st.integers(1, 60),
    packing=st.booleans(),
    group_by_length=st.booleans(),
)
LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=60)


@given(LENGTHS, SETTINGS, st.integers(0, 3), st.data())
def test_an_epoch_is_every_sample_once(lengths: list[int], training: Training, epoch: int, data: st.DataObject):
    lengths_N = np.asarray(lengths)
    samples = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    if not len(samples):
        return
    steps = steps_an_epoch(len(samples), training.batch_size)
    order = Order(samples, lengths_N, training, seed=3)
    seen = [order.samples_at(epoch * steps + i) for i in range(steps)]
    assert sorted(np.concatenate(seen).tolist()) == samples.tolist()
    assert all(len(batch) <= training.batch_size for batch in seen)
    alone = Order(samples, lengths_N, training, seed=3).samples_at((epoch + 1) * steps - 1)
    assert np.array_equal(alone, seen[-1]), "a step does not depend on those asked for before"


@given(LENGTHS, SETTINGS, st.integers(1, 4))
def test_passes_hold_the_step_within_the_budget_and_ranks_share_them(
    lengths: list[int], training: Training, ranks: int
):
    lengths_N = np.asarray(lengths)
    order = Order(np.arange(len(lengths)), lengths_N, training, seed=0)
    passes = order.passes_at(0)
    assert sorted(np.concatenate(passes).tolist()) == sorted(order.samples_at(0).tolist())
    for part in passes:
        size = lengths_N[part].sum() if training.packing else lengths_N[part].max() * len(part)
        assert size <= training.batch_tokens or len(part) == 1
    shares = [dealt(passes, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1, "every rank takes as many turns"
    handed = [part for turn in zip(*shares, strict=True) for part in turn if part is not None]
    assert [part.tolist() for part in handed] == [part.tolist() for part in passes]


def test_seeds_epochs_and_stretches_have_orders_of_their_own():
    lengths_N, training = np.full(50, 5), Training(batch_size=50)

    def order(seed: int, first_step: int, step: int) -> tuple[int, ...]:
        return tuple(Order(np.arange(50), lengths_N, training, seed, first_step).samples_at(step).tolist())

    assert len({order(0, 0, 0), order(1, 0, 0), order(0, 7, 0), order(0, 0, 1)}) == 4


@given(st.sampled_from(["linear", "cosine", "constant"]), st.floats(0, 0.9), st.integers(1, 200))
def test_the_rate_rises_then_falls_and_never_stands_at_zero(schedule: str, warmup: float, total: int):
    training = Training(schedule=schedule, warmup=warmup, learning_rate=0.5)
    rates = [learning_rate(step, total, training) for step in range(total)]
    top = int(np.argmax(rates))
    assert all(0 < rate <= 0.5 for rate in rates)
    assert np.all(np.diff(rates[: top + 1]) > 0)
    assert np.all(np.diff(rates[top:]) <= 0)
    assert rates[top] == pytest.approx(0.5)


def test_checkpoints_are_spread_evenly():
    assert evenly(8, 4) == (2, 4, 6, 8)
    assert evenly(7, 3) == (3, 5, 7)
    assert evenly(2, 5) == (1, 2)
    assert evenly(5, 1) == (5,)
