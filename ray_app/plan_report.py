"""A preview on a terminal: what goes in, what is computed, how long it takes, what it occupies."""

from rich.console import Console
from rich.table import Table

from clusterucb.plan.estimate import Estimate, RowsEstimate, StageEstimate
from clusterucb.plan.footprint import DiskEstimate, MemoryEstimate


def print_estimate(estimate: Estimate, console: Console) -> None:
    """Print the tables and sentences of a preview."""
    for note in estimate.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    console.print(_work(estimate))
    lines = [
        _rows("pool", estimate.pool),
        _rows("target", estimate.target) + f" in {_many(estimate.subtasks, 'subtask')}",
        *_search(estimate),
        f"gradients: {estimate.share_of_exhaustive_gradients:.0%} of scoring everything; tokens, all passes included: "
        f"{estimate.share_of_exhaustive_tokens:.0%}",
        *_time(estimate),
        _memory(estimate.memory),
        _disk(estimate.disk),
        *_measured(estimate),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _work(estimate: Estimate) -> Table:
    table = Table(title="what will be computed, in worker time and wall time", title_justify="left")
    for column in ("stage", "samples", "tokens", "forward", "backward", "batches", "worker", "wall"):
        table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=column == "stage")
    for stage in (*estimate.stages, estimate.exhaustive):
        table.add_row(*_row(stage), end_section=stage is estimate.stages[-1])
    return table


def _row(stage: StageEstimate) -> tuple[str, ...]:
    about = "" if stage.tokens_exact else "~"
    return (
        stage.stage,
        f"{stage.samples:,}",
        f"{about}{stage.tokens:,}",
        f"{stage.forward_passes:,}",
        f"{stage.backward_passes:,}",
        f"{about}{stage.micro_batches:,}",
        _duration(stage.worker_seconds),
        _duration(stage.wall_seconds),
    )


def _rows(name: str, rows: RowsEstimate) -> str:
    lost = [f"{rows.truncated:,} cut to tokens.max_length"] if rows.truncated else []
    lost += [f"{count:,} excluded ({reason})" for reason, count in rows.excluded]
    lost += [f"{rows.skipped:,} bad rows skipped"] if rows.skipped else []
    return f"{name}: {rows.usable:,} of {rows.samples:,} samples usable" + "".join(f", {part}" for part in lost)


def _search(estimate: Estimate) -> list[str]:
    spent = f"{estimate.budget:,} samples are scored, {estimate.selected:,} selected"
    if estimate.clusters is None:
        return [spent]
    if not estimate.rounds:
        return [f"{estimate.clusters} clusters; {spent}: gradients as features show every reward, nothing is searched"]
    first, *later = estimate.rounds
    rounds = f"a cold start of about {first:,} and {_many(len(later), 'round')}"
    sizes = f" of {min(later):,} to {max(later):,}" if later else ""
    return [f"{estimate.clusters} clusters; {spent}; {rounds}{sizes}"]


def _time(estimate: Estimate) -> list[str]:
    if estimate.wall_seconds is None or estimate.measured is None or estimate.workers is None:
        return ["time: not estimated, nothing was calibrated"]
    return [
        f"time: about {_duration(estimate.wall_seconds)} with {_many(estimate.workers, 'worker')}, loading the model "
        f"({_duration(estimate.measured.load_seconds)}) included; scoring everything about "
        f"{_duration(estimate.exhaustive.wall_seconds)}. Reading, clustering and writing come on top; workers are "
        "taken not to slow each other down"
    ]


def _memory(memory: MemoryEstimate) -> str:
    parts = (
        ("weights", memory.weights),
        ("adapter and moments", memory.adapter_and_moments),
        *([("models of features", memory.feature_models)] if memory.feature_models else []),
        ("target bank", memory.target_bank),
        ("sketch signs", memory.sketch_signs),
        ("activations", memory.activations),
        ("target gradients", memory.target_gradients),
    )
    where = "device" if memory.on_device else "host"
    return f"{where} memory of a worker: about {_bytes(memory.total)} beside its libraries ({_listed(parts)})"


def _disk(disk: DiskEstimate) -> str:
    parts = [("tokens", disk.tokens), ("sketches", disk.sketches), ("target bank", disk.target_bank)]
    parts += [] if disk.features is None else [("features", disk.features)]
    more = "; features unknown before an encoder is loaded" if disk.features is None else ""
    return f"run folder: about {_bytes(disk.total)} ({_listed(tuple(parts))}){more}"


def _measured(estimate: Estimate) -> list[str]:
    measured = estimate.measured
    if measured is None:
        return []
    batches = ", ".join(f"{t.kind} {t.samples}x{t.longest} {t.seconds:.2f} s" for t in measured.timings)
    return [
        f"measured on one worker ({measured.device}), samples x longest: {batches}; its peak memory "
        f"{measured.peak_gib:.2f} GiB"
    ]


def _listed(parts: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{name} {_bytes(size)}" for name, size in parts if size)


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}" + ("" if count == 1 else "s")


def _bytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
