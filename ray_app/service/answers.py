"""Plans and scores as a service tells them, from what the centre computes."""

from clusterucb.plan.estimate import Estimate, RowsEstimate
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import Summary, read_summary
from ray_app.score import scored_rows
from ray_app.service.records import GradientCounts, Plan, PlannedRows, ScoredSample, Scores


def plan_of(estimate: Estimate) -> Plan:
    """Return what a service tells of an estimate."""
    return Plan(
        pool=_rows(estimate.pool),
        target=_rows(estimate.target),
        subtasks=estimate.subtasks,
        clusters=estimate.clusters,
        budget=estimate.budget,
        selected=estimate.selected,
        rounds=len(estimate.rounds),
        gradients=sum(stage.backward_passes for stage in estimate.stages),
        share_of_exhaustive_gradients=estimate.share_of_exhaustive_gradients,
        share_of_exhaustive_tokens=estimate.share_of_exhaustive_tokens,
        worker_memory_bytes=estimate.memory.total,
        disk_bytes=estimate.disk.total,
        wall_seconds=estimate.wall_seconds,
        notes=estimate.notes,
    )


def _rows(rows: RowsEstimate) -> PlannedRows:
    return PlannedRows(samples=rows.samples, usable=rows.usable, tokens=rows.tokens, truncated=rows.truncated)


def gradients_of(summary: Summary) -> GradientCounts:
    """Return how many samples of the pool took a gradient, and how many a sketch of an earlier run."""
    return GradientCounts(reused=summary.gradients.reused, computed=summary.gradients.computed)


def scores_of(folder: RunFolder, gradients: GradientCounts | None = None) -> Scores:
    """Return what a finished scoring run found; all of its gradients were computed where nothing else is said."""
    summary = read_summary(folder)
    scores = tuple(
        ScoredSample(id=row.id, rank=row.rank, influence=row.influence, subtask=row.subtask, loss=row.loss)
        for row in scored_rows(folder)
    )
    computed = GradientCounts(reused=0, computed=summary.scored)
    return Scores(scores=scores, excluded=summary.excluded, gradients=gradients or computed)
