"""Verbs that train: a warm-up, and the loop of selection and training."""

from typing import TYPE_CHECKING

from ray_app.verbs.carrying import carry_out
from ray_app.verbs.options import Address, Config, Json, Out, Quiet, Set

if TYPE_CHECKING:
    from clusterucb.config import RunConfig


def warmup(
    config: Config, out: Out = None, set_: Set = None, address: Address = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Train a LoRA adapter on a random part of the pool, for its weights and Adam moments; run again to resume."""
    from clusterucb.settings import load_config

    warmed_up(load_config(config, set_ or ()), out or f"runs/{config.stem}-warmup", address, quiet, json)


def warmed_up(config: "RunConfig", out: str, address: str | None, quiet: bool, json: bool) -> None:
    """Do or go on with a warm-up."""
    from ray_app.cluster import choose_address

    where = choose_address(address)  # before Ray is imported
    from ray_app.train import print_training
    from ray_app.train import warmup as train_warmup
    from ray_app.views import view_of

    carry_out(
        config,
        out,
        quiet,
        json,
        lambda folder, mode: train_warmup(config, folder, where, view_of(mode)),
        print_training,
    )


def run(
    config: Config, out: Out = None, set_: Set = None, address: Address = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Warm up, then select and train in turn, period after period; run again to resume."""
    from clusterucb.settings import load_config

    looped(load_config(config, set_ or ()), out or f"runs/{config.stem}-loop", address, quiet, json)


def looped(config: "RunConfig", out: str, address: str | None, quiet: bool, json: bool) -> None:
    """Do or go on with a loop."""
    from ray_app.cluster import choose_address

    where = choose_address(address)  # before Ray is imported
    from ray_app.loop import print_loop, run_loop

    carry_out(config, out, quiet, json, lambda folder, mode: run_loop(config, folder, where, mode), print_loop)
