"""What one stage of a loop takes over from another: tokens, and the samples of a selection."""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from clusterucb.data.tokens import TokenStore
from clusterucb.run.disk import writing
from clusterucb.run.run_folder import RunFolder
from clusterucb.types import IntArray


def adopt_tokens(source: Path, folder: RunFolder, names: tuple[str, ...] = ("pool", "target", "gates")) -> None:
    """Give a claimed folder the token stores and the gates' verdict of another's state, as links where it can."""
    for name in names:
        place = folder.state / name
        if (source / name / "meta.json").exists() and not (place / "meta.json").exists():
            partial = place.with_name(f".{name}.adopting")
            with writing(place):
                shutil.rmtree(partial, ignore_errors=True)
                shutil.rmtree(place, ignore_errors=True)
                partial.mkdir(parents=True)
                for file in (source / name).iterdir():
                    _link(file, partial / file.name)
                os.replace(partial, place)


def selected_samples(selection: Path, pool: TokenStore) -> IntArray:
    """Return the samples that a `selection.jsonl` names, in the order of the pool."""
    with selection.open(encoding="utf-8") as file:
        names = {json.loads(line)["clusterucb"]["id"] for line in file}
    return np.asarray([sample for sample, name in enumerate(pool.ids) if name in names], dtype=np.int64)


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copy2(source, place)
