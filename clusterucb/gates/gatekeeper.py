"""Run the gates over a pool: one pass over the rows, then comparisons of what it left on disk.

Held-out rows decide first, then the target, then copies, then near-copies; so a copy stays for a row that is itself
still there. Invariant: of a group the first row in file order stays.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from clusterucb.config import Gates
from clusterucb.data.messages import Message
from clusterucb.gates.findings import GATES, Finding, Gate, Resembling, Verdicts
from clusterucb.gates.held_out import HeldOutSet
from clusterucb.gates.minhash import Bands
from clusterucb.gates.pairs import best_partner, leaving, pairs_with, similar_pairs
from clusterucb.gates.shingles import Shingles, ShingleWriter
from clusterucb.gates.words import Hashes, WordBlock, WordHasher, sequences
from clusterucb.types import IntArray

_BLOCK = 1024
Chat = tuple[Message, ...]
Tick = Callable[[int], None]
"""Called with the rows read so far, at least every few seconds."""


def judge(
    gates: Gates,
    chats: Iterable[Chat],
    examples: Iterable[Chat],
    usable_N: npt.NDArray[np.bool_],
    folder: Path,
    tick: Tick,
) -> Verdicts:
    """Find what the configuration asks for among the pool's chats, and the target's examples, in order.

    `usable_N` tells the rows that can be scored at all: others are neither found nor anybody's partner. `folder` holds
    what has to wait, and is the caller's to remove.
    """
    hasher = WordHasher()
    policy = gates.held_out.policy
    sets = [HeldOutSet(rows, gates.held_out, hasher) for rows in (gates.held_out.sets if policy != "off" else ())]
    held_out: list[list[Finding]] = [[] for _ in sets]
    digests_N = np.zeros((len(usable_N), 2), np.uint64)
    with _Waiting(gates, folder) as waiting:
        for first, block in _blocks(chats):
            digests_N[first : first + len(block)] = _digests(block)
            words = _words(block, hasher) if sets or waiting.bands else None
            if words is not None:
                for one, found in zip(sets, held_out, strict=True):
                    matches = (match for match in one.matches(words, first) if usable_N[match.row])
                    found += (
                        Finding(m.row, "held_out", policy, m.partner, one.path, None, m.shared, m.words)
                        for m in matches
                    )
                waiting.add(words)
            tick(first + len(block))
        num_examples = 0
        for first, block in _blocks(examples):
            waiting.add(_words(block, hasher))
            num_examples = first + len(block)
    judging = _Judging(gates, waiting, usable_N, lambda: tick(len(usable_N)))
    judging.leave("held_out", np.array([finding.row for one in held_out for finding in one], np.int64))
    resembling = (judging.target(num_examples), judging.exact(digests_N), judging.near())
    return Verdicts(
        held_out=tuple(map(tuple, held_out)),
        resembling=tuple(each for each in resembling if each is not None),
        left_by_N=np.where(usable_N, judging.left_by_N, -1).astype(np.int8),
        group_N=judging.group_N,
        notes=tuple(note for one in sets for note in one.notes()),
    )


class _Waiting:
    """What near-duplicates are found by, of the pool's rows and then the target's, on disk."""

    def __init__(self, gates: Gates, folder: Path) -> None:
        thresholds = [gate.threshold for gate in (gates.near, gates.target) if gate.policy != "off"]
        self.bands = Bands.at(min(thresholds)) if thresholds else None
        self._gates = gates
        self._paths = [folder / f"keys-{band}.u64" for band in range(self.bands.count if self.bands else 0)]
        self._writer = ShingleWriter(folder / "shingles.u32")
        self._files: list[IO[bytes]] = []
        self.sets: Shingles

    def __enter__(self) -> "_Waiting":
        self._files = [path.open("wb") for path in self._paths]
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
        self.sets = self._writer.close()

    def add(self, words: WordBlock) -> None:
        if self.bands is None:
            return
        shingles = sequences(words, self._gates.shingle, whole_if_shorter=True)
        self._writer.add(shingles)
        keys_BK = self.bands.keys_BK(shingles.hashes_G, shingles.offsets, self._gates.seed)
        for band, file in enumerate(self._files):
            file.write(np.ascontiguousarray(keys_BK[:, band]).data)

    def keys(self) -> Iterator[Hashes]:
        """Yield each band's keys of all rows."""
        for path in self._paths:
            yield np.fromfile(path, np.uint64)


