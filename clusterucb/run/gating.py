"""The gates of a run: decided once, before anything is scored; whoever resumes finds the verdict.

Invariant: the tokenised pool keeps every row; what has left is only not usable. Each row found stands in `gates.jsonl`
with its partner, and is counted in the notes and the summary.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from clusterucb.config import Policy, RunConfig
from clusterucb.data.rows import read_rows
from clusterucb.data.target_rows import examples
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import RunFolderError
from clusterucb.gates.findings import GATES, Finding, Gate, Verdicts
from clusterucb.gates.gatekeeper import judge
from clusterucb.gates.held_out import held_out_fingerprint
from clusterucb.gates.minhash import ALGORITHM
from clusterucb.run.disk import replacing, write_atomically, writing
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tokenisation import Progress
from clusterucb.types import IntArray

NAME = "gates"


class GateCount(BaseModel):
    """Rows that a gate found, and those of them that left the pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: Gate
    policy: Policy
    found: int
    left: int


class _Meta(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    counts: tuple[GateCount, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Gated:
    """The verdict over a pool of N rows."""

    left_N: npt.NDArray[np.bool_]
    group_N: IntArray
    """The first row of a row's group of copies and near-copies; -1 for a row that has none."""
    counts: tuple[GateCount, ...]
    notes: tuple[str, ...]


def read_gates(folder: RunFolder) -> Gated | None:
    """Return the verdict in a prepared run folder; none where every gate is off."""
    path = folder.state / NAME
    if not (path / "meta.json").exists():
        return None
    meta = _Meta.model_validate_json((path / "meta.json").read_bytes())
    with np.load(path / "rows.npz") as rows:
        return Gated(rows["left_by_N"] >= 0, rows["group_N"].astype(np.int64), meta.counts, meta.notes)


def gate(config: RunConfig, pool: TokenStore, target: TokenStore, folder: RunFolder, progress: Progress) -> None:
    """Decide, or find it decided; raises RunFolderError where what it was decided on has changed since."""
    if not config.gates.active:
        return
    fingerprint = _fingerprint(config, pool, target)
    path = folder.state / NAME
    if (path / "meta.json").exists():
        if _Meta.model_validate_json((path / "meta.json").read_bytes()).fingerprint != fingerprint:
            raise RunFolderError(
                f"gates.held_out.sets have changed, or rensa has, since this run began: give another folder with "
                f"--out, or put the old ones back ({ALGORITHM})"
            )
        return
    waiting = path.with_name(path.name + ".partial")
    shutil.rmtree(waiting, ignore_errors=True)
    with writing(path):
        waiting.mkdir(parents=True)
        verdicts = judge(
            config.gates,
            (row.messages for row in read_rows(config.pool)),
            (row.messages for row in examples(config)),
            pool.usable_N,
            waiting,
            lambda rows: progress("pool for duplicates", rows),
        )
    _write(verdicts, config, pool, target, folder, fingerprint)
    shutil.rmtree(waiting)


def _write(
    verdicts: Verdicts, config: RunConfig, pool: TokenStore, target: TokenStore, folder: RunFolder, fingerprint: str
) -> None:
    path = folder.state / NAME
    with replacing(folder.gates_file) as beside, beside.open("w", encoding="utf-8") as file:
        for finding in verdicts.findings(pool.ids, target.ids):
            file.write(json.dumps(_line(finding, pool, verdicts), ensure_ascii=False) + "\n")
    with replacing(path / "rows.npz") as beside, beside.open("wb") as file:
        np.savez(file, left_by_N=verdicts.left_by_N, group_N=verdicts.group_N)
    left = np.bincount(verdicts.left_by_N[verdicts.left_by_N >= 0], minlength=len(GATES))
    found = verdicts.found()
    counts = tuple(
        GateCount(gate=gate, policy=config.gates.policy(gate), found=found[gate], left=int(left[place]))
        for place, gate in enumerate(GATES)
        if gate in found
    )
    meta = _Meta(fingerprint=fingerprint, counts=counts, notes=(*_words(counts, pool), *verdicts.notes))
    write_atomically(path / "meta.json", meta.model_dump_json(indent=1) + "\n")
    for file in (folder.gates_file, path / "rows.npz", path / "meta.json"):
        folder.replica.put(file)


def _line(finding: Finding, pool: TokenStore, verdicts: Verdicts) -> dict[str, Any]:
    given = {name: value for name, value in asdict(finding).items() if name != "row" and value is not None}
    gate = int(verdicts.left_by_N[finding.row])
    return {"id": pool.ids[finding.row], **given, "left": gate >= 0 and GATES[gate] == finding.gate}


def _words(counts: tuple[GateCount, ...], pool: TokenStore) -> list[str]:
    names = {
        "held_out": "share words with a held-out set",
        "target": "are nearly a target example",
        "exact": "are copies of an earlier row",
        "near": "are nearly an earlier row",
    }
    return [
        f"gates: {count.found} of {pool.num_samples} rows {names[count.gate]}; {count.left} of them left the pool "
        f"(gates.jsonl names them)"
        for count in counts
        if count.found
    ]


def _fingerprint(config: RunConfig, pool: TokenStore, target: TokenStore) -> str:
    parts = [pool.fingerprint, target.fingerprint, held_out_fingerprint(config.gates.held_out), ALGORITHM]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def kept(folder: RunFolder, pool: TokenStore) -> TokenStore:
    """Return the pool with the rows that have left marked as not usable."""
    gated = read_gates(folder)
    if gated is not None:
        pool.usable_N[gated.left_N] = False
    return pool
