"""The plot of a study: held-out loss over optimizer steps, a line an arm, its spread over seeds."""

from pathlib import Path

from clusterucb.study.result import StudySummary


def plot(summary: StudySummary, beside: Path) -> None:
    """Write `<beside>.png` and `<beside>.svg`."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "clusterucb"  # equal studies, equal bytes
    from matplotlib import pyplot

    figure, (curves, ends) = pyplot.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained")
    for i, arm in enumerate(summary.arms):
        steps = [point.step for point in arm.curve]
        losses = [point.loss for point in arm.curve]
        spread = [point.loss_std for point in arm.curve]
        low, high = ([loss + sign * std for loss, std in zip(losses, spread, strict=True)] for sign in (-1, 1))
        curves.plot(steps, losses, color=f"C{i}", marker="o", markersize=4, linewidth=1.4, label=arm.arm)
        curves.fill_between(steps, low, high, color=f"C{i}", alpha=0.15, linewidth=0)
        ends.plot([i] * len(arm.losses), arm.losses, "o", color=f"C{i}", alpha=0.6, markersize=5)
        ends.plot([i - 0.25, i + 0.25], [arm.end.loss] * 2, color=f"C{i}", linewidth=2)
    for panel in (curves, ends):
        panel.axhline(summary.untrained.loss, color="0.5", linestyle="--", linewidth=1, label="no training")
        panel.grid(alpha=0.25)
    curves.set_xlabel(f"optimizer steps of {summary.batch_size} samples")
    curves.set_ylabel(f"held-out loss, {summary.held_out} examples")
    curves.legend(frameon=False)
    ends.set_xticks(range(len(summary.arms)), [arm.arm for arm in summary.arms], rotation=20, ha="right")
    ends.set_title("at the end: seeds and their mean")
    curves.set_title("mean over seeds, standard deviation shaded")
    for ending in ("png", "svg"):
        figure.savefig(beside.with_suffix(f".{ending}"), dpi=150, metadata={"Date": None} if ending == "svg" else None)
    pyplot.close(figure)