class _Judging:
    """Which rows leave, gate by gate."""

    def __init__(
        self, gates: Gates, waiting: _Waiting, usable_N: npt.NDArray[np.bool_], tick: Callable[[], None]
    ) -> None:
        self._gates = gates
        self._waiting = waiting
        self._tick = tick
        self.left_by_N = np.where(usable_N, -1, len(GATES)).astype(np.int8)
        self.group_N = np.full(len(usable_N), -1, np.int64)

    def leave(self, gate: Gate, rows: IntArray) -> None:
        """Have rows leave by a gate, unless it only reports or they left before."""
        if self._gates.policy(gate) == "exclude":
            self.left_by_N[rows[self.left_by_N[rows] < 0]] = GATES.index(gate)

    def target(self, num_examples: int) -> Resembling | None:
        gate, num_rows = self._gates.target, len(self.left_by_N)
        if gate.policy == "off":
            return None
        others = num_rows + np.arange(num_examples)
        pairs = pairs_with(self._waiting.keys(), self._here(), others, self._waiting.sets, gate.threshold, self._tick)
        partner_N, similarity_N = best_partner(pairs, num_rows)
        rows = np.flatnonzero(partner_N >= 0)
        self.leave("target", rows)
        return Resembling("target", gate.policy, rows, partner_N[rows] - num_rows, similarity_N[rows])

    def exact(self, digests_N: Hashes) -> Resembling | None:
        if self._gates.exact == "off":
            return None
        rows = self._here()
        order = rows[np.lexsort((rows, digests_N[rows, 1], digests_N[rows, 0]))]
        new = np.ones(len(order), np.bool_)
        new[1:] = (digests_N[order[1:]] != digests_N[order[:-1]]).any(axis=1)
        first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
        copies, originals = order[~new], first[~new]
        self.group_N[copies] = self.group_N[originals] = originals
        self.leave("exact", copies)
        copies = np.sort(copies)
        return Resembling("exact", self._gates.exact, copies, self.group_N[copies], np.ones(len(copies)))

    def near(self) -> Resembling | None:
        gate, num_rows = self._gates.near, len(self.left_by_N)
        if gate.policy == "off":
            return None
        here = self._here()
        singles = here[(self.group_N[here] < 0) | (self.group_N[here] == here)]  # one of each set of copies
        pairs = similar_pairs(self._waiting.keys(), singles, self._waiting.sets, gate.threshold, self._tick)
        partner_N, similarity_N = leaving(pairs, num_rows)
        rows = np.flatnonzero(partner_N >= 0)
        self.group_N[rows[self.group_N[rows] < 0]] = rows[self.group_N[rows] < 0]
        self.group_N[partner_N[rows]] = partner_N[rows]
        root_N = np.where(partner_N >= 0, partner_N, np.arange(num_rows))
        self.group_N = np.where(self.group_N >= 0, root_N[self.group_N], -1)
        self.leave("near", rows)
        return Resembling("near", gate.policy, rows, partner_N[rows], similarity_N[rows])

    def _here(self) -> IntArray:
        return np.flatnonzero(self.left_by_N < 0)


def _blocks(chats: Iterable[Chat]) -> Iterator[tuple[int, list[Chat]]]:
    """Yield blocks of chats with the position of the first."""
    remaining, first = iter(chats), 0
    while block := list(islice(remaining, _BLOCK)):
        yield first, block
        first += len(block)


def _words(block: list[Chat], hasher: WordHasher) -> WordBlock:
    return hasher.block(["\n".join(message.content for message in chat) for chat in block])


def _digests(block: list[Chat]) -> Hashes:
    """Return 128 bits of roles and contents of each chat, outer white space apart."""
    digests = [
        hashlib.blake2b(
            json.dumps([(message.role, message.content.strip()) for message in chat]).encode(), digest_size=16
        ).digest()
        for chat in block
    ]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
