"""A run whose very work was done before: its folder gets the other's results, and no gradient is taken.

Invariant: files of a finished run never change, so that two runs may have the same ones; each can be deleted without
the other's noticing.
"""

import os
import shutil
from datetime import datetime

from clusterucb.run.run_folder import RunFolder
from ray_app.service.ledger import Ended
from ray_app.service.records import GradientCounts

_OWN = ("lease", "cancel")


def link_results(there: RunFolder, here: RunFolder, ended: Ended | None, now: datetime) -> Ended | None:
    """Put the results of a finished run where another's belong; return that one's end, or none where they are gone."""
    if ended is None or ended.gradients is None or here.exists or not there.finished:
        return None
    beside = here.path.with_name(f".{here.name}.linking")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(there.path, beside, copy_function=_link, ignore=shutil.ignore_patterns(*_OWN))
    except shutil.Error:  # it is being deleted
        shutil.rmtree(beside, ignore_errors=True)
        return None
    beside.rename(here.path)
    counts = GradientCounts(reused=ended.gradients.reused + ended.gradients.computed, computed=0)
    return ended.model_copy(update={"at": now, "gradients": counts})


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
