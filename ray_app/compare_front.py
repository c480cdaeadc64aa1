"""The front of a comparison: recall against all-in cost, one colour a kind of features, a marker an allocator.

What nothing beats is joined by a line; everything else stands behind it, pale. Costs are logarithmic, for features cost
from nothing to a whole gradient pass. With several targets each has a panel, and their mean.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from clusterucb.compare.comparison import NO_FEATURES
from clusterucb.compare.comparison_table import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vPX*"


def plot_front(comparison: Comparison, beside: Path) -> None:
    """Write `<beside>.png` and `<beside>.svg`."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "clusterucb"  # equal comparisons, equal bytes
    from matplotlib import pyplot

    targets = comparison.targets
    figure, grid = pyplot.subplots(
        1, len(targets), figsize=(3.6 + 4.0 * len(targets), 4.6), squeeze=False, sharey=True, layout="constrained"
    )
    for panel, target in zip(grid.flat, targets, strict=True):
        _panel(panel, comparison, target)
    grid.flat[0].set_ylabel(f"recall of the true top {comparison.selected}")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(f"{comparison.pool:,} samples, {len(comparison.seeds)} seeds")
    for ending in ("png", "svg"):
        figure.savefig(beside.with_suffix(f".{ending}"), dpi=150, metadata={"Date": None} if ending == "svg" else None)
    pyplot.close(figure)


def _panel(panel: "Axes", comparison: Comparison, target: str) -> None:
    shown = [line for line in comparison.lines if line.target == target]
    kinds = list(dict.fromkeys(line.features for line in shown if line.features != NO_FEATURES))
    allocators = list(dict.fromkeys(line.allocator for line in shown))
    front = comparison.front(target)
    panel.plot([line.cost.mean for line in front], [line.recall.mean for line in front], color="0.3", linewidth=1.0)
    for kind in (NO_FEATURES, *kinds):
        for i, allocator in enumerate(allocators):
            lines = [line for line in shown if (line.features, line.allocator) == (kind, allocator)]
            colour = "black" if kind == NO_FEATURES else f"C{kinds.index(kind) % 10}"
            name = allocator if kind == NO_FEATURES else f"{kind}, {allocator}"
            for some, alpha in ((lines, 0.35), ([line for line in lines if line.on_front], 1.0)):
                panel.scatter(
                    [line.cost.mean for line in some],
                    [line.recall.mean for line in some],
                    s=34,
                    alpha=alpha,
                    color=colour,
                    marker=_MARKERS[i % len(_MARKERS)],
                    label=name if some is lines and lines else None,
                )
    panel.set_xscale("log")
    panel.set_xlabel("cost over exhaustive scoring, features included")
    panel.set_ylim(0, 1.04)
    panel.set_title(target)
    panel.grid(alpha=0.25, which="both")
