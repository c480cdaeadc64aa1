"""The plot of a comparison: recall against what it cost, a panel a kind of features, a line an allocator."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from clusterucb.compare.comparison import NO_FEATURES
from clusterucb.compare.comparison_table import Comparison, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_MARKERS = "osD^vPX"


def plot(comparison: Comparison, beside: Path) -> None:
    """Write `<beside>.png` and `<beside>.svg`."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "clusterucb"  # equal comparisons, equal bytes
    from matplotlib import pyplot

    shown = [line for line in comparison.lines if line.target == comparison.targets[-1]]
    kinds = list(dict.fromkeys(line.features for line in shown if line.features != NO_FEATURES))
    allocators = list(dict.fromkeys(line.allocator for line in shown if line.features != NO_FEATURES))
    panels = kinds or [NO_FEATURES]
    columns = min(len(panels), _COLUMNS)
    rows = math.ceil(len(panels) / columns)
    figure, grid = pyplot.subplots(
        rows,
        columns,
        figsize=(1.2 + 4.2 * columns, 1.2 + 3.4 * rows),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for panel, kind in zip(grid.flat, panels, strict=False):
        _baseline(panel, shown)
        for i, allocator in enumerate(allocators):
            lines = [line for line in shown if (line.features, line.allocator) == (kind, allocator)]
            _curve(panel, lines, allocator, f"C{i}", _MARKERS[i % len(_MARKERS)], i - (len(allocators) - 1) / 2)
        panel.set_title("" if kind == NO_FEATURES else f"clusters of {kind} features")
        panel.set_xlabel("cost over exhaustive scoring, features included")
        panel.set_ylim(0, 1.04)
        panel.grid(alpha=0.25)
    for panel in list(grid.flat)[len(panels) :]:
        panel.set_visible(False)
    grid.flat[0].set_xlim(0, 1.05 * max(line.cost.mean for line in comparison.lines))  # shared by all panels
    for row in grid:
        row[0].set_ylabel(f"recall of the true top {comparison.selected}")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 2 + 2 * columns), frameon=False)
    figure.suptitle(
        f"{comparison.pool:,} samples, {len(comparison.seeds)} seeds (bars: standard deviation); points are budgets"
    )
    for ending in ("png", "svg"):
        figure.savefig(beside.with_suffix(f".{ending}"), dpi=150, metadata={"Date": None} if ending == "svg" else None)
    pyplot.close(figure)


def _baseline(panel: "Axes", shown: list[Line]) -> None:
    """Draw uniform draws and the exhaustive reference, which use no features, in every panel."""
    uniform = [line for line in shown if line.allocator == "uniform"]
    _curve(panel, uniform, "uniform", "0.55", ".", 0.0)
    panel.plot([1.0], [1.0], "*", color="black", markersize=11, label="exhaustive", linestyle="none", clip_on=False)


def _curve(panel: "Axes", lines: list[Line], name: str, colour: str, marker: str, shift: float) -> None:
    if not lines:
        return
    panel.errorbar(
        [line.cost.mean + 0.004 * shift for line in lines],  # side by side, or bars of equal cost hide each other
        [line.recall.mean for line in lines],
        yerr=[line.recall.std for line in lines],
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.3,
        capsize=2.5,
        label=name,
    )
