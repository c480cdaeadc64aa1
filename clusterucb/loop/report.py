"""`report.html` of a loop, whatever state it is in: its periods in a table, and the way to each one's own report.

Invariants: nothing in it runs and nothing is fetched, as its policy says; whatever came from a run is escaped text.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from clusterucb.loop.periods import LoopFolders
from clusterucb.loop.summary import LoopSummary, PeriodSummary, period_summary
from clusterucb.run.disk import write_atomically
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.view.report import PAGE, digest
from clusterucb.training.checkpoint import read_record
from clusterucb.training.record import StepRecord
from clusterucb.training.summary import TrainingSummary, read_training_summary

_TEMPLATE = Path(__file__).parent / "report.html"
_COLUMNS = (
    "period", "scored", "selected", "selected again", "drift", "audited recall", "label tokens", "steps", "loss",
    "report",
)  # fmt: skip
_TERMS = (
    "selected again: those that the last period selected too. drift: rank correlation of influence with the last "
    "period, over samples scored in both. label tokens: median of the selected. loss: of the first and last step."
)
_WIDTH, _HEIGHT, _MARGIN = 900, 180, 24


def write_loop_report(folder: RunFolder, summary: LoopSummary | None = None) -> Path:
    """Write the report of a loop as it stands, and return where."""
    write_atomically(folder.report_file, render_loop(folder, summary))
    return folder.report_file


def render_loop(folder: RunFolder, summary: LoopSummary | None = None) -> str:
    """Return the page; without a summary it is put together from the stages that are over."""
    if summary is None and folder.finished:
        summary = LoopSummary.model_validate_json(folder.summary_file.read_text(encoding="utf-8"))
    folders = LoopFolders(folder.path)
    periods = summary.periods if summary is not None else _over(folder, folders)
    config = folder.read_config()
    warm = _training(folders.warmup)
    asked = config.loop.periods if config.loop.mode == "dynamic" else 0
    state = "finished" if summary is not None else f"{len(periods)} of {asked} periods are over"
    body = [f"<h1>{_text(folder.name)}</h1>", f"<p>{_text(config.loop.mode)} loop, {_text(state)}</p>"]
    if summary is not None and summary.weights:
        weights = ", ".join(f"{weight:.3f}" for weight in summary.weights)
        body.append(f"<p>weights of the warm-up's checkpoints: {weights}</p>")
    body.append(_table(folders, warm, periods))
    body.append(f"<p>{_text(_TERMS)}</p>")
    body.append(_losses(folders, warm is not None, asked or 1))
    style = (PAGE / "view.css").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src {digest(style)}; base-uri 'none'; form-action 'none'"
    parts = {"POLICY": policy, "STYLE": style, "TITLE": _text(folder.name), "BODY": "\n".join(body)}
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], _TEMPLATE.read_text(encoding="utf-8"))


def _over(folder: RunFolder, folders: LoopFolders) -> tuple[PeriodSummary, ...]:
    """Summarise the periods that are over."""
    found: list[PeriodSummary] = []
    last: RunFolder | None = None
    for period in range(1, folder.read_config().loop.periods + 1):
        selection, training = RunFolder(folders.selection(period)), RunFolder(folders.training(period))
        if not (selection.finished and training.finished):
            break
        found.append(period_summary(period, selection, training, last))
        last = selection
    return tuple(found)


def _training(path: Path) -> TrainingSummary | None:
    file = RunFolder(path).summary_file
    return read_training_summary(file) if file.exists() else None


def _table(folders: LoopFolders, warm: TrainingSummary | None, periods: Sequence[PeriodSummary]) -> str:
    rows: list[Sequence[str]] = []
    if warm is not None:
        rows.append(("warm-up", "", "", "", "", "", "", str(warm.steps), _loss(warm), ""))
    for period in periods:
        drift, audit = period.drift, period.audit
        correlation = None if drift is None else drift.rank_correlation
        rows.append(
            (
                str(period.period),
                f"{period.scored:,}",
                f"{period.selected:,}",
                "" if drift is None else f"{drift.selected_again:,}",
                "" if correlation is None else f"{correlation:.2f}",
                "" if audit is None else f"{audit.recall:.0%}",
                f"{period.median_label_tokens:g}",
                str(period.training.steps),
                _loss(period.training),
                _link(folders.selection(period.period)),
            )
        )
    shown = {folders.selection(period.period) for period in periods}
    others = [selection for selection in folders.begun_selections() if selection.path not in shown]
    rows.extend((_text(other.name), *[""] * (len(_COLUMNS) - 2), _link(other.path)) for other in others)
    head = "".join(f"<th scope=col>{_text(column)}</th>" for column in _COLUMNS)
    lines = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=table-box><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _link(selection: Path) -> str:
    if not (selection / "report.html").exists():
        return ""
    return f'<a href="{html.escape(selection.name)}/report.html">{_text(selection.name)}</a>'


def _loss(trained: TrainingSummary) -> str:
    return f"{trained.first_loss:.3f} → {trained.last_loss:.3f}"


def _losses(folders: LoopFolders, warmed_up: bool, periods: int) -> str:
    """Draw the loss of every step that is on disk, one line a training."""
    names = (["warm-up"] if warmed_up else []) + [f"period {period}" for period in range(1, periods + 1)]
    paths = ([folders.warmup] if warmed_up else []) + [folders.training(period) for period in range(1, periods + 1)]
    records = [
        (name, read_record(path / "checkpoint").steps)
        for name, path in zip(names, paths, strict=True)
        if (path / "checkpoint").exists()
    ]
    count = sum(len(steps) for _, steps in records)
    if count < 2:
        return ""
    high = max(step.loss for _, steps in records for step in steps)
    low = min(step.loss for _, steps in records for step in steps)
    lines: list[str] = []
    begun = 0
    for name, steps in records:
        lines.append(_line(name, steps, begun, count, low, high))
        begun += len(steps)
    return (
        f'<h2>Loss of the training steps</h2><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="loss from {high:.3f} to {low:.3f} over {count} steps">{"".join(lines)}'
        f'<text x="2" y="12" font-size="11" fill="currentColor">{high:.3f}</text>'
        f'<text x="2" y="{_HEIGHT - _MARGIN + 4}" font-size="11" fill="currentColor">{low:.3f}</text></svg>'
    )


def _line(name: str, steps: Sequence[StepRecord], begun: int, count: int, low: float, high: float) -> str:
    left, width, height = 2 * _MARGIN, _WIDTH - 3 * _MARGIN, _HEIGHT - 2 * _MARGIN
    points = [
        (left + width * (begun + i) / (count - 1), _MARGIN / 2 + height * (high - step.loss) / ((high - low) or 1.0))
        for i, step in enumerate(steps)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="currentColor"/>' for x, y in points)
    return (
        f'<g><polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.5"/>{dots}'
        f'<text x="{points[0][0]:.1f}" y="{_HEIGHT - 6}" font-size="11" fill="currentColor">{_text(name)}</text></g>'
    )


def _text(value: str) -> str:
    return html.escape(value)
