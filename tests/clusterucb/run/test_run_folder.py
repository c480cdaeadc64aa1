"""A run folder is claimed once, resumed only by the same run, and never half-written."""

import json
from pathlib import Path

import pytest

from clusterucb.errors import RunFolderError
from clusterucb.run.run_folder import RunFolder, write_atomically
from clusterucb.settings import build_config


def config(*overrides: str):
    tree = {"pool": {"path": "p"}, "target": {"path": "t"}, "model": {"base": "m"}}
    return build_config(tree, overrides)


def test_the_same_configuration_resumes_and_workers_may_differ(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    assert folder.start(config()) is False
    assert folder.start(config("workers.count=7")) is True
    assert folder.read_config() == config()


def test_another_configuration_is_refused_by_key(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.start(config())
    with pytest.raises(RunFolderError, match=r"search\.budget \(0\.2 then, 0\.3 now\)"):
        folder.start(config("search.budget=0.3"))


def test_a_folder_with_other_files_is_not_taken(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty"):
        RunFolder(tmp_path).start(config())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_versions_and_revision_stand_beside_the_configuration(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.start(config())
    stored = json.loads(folder.config_file.read_text())
    assert stored["versions"]["torch"].startswith("2.")
    assert set(stored) == {"verb", "config", "versions", "git_sha"}
    assert stored["verb"] == "select"


def test_a_damaged_configuration_is_named(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.start(config())
    folder.config_file.write_text("{")
    with pytest.raises(RunFolderError, match=r"config\.json is damaged"):
        folder.start(config())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 3)  # pyright: ignore[reportArgumentType]
    assert path.read_text() == "old"
