"""A small real training: a tiny Llama, a pool of chats, and the same training by nothing but torch."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from selection_cases import config_of, small_selection
from torch.nn import functional

from clusterucb.checkpoint.model import load_model
from clusterucb.checkpoint.moments import load_moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.training.checkpoint import read_record
from clusterucb.training.order import Order
from clusterucb.training.schedule import learning_rate
from clusterucb.training.stretch import Stretch

SETTINGS = (
    "model.lora.init_b=gaussian",
    "training.learning_rate=0.01",
    "training.batch_size=8",
    "training.batch_tokens=128",
    "training.weight_decay=0.1",
    "training.save_every=2",
)


def training_config(folder: Path, *overrides: str, rows: int = 64) -> RunConfig:
    """Write model, pool and target into `folder`; return the settings of a training on them."""
    return config_of(small_selection(folder, rows), *SETTINGS, *overrides)


def a_stretch(folder: Path, *overrides: str, steps: int = 6, samples: int = 40) -> Stretch:
    """Prepare a pool in `folder` and return a stretch on its first samples: every one once, then some again."""
    config = training_config(folder, *overrides)
    run = RunFolder(folder / "prepared")
    prepare(config, run, lambda what, rows: None)
    np.save(folder / "samples.npy", np.arange(samples))
    return Stretch(
        model=config.model,
        training=config.training,
        pool=run.state / "pool",
        samples=folder / "samples.npy",
        steps=steps,
        schedule_steps=steps,
    )


@dataclass
class Outcome:
    """What a training ended in, by canonical name."""

    losses: list[float]
    adapter: dict[str, torch.Tensor]
    exp_avg: dict[str, torch.Tensor]
    exp_avg_sq: dict[str, torch.Tensor]
    step: int


def outcome_of(checkpoint: Path, stretch: Stretch) -> Outcome:
    """Read a checkpoint with what reads it elsewhere."""
    model = stretch.model.model_copy(update={"adapter": str(checkpoint)})
    loaded = load_model(model, torch.device("cpu"), 0, "lora").model
    moments = load_moments(checkpoint, loaded)
    assert moments.step is not None
    return Outcome(
        [record.loss for record in read_record(checkpoint).steps],
        {canonical_name(name): weight for name, weight in loaded.named_parameters() if ".lora_" in name},
        dict(moments.exp_avg),
        dict(moments.exp_avg_sq),
        moments.step,
    )


def by_torch_alone(stretch: Stretch) -> Outcome:
    """Train one sample a pass, with torch's AdamW and nothing of ours but the order of samples and the rates.

    A stretch that has a start goes on from its adapter and moments.
    """
    settings = stretch.training
    pool = TokenStore.open(stretch.pool)
    order = Order(stretch.read_samples(), pool.lengths_N, settings, stretch.seed, stretch.first_step)
    model = load_model(stretch.from_model, torch.device("cpu"), stretch.seed, "lora").model
    weights = {canonical_name(name): weight for name, weight in model.named_parameters() if ".lora_" in name}
    for weight in weights.values():
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights.values(), weight_decay=settings.weight_decay)
    if stretch.start is not None:
        before = load_moments(stretch.start, model)
        for name, weight in weights.items():
            kinds = {"exp_avg": before.exp_avg[name], "exp_avg_sq": before.exp_avg_sq[name]}
            optimizer.state[weight] = {"step": torch.tensor(float(before.step or 0)), **kinds}
    losses: list[float] = []
    for step in range(stretch.steps):
        rows = [pool.batch([sample]) for sample in order.samples_at(step)]
        labels = sum(int(row.labels_T.sum()) for row in rows)
        total = torch.zeros(())
        for row in rows:
            ids, labelled = torch.from_numpy(row.tokens_T).long(), torch.from_numpy(row.labels_T)
            logits = model(input_ids=ids[None]).logits[0, :-1]
            total = total + functional.cross_entropy(logits[labelled[1:]], ids[1:][labelled[1:]], reduction="sum")
        (total / labels).backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), settings.max_grad_norm or float("inf"))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stretch.first_step + step, stretch.schedule_steps, settings)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / labels)
    states = {name: optimizer.state[weight] for name, weight in weights.items()}
    return Outcome(
        losses,
        {name: weight.detach() for name, weight in weights.items()},
        {name: state["exp_avg"] for name, state in states.items()},
        {name: state["exp_avg_sq"] for name, state in states.items()},
        stretch.first_step + stretch.steps,
    )


def furthest(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of a tensor, relative to its norm."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


def differences(found: Outcome, wanted: Outcome) -> dict[str, float]:
    """Return how far two trainings are apart, in relation to their size."""
    assert found.step == wanted.step
    loss = np.abs(np.asarray(found.losses) / np.asarray(wanted.losses) - 1).max()
    return {
        "loss": float(loss),
        "adapter": furthest(found.adapter, wanted.adapter),
        "exp_avg": furthest(found.exp_avg, wanted.exp_avg),
        "exp_avg_sq": furthest(found.exp_avg_sq, wanted.exp_avg_sq),
    }


def files_of(checkpoint: Path) -> dict[str, bytes]:
    """Return a checkpoint's bytes."""
    return {path.name: path.read_bytes() for path in sorted(checkpoint.iterdir())}


def config_file(folder: Path) -> dict[str, object]:
    """Return an adapter's settings as other programs read them."""
    return json.loads((folder / "adapter_config.json").read_text())
