"""The gates over 10^5 .. 10^6 rows against the cost of tokenising them: seconds, microseconds a row, peak memory.

    CLUSTERUCB_MATERIAL=... OMP_NUM_THREADS=1 python benchmarks/gates.py [--samples 100000 1000000] [--model FOLDER]

Rows are those of the material's pool, each repetition with its words in another order, so that it is as long and as
repetitive and yet no copy; one row in ten is a copy and one in ten has a word changed. All gates are on; the held-out
sets are the material's test sets, and one row in a thousand carries 20 words of them.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from clusterucb import config
from clusterucb.checkpoint.model import load_tokenizer
from clusterucb.data.chat import ChatEncoder
from clusterucb.data.rows import read_rows
from clusterucb.gates.gatekeeper import judge

ROOT = Path(__file__).resolve().parents[1]


def write_pool(path: Path, rows: list[dict], held: list[str], count: int) -> None:
    """Write the pool described above."""
    rng = random.Random(0)
    written: list[list[dict]] = []
    with path.open("w") as file:
        for i in range(count):
            kind = rng.random()
            if kind < 0.2 and written:
                messages = [dict(message) for message in rng.choice(written)]
                if kind < 0.1:
                    words = messages[0]["content"].split(" ")
                    words[rng.randrange(len(words))] = f"changed{i}"
                    messages[0]["content"] = " ".join(words)
            else:
                messages = []
                for message in rows[i % len(rows)]["messages"]:
                    words = message["content"].split(" ")
                    if i >= len(rows):
                        rng.shuffle(words)
                    messages.append({"role": message["role"], "content": " ".join(words)})
                if rng.random() < 0.001:
                    words = rng.choice(held).split()
                    start = rng.randrange(max(1, len(words) - 20))
                    messages[0]["content"] += " " + " ".join(words[start : start + 20])
                if len(written) < 50_000:
                    written.append(messages)
            file.write(json.dumps({"id": str(i), "messages": messages}) + "\n")


def peak_gib() -> float:
    """Return the largest resident set since it was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def main() -> None:
    """Print a line a pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--tokenised", type=int, default=5000, help="rows tokenised to know what a row costs")
    parser.add_argument("--model", default=str(ROOT / ".cache" / "SmolLM2-135M-Instruct"), help="whose tokenizer")
    args = parser.parse_args()
    material = Path(os.environ["CLUSTERUCB_MATERIAL"]) / "pool"
    rows = [json.loads(line) for line in (material / "pool.jsonl").open()]
    tests = sorted((material / "targets").glob("*.test.jsonl"))
    held = [json.loads(line)["messages"][0]["content"] for test in tests for line in test.open()]
    gates = config.Gates(
        near=config.NearDuplicates(policy="exclude"),
        held_out=config.HeldOut(sets=tuple(config.HeldOutRows(path=str(test)) for test in tests)),
    )
    encoder = ChatEncoder(load_tokenizer(config.Model(base=args.model)), config.Tokens())
    for count in args.samples:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pool.jsonl"
            write_pool(path, rows, held, count)
            reader = read_rows(config.Rows(path=str(path)))
            begin = time.process_time()
            for i, row in enumerate(reader):
                encoder.encode(row.messages)
                if i + 1 == args.tokenised:
                    break
            token_us = (time.process_time() - begin) / args.tokenised * 1e6
            begin = time.process_time()
            for _ in read_rows(config.Rows(path=str(path))):
                pass
            read_us = (time.process_time() - begin) / count * 1e6
            examples = read_rows(config.Target(path=str(material / "targets" / "gsm8k.dev.jsonl")))
            del row
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            before, begin, wall = peak_gib(), time.process_time(), time.perf_counter()
            verdicts = judge(
                gates,
                (one.messages for one in read_rows(config.Rows(path=str(path)))),
                (one.messages for one in examples),
                np.ones(count, np.bool_),
                Path(folder),
                lambda done: None,
            )
            seconds, waited, gate_us = time.process_time() - begin, time.perf_counter() - wall, 0.0
            gate_us = seconds / count * 1e6
            disk = sum(file.stat().st_size for file in Path(folder).iterdir() if file.suffix in (".u32", ".u64"))
            print(
                f"{count:,} rows: gates {seconds:.1f} s of CPU ({waited:.1f} s by the clock), {gate_us:.0f} us a row, "
                f"of them {read_us:.0f} reading; tokenising {token_us:.0f} us a row: {gate_us / token_us:.0%} of it; "
                f"{peak_gib():.2f} GiB at most ({before:.2f} before), {disk / 2**30:.2f} GiB on disk; "
                f"found {', '.join(f'{name} {number:,}' for name, number in verdicts.found().items())}",
                flush=True,
            )


if __name__ == "__main__":
    main()
