"""How an actor begins by itself when Ray has started it again, since whoever asked for its work may be gone.

A call that an actor sends itself from its constructor was seen lost, once in hundreds of restarts and without an
error; so it asks until its work has begun.
"""

import threading
import time
from collections.abc import Callable

_AGAIN_S = 2.0


def begin_by_itself(ask: Callable[[], object], begun: Callable[[], bool], again_s: float = _AGAIN_S) -> None:
    """Return at once, and go on calling `ask` every `again_s` until `begun`; both are called from another thread."""

    def insist() -> None:
        while not begun():
            ask()
            time.sleep(again_s)

    threading.Thread(target=insist, name="begin-by-itself", daemon=True).start()
