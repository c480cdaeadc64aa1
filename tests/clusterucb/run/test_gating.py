"""Gates in a run: what leaves is not scored, every row found is named with its partner, a resume finds the verdict."""

import json
from pathlib import Path

import pytest
from selection_cases import config_of, result_of, run_here, small_selection

from clusterucb.errors import ConfigError, DataError, RunFolderError
from clusterucb.run.gating import read_gates
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import Summary

TEXT = "the quick brown fox jumps over the lazy dog and runs away from it"


def pool_of(settings: dict) -> list[dict]:
    return [json.loads(line) for line in Path(settings["pool"]["path"]).read_text().splitlines()]


def with_rows(settings: dict, rows: list[dict]) -> dict:
    Path(settings["pool"]["path"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return settings


def copied(settings: dict) -> dict:
    """Double every third row, under another id; one row carries what is held out."""
    rows = pool_of(settings)
    for i, row in enumerate(rows):  # the vocabulary is small: make every row another
        row["messages"][0]["content"] += f" number {i}"
    rows[5]["messages"][0]["content"] += f" {TEXT}"
    return with_rows(settings, [*rows, *({**row, "id": f"copy of {row['id']}"} for row in rows[::3])])


def held_out(folder: Path) -> str:
    path = folder / "test.jsonl"
    path.write_text(json.dumps({"id": "secret", "question": f"Well, {TEXT}!"}) + "\n")
    return json.dumps([{"path": str(path), "text_fields": ["question"]}])


def test_what_leaves_is_not_scored_and_is_named(tmp_path: Path):
    settings = copied(small_selection(tmp_path, rows=90))
    config = config_of(
        settings,
        f"gates.held_out.sets={held_out(tmp_path)}",
        "search.allocator.kind=exhaustive",
        "gates.near.policy=off",
    )
    folder = run_here(config, tmp_path / "run")
    lines = [json.loads(line) for line in folder.gates_file.read_text().splitlines()]
    rows = pool_of(settings)
    assert [(line["id"], line["gate"], line["partner"]) for line in lines] == [
        (rows[5]["id"], "held_out", "secret"),
        *((f"copy of {row['id']}", "exact", row["id"]) for row in rows[:90:3]),
    ]
    assert lines[0]["words"] == " ".join(TEXT.split()[:13])
    assert all(line["left"] for line in lines)
    summary = Summary.model_validate_json(folder.summary_file.read_bytes())
    assert {count.gate: (count.found, count.left) for count in summary.gates} == {
        "held_out": (1, 1),
        "target": (0, 0),
        "exact": (30, 30),
    }
    assert (summary.pool, summary.usable, summary.scored) == (120, 89, 89)
    assert not {line["id"] for line in lines} & {
        json.loads(line)["clusterucb"]["id"] for line in folder.selection_file.read_text().splitlines()
    }


def test_reports_and_gates_that_are_off_change_nothing(tmp_path: Path):
    settings = copied(small_selection(tmp_path, rows=60))
    results = []
    for name, policy in (("report", "report"), ("off", "off")):
        changes = [f"gates.{gate}={policy}" for gate in ("exact", "near.policy", "target.policy")]
        folder = run_here(config_of(settings, *changes), tmp_path / name)
        results.append(result_of(folder))
        assert folder.gates_file.exists() == (policy == "report")
    assert results[0] == results[1]


def test_a_resumed_run_finds_the_verdict(tmp_path: Path):
    settings = copied(small_selection(tmp_path, rows=60))
    config = config_of(settings, f"gates.held_out.sets={held_out(tmp_path)}")
    folder = RunFolder(tmp_path / "run")
    first = prepare(config, folder, lambda what, rows: None)
    written = folder.gates_file.stat().st_mtime_ns
    seen: list[str] = []
    again = prepare(config, folder, lambda what, rows: seen.append(what))
    assert folder.gates_file.stat().st_mtime_ns == written
    assert not seen
    assert again.notes == first.notes
    assert any("20 of 80 rows are copies" in note and "20 of them left" in note for note in first.notes)
    assert (again.pool.usable_N == first.pool.usable_N).all()
    (tmp_path / "test.jsonl").write_text('{"question": "another one"}\n')
    with pytest.raises(RunFolderError, match=r"gates\.held_out\.sets have changed"):
        prepare(config, folder, lambda what, rows: None)


def test_an_interrupted_gate_begins_again(tmp_path: Path):
    config = config_of(copied(small_selection(tmp_path, rows=60)))
    folder = RunFolder(tmp_path / "run")

    def stop(what: str, rows: int) -> None:
        if "duplicates" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config, folder, stop)
    prepare(config, folder, lambda what, rows: None)
    gated = read_gates(folder)
    assert gated is not None
    assert gated.left_N.sum() == 20
    assert not (folder.state / "gates.partial").exists()


def test_a_pool_too_small_after_the_gates_is_refused_and_leaves_nothing(tmp_path: Path):
    settings = small_selection(tmp_path, rows=40)
    rows = pool_of(settings)
    with_rows(settings, [{**row, "messages": rows[i % 10]["messages"]} for i, row in enumerate(rows)])
    with pytest.raises(ConfigError, match=r"selection of 8 samples exceeds .*4 of 10"):
        prepare(config_of(settings, "selection.count=8"), RunFolder(tmp_path / "run"), lambda what, rows: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('gates.held_out.sets=[{"path": "nowhere.jsonl"}]', "no file or folder nowhere.jsonl"),
        ("gates.near.threshold=0.2", "greater than or equal to 0.5"),
        ("gates.exact=drop", "exclude"),
        ("gates.held_out.word=9", "words"),
    ],
)
def test_bad_gates_are_refused(tmp_path: Path, change: str, words: str):
    settings = small_selection(tmp_path, rows=40)
    with pytest.raises((ConfigError, DataError), match=words):
        prepare(config_of(settings, change), RunFolder(tmp_path / "run"), lambda what, rows: None)
    assert not (tmp_path / "run").exists()


def test_off_is_understood_as_yaml_writes_it(tmp_path: Path):
    config = config_of(small_selection(tmp_path), "gates.exact=off", "gates.near.policy=off", "gates.target.policy=off")
    assert not config.gates.active
