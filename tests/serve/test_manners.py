"""Processes that answer requests: no thread for a request, out of the way of gradients, and quiet when clients go."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from inspect import iscoroutinefunction

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from ray.exceptions import TaskCancelledError
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from serve import catalogue, events, results, selections
from serve.deployment import HeardDisconnects

STEPPED_BACK = """
import gc, os, threading
from pathlib import Path
from serve.manners import in_proxy
stop = threading.Event()
threading.Thread(target=stop.wait).start()
assert in_proxy() == []
print(*{os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in Path("/proc/self/task").iterdir()})
print(gc.get_threshold()[0])
stop.set()
"""


def called(dependant: Dependant) -> Iterator[object]:
    yield dependant.call
    for each in dependant.dependencies:
        yield from called(each)


ROUTES = [route for room in (catalogue, events, results, selections) for route in room.router.routes]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.name}")
def test_no_request_waits_for_a_thread(route: APIRoute) -> None:
    for call in called(route.dependant):
        assert iscoroutinefunction(call) or iscoroutinefunction(type(call).__call__), call


@pytest.mark.skipif(sys.platform != "linux", reason="a nice value for each thread is Linux's")
def test_every_thread_steps_back() -> None:
    said = subprocess.run([sys.executable, "-c", STEPPED_BACK], capture_output=True, text=True, timeout=120)
    assert said.stdout.split() == ["19", "20000"], said.stderr


async def test_a_client_that_goes_is_no_error() -> None:
    """Serve raises an error where ASGI has a message; an endless stream ends at it."""
    told: list[Message] = []
    sent = asyncio.Event()
    requests: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        async def words():
            while True:
                yield "word\n"
                await asyncio.sleep(0.01)

        assert (await receive())["type"] == "http.request"
        await StreamingResponse(words())(Request(scope).scope, receive, send)

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await sent.wait()
        raise TaskCancelledError()

    async def send(message: Message) -> None:
        told.append(message)
        if len(told) == 4:
            sent.set()

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "GET",
        "path": "/",
        "headers": [],
    }
    await asyncio.wait_for(HeardDisconnects(endless)(scope, receive, send), 10)
    assert len(told) >= 4
