"""The verb `submit`: check a run here, then have a cluster run it as a Ray Job named after it.

Invariants: nothing is sent before the configuration is valid as the job will see it; a run has one job at a time, and
submitting it while that job lives joins it. Jobs are never reused: a run that goes on gets ID-2, ID-3, ...
"""

import contextlib
import hashlib
import itertools
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ray.job_submission import JobDetails

from clusterucb.errors import ConfigError, ResourceError, Stopped
from clusterucb.settings import load_config
from ray_app.jobs import RUN, Jobs, Room, of_run
from ray_app.runtime_env import load_runtime_env

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Submission:
    """A run as its user asks for it; `out` is a path on the cluster, everything else is here."""

    config: Path
    overrides: tuple[str, ...]
    out: str
    run_id: str
    working_dir: Path
    runtime_env: Path | None
    room: Room


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job that does the run, and whether it was running before."""

    job_id: str
    joined: bool


def run(asked: Submission, address: str | None, follow: bool) -> int:
    """Check and submit; print the job's id, or its log until it ends, and return its exit code."""
    check(asked)
    jobs = Jobs(address)
    job = submit(asked, jobs)
    stop = f"`clusterucb cancel {asked.run_id} --address {jobs.address}` stops it"
    _say(f"{'following' if job.joined else 'submitted'} job {job.job_id}: {stop}")
    if not follow:
        print(job.job_id)
        return 0
    try:
        return jobs.follow(job.job_id, _write, _say)
    except KeyboardInterrupt:
        raise Stopped(
            f"no longer following job {job.job_id}, which goes on: the same command follows it, {stop}"
        ) from None


def cancel(run_id: str, address: str) -> str:
    """Stop the job that does a run, and return its id once it has ended."""
    check_run_id(run_id)
    jobs = Jobs(address)
    everyone = jobs.known()
    known = of_run(everyone, run_id) or [job for job in everyone if job.submission_id == run_id]
    running = [job.submission_id for job in known if not job.status.is_terminal() and job.submission_id is not None]
    if not running:
        found = f"its last job, {known[-1].submission_id}, has ended ({known[-1].status})" if known else "none is known"
        raise ResourceError(f"no job of run {run_id} is running at {jobs.address}: {found}")
    jobs.stop(running[-1])
    return running[-1]


def submit(asked: Submission, jobs: Jobs) -> Submitted:
    """Send a checked run, unless a job does it already."""
    known = jobs.known()
    tags = {RUN: asked.run_id, "clusterucb_out": asked.out, "clusterucb_config": _fingerprint(asked)}
    for job in of_run(known, asked.run_id):
        if not job.status.is_terminal():
            return Submitted(_same(job, tags, asked, jobs.address), joined=True)
    taken = {job.submission_id for job in known}
    names = itertools.chain([asked.run_id], (f"{asked.run_id}-{number}" for number in itertools.count(2)))
    job_id = next(name for name in names if name not in taken)
    jobs.send(_command(asked), job_id, load_runtime_env(asked.runtime_env, asked.working_dir), tags, asked.room)
    return Submitted(job_id, joined=False)


def room_of(
    num_cpus: float | None, num_gpus: float | None, memory_gib: float | None, resources: tuple[str, ...]
) -> Room:
    """Read the options on what the driver needs; resources are NAME=AMOUNT."""
    named: list[tuple[str, float]] = []
    for resource in resources:
        name, _, amount = resource.partition("=")
        try:
            named.append((name, float(amount)))
        except ValueError:
            raise ConfigError(f"--entrypoint-resource {resource} is not of the form NAME=AMOUNT") from None
    return Room(num_cpus, num_gpus, memory_gib, tuple(named))


def check(asked: Submission) -> None:
    """Refuse here what the job would refuse, or could not see."""
    check_run_id(asked.run_id)
    if "://" not in asked.out and not PurePosixPath(asked.out).is_absolute():
        raise ConfigError(
            f"--out {asked.out} would lie in the job's copy of the working directory, which the cluster deletes: give "
            f"an absolute path on storage that all nodes share, or a URL such as s3://bucket/run"
        )
    if not asked.working_dir.is_dir():
        raise ConfigError(f"--working-dir {asked.working_dir} is no folder: give the one that the job shall run in")
    _check_config(asked.config, asked.overrides, asked.working_dir)
    load_runtime_env(asked.runtime_env, asked.working_dir)


def _check_config(config: Path, overrides: tuple[str, ...], working_dir: Path) -> None:
    """Validate the configuration, which travels with the working directory, and see that no data do."""
    config = config.resolve()
    with tempfile.TemporaryDirectory() as nowhere:
        as_written = _load_in(Path(nowhere), config, overrides)
    if not config.is_relative_to(working_dir.resolve()):
        raise ConfigError(
            f"configuration {config} lies outside the working directory ({working_dir.resolve()}), which is all that "
            f"the job sees: copy it there, or give another --working-dir"
        )
    found = _load_in(working_dir, config, overrides)
    for key, value in as_written.items():
        if found[key] != value:
            raise ConfigError(
                f"{key} ({value}) lies in the working directory, whose place on the cluster changes with every upload, "
                f"so that the run could not be resumed: give an absolute path that all nodes see, or the id of a hub"
            )


def _load_in(folder: Path, config: Path, overrides: tuple[str, ...]) -> dict[str, object]:
    """Load as in `folder`, where relative paths to what exists become absolute; return the values by dotted key."""
    with contextlib.chdir(folder):
        return dict(_leaves(load_config(config, overrides).model_dump()))


def check_run_id(run_id: str) -> None:
    """Refuse an id that could not stand in a URL."""
    if not _ID.fullmatch(run_id):
        raise ConfigError(f"run id {run_id!r} cannot name a job: give letters, digits, '.', '_' and '-' with --run-id")


def _command(asked: Submission) -> str:
    """Return the command that the job runs in its copy of the working directory."""
    config = asked.config.resolve().relative_to(asked.working_dir.resolve())
    overrides = [word for override in asked.overrides for word in ("--set", override)]
    return shlex.join(["python", "-m", "ray_app", "select", config.as_posix(), "--out", asked.out, *overrides])


def _same(job: JobDetails, tags: dict[str, str], asked: Submission, address: str) -> str:
    """Return the id of a job that does what is asked for; refuse one that does something else under this id."""
    assert job.submission_id is not None
    if job.metadata != tags:
        raise ResourceError(
            f"job {job.submission_id} is running, with another configuration or folder ({job.entrypoint}): stop it "
            f"with `clusterucb cancel {asked.run_id} --address {address}`, or give another --run-id"
        )
    return job.submission_id


def _fingerprint(asked: Submission) -> str:
    text = "\0".join((asked.config.read_text(encoding="utf-8"), *asked.overrides))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _leaves(tree: object, key: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(tree, dict):
        yield key, tree
        return
    for name, below in tree.items():
        yield from _leaves(below, f"{key}.{name}" if key else str(name))


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
