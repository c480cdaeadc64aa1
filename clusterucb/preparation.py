"""Everything that can be refused before a cluster starts: settings, model, pool, target, budget; then tokens on disk.

Invariant: a new run folder exists afterwards only if the run can start; bad input leaves nothing behind.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clusterucb.chat import ChatEncoder
from clusterucb.clustering import resolve_k
from clusterucb.config import Rows, RunConfig
from clusterucb.errors import ConfigError, DataError, RunFolderError
from clusterucb.model import check_model, load_tokenizer
from clusterucb.rows import read_rows
from clusterucb.run_folder import RunFolder
from clusterucb.tokens import TokenStore, pool_fingerprint, tokenise
from clusterucb.types import IntArray

Progress = Callable[[str, int], None]
"""Called with what is being read ("pool", "target") and the rows read so far."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Tokenised pool and target, and what the user must hear about them."""

    pool: TokenStore
    target: TokenStore
    resumed: bool
    notes: tuple[str, ...]


def prepare(config: RunConfig, folder: RunFolder, progress: Progress) -> Prepared:
    """Check everything, claim the folder and tokenise; on a resume reuse what is there."""
    check_model(config.model, config.gradients)
    fresh = not folder.path.exists()
    resumed = folder.start(config)
    try:
        return _tokenise_both(config, folder, progress, resumed)
    except BaseException:
        if not resumed:
            _remove(folder, fresh)
        raise


def _remove(folder: RunFolder, whole: bool) -> None:
    if whole:
        shutil.rmtree(folder.path)
        return
    folder.config_file.unlink(missing_ok=True)
    shutil.rmtree(folder.state, ignore_errors=True)


def open_prepared(folder: RunFolder) -> tuple[TokenStore, TokenStore]:
    """Open pool and target of a prepared run folder."""
    return TokenStore.open(folder.state / "pool"), TokenStore.open(folder.state / "target")


def _tokenise_both(config: RunConfig, folder: RunFolder, progress: Progress, resumed: bool) -> Prepared:
    encoder = ChatEncoder(load_tokenizer(config.model), config.tokens)
    target = _store(config.target, encoder, folder.state / "target", lambda rows: progress("target", rows))
    pool = _store(config.pool, encoder, folder.state / "pool", lambda rows: progress("pool", rows))
    check_sizes(config, pool, target)
    notes = (*encoder.notes, *_notes("pool", pool), *_notes("target", target))
    return Prepared(pool, target, resumed, notes)


def _store(rows: Rows, encoder: ChatEncoder, folder: Path, progress: Callable[[int], None]) -> TokenStore:
    """Tokenise, or reuse what stands there; refuse it where the rows have changed since."""
    reader = read_rows(rows)
    fingerprint = pool_fingerprint(reader, encoder)
    if not folder.exists():
        return tokenise(reader, encoder, folder, fingerprint, progress)
    store = TokenStore.open(folder)
    if store.fingerprint != fingerprint:
        raise RunFolderError(
            f"{rows.path} or the tokenizer has changed since this run began: give another folder with --out, or put "
            f"the old ones back"
        )
    return store


def _notes(name: str, store: TokenStore) -> list[str]:
    notes = [f"{name}: skipped {skipped.location}: {skipped.reason}" for skipped in store.skipped()]
    notes += [
        f"{name}: excluded {store.ids[failure.sample]}: {failure.reason} ({failure.detail})"
        for failure in store.failures
    ]
    if store.num_truncated:
        notes.append(f"{name}: {store.num_truncated} of {store.num_samples} samples were cut to tokens.max_length")
    return notes


def target_subtasks(target: TokenStore) -> dict[str, IntArray]:
    """Return the rows of every subtask, by name, names ascending."""
    codes_E, names = target.subtasks.codes()
    return {names[code]: np.flatnonzero(codes_E == code) for code in sorted(range(len(names)), key=names.__getitem__)}


def check_sizes(config: RunConfig, pool: TokenStore, target: TokenStore) -> None:
    """Refuse budgets, cluster counts and selections that the pool cannot carry."""
    usable = int(pool.usable_N.sum())
    if usable == 0:
        raise DataError(f"{config.pool.path} has no usable sample: all {pool.num_samples} lack labels or are too long")
    if not target.usable_N.any():
        raise DataError(
            f"{config.target.path} has no usable example: all {target.num_samples} lack labels or are too long"
        )
    kind = config.search.allocator.kind
    budget = usable if kind == "exhaustive" else int(config.search.budget * usable + 1e-9)
    if config.selection.size(usable) > budget:
        raise ConfigError(
            f"the selection of {config.selection.size(usable)} samples exceeds what is scored ({budget} of {usable}): "
            f"lower selection.count or raise search.budget ({config.search.budget:g})"
        )
    if kind in ("uniform", "exhaustive"):
        return
    k = resolve_k(config.clusters, usable, config.search.budget)
    if k > usable:
        raise ConfigError(f"clusters.k ({k}) exceeds the {usable} usable samples of the pool: lower clusters.k")
    least = k if config.search.compat == "official" else min(usable, k * config.search.cold_start_min)
    if budget < least:
        raise ConfigError(
            f"search.budget ({config.search.budget:g}) buys {budget} of {usable} samples, but the cold start of {k} "
            f"clusters draws at least {least}: lower clusters.k, lower search.cold_start_min or raise search.budget"
        )
