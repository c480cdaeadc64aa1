"""Ray Jobs of a cluster: find a run's, send, follow, stop.

Invariants: a job belongs to a run if its metadata says so, or its id is the run's; whatever the network, the dashboard
or the token refuses is one `ResourceError`.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from clusterucb.errors import ResourceError, Stopped

RUN = "clusterucb_run"
"""The metadata key under which a job names its run."""

_HERE = "http://127.0.0.1:8265"
_KNOCK_S = 10.0
_POLL_S = 0.5
_PATIENCE_S = 15.0
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)


@dataclass(frozen=True, slots=True)
class Room:
    """What is kept free for a job's driver; it may then run on any node, else it runs on the head."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory_gib: float | None = None
    resources: tuple[tuple[str, float], ...] = ()


class Jobs:
    """The jobs of the cluster whose dashboard is at `address`."""

    def __init__(self, address: str | None) -> None:
        self.address = _dashboard(address)
        _knock(self.address)
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        self._headers = _token_header()
        with self._answered():
            self._client = JobSubmissionClient(self.address, headers=self._headers)

    def known(self) -> list[JobDetails]:
        """Return all submitted jobs of the cluster, the newest last."""
        with self._answered():
            jobs = [job for job in self._client.list_jobs() if job.submission_id is not None]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def send(
        self, entrypoint: str, job_id: str, runtime_env: dict[str, object], metadata: dict[str, str], room: Room
    ) -> None:
        """Upload the working directory, if the cluster lacks it, and have the job run."""
        with self._answered():
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=job_id,
                runtime_env=runtime_env,
                metadata=metadata,
                entrypoint_num_cpus=room.num_cpus,
                entrypoint_num_gpus=room.num_gpus,
                entrypoint_memory=None if room.memory_gib is None else int(room.memory_gib * 2**30),
                entrypoint_resources=dict(room.resources) or None,
            )

    def stop(self, job_id: str) -> None:
        """Have a job stop, and wait until it has: SIGTERM, then SIGKILL after what Ray grants, 3 s by default."""
        with self._answered():
            self._client.stop_job(job_id)
            while not self._client.get_job_info(job_id).status.is_terminal():
                time.sleep(_POLL_S)

    def follow(self, job_id: str, write: Callable[[str], None], say: Callable[[str], None]) -> int:
        """Write a job's log until it ends; return the exit code of what it ran."""
        with self._answered():
            self._await_start(job_id, say)
            asyncio.run(self._tail(job_id, write))
            job = self._client.get_job_info(job_id)
        return exit_code(job)

    def _await_start(self, job_id: str, say: Callable[[str], None]) -> None:
        since = time.monotonic()
        said = False
        while (job := self._client.get_job_info(job_id)).status == JobStatus.PENDING:
            if not said and time.monotonic() - since > _PATIENCE_S:
                say(f"waiting for job {job_id}: {_one_line(job.message)}")
                said = True
            time.sleep(_POLL_S)

    async def _tail(self, job_id: str, write: Callable[[str], None]) -> None:
        """Write the log as it grows; where the connection breaks, go on behind what was written."""
        written, ended = 0, False
        while True:
            seen, whole = 0, True
            try:
                async for text in self._client.tail_job_logs(job_id):
                    write(text[max(0, written - seen) :])
                    seen += len(text)
                    written = max(written, seen)
            except RuntimeError:  # what the client raises for a connection that ended before the job did
                whole = False
                await asyncio.sleep(_POLL_S)
            before, ended = ended, self._client.get_job_info(job_id).status.is_terminal()
            if ended and (whole or before):
                return

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError:
            known = "refuses the token" if self._headers else "asks for a token"
            raise ResourceError(
                f"the dashboard at {self.address} {known}: give the cluster's with RAY_AUTH_TOKEN or "
                f"RAY_AUTH_TOKEN_PATH, or put it into ~/.ray/auth_token"
            ) from None
        except (ConnectionError, requests.exceptions.RequestException, aiohttp.ClientError) as error:
            raise _no_dashboard(self.address, error) from None
        except (RuntimeError, ValueError) as error:  # the client's words for an answer that is no success
            raise ResourceError(f"the dashboard at {self.address} refuses: {_last_line(error)}") from None


def of_run(jobs: Iterable[JobDetails], run_id: str) -> list[JobDetails]:
    """Return the jobs of a run: those that name it, and one that has its id and names none."""
    return [job for job in jobs if (job.metadata or {}).get(RUN, job.submission_id) == run_id]


def exit_code(job: JobDetails) -> int:
    """Return the exit code of an ended job's command, as a shell would; raise where it has none."""
    if job.status == JobStatus.STOPPED:
        raise Stopped(f"job {job.submission_id} was stopped; everything scored is kept: submitting again goes on")
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.driver_exit_code is None:
        raise ResourceError(f"job {job.submission_id} failed on the cluster: {_one_line(job.message)}")
    return job.driver_exit_code if job.driver_exit_code >= 0 else 128 - job.driver_exit_code


def _dashboard(address: str | None) -> str:
    """Settle the address: what is asked for, else RAY_API_SERVER_ADDRESS, else this machine's dashboard."""
    where = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or _HERE).rstrip("/")
    parts = urlsplit(where)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ResourceError(f"--address {where} is no dashboard: jobs take its URL, such as {_HERE}")
    os.environ["RAY_API_SERVER_ADDRESS"] = where  # with Ray's client the environment comes before the argument
    return where


def _knock(address: str) -> None:
    """Fail in seconds where nothing listens: the client itself has no timeout."""
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), _KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise _no_dashboard(address, error) from None


def _token_header() -> dict[str, str]:
    """Return the token as a header: Ray's client looks for one only where RAY_AUTH_MODE says so."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return {}
    token, named = os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token:
        path = Path(named) if named else Path.home() / ".ray" / "auth_token"
        if not path.is_file():
            if named:
                raise ResourceError(f"RAY_AUTH_TOKEN_PATH ({named}) is no file: name the file with the cluster's token")
            return {}
        token = path.read_text(encoding="utf-8")
    return {"Authorization": f"Bearer {token.strip()}"}


def _no_dashboard(address: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"no Ray dashboard answers at {address}: give its URL with --address, and from outside the cluster forward "
        f"its port ({_one_line(str(error))})"
    )


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())[:300]


def _last_line(error: Exception) -> str:
    """Return the last line of a message, which ends a traceback of the server where there is one."""
    lines = [line for line in str(error).splitlines() if line.strip(" .")]
    return _one_line(lines[-1] if lines else type(error).__name__)
