"""A client of a selection service.

from ray_app.client import Client

run = Client("http://127.0.0.1:8080", token).select(
    pool="lessons", checkpoint="smollm2-135m", target="arithmetic", budget=0.2, share=0.05
)
for row in run.wait().rows():
    ...
"""

from ray_app.client.client import Client
from ray_app.client.errors import (
    Conflicting,
    Forbidden,
    Invalid,
    Missing,
    RunCancelled,
    RunFailed,
    ServiceError,
    TooMuch,
    Unauthorized,
    Unreachable,
)
from ray_app.client.run import Run

__all__ = [
    "Client",
    "Conflicting",
    "Forbidden",
    "Invalid",
    "Missing",
    "Run",
    "RunCancelled",
    "RunFailed",
    "ServiceError",
    "TooMuch",
    "Unauthorized",
    "Unreachable",
]
