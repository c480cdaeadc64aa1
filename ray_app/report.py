"""The end of a run on a terminal: what was chosen, from where, what it cost, what was missed."""

import json
import textwrap
from itertools import islice

from rich.console import Console
from rich.table import Table

from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import CapOutcome, Lengths, Share, Summary

_ROWS = 12
_ID_WIDTH = 24


def print_summary(summary: Summary, folder: RunFolder, console: Console) -> None:
    """Print composition, cost, audit and the first rows of the selection."""
    console.print(_composition(summary.by_source, summary))
    console.print(_cost(summary))
    console.print(_top_rows(folder, max(24, console.width - _ID_WIDTH - 28)))
    console.print(_sentences(summary, folder), highlight=False, soft_wrap=True)


def _composition(shares: tuple[Share, ...], summary: Summary) -> Table:
    table = Table(title="composition by source", title_justify="left")
    for column, right in (("source", False), ("pool", True), ("scored", True), ("selected", True), ("lift", True)):
        table.add_column(column, justify="right" if right else "left")
    for share in shares[:_ROWS]:
        lift = (share.selected / summary.selected) / (share.pool / summary.pool)
        table.add_row(share.name, str(share.pool), str(share.scored), str(share.selected), f"{lift:.1f}x")
    if len(shares) > _ROWS:
        rest = shares[_ROWS:]
        counts = (sum(s.pool for s in rest), sum(s.scored for s in rest), sum(s.selected for s in rest))
        table.add_row(f"{len(rest)} more", *(str(count) for count in counts), "")
    return table


def _cost(summary: Summary) -> Table:
    table = Table(title="cost", title_justify="left")
    for column in ("stage", "samples", "tokens", "forward", "backward", "worker seconds"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in (*summary.cost.stages, summary.cost.exhaustive):
        counts = (stage.samples, stage.tokens, stage.forward_passes, stage.backward_passes)
        table.add_row(stage.stage, *(f"{count:,}" for count in counts), f"{stage.seconds:.1f}")
    return table


def _top_rows(folder: RunFolder, width: int) -> Table:
    table = Table(title="the first rows of the selection", title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("influence", justify="right")
    table.add_column("id", no_wrap=True)
    table.add_column("starts with", no_wrap=True)
    with folder.bring(folder.selection_file).open(encoding="utf-8") as file:
        for line in islice(file, _ROWS):
            row = json.loads(line)
            found = row["clusterucb"]
            name = textwrap.shorten(found["id"], _ID_WIDTH, placeholder="…")
            words = textwrap.shorten(first_words(row), width, placeholder="…")
            table.add_row(str(found["rank"]), f"{found['influence']:.4f}", name, words)
    return table


def first_words(row: dict[str, object]) -> str:
    """Return what a row begins with: the user's first words, on one line."""
    messages = row.get("messages") or row.get("prompt")
    if isinstance(messages, list):
        user = [message["content"] for message in messages if message.get("role") == "user"]
        messages = user[0] if user else messages[0]["content"]
    return " ".join(str(messages).split())


def _length_words(lengths: Lengths) -> str:
    words = f"median answer: {lengths.pool.median:g} tokens in the pool, {lengths.scored.median:g} scored"
    if lengths.selected is not None:
        words += f", {lengths.selected.median:g} selected"
    if lengths.rank_correlation is not None:
        words += f"; rank correlation of influence with its length {lengths.rank_correlation:+.2f}"
    return words + (", which is strong: see selection.normalise" if lengths.strong else "")


def _cap_words(where: str, cap: CapOutcome) -> str:
    most = ", ".join(f"{count} of {name}" for name, count in cap.most)
    return (
        f"selection.caps.{cap.cap}{where}: {cap.left_out} better samples were passed over, {cap.full} groups have "
        f"their {cap.limit} ({most})"
    )


def _sentences(summary: Summary, folder: RunFolder) -> str:
    cost, audit = summary.cost, summary.audit
    share = cost.share_of_exhaustive_seconds
    lines = [
        f"selected {summary.selected} of {summary.usable} usable samples (influence {summary.threshold:.4f} and "
        f"above), scored {summary.scored}",
        f"against scoring everything: {cost.share_of_exhaustive_gradients:.0%} of the gradients"
        + ("" if share is None else f", {share:.0%} of the worker time"),
        _length_words(summary.label_tokens),
    ]
    for name, caps in (("", summary.caps), *((target.name, target.caps) for target in summary.targets)):
        lines += [_cap_words(f" for {name}" if name else "", cap) for cap in caps if cap.left_out]
    if summary.selected < summary.asked:
        lines.append(f"{summary.asked} samples were asked for: the caps leave {summary.selected} of what was scored")
    if summary.gradients.reused:
        lines.append(
            f"gradients: {summary.gradients.computed} computed, {summary.gradients.reused} sketches from the store; "
            f"{summary.gradients.exact} of the scores are exact"
        )
    if audit is not None:
        lines.append(
            f"audit: about {audit.recall:.0%} of the true top {summary.selected} was scored "
            f"({audit.confidence:.0%} interval {audit.low:.0%} to {audit.high:.0%}, {audit.audited} undrawn samples)"
        )
    if summary.until is not None:
        asked, last = summary.until, summary.until.looks[-1]
        lines.append(
            f"until: {'at least' if asked.reached else 'only'} {last.low:.0%} of the true top {summary.selected} was "
            f"scored, at a confidence of {asked.confidence:.0%} over all looks"
            + (
                f"; {asked.recall:.0%} was asked, so the search stopped"
                if asked.reached
                else f": the budget ended before {asked.recall:.0%} was certified"
            )
        )
    if summary.workers:
        peaks = ", ".join(f"{worker.peak_host_gib:.2f} GiB" for worker in summary.workers)
        lines.append(f"peak memory of the workers: {peaks}")
    lines.append(f"everything is in {folder.location}")
    return "\n".join(lines)
