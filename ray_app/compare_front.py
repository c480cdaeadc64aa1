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
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    targets = comparison.targets
    kinds = [kind for kind in dict.fromkeys(line.features for line in comparison.lines) if kind != NO_FEATURES]
    allocators = list(dict.fromkeys(line.allocator for line in comparison.lines))
    legend = [Line2D([], [], color=_colour(kind, kinds), linewidth=5, label=kind) for kind in kinds]
    legend += [
        Line2D([], [], color="0.3", marker=_marker(name, allocators), linestyle="", label=name) for name in allocators
    ]
    size = (2.2 + 4.2 * len(targets), 4.6 + 0.19 * len(legend))  # features have long names: they stand below
    figure, grid = pyplot.subplots(1, len(targets), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for panel, target in zip(grid.flat, targets, strict=True):
        _panel(panel, comparison, target, kinds, allocators)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    grid.flat[0].set_ylabel(f"recall of the true top {comparison.selected}")
    figure.legend(handles=legend, loc="outside lower center", frameon=False, fontsize=8)
    figure.suptitle(f"{comparison.pool:,} samples, {len(comparison.seeds)} seeds")
    for ending in ("png", "svg"):
        figure.savefig(beside.with_suffix(f".{ending}"), dpi=150, metadata={"Date": None} if ending == "svg" else None)
    pyplot.close(figure)


def _colour(kind: str, kinds: list[str]) -> str:
    return "black" if kind == NO_FEATURES else f"C{kinds.index(kind) % 10}"


def _marker(allocator: str, allocators: list[str]) -> str:
    return _MARKERS[allocators.index(allocator) % len(_MARKERS)]


def _panel(panel: "Axes", comparison: Comparison, target: str, kinds: list[str], allocators: list[str]) -> None:
    shown = [line for line in comparison.lines if line.target == target]
    front = comparison.front(target)
    panel.plot([line.cost.mean for line in front], [line.recall.mean for line in front], color="0.3", linewidth=1.0)
    for line in shown:
        panel.scatter(
            line.cost.mean,
            line.recall.mean,
            s=34,
            alpha=1.0 if line.on_front else 0.35,
            color=_colour(line.features, kinds),
            marker=_marker(line.allocator, allocators),
        )
    panel.set_xscale("log")
    panel.set_xlabel("cost over exhaustive scoring, features included")
    panel.set_ylim(0, 1.04)
    panel.set_title(target)
    panel.grid(alpha=0.25, which="both")
