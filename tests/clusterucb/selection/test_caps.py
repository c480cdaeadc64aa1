"""No group exceeds its cap, whoever is left out is worse or in a full group, and what is left out is counted."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterucb.config import Cap, Selection
from clusterucb.errors import ConfigError
from clusterucb.selection import Groups, SelectedSubset, select
from clusterucb.selection.subset import first_within_caps
from clusterucb.settings import build_config

NAMES = ("source", "cluster", "near_duplicate")


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], dict[str, list[int]], dict[str, dict[str, float]], int]:
    rewards = draw(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    codes = {name: draw(st.lists(st.integers(-1, 3), min_size=len(rewards), max_size=len(rewards))) for name in names}
    sizes = st.one_of(
        st.builds(lambda n: {"count": n}, st.integers(1, 5)),
        st.builds(lambda x: {"share": x}, st.floats(0.05, 1.0)),
    )
    return rewards, codes, {name: draw(sizes) for name in names}, draw(st.integers(1, len(rewards)))


def chosen(case) -> tuple[SelectedSubset, Selection]:
    rewards, codes, caps, count = case
    settings = Selection.model_validate({"count": count, "caps": caps})
    groups = [Groups(name, np.array(of, np.int64), "g{}".format) for name, of in codes.items()]
    ids = [f"id-{i:02}" for i in range(len(rewards))]
    return select(np.arange(len(rewards)), np.array(rewards, np.float64), ids, groups, settings, 100), settings


@given(case=cases())
def test_it_is_what_walking_down_the_ranks_takes(case) -> None:
    rewards, codes, _, count = case
    subset, settings = chosen(case)
    limits = {name: cap.limit(count) for name, cap in settings.caps.active.items()}
    taken: list[int] = []
    refused: dict[str, set[int]] = {name: set() for name in limits}
    for i in sorted(range(len(rewards)), key=lambda i: (-rewards[i], i)):
        if len(taken) == count:
            break
        full = [n for n, of in codes.items() if of[i] >= 0 and sum(of[j] == of[i] for j in taken) >= limits[n]]
        if not full:
            taken.append(i)
        for name in full:
            refused[name].add(i)
    assert subset.samples_B.tolist() == taken
    assert subset.asked == (count if len(taken) < count else None)
    for use in subset.caps:
        of = Counter(codes[use.cap][i] for i in taken if codes[use.cap][i] >= 0)
        assert max(of.values(), default=0) <= use.limit == limits[use.cap]
        assert use.full == sum(size == use.limit for size in of.values())
        assert use.left_out == len(refused[use.cap])
        by_group = Counter(f"g{codes[use.cap][i]}" for i in refused[use.cap])
        assert dict(use.most).items() <= by_group.items()


@given(case=cases(), factor=st.floats(1, 4))
def test_a_list_to_choose_from_holds_whatever_the_caps_let_be_chosen(case, factor: float) -> None:
    rewards, codes, _, count = case
    subset, settings = chosen(case)
    ranked = np.array(sorted(range(len(rewards)), key=lambda i: (-rewards[i], i)))
    groups = [Groups(name, np.array(of, np.int64), str) for name, of in codes.items()]
    length = min(len(rewards), int(factor * count) + 1)
    listed = first_within_caps(ranked, length, settings, groups, factor, count)
    assert len(set(listed.tolist())) == length
    if len(codes) == 1 and subset.asked is None:  # more of every group, and more of them
        assert set(subset.samples_B.tolist()) <= set(listed.tolist())


def test_a_cap_is_a_share_or_a_count() -> None:
    with pytest.raises(ConfigError, match=r"either a share of the selection or a count"):
        tree("selection.caps.source.count=2", "selection.caps.source.share=0.1")
    assert Cap(share=0.1).limit(5) == 1
    assert Cap(share=0.3).limit(10) == 3


def tree(*overrides: str, **sections):
    base = {"pool": {"path": "p"}, "target": {"path": "t"}, "model": {"base": "m"}}
    return build_config(base | sections, overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("selection.caps.cluster.count=1", "search.allocator.kind=uniform"), "uniform makes no clusters"),
        (("selection.caps.near_duplicate.count=1", "gates.near.policy=off"), "gates.near.policy is off"),
        (("selection.diversity.kind=facility_location", "gradients.sketch.kind=none"), "which compares sketches"),
        (
            ("selection.caps.cluster.count=1", "gradients.scoring=shortlist", "store.path=s"),
            "clusters only what the store lacks",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tree(*overrides)
