"""What stands at a configured path: a file, a folder or glob of files, a dataset saved to disk, or a hub id.

Invariant: the files come in sorted order, so that positions in the pool do not depend on the file system.
"""

# datasets is typed only in part: what it leaves unknown is not ours to declare.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING

from clusterucb.config import Rows
from clusterucb.data.row_files import DatasetRows, JsonLines, JsonList, ParquetRows, RowFile
from clusterucb.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_ENDINGS = {
    "auto": (".jsonl", ".jsonl.gz", ".json", ".parquet"),
    "jsonl": (".jsonl", ".jsonl.gz", ".json"),
    "parquet": (".parquet",),
}
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def open_rows(config: Rows) -> tuple[RowFile, ...]:
    """Return the files behind `config.path`; none of them is read yet."""
    path = Path(config.path).expanduser()
    if config.format == "dataset" or (config.format == "auto" and _is_saved_dataset(path)):
        return (_dataset(config, path),)
    if path.is_file():
        return (_file(path, config.format),)
    if path.is_dir():
        return tuple(_file(member, config.format) for member in _members(path, config.format))
    if glob.has_magic(str(path)):
        return tuple(_file(match, config.format) for match in _matches(path))
    if config.format == "auto" and _may_be_hub_id(config.path):
        return (_dataset(config, path),)
    raise DataError(f"no file or folder {config.path}: check the path (it is relative to {Path.cwd()})")


def _is_saved_dataset(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _members(folder: Path, format: str) -> list[Path]:
    members = sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(_ENDINGS[format]))
    if not members:
        raise DataError(
            f"folder {folder} holds no {' or '.join(_ENDINGS[format])} file: name the files with a glob "
            f"({folder}/**/*.parquet), or set format: dataset for a copy of a hub dataset"
        )
    return members


def _matches(pattern: Path) -> list[Path]:
    matches = sorted(path for path in map(Path, glob.glob(str(pattern), recursive=True)) if path.is_file())
    if not matches:
        raise DataError(f"no file matches {pattern}: check the pattern (it is relative to {Path.cwd()})")
    return matches


def _file(path: Path, format: str) -> RowFile:
    if format == "parquet" or path.suffix == ".parquet":
        return ParquetRows(path)
    if path.suffix == ".json" and _starts_a_list(path):
        return JsonList(path)
    if format == "jsonl" or path.name.endswith(_ENDINGS["jsonl"]):
        return JsonLines(path)
    raise DataError(f"{path} ends in none of {', '.join(_ENDINGS['auto'])}: rename it, or set format: jsonl or parquet")


def _starts_a_list(path: Path) -> bool:
    """Tell a list of rows from rows line by line: both are called `.json` in the wild."""
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _may_be_hub_id(path: str) -> bool:
    return _HUB_ID.fullmatch(path) is not None and not path.endswith(_ENDINGS["auto"])


def _dataset(config: Rows, path: Path) -> RowFile:
    # datasets takes seconds to import, and most pools are files
    from datasets import DatasetDict, load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    saved = _is_saved_dataset(path)
    tried = f"load_from_disk({config.path!r})" if saved else f"load_dataset({config.path!r}, split={config.split!r})"
    try:
        if saved:
            loaded = load_from_disk(str(path))
        else:
            loaded = load_dataset(config.path, split=config.split, revision=config.revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"no file or folder {config.path}, and {tried} failed ({error}): check the path or id, split and "
            "revision, or bring the rows as .jsonl or .parquet where the hub is out of reach"
            if not path.exists()
            else f"{config.path} cannot be loaded: {tried} failed ({error}): save the dataset again, or bring the rows "
            "as .jsonl or .parquet"
        ) from error
    if isinstance(loaded, DatasetDict):
        if config.split not in loaded:
            raise DataError(
                f"{config.path} has no split {config.split!r}: set split to one of {', '.join(map(str, loaded))}"
            )
        loaded = loaded[config.split]
    dataset: Dataset = loaded
    return DatasetRows(f"{config.path}[{config.split}]", path.name, dataset)
