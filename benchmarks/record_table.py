"""Record a table that `clusterucb compare --table` judges in seconds: influence, sketches, features, what they cost.

    OMP_NUM_THREADS=1 python benchmarks/record_table.py CONFIG --rows 4000 --out record

CONFIG is a run's configuration: its target or targets, model, gradients, and as `features` what is to be compared
(`several` for many). Rows are drawn from the pool with the run's seed. The work is cut in chunks, each a file in the
output folder that appears whole: run it again to go on, or several times at once to use more cores. `table.npz` holds
all chunks that are there, in the pool's order, with the target's own features beside the pool's, so that parts such as
`match-hidden` are known too.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clusterucb.checkpoint.model import load_tokenizer
from clusterucb.config import ProxyFeatures, RunConfig
from clusterucb.data.chat import ChatEncoder
from clusterucb.data.target_rows import examples
from clusterucb.data.tokens import TokenStore
from clusterucb.features.proxy import proxy_model, proxy_tokens
from clusterucb.gradients.targets import TargetBank, combine
from clusterucb.run.batching import micro_batches
from clusterucb.run.feature_parts import PreparedPart, prepared_parts
from clusterucb.run.feature_stage import feature_task
from clusterucb.run.preparation import prepare
from clusterucb.run.prepared import open_prepared, target_subtasks
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.target_columns import target_columns
from clusterucb.run.target_stage import target_batches
from clusterucb.run.tasks import ScoreTask, TargetTask
from clusterucb.run.tokenisation import token_store
from clusterucb.run.worker import Worker
from clusterucb.settings import load_config
from clusterucb.types import Hidden, IntArray, Scores

CHUNK = 100
PROXY_TOKENS = 4096
Arrays = dict[str, npt.NDArray[Any]]


def silent(what: str, rows: int) -> None:
    """Progress that nobody watches."""


class Recorder:
    """One process that records chunks of a pool into `out`; others may record beside it."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        self.config, self.out, self.folder = config, out, RunFolder(out / "run")
        prepare(config, self.folder, silent)
        self.pool, self.target = open_prepared(self.folder)
        self.parts = prepared_parts(config, self.pool)
        self.worker = Worker(config, torch.device("cpu"))
        self.bank = self._bank()

    def chunks(self, rows: IntArray) -> None:
        """Record every chunk that no other process has claimed."""
        for number, start in enumerate(range(0, len(rows), CHUNK)):
            file = self.out / f"chunk-{number:05d}.npz"
            if not file.exists() and self._claimed(file):
                write(file, self._scored(np.sort(rows[start : start + CHUNK])))
                print(f"{file.name}: rows {start} to {min(start + CHUNK, len(rows))} of {len(rows)}", flush=True)

    def features(self, part: PreparedPart, samples: IntArray) -> tuple[IntArray, npt.NDArray[Any]]:
        """Return the samples that have features, ascending, and these."""
        budget, tokens = PROXY_TOKENS if part.backward else self.config.gradients.batch_tokens, part.tokens
        task = feature_task(self.config, part)
        found = [
            self.worker.work(task(batch), lambda: self.bank)
            for batch in micro_batches(samples[tokens.usable_N[samples]], tokens.lengths_N, budget)
        ]
        answers = [answer for answer in found if isinstance(answer, Hidden)]
        samples_B = np.concatenate([answer.samples_B for answer in answers])
        order = np.argsort(samples_B)
        return samples_B[order], np.concatenate([answer.features_BF for answer in answers])[order]

    def target_features(self, part: PreparedPart) -> npt.NDArray[np.float32]:
        """Return the mean features of each subtask, in the bank's order."""
        part = replace(part, tokens=self._target_tokens(part), side="target")
        samples_E, features_EF = self.features(part, part.samples(self.target))
        of = target_subtasks(self.target)
        means = [features_EF[np.isin(samples_E, of[name])].astype(np.float32).mean(0) for name in self.bank.subtasks]
        return np.stack(means)

    def _target_tokens(self, part: PreparedPart) -> TokenStore:
        if not isinstance(part.features, ProxyFeatures):
            return self.target
        encoder = ChatEncoder(
            load_tokenizer(proxy_model(part.features)), proxy_tokens(part.features, self.config.tokens, None)
        )
        return token_store(examples(self.config), encoder, self.folder, f"target-{part.name}", silent)

    def _scored(self, rows: IntArray) -> Arrays:
        made: dict[str, list[npt.NDArray[Any]]] = {"sample": [], "influence": [], "sketch": []}
        for batch in micro_batches(rows, self.pool.lengths_N, self.config.gradients.batch_tokens):
            scores = self.worker.work(ScoreTask(self.pool.batch(batch), self.bank.fingerprint), lambda: self.bank)
            assert isinstance(scores, Scores)
            assert scores.sketch_BD is not None, "gradients.sketch is none: use the hash sketch"
            for name, values in zip(made, (scores.samples_B, scores.influence_BS, scores.sketch_BD), strict=True):
                made[name].append(values)
        joined = {name: np.concatenate(values) for name, values in made.items()}
        order = np.argsort(joined["sample"])
        joined = {name: values[order] for name, values in joined.items()}
        for part in self.parts:
            samples_B, features_BF = self.features(part, joined["sample"])
            whole_BF = np.zeros((len(order), features_BF.shape[1]), np.float16)
            whole_BF[np.searchsorted(joined["sample"], samples_B)] = features_BF
            joined[part.name] = whole_BF
        return joined

    def _bank(self) -> TargetBank:
        path = self.out / "target.safetensors"
        if not path.exists():
            parts = [
                self.worker.work(TargetTask(self.target.batch(batch), name), lambda: self.bank)
                for name, batch in target_batches(self.target, self.config.gradients.batch_tokens)
            ]
            combine(tuple(target_subtasks(self.target)), parts).save(path)  # pyright: ignore[reportArgumentType]
        return TargetBank.load(path)

    @staticmethod
    def _claimed(file: Path) -> bool:
        try:
            os.close(os.open(file.with_suffix(".claim"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def table(self) -> Arrays:
        """Join all chunks that are there."""
        chunks = [dict(np.load(file)) for file in sorted(self.out.glob("chunk-*.npz"))]
        joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        order = np.argsort(joined["sample"])
        joined = {name: values[order] for name, values in joined.items()}
        samples = joined["sample"]
        made: Arrays = {
            "id": np.asarray(self.pool.ids.take(samples)),
            "source": np.asarray(self.pool.sources.take(samples)),
            "num_tokens": self.pool.lengths_N[samples],
            "sketch": joined["sketch"],
        }
        targets = target_columns(self.config, self.bank.subtasks)
        for target in targets:
            name = target.name or "target"
            made[f"influence_{name}"] = joined["influence"][:, target.columns]
            if self.bank.sketch_SD is not None:
                made[f"target_sketch_{name}"] = self.bank.sketch_SD.numpy()[target.columns]
        for place, part in enumerate(self.parts):
            kind = f"{part.features.kind}{place + 1}"
            longer = part.tokens.lengths_N[samples].sum() / made["num_tokens"].sum()
            made[f"features_{kind}"] = joined[part.name]
            made[f"passes_{kind}"] = np.asarray((2.0 if part.backward else 1.0) * part.share * longer)
            means_SF = self.target_features(part)
            for target in targets:
                made[f"target_{kind}_{target.name or 'target'}"] = means_SF[target.columns]
        return made


def write(path: Path, arrays: Arrays) -> None:
    """Write a file that appears whole."""
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)  # pyright: ignore[reportArgumentType]
    partial.replace(path)


def main() -> None:
    """Record, then join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(args.config, ["search.allocator.kind=predictive"])  # which sees all parts of the features
    recorder = Recorder(config, args.out.resolve())
    usable = np.flatnonzero(recorder.pool.usable_N)
    rows = np.random.default_rng(config.seed).permutation(usable)[: args.rows]
    recorder.chunks(rows)
    table = recorder.table()
    write(recorder.out / "table.npz", table)
    print(f"{recorder.out / 'table.npz'}: {len(table['id'])} rows, {', '.join(table)}")


if __name__ == "__main__":
    main()
