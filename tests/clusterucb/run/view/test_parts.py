"""The parts of a view: bins, arms and samples stay few whatever there is of them."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clusterucb.data.texts import Texts
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.view import histograms, samples
from clusterucb.run.view.arms import search_view
from clusterucb.run.view.setup import named

reals = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=200).map(lambda found: np.asarray(found, np.float64))
lengths = st.lists(st.integers(1, 100_000), min_size=1, max_size=200).map(lambda found: np.asarray(found, np.int64))


@given(reals)
def test_every_value_is_in_one_of_few_bins(values: np.ndarray) -> None:
    edges = histograms.value_edges(values)
    assert 2 <= len(edges) <= 100
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= values.min() + 1e-9
    assert values.max() <= edges[-1] + 1e-9
    assert sum(histograms.counts(values, edges)) == len(values)


@given(lengths)
def test_every_length_is_in_one_of_few_bins(values: np.ndarray) -> None:
    edges = histograms.length_edges(values)
    assert 2 <= len(edges) <= 40
    assert (np.diff(edges) >= 1).all()
    assert edges[0] <= values.min()
    assert values.max() < edges[-1]
    assert sum(histograms.counts(values, edges)) == len(values)


def table(num: int, rounds: int, rng: np.random.Generator) -> ScoreTable:
    return ScoreTable(
        samples_B=np.arange(0, 2 * num, 2),
        influence_BS=rng.normal(size=(num, 1)).astype(np.float32),
        squared_norm_B=np.ones(num, np.float32),
        loss_B=np.ones(num, np.float32),
        round_B=rng.integers(0, rounds, num).astype(np.int32),
        stage_B=np.full(num, "search"),
        reused_B=np.zeros(num, np.bool_),
        failures=(),
    )


def test_a_view_of_the_search_does_not_grow_with_it() -> None:
    rng = np.random.default_rng(0)
    num, arms, sources = 200_000, 5_000, 50_000
    drawn = table(num, 300, rng)
    labels_N = rng.integers(0, arms, 2 * num).astype(np.int32)
    codes_N = rng.integers(0, sources, 2 * num).astype(np.int32)
    selected_B = drawn.reward_B > 2
    view = search_view(drawn, selected_B, labels_N, codes_N, [f"source {i}" for i in range(sources)], num)
    assert len(view.arms) == 60
    assert len(view.rounds) == 40
    assert len(view.model_dump_json()) < 60_000
    assert sum(each.draws for each in view.rounds) == num
    assert view.other_arms is not None
    assert sum(arm.draws for arm in view.arms) + view.other_arms.scored == num
    assert sum(arm.selected for arm in view.arms) + view.other_arms.selected == selected_B.sum()
    assert sum(sum(arm.draws_by_round) for arm in view.arms) + sum(view.other_arms_draws_by_round) == num


def test_samples_and_their_texts_have_limits() -> None:
    rng = np.random.default_rng(1)
    num = 5_000
    scored = table(num, 3, rng)
    best = scored.samples_B[np.argsort(-scored.reward_B)]
    pool = SimpleNamespace(
        ids=[f"{i}" * 1000 for i in range(2 * num)],
        sources=Texts(__import__("pyarrow").array(["s" * 1000] * (2 * num))),
        lengths_N=np.ones(2 * num, np.int64),
        label_counts_N=np.ones(2 * num, np.int64),
    )
    asked: list[int] = []

    def texts(positions):
        asked.extend(positions)
        chat = [{"role": "user", "content": "u" * 3000}, {"role": "assistant", "content": "a" * 100_000}]
        return ({"messages": chat} for _ in asked)

    view = samples.samples_view(pool, scored, best[:1000], ["all"], None, texts)
    assert (len(view.selected), len(view.rejected)) == (300, 150)
    assert (view.num_selected, view.num_rejected) == (1000, 4000)
    assert [sample.rank for sample in view.selected[:200]] == list(range(1, 201))
    assert view.selected[-1].rank == 1000
    assert len(asked) == 450
    assert all(sum(len(m.content) for m in sample.messages) <= 4000 for sample in view.selected)
    assert view.selected[0].cut == 103_000 - sum(len(m.content) for m in view.selected[0].messages)
    assert len(view.model_dump_json()) < 2_500_000


def test_names_of_locations() -> None:
    assert named("/data/pools/mixed.jsonl") == "mixed.jsonl"
    assert named(".cache/SmolLM2-135M-Instruct") == "SmolLM2-135M-Instruct"
    assert named("s3://bucket/pools/mixed.jsonl") == "mixed.jsonl"
    assert named("C:\\pools\\mixed.jsonl") == "mixed.jsonl"
    assert named("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"
    assert named("gpt2") == "gpt2"
