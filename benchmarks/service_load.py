"""What watching costs the watched: many watchers and status requests beside a running selection.

    python benchmarks/service_load.py                          # 200 watchers, 100 requests a second, 60 s
    python benchmarks/service_load.py --base .cache/SmolLM2-135M-Instruct --batch-tokens 256 --rows 2000

One selection runs the whole time, on one worker. Its throughput is taken in turns with and without the load, in one
run, so that whatever else the machine does strikes both alike. Prints errors by status, latencies, the ratio, and what
processor time everybody took meanwhile, the clients of this very process included: they share the machine.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from service_processes import CLASSES, ServiceProcess, write_service

_TURNS = 4


@dataclass
class Load:
    """What the clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    events: int = 0
    watching: int = 0
    seen: dict[int, str] = field(default_factory=lambda: defaultdict(lambda: "0"))


async def watch(http: aiohttp.ClientSession, path: str, load: Load, stop: asyncio.Event, who: int) -> None:
    """Follow a run; come back where the stream ends, and in the next turn, to where one was."""
    while not stop.is_set():
        async with http.get(f"{path}/events", headers={"Last-Event-ID": load.seen[who]}) as answer:
            load.statuses[f"events {answer.status}"] += 1
            load.watching += 1
            try:
                async for piece in answer.content.iter_any():  # a browser parses in its own machine's time
                    load.events += piece.count(b"id: ")
                    last = piece[piece.rfind(b"id: ") + 4 :].partition(b"\n")
                    if b"id: " in piece and last[1]:
                        load.seen[who] = last[0].decode()
                    if stop.is_set():
                        return
            finally:
                load.watching -= 1


async def ask(http: aiohttp.ClientSession, path: str, load: Load) -> None:
    """Ask once for the status."""
    began = time.perf_counter()
    try:
        async with http.get(path) as answer:
            await answer.read()
        load.statuses[f"status {answer.status}"] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        load.statuses[type(error).__name__] += 1
    load.seconds.append(time.perf_counter() - began)


async def ask_steadily(http: aiohttp.ClientSession, path: str, load: Load, rate: float, seconds: float) -> None:
    """Ask at a fixed rate, whether answers come or not."""
    began, asked = time.perf_counter(), set[asyncio.Task[None]]()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        task = asyncio.create_task(ask(http, path, load))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*asked)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; give up after ten minutes."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.2)
    raise TimeoutError("waited too long")


def samples(events: Path) -> int:
    """Count the samples that came back so far."""
    if not events.exists():
        return 0
    lines = events.read_text().splitlines()
    return sum(json.loads(line)["samples"] for line in lines if '"progressed"' in line and line.endswith("}"))


def processor_seconds(service: ServiceProcess) -> Counter[str]:
    """Return what each kind of process has taken so far."""
    taken = Counter({"clients": sum(psutil.Process().cpu_times()[:2])})
    for what in CLASSES:
        for pid in service.pids(what):
            taken[what] += sum(psutil.Process(pid).cpu_times()[:2])
    assert service.process is not None
    everything = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)]
    taken["Ray"] = sum(sum(each.cpu_times()[:2]) for each in everything) - sum(taken[what] for what in CLASSES)
    return taken


async def measure(service: ServiceProcess, watchers: int, rate: float, seconds: float) -> None:
    """Take turns with and without the load, and print what came of it."""
    headers = {"Authorization": f"Bearer {service.secret}"}
    limits = aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(total=None, sock_read=120)
    async with aiohttp.ClientSession(service.url, headers=headers, connector=limits, timeout=patience) as http:
        body = {
            "pool": "mixed", "checkpoint": "tiny", "target": "sums", "search": {"allocator": {"kind": "exhaustive"}}
        }  # fmt: skip
        async with http.post("/v1/selections", json=body) as answer:
            run_id = (await answer.json())["id"]
        path = f"/v1/selections/{run_id}"
        events = Path(service.config.folder) / "runs" / run_id / "events.jsonl"
        await until(lambda: samples(events) >= 50)
        load, rates = Load(), {True: list[float](), False: list[float]()}
        taken, lasted = {True: Counter[str](), False: Counter[str]()}, {True: 0.0, False: 0.0}
        for turn in range(2 * _TURNS):
            loaded, stop = turn % 2 == 1, asyncio.Event()
            watching: list[asyncio.Task[None]] = []
            if loaded:
                watching = [asyncio.create_task(watch(http, path, load, stop, who)) for who in range(watchers)]
                await until(lambda: load.watching >= watchers)
                print(f"{load.watching} watchers", flush=True)
            before, began, earlier = samples(events), time.perf_counter(), processor_seconds(service)
            await (
                ask_steadily(http, path, load, rate, seconds / _TURNS) if loaded else asyncio.sleep(seconds / _TURNS)
            )
            rates[loaded].append((samples(events) - before) / (time.perf_counter() - began))
            taken[loaded] += processor_seconds(service) - earlier
            lasted[loaded] += time.perf_counter() - began
            said = f"{rates[loaded][-1]:.1f} samples/s, {len(load.seconds)} answers so far"
            print(f"turn {turn + 1} of {2 * _TURNS}, {'beside the load' if loaded else 'alone'}: {said}", flush=True)
            stop.set()
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        async with http.get(path) as answer:
            state = (await answer.json())["status"]
        async with http.delete(path):
            pass
    assert state == "running", f"the selection is {state}: give --rows more, or it was not there to be slowed down"
    ordered = sorted(load.seconds)
    alone, beside = (statistics.mean(rates[which]) for which in (False, True))
    print(json.dumps(dict(load.statuses)))
    print(f"{len(ordered)} status requests, {load.events} events told to {watchers} watchers")
    for share in (0.5, 0.9, 0.99):
        print(f"latency {share:.0%}: {1000 * ordered[int(share * (len(ordered) - 1))]:.0f} ms")
    print(f"samples/s alone {alone:.1f}, beside the load {beside:.1f}: ratio {beside / alone:.3f}")
    for loaded, title in ((False, "alone"), (True, "beside the load")):
        shares = ", ".join(f"{what} {each / lasted[loaded]:.2f}" for what, each in taken[loaded].most_common())
        print(f"processors taken {title}: {shares}")
    print(f"by turns: alone {[round(rate, 1) for rate in rates[False]]}, beside {[round(r, 1) for r in rates[True]]}")


def main() -> None:
    """Start a service with tiny models and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--base", type=Path, help="a model of real size in place of a tiny random one")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="a tiny model is quick: few, large batches")
    parser.add_argument("--replicas", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as there:
        limits = {"requests_per_minute": 10**6, "watchers": 2000, "watchers_per_token": 2000}
        file = write_service(Path(there), arguments.rows, limits=limits, workers={"num_cpus": 1, "count": 1})
        tree = yaml.safe_load(file.read_text())
        checkpoint = tree["catalogue"]["checkpoints"]["tiny"]
        checkpoint["gradients"]["batch_tokens"] = arguments.batch_tokens
        if arguments.base is not None:
            checkpoint["model"]["base"] = str(arguments.base.resolve())
        file.write_text(yaml.safe_dump(tree))
        service = ServiceProcess(file)
        print(f"ready after {service.start('--replicas', str(arguments.replicas)):.0f} s", flush=True)
        try:
            asyncio.run(measure(service, arguments.watchers, arguments.rate, arguments.seconds))
        finally:
            service.stop()


if __name__ == "__main__":
    main()
