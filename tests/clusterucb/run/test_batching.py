"""Micro-batches cover every sample once, stay within the budget and depend on nothing but their input."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clusterucb.run.batching import micro_batches

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(lengths=LENGTHS, budget=st.integers(1, 200), shuffle=st.randoms(use_true_random=False))
def test_batches_partition_the_samples_within_the_budget(lengths: list[int], budget: int, shuffle):
    lengths_N = np.asarray(lengths, dtype=np.int64)
    order = list(range(len(lengths)))
    shuffle.shuffle(order)
    batches = micro_batches(np.asarray(order, dtype=np.int64), lengths_N, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * int(lengths_N[batch].max())
        assert padded <= budget or len(batch) == 1
    plain = micro_batches(np.arange(len(lengths)), lengths_N, budget)
    assert [b.tolist() for b in batches] == [b.tolist() for b in plain]


def test_no_samples_make_no_batches():
    assert micro_batches(np.empty(0, np.int64), np.ones(3, np.int64), 10) == []
