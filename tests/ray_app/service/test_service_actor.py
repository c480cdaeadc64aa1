"""The service's actor on a real Ray: runs outlive it, keys and works are known again, the line is fair."""

import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from live_service import service_config
from selection_cases import result_of, run_here
from small_ray import small_ray

from clusterucb.config import ServiceConfig
from ray_app.service.ledger import Ledger
from ray_app.service.names import service_name
from ray_app.service.ray_backend import RayBackend, start_service
from ray_app.service.records import RunRecord
from ray_app.service.refusals import KeyReused, QueueFull, Unavailable
from ray_app.service.requests import SelectionRequest

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with small_ray(1):
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServiceConfig:
    limits = {"active_runs": 1, "queued_runs": 4, "queued_runs_per_token": 3}
    workers = {"num_cpus": 1, "count": 1}
    return service_config(tmp_path_factory.mktemp("service"), limits=limits, workers=workers)


@pytest.fixture
def backend(config: ServiceConfig) -> RayBackend:
    service: Any = start_service(config)
    ray.get(service.start.remote(), timeout=120)
    return RayBackend(config)


@pytest.fixture
def ledger(config: ServiceConfig) -> Ledger:
    return Ledger(Path(config.folder).resolve())


def asked(budget: float = 0.5, target: str = "sums", seed: int = 0) -> SelectionRequest:
    """Ask for a run; those of one seed share the warm worker."""
    search = {"budget": budget, "rounds": {"first": 4}}
    body = {"pool": "mixed", "checkpoint": "tiny", "target": target, "seed": seed, "search": search}
    return SelectionRequest.model_validate(body)


async def followed(
    backend: RayBackend, run_id: str, until: Callable[[RunRecord, list[str]], bool], lines: list[str], after: int = 0
) -> int:
    """Collect events until something is so; return the place to go on from."""
    deadline = time.monotonic() + 180
    while True:
        news = await backend.news(run_id, after, 1.0)
        lines += [event.line for event in news.events]
        after = news.events[-1].id if news.events else after
        if until(news.record, lines):
            return after
        assert time.monotonic() < deadline, f"waited too long for {news.record}"


async def patiently(call: Callable[[], Awaitable[tuple[RunRecord, bool]]]) -> tuple[RunRecord, bool]:
    """Make a call again while the service says that it is not there yet, as clients do."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return await call()
        except Unavailable:
            assert time.monotonic() < deadline, "the service never came back"


def over(record: RunRecord, _: list[str]) -> bool:
    return record.over


@pytest.mark.timeout(600)
async def test_a_run_whose_service_is_killed_ends_once_with_the_bytes_of_a_run_alone(
    backend: RayBackend, ledger: Ledger, config: ServiceConfig, tmp_path: Path
):
    request, lines = asked(), list[str]()
    record, known = await backend.submit("ann", request, "key")
    assert not known
    place = await followed(
        backend, record.id, lambda _, seen: sum('"stage":"search"' in line for line in seen) >= 3, lines
    )
    service: Any = ray.get_actor(service_name(config), namespace="clusterucb")
    os.kill(await service.pid.remote(), signal.SIGKILL)
    again, known = await patiently(lambda: backend.submit("ann", request, "key"))  # it is being started again
    assert (again.id, known) == (record.id, True)
    await followed(backend, record.id, over, lines, place)
    ended = await backend.get(record.id)
    assert ended.status == "finished", ended.error
    folder = ledger.folder(record.id)
    assert lines == folder.events_file.read_text().splitlines(), "an event was lost or told twice"
    assert result_of(folder) == result_of(run_here(ledger.asked(record.id).config, tmp_path / "alone"))
    with pytest.raises(KeyReused):
        await backend.submit("ann", asked(budget=0.4), "key")
    twin, _ = await backend.submit("bob", request, "key")  # another name's key, the same work
    await followed(backend, twin.id, over, [])
    found = await backend.get(twin.id)
    assert found.id != record.id
    assert found.gradients is not None
    assert (found.status, found.gradients.computed) == ("finished", 0)
    assert result_of(ledger.folder(twin.id)) == result_of(folder)


@pytest.mark.timeout(600)
async def test_names_take_turns_and_a_full_line_refuses(backend: RayBackend, ledger: Ledger):
    budgets = (0.41, 0.42, 0.43, 0.44)  # a seed of their own: the first has to start a worker, and the line fills
    ann = [(await backend.submit("ann", asked(budget, seed=11), None))[0].id for budget in budgets]
    with pytest.raises(QueueFull, match="3 runs of ann wait"):
        await backend.submit("ann", asked(0.45, seed=11), None)
    bob = (await backend.submit("bob", asked(0.41, "birds", seed=11), None))[0].id
    with pytest.raises(QueueFull, match="4 runs wait"):
        await backend.submit("eve", asked(0.46, seed=11), None)
    waiting = await backend.cancel(ann[3])
    assert waiting.status == "cancelled", "one that waits is over at once"
    assert (await backend.get(bob)).queue_position == 0, "bob has had nothing yet"
    running = await backend.cancel(ann[0])
    await followed(backend, running.id, over, [])
    assert (await backend.get(ann[0])).status in ("cancelled", "finished")
    for run_id in (bob, *ann[1:3]):
        await followed(backend, run_id, over, [])
    began = {run_id: found.at for run_id in (bob, *ann[:3]) if (found := ledger.began(run_id)) is not None}
    assert sorted(began, key=began.__getitem__) == [ann[0], bob, ann[1], ann[2]]
    assert ledger.began(ann[3]) is None
