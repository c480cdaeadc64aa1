"""Build the demo's pool and targets from what every machine has; no download, no model.

    python examples/build_pool.py                     # -> .cache/demo/{pool,target_arithmetic,target_python}.jsonl

About 1,000 short chats in 13 domains that are known by construction, so that a selection can be judged: for the
arithmetic target the domain `arithmetic` must come out on top. Invariant: the seed settles every byte of the generated
domains, and no row of the pool tells a story or solves a program of a target.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from demo_pool import arithmetic, calculation, code, text
from demo_pool.documentation import doc_tasks, docstring_tasks
from demo_pool.noise import near_copy, noise_tasks
from demo_pool.task import Task, fill

SYSTEM = "Answer briefly."
"""Shorter than the system prompt that SmolLM2's template adds by itself: a fifth of the demo's tokens are saved."""
DEFAULT_OUT = Path(__file__).resolve().parents[1] / ".cache" / "demo"

GENERATED = {
    "arithmetic": (arithmetic.POOL, 120),
    "units": (calculation.UNIT, 66),
    "dates": (calculation.DATE, 66),
    "logic": (calculation.LOGIC, 66),
    "strings": (text.STRINGS, 66),
    "json": (text.JSON, 66),
    "sets": (text.SETS, 66),
    "rewriting": (text.REWRITING, 66),
    "regex": (code.REGEX, 66),
    "python": (code.PYTHON, 96),
}
NUM_DOCS, NUM_DOCSTRINGS, NUM_NOISE, NUM_NEAR_COPIES = 70, 80, 66, 54
NUM_TARGET_ARITHMETIC = 30

Row = dict[str, object]


def row(number: int, prefix: str, domain: str, task: Task) -> Row:
    """Return one line of a pool or target file."""
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": task.user},
        {"role": "assistant", "content": task.assistant},
    ]
    return {"id": f"{prefix}-{number:04d}", "source": task.source, "domain": domain, "messages": messages}


def build_pool(seed: int) -> list[Row]:
    """Return the pool's rows in an order that tells nothing about their domain."""
    domains = {
        name: fill(name, makers, count, random.Random(f"{seed}/{name}")) for name, (makers, count) in GENERATED.items()
    }
    generated = [(name, task) for name, tasks in domains.items() for task in tasks]
    rng = random.Random(f"{seed}/rest")
    rows = generated + [(name, near_copy(name, task, rng)) for name, task in rng.sample(generated, NUM_NEAR_COPIES)]
    rows += [("noise", task) for task in noise_tasks([task for _, task in generated], NUM_NOISE, rng)]
    rows += [("docs", task) for task in doc_tasks(NUM_DOCS)]
    rows += [("docstrings", task) for task in docstring_tasks(NUM_DOCSTRINGS)]
    rng.shuffle(rows)
    return [row(i, "pool", domain, task) for i, (domain, task) in enumerate(rows)]


def build_target_arithmetic(seed: int) -> list[Row]:
    """Return word problems told differently from those of the pool."""
    tasks = fill("arithmetic", arithmetic.TARGET, NUM_TARGET_ARITHMETIC, random.Random(f"{seed}/target"))
    return [row(i, "arithmetic-target", "arithmetic", task) for i, task in enumerate(tasks)]


def build_target_python() -> list[Row]:
    """Return programs that the pool does not hold."""
    tasks = [Task("python/by_hand", user, assistant) for user, assistant in code.target_programs()]
    return [row(i, "python-target", "python", task) for i, task in enumerate(tasks)]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSONL, replacing the file in one step."""
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rows), "utf-8")
    scratch.replace(path)


def main() -> int:
    """Parse the command line, build and write."""
    parser = argparse.ArgumentParser(description="Build the demo's pool and targets.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="settles the generated rows (default: %(default)s)")
    arguments = parser.parse_args()

    pool = build_pool(arguments.seed)
    files = {
        "pool.jsonl": pool,
        "target_arithmetic.jsonl": build_target_arithmetic(arguments.seed),
        "target_python.jsonl": build_target_python(),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write(arguments.out / name, rows)
        print(f"{arguments.out / name}: {len(rows)} rows")
    print(
        "domains: "
        + ", ".join(f"{name} {count}" for name, count in Counter(line["domain"] for line in pool).most_common())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
