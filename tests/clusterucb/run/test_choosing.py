"""Caps, corrections and diversity in a run: what is written is what they promise, for every target and jointly."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from selection_cases import config_of, run_here, small_selection, write_rows

from clusterucb import audit
from clusterucb.config import LengthQuantile, LengthTrend
from clusterucb.errors import ConfigError
from clusterucb.run.gating import read_gates
from clusterucb.run.prepared import open_prepared
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import ScoreArchive
from clusterucb.run.seen_rewards import SeenRewards
from clusterucb.run.summary import Summary, read_summary
from clusterucb.run.view.read import read_view, view_file
from clusterucb.selection.length import fit_correction
from clusterucb.types import Observations

WISHES = (
    "selection.share=0.1",
    "selection.caps.source.share=0.35",
    "selection.caps.cluster.count=3",
    "selection.normalise.kind=length_quantile",
    "selection.normalise.buckets=3",
)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("material")
    settings = small_selection(folder)
    birds = str(write_rows(folder / "birds.jsonl", 6, ["birds", "code"], seed=3))
    sums = settings.pop("target")
    return settings | {"targets": [{"name": "sums"} | sums, {"name": "birds", "path": birds, "weight": 2.0}]}


@pytest.fixture(scope="module")
def finished(material, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    diverse = ("kind=facility_location", "quality=0.1", "shortlist=3")
    wishes = (*WISHES, *(f"selection.diversity.{each}" for each in diverse))
    return run_here(config_of(material, *wishes), tmp_path_factory.mktemp("finished") / "run")


def chosen(folder: RunFolder, target: str | None = None) -> list[dict]:
    path = folder.selection_file if target is None else folder.selection_file_of(target)
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary_of(folder: RunFolder) -> Summary:
    return read_summary(folder)


def values_of(influence: np.ndarray, lengths: np.ndarray, fitted: np.ndarray, edges: list[int], sizes) -> np.ndarray:
    """Quantiles by counting, of everything scored among what the search drew."""
    of = np.searchsorted(edges, lengths, side="right")
    above = [
        ((influence > x) & fitted & (of == o)).sum() + ((influence == x) & fitted & (of == o)).sum() / 2
        for x, o in zip(influence, of, strict=True)
    ]
    return 1 - np.array(above) / sizes[of]


def test_every_selection_keeps_the_caps(finished: RunFolder) -> None:
    summary = summary_of(finished)
    assert [cap.cap for cap in summary.caps] == ["source", "cluster"]
    assert [cap.limit for cap in summary.caps] == [5, 3]
    for target, caps in ((None, summary.caps), *((each.name, each.caps) for each in summary.targets)):
        rows = chosen(finished, target)
        assert len(rows) == summary.asked == 16
        sources = Counter(row["source"] for row in rows)
        clusters = Counter(row["clusterucb"]["cluster"] for row in rows)
        for cap, counts in zip(caps, (sources, clusters), strict=True):
            assert max(counts.values()) <= cap.limit
            assert cap.full == sum(count == cap.limit for count in counts.values())
            assert (cap.left_out > 0) == bool(cap.most)
    assert any(cap.left_out for cap in summary.caps)


def test_scores_hold_what_each_target_ranks_by(finished: RunFolder) -> None:
    scores = pq.read_table(finished.scores_file).to_pydict()
    config = finished.read_config()
    pool, _ = open_prepared(finished)
    pool_lengths = np.sort(pool.label_counts_N[pool.usable_N])
    edges = sorted({int(pool_lengths[i * len(pool_lengths) // 3]) for i in (1, 2)} - {int(pool_lengths[0])})
    sizes = np.bincount(np.searchsorted(edges, pool_lengths, side="right"))
    lengths, searched = np.array(scores["num_label_tokens"]), np.array(scores["stage"]) == "search"
    summary = summary_of(finished)
    undrawn = summary.usable - searched.sum()
    for outcome in summary.targets:
        influence = np.array(scores[f"influence/{outcome.name}"])
        expected = values_of(influence, lengths, searched, edges, sizes)
        found = np.array(scores[f"score/{outcome.name}"])
        np.testing.assert_allclose(found, expected)
        told = audit.estimate(found[searched], found[~searched], int(undrawn), 16, config.audit.confidence)
        assert outcome.audit is not None
        assert outcome.audit.recall == pytest.approx(told.recall)
        assert outcome.audit.low == pytest.approx(told.low)
        for row in chosen(finished, outcome.name):
            at = scores["id"].index(row["id"])
            assert row["clusterucb"]["score"] == found[at]
            assert row["clusterucb"]["influence"] == pytest.approx(influence[at])


def test_lengths_are_reported_of_every_target(finished: RunFolder) -> None:
    scores = pq.read_table(finished.scores_file).to_pydict()
    searched = np.array(scores["stage"]) == "search"
    lengths = dict(zip(scores["id"], scores["num_label_tokens"], strict=True))
    for outcome in summary_of(finished).targets:
        told = outcome.label_tokens
        assert told.scored.median == np.median(np.array(scores["num_label_tokens"])[searched])
        assert told.selected is not None
        assert told.selected.p90 == pytest.approx(
            np.quantile([lengths[row["id"]] for row in chosen(finished, outcome.name)], 0.9)
        )
        assert told.rank_correlation is not None
        assert told.strong == (abs(told.rank_correlation) >= 0.3)


def test_the_view_shows_what_was_written_even_where_none_was_kept(finished: RunFolder) -> None:
    kept = read_view(finished)
    view_file(finished).rename(view_file(finished).with_suffix(".away"))
    made = read_view(finished, texts=True)
    view_file(finished).with_suffix(".away").rename(view_file(finished))
    assert made.samples is not None
    assert kept.samples is not None
    assert [s.id for s in made.samples.selected] == [s.id for s in kept.samples.selected]
    assert [s.id for s in kept.samples.selected] == [row["id"] for row in chosen(finished)]
    assert made.lengths == kept.lengths
    assert made.caps == kept.caps == summary_of(finished).caps


def test_a_diverse_selection_stands_for_more_of_the_shortlist(material, finished, tmp_path: Path) -> None:
    plain = run_here(config_of(material, *WISHES), tmp_path / "plain")
    scores = pq.read_table(plain.scores_file).to_pydict()
    searched = [i for i, stage in enumerate(scores["stage"]) if stage == "search"]
    for target in ("sums", "birds"):
        ranked = sorted(searched, key=lambda i: (-scores[f"score/{target}"][i], scores["id"][i]))
        listed = [scores["id"][i] for i in ranked[:48]]
        diverse, best = ([row["id"] for row in chosen(folder, target)] for folder in (finished, plain))
        assert _coverage(plain, listed, diverse) > _coverage(plain, listed, best)


def _coverage(folder: RunFolder, listed: list[str], taken: list[str]) -> float:
    """How like each listed sample its most like taken one is, by whole sketches."""
    pool, _ = open_prepared(folder)
    found = ((block, rows) for block, rows in ScoreArchive(folder.state).sketches())
    sketches = {pool.ids[int(s)]: row for block, rows in found for s, row in zip(block, rows, strict=True)}
    centre = np.mean([sketches[name].astype(np.float64) for name in listed], axis=0)

    def unit(names: list[str]) -> np.ndarray:
        rows = np.stack([sketches[name] - centre for name in names])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return float(np.maximum(unit(listed) @ unit(taken).T, 0).max(axis=1).mean())


def test_a_selection_that_the_caps_leave_short_says_so(material, tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    rows = [json.loads(line) for line in Path(material["pool"]["path"]).read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"source": f"s{i % 40}"}) + "\n" for i, row in enumerate(rows)))
    single = {key: value for key, value in material.items() if key != "targets"} | {
        "target": {"path": material["targets"][0]["path"]}
    }
    wishes = (
        "selection.caps.source.count=1",
        "selection.count=20",
        "search.allocator.kind=uniform",
        "search.budget=0.15",
    )
    folder = run_here(config_of(single, f"pool.path={path}", *wishes), tmp_path / "run")
    summary, rows = summary_of(folder), chosen(folder)
    assert len(rows) == summary.selected < summary.asked == 20
    assert len({row["source"] for row in rows}) == len(rows)
    with pytest.raises(ConfigError, match=r"selection.caps.source \(1 of a group\) allows 40 of the 41"):
        run_here(
            config_of(single, f"pool.path={path}", *wishes, "selection.count=41", "search.budget=0.5"), tmp_path / "b"
        )


def test_one_of_each_group_of_near_copies_is_taken(material, tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    rows = [json.loads(line) for line in Path(material["pool"]["path"]).read_text().splitlines()]
    words = " ".join(f"w{i}" for i in range(30))
    for i, row in enumerate(rows):
        if row["source"] == "sums":  # ten groups, whose rows differ in their last word
            row["messages"][0]["content"] += f" {words} {i % 10}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    like_them = tmp_path / "target.jsonl"
    like_them.write_text("".join(json.dumps(row) + "\n" for row in rows[:12:4]))
    targets = [material["targets"][0] | {"path": str(like_them)}, material["targets"][1]]
    wishes = (
        f"pool.path={path}",
        "tokens.max_length=256",
        "gates.near.threshold=0.6",
        "selection.caps.near_duplicate.count=1",
        "selection.share=0.1",
        "search.budget=0.6",
    )
    capped = run_here(config_of(material | {"targets": targets}, *wishes), tmp_path / "run")
    found = read_gates(capped)
    assert found is not None
    places = {row["id"]: i for i, row in enumerate(rows)}
    for target in (None, "sums", "birds"):
        groups = Counter(int(found.group_N[places[row["id"]]]) for row in chosen(capped, target))
        assert all(count == 1 for group, count in groups.items() if group >= 0)
    summary = summary_of(capped)
    assert summary.caps[0].cap == "near_duplicate"
    assert summary.targets[0].caps[0].left_out > 0, "some of the best are copies of each other"
    assert summary.targets[0].caps[0].most[0][0].startswith("sums/")


def test_the_search_sees_the_trend_that_the_ranking_is_corrected_by() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, 50)
    rewards = rng.normal(size=(50, 2)) - np.log(lengths)[:, None]
    seen = SeenRewards(LengthTrend(), lengths)
    first, later = np.arange(20), np.arange(20, 50)
    told = [seen.of(i, Observations(part, rewards[part])).rewards_B for i, part in enumerate((first, later))]
    for m in range(2):
        correct = fit_correction(LengthTrend(), rewards[:, m], lengths, np.arange(50) < 20, lengths)
        np.testing.assert_allclose(np.concatenate(told)[:, m], correct(rewards[:, m], lengths))
    plain = Observations(later, rewards[later])
    assert SeenRewards(LengthQuantile(), lengths).of(0, plain) is plain
