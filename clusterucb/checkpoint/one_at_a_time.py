"""Loading models one at a time in a process.

While transformers and peft build a model they set what holds for the whole process (default type, default device,
patched initialisers): a model that another thread builds meanwhile would come out on the wrong device or uninitialised.
"""

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_building = threading.RLock()


def one_at_a_time(build: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let no two of the functions that wear this run at once; one may call another."""

    @functools.wraps(build)
    def alone(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with _building:
            return build(*args, **kwargs)

    return alone
