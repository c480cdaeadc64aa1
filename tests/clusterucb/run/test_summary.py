"""A summary that cannot be read is a user's matter, said in one line."""

from pathlib import Path

import pytest

from clusterucb.errors import RunFolderError
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import read_summary


@pytest.mark.parametrize("text", ["", "{", '{"run": "of an earlier version"}'])
def test_a_summary_of_another_version_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(
        RunFolderError, match=r"summary\.json is damaged or of another version .* new folder"
    ) as refused:
        read_summary(RunFolder.open(str(tmp_path)))
    assert "\n" not in str(refused.value)
