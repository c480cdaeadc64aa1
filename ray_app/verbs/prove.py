"""Verbs that judge what was trained: a model on held-out examples, and a selection against what it is to beat."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_app.verbs.carrying import carry_out
from ray_app.verbs.options import Address, Json, Quiet, Set

if TYPE_CHECKING:
    from clusterucb.config import RunConfig
    from clusterucb.run.run_folder import RunFolder

HeldOut = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Examples to judge by, in place of evaluation.held_out.path; rows as a target's."
    ),
]
Out = Annotated[str | None, typer.Option(help="Folder, on a path that all nodes share.")]


def evaluate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A YAML configuration, or the folder of any run.")],
    held_out: HeldOut = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="ADAPTER",
            help="Adapter to judge, or `base` for the model without any. Default: what the run ended with, or the "
            "configuration's.",
        ),
    ] = None,
    exact_match: Annotated[bool, typer.Option(help="Generate answers too, and compare them with the right ones.")] = (
        False
    ),
    out: Out = None,
    set_: Set = None,
    address: Address = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Judge a model on held-out examples: loss, token accuracy, exact match of its answers; run again to resume."""
    from ray_app.cluster import choose_address

    choose_address(address)  # before Ray is imported
    run, config = _opened(source, _overrides(held_out, set_))
    if exact_match:
        config = _answering(config)
    config = config.model_copy(update={"model": config.model.model_copy(update=_judged(run, config, checkpoint))})
    evaluated(config, out or f"runs/evaluate-{Path(source).stem}{_suffix(checkpoint)}", address, quiet, json)


def evaluated(config: "RunConfig", out: str, address: str | None, quiet: bool, json: bool) -> None:
    """Do or go on with an evaluation."""
    from ray_app.cluster import choose_address

    where = choose_address(address)  # before Ray is imported
    from ray_app.evaluate import evaluate as judge
    from ray_app.evaluate import print_evaluation
    from ray_app.views import view_of

    carry_out(
        config,
        out,
        quiet,
        json,
        lambda folder, mode: judge(config, folder, where, view_of(mode)),
        print_evaluation,
    )


def study(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The folder of a finished selection, or a YAML configuration.")
    ],
    held_out: HeldOut = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="A further arm: ids of pool rows, or a selection.jsonl. May come several times."
        ),
    ] = None,
    out: Out = None,
    set_: Set = None,
    address: Address = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Prove a selection: train alike on it, on random samples and more, and judge on held-out examples.

    Settings are those of the run, or of CONFIG; `training` and `study` are what one sets here. Run again to resume.
    """
    from ray_app.cluster import choose_address

    choose_address(address)  # before Ray is imported
    from clusterucb.errors import ConfigError

    files = [each.partition("=") for each in arm or ()]
    for name, equals, path in files:
        if not (name and equals and path):
            raise ConfigError(f"--arm {name}{equals}{path} is not of the form NAME=FILE")
    overrides = _overrides(held_out, set_) + [f"study.files.{name}={path}" for name, _, path in files]
    run, config = _opened(source, overrides)
    studied(config, run, out or f"runs/study-{Path(source).stem}", address, quiet, json)


def studied(
    config: "RunConfig", run: "RunFolder | None", out: str, address: str | None, quiet: bool, json: bool
) -> None:
    """Do or go on with a study."""
    from ray_app.cluster import choose_address

    where = choose_address(address)  # before Ray is imported
    from ray_app.study import print_study, with_selection
    from ray_app.study import study as prove

    asked = config if run is None else with_selection(config, run)
    carry_out(asked, out, quiet, json, lambda folder, mode: prove(asked, folder, run, where, mode), print_study)


def _opened(source: str, overrides: list[str]) -> "tuple[RunFolder | None, RunConfig]":
    """Return the run, where SOURCE is one, and the settings."""
    from clusterucb.run.run_folder import RunFolder
    from clusterucb.settings import build_config, load_config

    if source.endswith((".yaml", ".yml")) or Path(source).is_file():
        return None, load_config(Path(source), overrides)
    run = RunFolder.open(source)
    return run, build_config(run.read_config().model_dump(mode="json"), overrides)


def _overrides(held_out: Path | None, set_: list[str] | None) -> list[str]:
    return ([] if held_out is None else [f"evaluation.held_out.path={held_out.resolve()}"]) + list(set_ or ())


def _answering(config: "RunConfig") -> "RunConfig":
    from clusterucb.config import ExactMatch

    if config.evaluation.exact_match is not None:
        return config
    asked = config.evaluation.model_copy(update={"exact_match": ExactMatch()})
    return config.model_copy(update={"evaluation": asked})


def _judged(run: "RunFolder | None", config: "RunConfig", checkpoint: str | None) -> dict[str, str | None]:
    if checkpoint is not None:
        return {"adapter": None if checkpoint == "base" else str(_absolute(checkpoint)), "moments": None}
    if run is None:
        return {"moments": None}
    from ray_app.evaluate import adapter_of

    return {"adapter": adapter_of(run), "moments": None}


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path


def _suffix(checkpoint: str | None) -> str:
    return "" if checkpoint is None else f"-{Path(checkpoint).name}"
