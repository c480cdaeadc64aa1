"""A selection from start to finish, as a generator of stages.

Whoever drives it (the coordinator actor, the in-process loop) drains each stage before asking for the next; all that
decides anything happens here, without Ray and without a model. Invariants: the run folder is the truth, a stage that
is on disk is not repeated, and what comes out is a function of configuration, data and model alone.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from clusterucb import audit
from clusterucb.config import RunConfig, Until
from clusterucb.features.clustering import fit, resolve_k
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.brought_clusters import earlier_rewards_NM, save_clusters, saved_clusters
from clusterucb.run.choosing import Choosing, check_caps, pool_groups
from clusterucb.run.disk import replacing
from clusterucb.run.earlier_run import predictions_file
from clusterucb.run.ending import Ending, undrawn
from clusterucb.run.events import Emit, Looked, Note, StageFinished, StageStarted
from clusterucb.run.feature_parts import PreparedPart, feature_parts, prepared_matches, prepared_parts
from clusterucb.run.feature_stage import feature_stages, feature_store
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.gating import read_gates
from clusterucb.run.kept_sketches import NOTHING_KEPT, KeptSketches, open_kept
from clusterucb.run.matching import target_means
from clusterucb.run.prepared import open_prepared
from clusterucb.run.prior_knowledge import known_of
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import ScoreLog
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.seen_rewards import SeenRewards
from clusterucb.run.shortlist import shortlist
from clusterucb.run.stages import AUDIT, SearchStage, score_stage
from clusterucb.run.streams import Streams
from clusterucb.run.target_columns import TargetColumns, target_columns
from clusterucb.run.target_stage import load_bank, target_stage
from clusterucb.run.tasks import Stage
from clusterucb.run.watched_search import WatchedSearch
from clusterucb.search import Search
from clusterucb.search.predictive import Knowledge
from clusterucb.types import Clusters, IntArray, WorkerInfo

Labels = npt.NDArray[np.int32]


class SelectionRun:
    """One run over a prepared folder. Drain `stages()`; when it ends, the outputs are written."""

    def __init__(self, config: RunConfig, folder: RunFolder, emit: Emit) -> None:
        self.config = config
        self.folder = folder
        self.workers: Sequence[WorkerInfo] = ()
        """What the workers are and used; the driver keeps it up to date, the summary reports it."""
        self._emit = emit
        self._pool, self._target = open_prepared(folder)
        self._streams = Streams.of(config.seed)
        self._log = ScoreLog(folder.state, folder.replica)
        self._bank: TargetBank | None = None
        self._kept: KeptSketches = NOTHING_KEPT
        self._usable_N = self._pool.usable_N.copy()
        self._watched: WatchedSearch | None = None
        self._labels_N: Labels | None = None

    @property
    def bank(self) -> TargetBank:
        """The target bank; there once the target stage is drained."""
        assert self._bank is not None, "the target stage comes first"
        return self._bank

    @property
    def targets(self) -> tuple[TargetColumns, ...]:
        """The targets, and which columns of the influence are theirs."""
        return target_columns(self.config, self.bank.subtasks)

    def stages(self) -> Iterator[Stage]:
        """Yield the stages in order. Drain each before asking for the next."""
        config, folder = self.config, self.folder
        yield from target_stage(self._target, config.gradients.batch_tokens, folder, self._emit)
        self._bank = load_bank(folder.state)
        self._kept = self._open_kept()
        if self._ranked() and not (self._usable_N & ~self._kept.reused_N).any():
            self._note("every sample's sketch is in the store: nothing is searched, and the best are scored exactly")
        elif config.search.allocator.kind in ("uniform", "exhaustive"):
            yield from self._search(np.where(self._usable_N, 0, -1).astype(np.int32))
        elif config.features.kind == "gradient" and config.features.path is None:
            yield from self._whole_pool()
            self._cluster(self._pool_sketches())
        else:
            parts = prepared_parts(config, self._pool)
            yield from feature_stages(config, parts, self._pool, folder, self._emit)
            matched = prepared_matches(config, self._target)
            yield from feature_stages(config, matched, self._target, folder, self._emit)
            stores = [feature_store(part, folder) for part in parts]
            labels_N = self._cluster(stores[0] if stores else None).labels_N
            self._note_parts(parts, stores)
            yield from self._search(labels_N, self._known(parts, stores))
        if config.gradients.scoring == "shortlist":
            yield from self._shortlist()
        if self._watched is None:
            drawn = self._drawn()
            yield from self._audit(drawn)
        else:  # what was audited was paid from the budget
            drawn = self._table("search", AUDIT)
        ending = Ending(
            config, folder, self._emit, self._pool, self._target, self._log, self._usable_N, self._labels_N,
            self.bank.subtasks, self._choosing(), self._watched, tuple(self.workers),
        )  # fmt: skip
        ending.write(drawn)

    def close(self) -> None:
        """Close the files; what was told is on disk."""
        self._log.close()
        self._kept.close()

    def _open_kept(self) -> KeptSketches:
        sketch_SD = self.bank.sketch_SD
        target_SD = None if sketch_SD is None else sketch_SD.cpu().numpy()
        device = "cpu" if all(info.device == "cpu" for info in self.workers) else "cuda"
        return open_kept(self.config, self.folder, self._pool, target_SD, device, self._emit)

    def _ranked(self) -> bool:
        """With shortlist scoring, rank by sketch what the store has of the pool; say whether that is so."""
        if self.config.gradients.scoring != "shortlist":
            return False
        there = np.flatnonzero(self._kept.reused_N & self._usable_N)
        self._emit(StageStarted(stage="stored", total=len(there), done=0))
        self._kept.take("stored", there, self._log, sketches=False)
        self._emit(StageFinished(stage="stored"))
        return True

    def _shortlist(self) -> Iterator[Stage]:
        config = self.config
        ranked = self._table("stored", "search", "pool", "shortlist")
        wanted = config.selection.size(int(self._usable_N.sum()))
        choosing = self._choosing()
        values = [*choosing.values_BM(ranked).T, choosing.joint_B(ranked)]
        factor, groups = config.gradients.shortlist, choosing.groups
        listed = [
            shortlist(ranked, values_B, self._pool, wanted, factor, config.selection, groups) for values_B in values
        ]
        if len(together := np.unique(np.concatenate(listed))):
            yield from self._score("shortlist", together)

    def _drawn(self) -> ScoreTable:
        """Return what may be selected: everything drawn, but with shortlist scoring only what was scored exactly."""
        return ScoreTable.drawn(self._log, len(self.bank.subtasks), self.config.gradients.scoring)

    def _pool_sketches(self) -> FeatureStore:
        store = FeatureStore(self.folder.state, self._pool.num_samples, self.folder.replica)
        if not store.complete:
            store.write(self._log.sketches(), self._table("pool").failures)
        return store

    def _choosing(self, undrawn: IntArray | None = None) -> Choosing:
        """Fit what is ranked by to everything drawn: all but `undrawn`, or all that is logged."""
        groups = pool_groups(self.config, self._pool, self._labels_N, read_gates(self.folder))
        return Choosing.of_log(self.config, self._pool, self.targets, self._log, groups, undrawn)

    def _cluster(self, store: FeatureStore | None) -> Clusters:
        clusters = self._clusters(store)
        self._labels_N = clusters.labels_N
        if self.config.selection.caps.cluster is not None:
            check_caps(self.config, self._choosing().groups, np.flatnonzero(self._usable_N))
        return clusters

    def _clusters(self, store: FeatureStore | None) -> Clusters:
        for failure in () if store is None else store.failures():
            self._usable_N[failure.sample] = False
            self._note(f"pool: excluded {self._pool.ids[failure.sample]}: no features ({failure.reason})")
        found = saved_clusters(self.folder)
        if found is not None:
            if self.config.clusters.path is not None:
                self._leave_out_strangers(found)
            return found
        assert store is not None, "clusters are brought where there are no features"
        k = resolve_k(self.config.clusters, int(self._usable_N.sum()), self.config.search.budget)
        clusters = fit(store.matrix(), k, self.config.clusters, self._streams.clusters, self._usable_N)
        save_clusters(clusters, self.folder)
        return clusters

    def _leave_out_strangers(self, clusters: Clusters) -> None:
        strangers = self._usable_N & (clusters.labels_N < 0)
        self._usable_N &= ~strangers
        if count := int(strangers.sum()):
            self._note(f"pool: {count} samples have no cluster in {self.config.clusters.path} and are left out")

    def _known(self, parts: Sequence[PreparedPart], stores: Sequence[FeatureStore]) -> Knowledge | None:
        config = self.config
        if config.search.allocator.kind != "predictive":
            return None
        state, bank = self.folder.state, self.bank
        wanted, unmatched = target_means(config, self._target, self.folder, bank.subtasks)
        known, notes = known_of(parts, stores, state, config.gradients, self._pool, bank, self.targets, wanted)
        for note in (*unmatched, *notes):
            self._note(note)
        return known

    def _note_parts(self, parts: Sequence[PreparedPart], stores: Sequence[FeatureStore]) -> None:
        for part, store in list(zip(parts, stores, strict=True))[1:]:
            if failures := store.failures():
                reasons = ", ".join(sorted({failure.reason for failure in failures}))
                self._note(f"{part.name}: {len(failures)} samples count as average ({part.features.kind}: {reasons})")
        unseen = len(feature_parts(self.config.features)) - len(parts)
        if parts and unseen:  # clusters that are brought take the place of all features, as was asked for
            self._note(f"features: {unseen} of them are not computed: only the predictive allocator sees several")

    def _whole_pool(self) -> Iterator[Stage]:
        self._note(
            "features are gradients at this checkpoint: computing them shows every reward, so the answer is exhaustive "
            "and no search follows; give features.path to reuse the sketches of an earlier checkpoint"
        )
        yield from self._score("pool", np.flatnonzero(self._usable_N))

    def _search(self, labels_N: Labels, known: Knowledge | None = None) -> Iterator[Stage]:
        usable = int((labels_N >= 0).sum())
        share = self.config.selection.size(usable) / usable
        weights, earlier_NM = self.config.weights, earlier_rewards_NM(self.folder)
        search = Search(labels_N, self.config.search, share, self._streams.search, known, weights, earlier_NM)
        batch_tokens = self.config.gradients.batch_tokens
        bank, log, kept = self.bank.fingerprint, self._log, self._kept

        seen = SeenRewards(self.config.selection.normalise, self._pool.label_counts_N)

        def build() -> Stage:
            return SearchStage(search, self._pool, batch_tokens, bank, self.targets, log, self._emit, kept, seen)

        if self.config.search.until is None:
            yield from self._announced("search", search.ledger.limit, build)
        else:
            yield from self._watch(self.config.search.until, search, build, np.flatnonzero(labels_N >= 0))
        predicted_N = search.predictions()
        if predicted_N is not None:
            path = predictions_file(self.folder.state)
            with replacing(path) as beside, beside.open("wb") as file:
                np.save(file, predicted_N.astype(np.float32))
            self.folder.replica.put(path)

    def _watch(self, until: Until, search: Search, build: Callable[[], Stage], usable: IntArray) -> Iterator[Stage]:
        """Search from look to look, until one certifies what is asked or the budget ends."""
        k = self.config.selection.size(len(usable))
        watched = self._watched = WatchedSearch(until, search, usable, k, self._streams.audit)
        if (doubts := watched.doubts()) is not None:
            self._note(doubts)
        one = cache(build)  # goes on after every look
        for look in watched.looks:
            search.allow(look.draws)
            yield from self._announced("search", watched.looks[-1].draws, one)
            chosen, total = watched.audit(look)
            if len(chosen):
                yield from self._score(AUDIT, chosen, total)
            table = self._table("search", AUDIT)
            choosing = self._choosing(search.undrawn())  # a resumed run has scores of later rounds already
            enough = watched.judge(look, table.samples_B, choosing.values_BM(table))
            self._emit(Looked(**watched.results[-1].model_dump(), asked=until.recall))
            if enough:
                return
        self._note(
            f"search.until: the budget ended before a recall of {until.recall:g} was certified; the last look "
            f"certifies {watched.results[-1].low:.2f}"
        )

    def _audit(self, drawn: ScoreTable) -> Iterator[Stage]:
        if self.config.gradients.scoring == "shortlist" and self.config.audit.samples == "auto":
            return
        chosen = audit.choose(
            undrawn(self._usable_N, drawn), int(self._usable_N.sum()), self.config.audit, self._streams.audit
        )
        if len(chosen):
            yield from self._score(AUDIT, chosen)

    def _score(self, name: str, samples: IntArray, total: int | None = None) -> Iterator[Stage]:
        batch_tokens, bank = self.config.gradients.batch_tokens, self.bank.fingerprint

        def build() -> Stage:
            missing = samples
            if name == "pool" or self.config.gradients.scoring == "sketch":
                _, missing = self._kept.take(name, samples, self._log)
            return score_stage(name, missing, self._pool, batch_tokens, bank, self._log, self._emit, self._kept)

        yield from self._announced(name, len(samples) if total is None else total, build)

    def _announced(self, name: str, total: int, build: Callable[[], Stage]) -> Iterator[Stage]:
        logged = [entry.scores for entry in self._log if entry.stage == name]
        done = sum(len(scores.samples_B) + len(scores.failures) for scores in logged)
        self._emit(StageStarted(stage=name, total=total, done=done))
        yield build()
        self._emit(StageFinished(stage=name))

    def _table(self, *stages: str) -> ScoreTable:
        return ScoreTable.of(self._log, len(self.bank.subtasks), stages)

    def _note(self, text: str) -> None:
        self._emit(Note(text=text))
