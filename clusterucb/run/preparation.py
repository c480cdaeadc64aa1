"""Everything that can be refused before a cluster starts: settings, model, pool, target, budget; then tokens on disk.

Invariant: a new run folder exists afterwards only if the run can start; bad input leaves nothing behind.
"""

import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from clusterucb.checkpoint.model import check_model, describe, load_tokenizer
from clusterucb.config import RunConfig
from clusterucb.data.chat import ChatEncoder
from clusterucb.data.rows import read_rows
from clusterucb.data.target_rows import examples
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ConfigError, DataError
from clusterucb.features.clustering import resolve_k
from clusterucb.run.brought_clusters import bring_earlier
from clusterucb.run.choosing import check_caps, pool_groups
from clusterucb.run.feature_preparation import check_parts, own_tokens, prepare_parts, tokenise_parts
from clusterucb.run.gating import NAME as GATES
from clusterucb.run.gating import Gated, gate, kept, read_gates
from clusterucb.run.kept_sketches import check_store
from clusterucb.run.lease import Lease, in_use
from clusterucb.run.prepared import target_subtasks
from clusterucb.run.run_folder import RunFolder, Verb
from clusterucb.run.tokenisation import Progress, token_store

_LEASE_S = 30.0


class Claim:
    """A hold on a run folder, which `withdraw` gives back as it was found."""

    def __init__(self, config: RunConfig, folder: RunFolder, verb: Verb = "select") -> None:
        self._folder = folder
        self._found = next((path for path in (folder.path, *folder.path.parents) if path.exists()), None)
        self.resumed = folder.start(config, verb)
        if self.resumed:
            folder.bring_whole_files()

    def withdraw(self) -> None:
        """Remove what the claim and the work since have left, unless the run was there before, holds results, or is
        written by another process by now."""
        folder = self._folder
        if self.resumed or folder.begun or in_use(folder):
            return
        if folder.remote is not None:
            folder.remote.clear()
            return
        for path in (folder.config_file, folder.events_file, folder.gates_file):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder.state, ignore_errors=True)
        for path in (folder.path, *folder.path.parents):
            if path == self._found or any(path.iterdir()):
                return
            path.rmdir()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Tokenised pool and target, and what the user must hear about them."""

    pool: TokenStore
    target: TokenStore
    claim: Claim
    notes: tuple[str, ...]


def prepare(config: RunConfig, folder: RunFolder, progress: Progress) -> Prepared:
    """Check everything, claim the folder and tokenise; on a resume reuse what is there."""
    check_model(config.model, config.gradients)
    check_store(config.store)
    shape = describe(config.model, config.gradients)
    shares = check_parts(config, shape)
    claim = Claim(config, folder)
    try:
        with _alone(folder, (*_stores(config), *own_tokens(config)), progress) as watched:
            prepared = _gated(config, folder, watched, _tokenise_both(config, folder, watched, claim))
            notes = tokenise_parts(config, folder, watched)
        check_sizes(config, prepared.pool, prepared.target, read_gates(folder))
        check_positions(config, shape.max_positions, prepared)
        bring_earlier(config, prepared.pool, tuple(target_subtasks(prepared.target)), folder)
        prepare_parts(config, shares, prepared.pool, folder)
        if claim.resumed:
            folder.check_journals()
        return replace(prepared, notes=(*prepared.notes, *notes))
    except BaseException:
        claim.withdraw()
        raise


def prepare_rows(config: RunConfig, folder: RunFolder, progress: Progress, claim: Claim) -> Prepared:
    """Tokenise pool and target of a claimed folder and have rows leave by the gates: what a training needs of them."""
    with _alone(folder, _stores(config), progress) as watched:
        prepared = _gated(config, folder, watched, _tokenise_both(config, folder, watched, claim))
    check_positions(config, describe(config.model, config.gradients).max_positions, prepared)
    return prepared


def _stores(config: RunConfig) -> tuple[str, ...]:
    return ("pool", "target", *((GATES,) if config.gates.active else ()))


@contextmanager
def _alone(folder: RunFolder, stores: Sequence[str], progress: Progress) -> Generator[Progress]:
    """Let one process at a time write tokens; it keeps its right as it makes progress. Whole ones are only read."""
    if all((folder.state / name / "meta.json").exists() for name in stores):
        yield progress
        return
    lease = Lease.acquire(folder, "preparation", _LEASE_S)
    renewed = time.monotonic()

    def watched(what: str, rows: int) -> None:
        nonlocal renewed
        progress(what, rows)
        if time.monotonic() - renewed > _LEASE_S / 3:
            lease.renew()
            renewed = time.monotonic()

    try:
        yield watched
    finally:
        lease.release()


def _clustered(config: RunConfig) -> bool:
    return config.search.allocator.kind not in ("uniform", "exhaustive")


def check_positions(config: RunConfig, positions: int | None, prepared: Prepared) -> None:
    """Refuse samples for which the model has no positions."""
    longest = max(int(store.lengths_N[store.usable_N].max()) for store in (prepared.pool, prepared.target))
    if positions is not None and longest > positions:
        raise ConfigError(
            f"tokens.max_length ({config.tokens.max_length}) lets samples of {longest} tokens pass, but model.base has "
            f"positions for {positions}: set tokens.max_length to {positions} or less"
        )


def _tokenise_both(config: RunConfig, folder: RunFolder, progress: Progress, claim: Claim) -> Prepared:
    encoder = ChatEncoder(load_tokenizer(config.model), config.tokens)
    target = token_store(examples(config), encoder, folder, "target", progress)
    pool = token_store(read_rows(config.pool), encoder, folder, "pool", progress)
    notes = (*encoder.notes, *_notes("pool", pool), *_notes("target", target))
    return Prepared(pool, target, claim, notes)


def _gated(config: RunConfig, folder: RunFolder, progress: Progress, prepared: Prepared) -> Prepared:
    """Have rows leave by the gates."""
    gate(config, prepared.pool, prepared.target, folder, progress)
    gated = read_gates(folder)
    notes = gated.notes if gated is not None else ()
    return replace(prepared, pool=kept(folder, prepared.pool), notes=(*prepared.notes, *notes))


def _notes(name: str, store: TokenStore) -> list[str]:
    notes = [f"{name}: skipped {skipped.location}: {skipped.reason}" for skipped in store.skipped()]
    notes += [
        f"{name}: excluded {store.ids[failure.sample]}: {failure.reason} ({failure.detail})"
        for failure in store.failures
    ]
    if store.num_truncated:
        notes.append(f"{name}: {store.num_truncated} of {store.num_samples} samples were cut to tokens.max_length")
    return notes


def check_sizes(config: RunConfig, pool: TokenStore, target: TokenStore, gated: Gated | None) -> None:
    """Refuse budgets, cluster counts and selections that the pool cannot carry."""
    usable = int(pool.usable_N.sum())
    if usable == 0:
        raise DataError(
            f"{config.pool.path} has no usable sample: all {pool.num_samples} lack labels, are too long or left by the "
            f"gates"
        )
    if not target.usable_N.any():
        raise DataError(
            f"{examples(config).name} has no usable example: all {target.num_samples} lack labels or are too long"
        )
    for name, rows in target_subtasks(target).items():
        if not target.usable_N[rows].any():
            raise DataError(
                f"{examples(config).name}: subtask {name!r} has no usable example, all {len(rows)} lack labels or are "
                f"too long: raise tokens.max_length ({config.tokens.max_length}), or change or remove them"
            )
    budget = usable if config.search.allocator.kind == "exhaustive" else int(config.search.budget * usable + 1e-9)
    if config.selection.size(usable) > budget:
        raise ConfigError(
            f"the selection of {config.selection.size(usable)} samples exceeds what is scored ({budget} of {usable}): "
            f"lower selection.count or raise search.budget ({config.search.budget:g})"
        )
    check_caps(config, pool_groups(config, pool, None, gated), np.flatnonzero(pool.usable_N))
    if not _clustered(config) or config.clusters.path is not None:
        return
    k = resolve_k(config.clusters, usable, config.search.budget)
    least = k if config.search.compat == "official" else min(usable, k * config.search.first_min)
    if budget < least:
        raise ConfigError(
            f"search.budget ({config.search.budget:g}) buys {budget} of {usable} samples, but the cold start of {k} "
            f"clusters draws at least {least}: lower clusters.k, lower search.cold_start_min or raise search.budget"
        )
    cap, count = config.selection.caps.cluster, config.selection.size(usable)
    if cap is not None and (allowed := k * cap.limit(count)) < count:
        raise ConfigError(
            f"selection.caps.cluster ({cap.limit(count)} of a cluster) allows {allowed} of the {count} samples asked "
            f"for from {k} clusters: raise it, raise clusters.k or lower the selection"
        )
