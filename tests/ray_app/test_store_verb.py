"""The verb `store`: what it says and what it removes."""

import json
import os
from pathlib import Path

import pytest
from store_cases import described, rows_of
from typer.testing import CliRunner, Result

from clusterucb.store.shards import matrix_path, shard_paths
from clusterucb.store.store import StoreReader, StoreWriter, key_folder
from clusterucb.store.upkeep import shard_files
from ray_app.cli import app


def run(*words: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["store", *map(str, words)], input=answer)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three shards of one checkpoint, then one of another."""
    for base, count in (("old", 3), ("new", 1)):
        with StoreWriter(tmp_path, described(base), shard_bytes=1) as writer:
            for i in range(count):
                writer.append(rows_of([i]))
    for age, shard in enumerate([*shard_paths(folder_of(tmp_path, "old")), *shard_paths(folder_of(tmp_path, "new"))]):
        os.utime(shard, (age, age))
    return tmp_path


def folder_of(store: Path, base: str) -> Path:
    return key_folder(store, described(base))


def left(store: Path) -> list[tuple[str, str]]:
    return [(shard.path.parent.name, shard.path.stem) for shard in shard_files(store)]


def test_list_names_checkpoints_rows_and_bytes(store: Path):
    found = json.loads(run("list", store, "--json").stdout)
    assert [(each["described"]["base"], each["rows"]) for each in found["checkpoints"]] == [("new", 1), ("old", 3)]
    on_disk = sum(path.stat().st_size for path in store.rglob("0*"))
    assert found["bytes"] == sum(each["bytes"] for each in found["checkpoints"]) == on_disk
    assert folder_of(store, "old").name[:8] in run("list", store).stdout


def test_prune_removes_what_it_is_told_to_and_asks_first(store: Path):
    before, old = left(store), folder_of(store, "old").name
    assert run("prune", store, "--checkpoint", old, answer="n\n").exit_code == 1
    assert left(store) == before
    size = shard_files(store)[0].num_bytes
    pruned = json.loads(run("prune", store, "--max-gib", 2.5 * size / 2**30, "--yes", "--json").stdout)
    assert pruned == {"removed": 2, "removed_bytes": 2 * size, "held": 0}
    assert left(store) == before[2:]
    assert run("prune", store, "--checkpoint", old[:6], answer="y\n").exit_code == 0
    assert left(store) == before[3:]
    assert run("prune", store, "--unused-days", 1, "--yes").exit_code == 0
    assert left(store) == []


def test_prune_leaves_what_is_in_use(store: Path):
    with StoreReader(store, described("old")):
        pruned = json.loads(run("prune", store, "--max-gib", 0, "--yes", "--json").stdout)
    assert (pruned["removed"], pruned["held"]) == (1, 3)


@pytest.mark.parametrize(
    "words", [["prune", "STORE"], ["prune", "STORE", "--checkpoint", "zz", "-y"], ["list", "none"]]
)
def test_what_cannot_be_meant_is_refused(store: Path, words: list[str]):
    result = run(*(str(store) if word == "STORE" else word for word in words))
    assert result.exit_code == 1
    assert "give" in str(result.exception) or "store list" in str(result.exception)


def test_verify_finds_damage(store: Path):
    assert run("verify", store).exit_code == 0
    matrix = matrix_path(shard_paths(folder_of(store, "old"))[1])
    raw = bytearray(matrix.read_bytes())
    raw[-1] ^= 4
    matrix.write_bytes(raw)
    result = run("verify", store, "--json")
    assert result.exit_code == 2
    assert sorted(each["damaged"] for each in json.loads(result.stdout)["checkpoints"]) == [0, 1]
