"""The end of a run: from everything scored to the selection, the scores, the summary and the report.

Invariant: a function of the score log and the configuration; the summary is written last, so that a run without one is
not finished.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb import audit
from clusterucb.config import RunConfig, Selection
from clusterucb.data.rows import read_rows
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import DataError
from clusterucb.joint import Scale
from clusterucb.run.choosing import Choosing
from clusterucb.run.costs import run_costs
from clusterucb.run.disk import write_atomically
from clusterucb.run.events import Emit, Finished, Note
from clusterucb.run.gating import read_gates
from clusterucb.run.outputs import write_scores, write_selection
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import STAGES, ScoreLog
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.shared_scores import SharedScores, rewards_BM
from clusterucb.run.stages import AUDIT
from clusterucb.run.summary import Lengths, TargetOutcome, cap_uses, lengths_of, recall_of, summarise
from clusterucb.run.view.build import Evidence
from clusterucb.run.view.read import finished_view, keep_view
from clusterucb.run.view.report import write_report
from clusterucb.run.watched_search import WatchedSearch
from clusterucb.selection import SelectedSubset
from clusterucb.types import IntArray, WorkerInfo


@dataclass(frozen=True, slots=True, eq=False)
class Ending:
    """A run whose stages are drained."""

    config: RunConfig
    folder: RunFolder
    emit: Emit
    pool: TokenStore
    target: TokenStore
    log: ScoreLog
    usable_N: npt.NDArray[np.bool_]
    labels_N: npt.NDArray[np.int32] | None
    subtasks: tuple[str, ...]
    choosing: Choosing
    watched: WatchedSearch | None
    workers: tuple[WorkerInfo, ...]

    def write(self, drawn: ScoreTable) -> None:
        """Select among the drawn and write all outputs."""
        config, folder, pool, choosing = self.config, self.folder, self.pool, self.choosing
        targets, labels_N, everything = choosing.targets, self.labels_N, self._table(*STAGES)
        for failure in everything.failures:
            self._note(f"pool: excluded {pool.ids[failure.sample]}: {failure.reason} {failure.detail}".rstrip())
        if not len(drawn.samples_B):
            raise DataError("every scored sample failed: see the notes in events.jsonl")
        asked = self._asked(drawn)
        subset = choosing.select(drawn, choosing.joint_B(drawn), asked, len(drawn.samples_B))
        own = [
            choosing.select(drawn, values_B, asked, len(drawn.samples_B)) for values_B in choosing.values_BM(drawn).T
        ]
        exact = config.gradients.scoring != "sketch"
        exact_B = ~everything.reused_B & exact
        scale = Scale.of(rewards_BM(drawn, targets))
        shared = [SharedScores.of(t, targets, own, scale) if config.targets else None for t in (everything, drawn)]
        scores, score = choosing.scores(everything), choosing.corrected
        write_scores(folder.scores_file, pool, everything, exact_B, self.subtasks, labels_N, subset, shared[0], scores)
        reader = read_rows(config.pool)
        path, rows = folder.selection_file, reader.raw(subset.samples_B.tolist())
        write_selection(path, rows, pool, drawn, exact, self.subtasks, labels_N, subset, shared[1], score)
        outcomes: list[TargetOutcome] = []
        for m, (target, chosen) in enumerate(zip(targets, own, strict=True)):
            if config.targets:
                path, rows = folder.selection_file_of(target.name), reader.raw(chosen.samples_B.tolist())
                own_table = target.of(drawn)
                write_selection(path, rows, pool, own_table, exact, target.subtasks, labels_N, chosen, score=score)
                folder.replica.put(path)
                outcomes.append(self._outcome(m, chosen, subset, drawn))
                self._note_short(f"selection for {target.name}", chosen, drawn)
                self._note_lengths(f"lengths for {target.name}", outcomes[-1].label_tokens)
        gated = read_gates(folder)
        summary = summarise(
            folder.name,
            pool,
            self.target,
            self.subtasks,
            labels_N,
            drawn,
            everything,
            exact_B,
            subset,
            None if config.targets else self._recall(0, drawn, asked.size(0)),
            tuple(outcomes),
            run_costs(folder, self.log, pool, self.usable_N),
            self.workers,
            () if gated is None else gated.counts,
            None if self.watched is None else self.watched.result(),
        )
        self._note_short("selection", subset, drawn)
        if not config.targets:
            self._note_lengths("lengths", summary.label_tokens)
        for path in (folder.scores_file, folder.selection_file):
            folder.replica.put(path)
        found = Evidence(config, pool, self.target, labels_N, drawn, everything, subset, summary.cost, summary)
        write_report(folder, keep_view(folder, finished_view(folder, found, reader.raw)))
        write_atomically(folder.summary_file, summary.model_dump_json(indent=1) + "\n")
        folder.replica.put(folder.summary_file)
        self.emit(Finished(selected=len(subset), scored=len(drawn.samples_B)))

    def _asked(self, drawn: ScoreTable) -> Selection:
        """Return the selection's settings with the size that can be had."""
        wanted, scored = self.config.selection.size(int(self.usable_N.sum())), len(drawn.samples_B)
        if wanted > scored:  # the budget sufficed, but samples failed
            self._note(f"{scored} samples are selected instead of {wanted}: the others could not be scored")
        return self.config.selection.model_copy(update={"share": None, "count": min(wanted, scored)})

    def _outcome(self, m: int, chosen: SelectedSubset, subset: SelectedSubset, drawn: ScoreTable) -> TargetOutcome:
        target = self.choosing.targets[m]
        return TargetOutcome(
            name=target.name,
            weight=target.weight,
            subtasks=target.subtasks,
            selected=len(chosen),
            threshold=chosen.threshold,
            in_joint=int(np.isin(chosen.samples_B, subset.samples_B).sum()),
            audit=recall_of(self._recall(m, drawn, chosen.asked or len(chosen))),
            caps=cap_uses(chosen),
            label_tokens=lengths_of(self.pool, target.of(drawn), chosen.samples_B),
        )

    def _recall(self, m: int, drawn: ScoreTable, k: int) -> audit.AuditEstimate | None:
        """Estimate how much of a target's top k was drawn, by what it is ranked by."""
        if self.watched is not None:
            return self.watched.estimate(m)
        left, audited = undrawn(self.usable_N, drawn), self._table(AUDIT)
        failed = np.full(len(audited.failures), np.nan)
        found, values = (self.choosing.values_BM(table)[:, m] for table in (drawn, audited))
        if len(left) and not len(values) + len(failed):
            return None
        return audit.estimate(found, np.concatenate((values, failed)), len(left), k, self.config.audit.confidence)

    def _note_short(self, what: str, chosen: SelectedSubset, drawn: ScoreTable) -> None:
        if chosen.asked is not None:
            full = [f"selection.caps.{use.cap} ({use.limit} of a group)" for use in chosen.caps if use.left_out]
            self._note(
                f"{what}: {len(chosen)} samples instead of {chosen.asked}, because {' and '.join(full)} "
                f"{'admit' if len(full) > 1 else 'admits'} no more of the {len(drawn.samples_B)} that were scored: "
                f"raise the cap or search.budget"
            )

    def _note_lengths(self, what: str, lengths: Lengths) -> None:
        if lengths.strong and lengths.rank_correlation is not None and lengths.selected is not None:
            self._note(
                f"{what}: influence {'falls' if lengths.rank_correlation < 0 else 'rises'} with answer length (rank "
                f"correlation {lengths.rank_correlation:+.2f} over what was scored); the median answer has "
                f"{lengths.selected.median:g} tokens in the selection and {lengths.pool.median:g} in the pool: see "
                f"selection.normalise"
            )

    def _table(self, *stages: str) -> ScoreTable:
        return ScoreTable.of(self.log, len(self.subtasks), stages)

    def _note(self, text: str) -> None:
        self.emit(Note(text=text))


def undrawn(usable_N: npt.NDArray[np.bool_], drawn: ScoreTable) -> IntArray:
    """Return the usable samples that were neither drawn nor failed when they were."""
    left_N = usable_N.copy()
    left_N[drawn.samples_B] = False
    left_N[[failure.sample for failure in drawn.failures]] = False
    return np.flatnonzero(left_N)
