"""Every file of cluster_configs says how it is used and is named in the documentation; what they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster_configs"
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.name != "Dockerfile.dockerignore")
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_file_is_in_the_documentation_and_explains_itself(path: Path):
    assert any(str(path.relative_to(FOLDER)) in document.read_text() for document in DOCUMENTS)
    if path.suffix != ".json":  # which has no comments
        first = path.read_text().removeprefix("#!/bin/bash\n").splitlines()[0]
        assert re.match(r"# \S", first)


@pytest.mark.parametrize("path", [*FILES, *DOCUMENTS], ids=lambda path: path.name)
def test_the_cluster_files_that_a_text_names_exist(path: Path):
    for name in re.findall(r"cluster_configs/([\w./-]*\w)", path.read_text()):
        assert (FOLDER / name).exists(), name
