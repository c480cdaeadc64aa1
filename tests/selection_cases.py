"""A small real selection: a tiny Llama, a pool whose sources differ, a target that resembles one of them."""

import json
import random
from pathlib import Path

import torch
from tiny_models import saved, tiny_llama

from clusterucb.config import RunConfig
from clusterucb.run.in_process import run_in_process
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.worker import Worker
from clusterucb.settings import build_config

_WORDS = {
    "sums": ["one", "two", "three", "four", "plus", "minus", "equals", "total", "sum"],
    "birds": ["owl", "lark", "wren", "crow", "nest", "wing", "song", "egg", "feather"],
    "code": ["def", "return", "for", "in", "if", "else", "import", "print", "lambda"],
    "noise": ["zx", "qj", "kv", "wq", "xx", "yz", "jj", "kq", "vz"],
}


def chat(words: list[str], rng: random.Random) -> list[dict[str, str]]:
    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(least, most)))

    return [{"role": "user", "content": text(1, 6)}, {"role": "assistant", "content": text(1, 6)}]


def write_rows(path: Path, count: int, sources: list[str], seed: int) -> Path:
    """Write `count` chats, the sources in turn."""
    rng = random.Random(seed)
    with path.open("w") as file:
        for i in range(count):
            source = sources[i % len(sources)]
            row = {"id": f"{source}/{i}", "source": source, "messages": chat(_WORDS[source], rng)}
            file.write(json.dumps(row) + "\n")
    return path


def small_selection(folder: Path, rows: int = 160) -> dict[str, object]:
    """Write model, pool and target into `folder`; return the settings of a run over them."""
    return {
        "pool": {"path": str(write_rows(folder / "pool.jsonl", rows, list(_WORDS), seed=1))},
        "target": {"path": str(write_rows(folder / "target.jsonl", 8, ["sums"], seed=2))},
        "model": {"base": str(saved(tiny_llama(), folder / "model"))},
        "tokens": {"max_length": 128},
        "gradients": {"batch_tokens": 128, "sketch": {"kind": "hash", "dim": 512}},
        "search": {"budget": 0.4, "rounds": {"first": 4}},
        "workers": {"num_cpus": 0.5, "count": 1},
    }


def config_of(settings: dict[str, object], *overrides: str) -> RunConfig:
    """Build a configuration without touching the settings."""
    return build_config(json.loads(json.dumps(settings)), overrides)


def run_here(config: RunConfig, path: Path) -> RunFolder:
    """Run a selection in this process, on one thread as gradient workers do: more add up in another order."""
    torch.set_num_threads(1)
    folder = RunFolder(path)
    prepare(config, folder, lambda what, rows: None)
    run_in_process(config, folder, lambda event: None)
    return folder


def result_of(folder: RunFolder) -> tuple[bytes, bytes]:
    """Return the bytes that must not depend on scheduling."""
    return folder.selection_file.read_bytes(), folder.scores_file.read_bytes()


def go_on(config: RunConfig, folder: RunFolder, worker: Worker, seen: list[tuple[str, int]], jobs: int) -> bool:
    """Go on with a run for so many jobs, noted in `seen` by stage and index; say whether the run is through."""
    run, left = SelectionRun(config, folder, lambda event: None), jobs
    try:
        for stage in run.stages():
            while (job := stage.ask()) is not None:
                if left == 0:
                    return False
                left -= 1
                seen.append((stage.name, job.index))
                stage.tell(job, worker.work(job.task, lambda: run.bank))
        return True
    finally:
        run.close()
