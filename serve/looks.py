"""Views of runs for many who look: one reader a run, which knows what never changes, kept for those looked at last.

Invariant: a run is read by one thread at a time, and two who look at once get the same view.
"""

import asyncio
from collections import OrderedDict

from clusterucb.run.run_folder import RunFolder
from clusterucb.run.view.model import RunView
from clusterucb.run.view.read import RunViews

_KEPT = 16


class _Look:
    """One run's reader."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._reader: RunViews | None = None
        self._lock = asyncio.Lock()

    async def view(self) -> RunView:
        async with self._lock:
            return await asyncio.to_thread(self._read)

    def _read(self) -> RunView:
        self._reader = self._reader or RunViews(self._folder)
        return self._reader.read()


class Looks:
    """Readers of the runs that were looked at last."""

    def __init__(self) -> None:
        self._looks: OrderedDict[str, _Look] = OrderedDict()

    async def view(self, folder: RunFolder) -> RunView:
        """Return the view of a run as of now. Raises RunFolderError where none was started."""
        look = self._looks.setdefault(folder.location, _Look(folder))
        self._looks.move_to_end(folder.location)
        while len(self._looks) > _KEPT:
            self._looks.popitem(last=False)
        return await look.view()
