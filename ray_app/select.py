"""The driver of a selection: prepare, connect, start or join the coordinator, watch it to the end."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import ray
from ray.actor import ActorProxy
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.coordinator import Coordinator, CoordinatorActor, Outcome, Work
from actors.names import NAMESPACE, coordinator_name
from clusterucb.config import RunConfig
from clusterucb.errors import ClusterUCBError, ResourceError, Stopped
from clusterucb.run.events import Note, Progressed, Started, parse_event
from clusterucb.run.feature_parts import prepared_matches, prepared_parts
from clusterucb.run.feature_stage import feature_store
from clusterucb.run.preparation import Prepared, prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import Summary, read_summary
from ray_app.cluster import connected
from ray_app.views import View

_POLL_S = 0.25
_BARREN_LIVES = 5
_UNREACHED_S = 300.0


def select(config: RunConfig, folder: RunFolder, address: str, view: View) -> Summary:
    """Run a selection to its end in `folder`; a finished folder answers at once."""
    if folder.finished:
        folder.start(config)  # refuses other settings
    else:
        drive(config, folder, address, view, "selection")
    return read_summary(folder)


def drive(config: RunConfig, folder: RunFolder, address: str, view: View, work: Work) -> None:
    """Prepare `folder` and do the work there; features that are there need no cluster."""
    with view, stoppable() as stop:

        def reading(what: str, rows: int) -> None:
            if stop.is_set():
                raise Stopped(f"stopped while reading the {what}: run again to begin anew")
            view.reading(what, rows)

        prepared = prepare(config, folder, reading)
        try:
            for note in prepared.notes:
                view(Note(text=note))
            if work == "features" and _featured(config, folder, prepared):
                return
            with connected(address):
                _drive(config, folder, view, stop, work)
        except ClusterUCBError:
            prepared.claim.withdraw()  # what only a worker could find out, before anything was computed
            raise


def _featured(config: RunConfig, folder: RunFolder, prepared: Prepared) -> bool:
    parts = (*prepared_parts(config, prepared.pool), *prepared_matches(config, prepared.target))
    return all(feature_store(part, folder).complete for part in parts)


def _drive(config: RunConfig, folder: RunFolder, view: View, stop: threading.Event, work: Work) -> None:
    here = ray.get_runtime_context().get_node_id()
    coordinator = CoordinatorActor.options(
        name=coordinator_name(folder),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        num_cpus=0,
        # The run folder is on this node, or on storage that all share.
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
    ).remote(folder.location, config.workers, work, store=config.store)
    try:
        outcome = _join(coordinator, folder, view, stop)
    except Exception:  # not KeyboardInterrupt: on a cluster, whoever runs the command again joins the coordinator
        _dismiss(folder)
        raise
    _dismiss(folder)
    if outcome.status == "failed":
        raise ClusterUCBError(outcome.error)
    if outcome.status == "cancelled":
        raise Stopped(f"stopped; everything scored is kept: `clusterucb resume {folder.location}` goes on")


def _join(coordinator: ActorProxy[Coordinator], folder: RunFolder, view: View, stop: threading.Event) -> Outcome:
    """Have the coordinator run and show its events until it ends; join again where Ray started it again."""
    barren, asked, reached = 0, False, time.monotonic()
    while True:
        running, seen = coordinator.run.remote(), 0
        try:
            while True:
                if stop.is_set() and not asked:
                    folder.request_cancel()
                    asked = True
                ready, _ = ray.wait([running], timeout=_POLL_S)
                lines = ray.get(coordinator.events.remote(seen))
                seen, reached = seen + len(lines), time.monotonic()
                for line in lines:
                    event = parse_event(line)
                    barren = 0 if isinstance(event, Progressed) else barren + isinstance(event, Started)
                    view(event)
                if ready:
                    return ray.get(running)
                if barren > _BARREN_LIVES:
                    raise ResourceError(
                        f"the coordinator died {_BARREN_LIVES} times without getting anywhere: see the Ray logs, then "
                        f"run again to go on"
                    )
        except ActorUnavailableError:
            if time.monotonic() - reached > _UNREACHED_S:
                raise ResourceError(
                    f"the coordinator died and was not started again within {_UNREACHED_S:.0f} s: see the Ray logs, "
                    f"then run again to go on"
                ) from None
            time.sleep(_POLL_S)
        except ActorDiedError as error:
            if folder.finished:  # another driver watched too, and dismissed it
                return Outcome("finished")
            words = " ".join(str(error).split())[:300]
            raise ResourceError(f"the coordinator died: {words}; run again to go on") from None


def _dismiss(folder: RunFolder) -> None:
    """End the coordinator, which nothing else would; its folder is what lasts."""
    with contextlib.suppress(ValueError):  # it is gone already
        ray.kill(ray.get_actor(coordinator_name(folder), namespace=NAMESPACE))


@contextlib.contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event; the second one interrupts for good."""
    stop = threading.Event()

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
