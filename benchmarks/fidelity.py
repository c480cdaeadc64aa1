"""How much of the exact ranking a sketch keeps: why rewards are taken exactly, and what sketches are still good for.

    CLUSTERUCB_MATERIAL=... python benchmarks/fidelity.py [--samples 240]

A LoRA is warmed up with Adam on part of the pool (its moments are real), then influence on a target is taken exactly
and by sketches of several sizes, with Adam directions and with plain gradients. Printed per sketch: RMS error of the
influence times sqrt(D), Spearman correlation with the exact influence, and the share of the exact top 5 % that the
sketched top 5 % holds. SPREAD is the standard deviation of the exact influence: an error as large
hides the ranking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from real_setting import CPU, Setting, arguments, batches, load
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from clusterucb.checkpoint.layers import Layer, find_layers
from clusterucb.checkpoint.moments import Moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.config import Adam, Gradients, HashSketch, NoSketch, Plain
from clusterucb.gradients.engine import GradientEngine, SampleGradients
from clusterucb.gradients.preconditioner import Direction, direction
from clusterucb.gradients.scorer import StreamingScorer
from clusterucb.gradients.sketch import Sketcher, sketcher, unit_rows
from clusterucb.gradients.targets import combine
from clusterucb.types import FloatArray

DIMS = (4096, 8192, 65536)


@dataclass(frozen=True, eq=False)
class _Measured:
    """Influence of every sample: exact, and by sketches of several D."""

    exact_N: FloatArray
    sketched: Mapping[int, FloatArray]


def main() -> None:
    """Warm up, score, print the table."""
    parser = arguments(__doc__ or "")
    parser.set_defaults(samples=240, max_length=256)
    parser.add_argument("--warm-up", type=int, default=12, help="Adam steps before gradients are taken")
    parser.add_argument("--targets", type=int, default=16)
    options = parser.parse_args()
    setting = load(options, targets=options.targets)
    moments = _warmed_up(setting, options.warm_up)
    print(f"{len(setting.pool)} samples, {len(setting.target)} target examples, {options.warm_up} warm-up steps")
    print(f"{'directions':12}{'D':>8}{'error x sqrt(D)':>18}{'spearman':>12}{'top 5 % kept':>15}{'SPREAD':>10}")
    for kind, measured in _measured(setting, moments, options.batch_tokens).items():
        exact_N = measured.exact_N
        for dim, influence_N in measured.sketched.items():
            error = float(np.sqrt(np.mean((influence_N - exact_N) ** 2) * dim))
            order = float(spearmanr(influence_N, exact_N).statistic)
            kept = _overlap(influence_N, exact_N, max(1, len(exact_N) // 20))
            print(
                f"{kind:12}{dim:>8}{error:>18.3f}{order:>12.3f}{kept:>14.0%}{exact_N.std():>11.4f}",
                flush=True,
            )


def _warmed_up(setting: Setting, steps: int) -> Moments:
    """Train the adapter a little on the last samples of the pool, and return Adam's moments."""
    model = setting.model
    named = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    adam = torch.optim.Adam(named.values(), lr=1e-3)
    for parameter in named.values():
        parameter.requires_grad_(True)
    for step in range(steps):
        for i in range(4):
            tokens_T, labels_T = setting.pool.row(len(setting.pool) - 1 - (4 * step + i) % len(setting.pool))
            (_mean_loss(model, tokens_T, labels_T) / 4).backward()
        adam.step()
        adam.zero_grad()
    for parameter in named.values():
        parameter.requires_grad_(False)
    return Moments(
        {canonical_name(name): adam.state[parameter]["exp_avg"] for name, parameter in named.items()},
        {canonical_name(name): adam.state[parameter]["exp_avg_sq"] for name, parameter in named.items()},
        step=steps,
    )


def _mean_loss(model: nn.Module, tokens_T: np.ndarray, labels_T: np.ndarray) -> Tensor:
    ids = torch.from_numpy(tokens_T.astype(np.int64))
    supervised = torch.from_numpy(np.flatnonzero(labels_T))
    logits = model(input_ids=ids[None], use_cache=False).logits[0]
    return functional.cross_entropy(logits[supervised - 1], ids[supervised])


def _measured(setting: Setting, moments: Moments, batch_tokens: int) -> dict[str, _Measured]:
    """Return influence by kind of direction, all from the same plain gradients."""
    engine = GradientEngine(setting.model, Gradients(sketch=NoSketch()), moments, CPU)
    layers = find_layers(setting.model, "lora")
    sketchers = {dim: sketcher(HashSketch(dim=dim), CPU) for dim in DIMS}
    kinds = {kind.kind: direction(kind, layers, moments, CPU) for kind in (Adam(), Plain())}
    target = combine(["target"], [engine.target(batch, "target") for batch in batches(setting.target, batch_tokens)])
    means = {layer.name: layer.rows(target.means[layer.name]) for layer in layers}
    target_D = dict.fromkeys(DIMS, torch.zeros(()))
    for batch in batches(setting.target, batch_tokens):
        gradients = engine.gradients(batch, plain=True)
        for dim, scorer in _scorers(layers, gradients, kinds["plain"], means, sketchers).items():
            target_D[dim] = target_D[dim] + unit_rows(scorer.sketch_BD).sum(0) / len(setting.target)
    exact: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    sketched: dict[str, dict[int, list[Tensor]]] = {kind: {dim: [] for dim in DIMS} for kind in kinds}
    for batch in batches(setting.pool, batch_tokens):
        gradients = engine.gradients(batch, plain=True)
        for kind, transform in kinds.items():
            scorers = _scorers(layers, gradients, transform, means, sketchers)
            first = scorers[DIMS[0]]
            exact[kind].append(first.products_BS[:, 0] / first.squared_norm_B.sqrt())
            for dim, scorer in scorers.items():
                sketched[kind][dim].append(unit_rows(scorer.sketch_BD) @ target_D[dim])
    return {
        kind: _Measured(
            torch.cat(exact[kind]).numpy(), {dim: torch.cat(parts).numpy() for dim, parts in sketched[kind].items()}
        )
        for kind in kinds
    }


def _scorers(
    layers: Sequence[Layer],
    gradients: SampleGradients,
    transform: Direction,
    means: dict[str, Tensor],
    sketchers: dict[int, Sketcher],
) -> dict[int, StreamingScorer]:
    """Score a batch once for every size of sketch."""
    samples = len(gradients.samples_B)
    made = {dim: StreamingScorer(transform, means, one, (samples, 1), CPU) for dim, one in sketchers.items()}
    for scorer in made.values():
        for layer in layers:
            scorer(layer, slice(0, samples), layer.rows(gradients.vectors[layer.name]).clone())
    return made


def _overlap(found_N: FloatArray, exact_N: FloatArray, count: int) -> float:
    return len(set(np.argsort(-found_N)[:count]) & set(np.argsort(-exact_N)[:count])) / count


if __name__ == "__main__":
    main()
