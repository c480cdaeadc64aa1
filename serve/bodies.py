"""JSON bodies, read more strictly than Python's reader does.

Invariant: what comes through is UTF-8, nested no deeper than the limit, and holds finite numbers, whole numbers that
every reader keeps, and text that can be encoded; the depth is known before anything is parsed.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, WrapValidator

from ray_app.service.requests import LARGEST
from serve.problems import Refused

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def as_json(model: type[BaseModel]) -> WrapValidator:
    """Return an annotation for a body: JSON's types as they are, no text for a number, no number for a truth value."""
    return WrapValidator(lambda value, _: model.model_validate_json(json.dumps(value), strict=True))


class StrictRoute(APIRoute):
    """A route whose body is read by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Return the handler of requests."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        return read_json(await self.body(), self.app.state.context.config.limits.json_depth)


def read_json(body: bytes, most_depth: int) -> Any:
    """Return the value of a body. Raises Refused with 400."""
    depth = _depth(body)
    if depth > most_depth:
        raise Refused(400, f"the body is nested {depth} deep, and the limit is {most_depth}: flatten it")
    try:
        value = json.loads(body.decode(), parse_constant=_no_number, parse_float=_float, parse_int=_int)
        if _HALF_SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeDecodeError as error:
        raise Refused(
            400, f"the body is not UTF-8 (byte {error.start} is 0x{body[error.start]:02x}): encode it as UTF-8"
        ) from None
    except UnicodeEncodeError:
        raise Refused(400, "the body holds half a surrogate pair, which is no valid text: repair the escape") from None
    except json.JSONDecodeError as error:
        raise Refused(
            400, f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}: repair it there"
        ) from None


def _depth(body: bytes) -> int:
    codes = np.frombuffer(_STRING.sub(b"", body), np.uint8) & 0xDF  # brackets and braces differ in that bit
    steps = (codes == ord("[")).astype(np.int8) - (codes == ord("]")).astype(np.int8)
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


def _no_number(name: str) -> Any:
    raise Refused(400, f"the body holds {name}, which is not JSON: send a finite number or null")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Refused(400, f"the body holds {text[:40]}, which is too large for a number: send a smaller one")
    return number


def _int(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > LARGEST:
        raise Refused(400, f"the body holds {text[:40]}, a whole number beyond 2**53: send a smaller one")
    return int(text)
