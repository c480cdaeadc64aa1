"""What a scored sample costs, next to a training step, the official way and Bergson.

    CLUSTERUCB_MATERIAL=... python benchmarks/gradients.py [--samples 24] [--rounds 3] [--bergson-path FOLDER]

All arms see the same samples of the real pool and the same model (SmolLM2-135M-Instruct, LoRA on q, k, v, o), on one
thread, in one process, in turn; a round runs every arm once. Times are CPU time; other work on the machine still
disturbs caches and memory, so look at the ratio over all rounds and at its span.

- engine: Adam directions, exact influence on one subtask, hash sketch of 8,192 dimensions
- training step: forward and backward pass of the same batches with labels, the LoRA's weights requiring gradients
- official: batch size 1, the whole vector, Adam, then a dense Rademacher projection drawn anew for every call (only a
  share of its columns is computed, the rest extrapolated)
- Bergson (optional): its collector writing Adam-normalised, 16 x 16-projected gradients of the same LoRA to a memmap

Bergson is installed beside the project, never in its environment:

    pip install --no-deps --target FOLDER bergson==2.5.1 jaxtyping wadler-lindig ml_dtypes natsort petname \\
        simple-parsing docstring-parser torchopt optree
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from real_setting import CPU, Setting, arguments, batches, load
from torch import Tensor, nn

from clusterucb.checkpoint.moments import Moments
from clusterucb.config import Adam, Gradients
from clusterucb.gradients.engine import GradientEngine
from clusterucb.gradients.padding import some
from clusterucb.gradients.targets import combine
from clusterucb.types import TokenBatch

DIM = 8192
OFFICIAL_COLUMNS = 512
"""Columns of the dense projection that are really computed."""

Arm = Callable[[], float]
"""Runs once and returns CPU seconds a sample."""


def main() -> None:
    """Run the arms and print the table."""
    options = _options()
    setting = load(options, targets=4)
    composed = batches(setting.pool, options.batch_tokens)
    moments = _moments(setting.model)
    arms = {
        "engine": _engine(setting, moments, composed),
        "training step": _training(setting.model, composed, masked=True),
        "training step, no attention mask": _training(setting.model, composed, masked=False),
    }
    if options.bergson_path is not None:
        sys.path.append(str(options.bergson_path))
        arms["Bergson, as its loader sets the model up"] = _bergson(setting, moments, options, frozen_embedding=False)
        arms["Bergson, embedding frozen"] = _bergson(setting, moments, options, frozen_embedding=True)
    else:
        print("Bergson is left out: give --bergson-path (--help says how to install it)")
    official = _official(setting, moments, options.official_samples)
    _describe(setting, composed)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for index in range(options.rounds + 1):
        for name, arm in arms.items():
            spent = arm()
            if index:  # the first round warms caches and the allocator up
                seconds[name].append(spent)
                print(f"round {index}  {name}: {spent:.3f} s a sample", flush=True)
    for name, spent in zip(("official, one draw a call", "official, stacks of 8"), official(), strict=True):
        seconds[name] = [spent] * options.rounds
    _table(seconds)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.set_defaults(samples=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--official-samples", type=int, default=2)
    parser.add_argument("--bergson-path", type=Path, help="folder with Bergson")
    return parser.parse_args()


def _moments(model: nn.Module) -> Moments:
    """Return moments of plausible sizes: their values cost nothing."""
    shapes = GradientEngine(model, Gradients(), None, CPU).shapes
    generator = torch.Generator().manual_seed(0)
    first = {name: 1e-3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    second = {name: 1e-6 * torch.rand(shape, generator=generator) + 1e-9 for name, shape in shapes.items()}
    return Moments(first, second, step=1)


def _engine(setting: Setting, moments: Moments, composed: list[TokenBatch]) -> Arm:
    engine = GradientEngine(setting.model, Gradients(), moments, CPU)
    bank = combine(["target"], [engine.target(setting.target, "target")])

    def run() -> float:
        start = time.process_time()
        scored = sum(len(engine.score(batch, bank).samples_B) for batch in composed)
        assert scored == len(setting.pool)
        return (time.process_time() - start) / scored

    return run


def _training(model: nn.Module, composed: list[TokenBatch], *, masked: bool) -> Arm:
    adapter = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    inputs = [_labelled(batch, masked) for batch in composed]
    samples = sum(len(batch) for batch in composed)

    def run() -> float:
        for parameter in adapter:
            parameter.requires_grad_(True)
        start = time.process_time()
        for batch in inputs:
            model(**batch, use_cache=False).loss.backward()
            for parameter in adapter:
                parameter.grad = None
        spent = time.process_time() - start
        for parameter in adapter:
            parameter.requires_grad_(False)
        return spent / samples

    return run


def _labelled(batch: TokenBatch, masked: bool) -> dict[str, Tensor]:
    ids = np.zeros((len(batch), int(batch.lengths_B.max())), np.int64)
    labels = np.full(ids.shape, -100, np.int64)
    mask = np.zeros(ids.shape, np.int64)
    for i in range(len(batch)):
        tokens_T, labels_T = batch.row(i)
        ids[i, : len(tokens_T)], mask[i, : len(tokens_T)] = tokens_T, 1
        labels[i, : len(tokens_T)][labels_T] = tokens_T[labels_T]
    made = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
    return made | ({"attention_mask": torch.from_numpy(mask)} if masked else {})


def _official(setting: Setting, moments: Moments, count: int) -> Callable[[], tuple[float, float]]:
    """Return the seconds a sample of one draw a call, and of calls that project eight vectors."""
    adam = Adam()
    named = [(name, parameter) for name, parameter in setting.model.named_parameters() if "lora_" in name]
    first = torch.cat([moment.flatten() for moment in moments.exp_avg.values()])
    second = torch.cat([moment.flatten() for moment in moments.exp_avg_sq.values()])

    def gradient(sample: TokenBatch) -> Tensor:
        setting.model(**_labelled(sample, masked=True), use_cache=False).loss.backward()
        vector = torch.cat([parameter.grad.flatten() for _, parameter in named if parameter.grad is not None])
        for _, parameter in named:
            parameter.grad = None
        m = adam.beta1 * first + (1 - adam.beta1) * vector
        v = adam.beta2 * second + (1 - adam.beta2) * vector.square()
        return m / torch.sqrt(v + adam.eps)

    def projected(vectors: Tensor) -> float:
        generator = torch.Generator().manual_seed(0)
        block = torch.empty(vectors.shape[1], 128)
        start = time.process_time()
        for _ in range(0, OFFICIAL_COLUMNS, block.shape[1]):
            block.bernoulli_(0.5, generator=generator).mul_(2.0).sub_(1.0)
            vectors @ block
        return (time.process_time() - start) * DIM / OFFICIAL_COLUMNS

    def run() -> tuple[float, float]:
        for _, parameter in named:
            parameter.requires_grad_(True)
        chosen = np.linspace(0, len(setting.pool) - 1, 4 * count).astype(int)
        start = time.process_time()
        vectors = torch.stack([gradient(some(setting.pool, np.array([i]))) for i in chosen])
        taken = (time.process_time() - start) / len(chosen)
        for _, parameter in named:
            parameter.requires_grad_(False)
        alone = np.mean([projected(vectors[i : i + 1]) for i in range(count)])
        eight = projected(vectors[:1].expand(8, -1).contiguous()) / 8
        print(f"official: {taken:.3f} s a gradient, {alone:.1f} s a projection, {eight:.1f} s in stacks of 8")
        return taken + float(alone), taken + eight

    return run


def _bergson(setting: Setting, moments: Moments, options: argparse.Namespace, *, frozen_embedding: bool) -> Arm:
    from bergson import GradientCollector, GradientProcessor, IndexConfig
    from bergson.collector.collector import CollectorComputer
    from bergson.gradients import AdamNormalizer
    from datasets import Dataset

    model: nn.Module = setting.model
    names = {
        name for name, _ in model.base_model.named_modules() if name.endswith((".lora_A.default", ".lora_B.default"))
    }
    canonical = {name: name.removeprefix("model.").replace(".default", "") + ".weight" for name in names}
    normalizers = {name: AdamNormalizer(moments.exp_avg_sq[canonical[name]]) for name in names}
    rows = [setting.pool.row(i) for i in range(len(setting.pool))]
    data = Dataset.from_dict(
        {
            "input_ids": [tokens.tolist() for tokens, _ in rows],
            "labels": [np.where(labels, tokens, -100).tolist() for tokens, labels in rows],
            "length": [len(tokens) for tokens, _ in rows],
        }
    )
    processor = GradientProcessor(normalizers=normalizers, projection_dim=16)
    grouped = [batch.samples_B.tolist() for batch in batches(setting.pool, options.batch_tokens)]
    embedding = model.get_input_embeddings()

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            embedding.requires_grad_(True)
            config = IndexConfig(run_path=f"{folder}/index", projection_dim=16, loss_reduction="mean")
            collector = GradientCollector(
                model=model.base_model, cfg=config, processor=processor, target_modules=names, data=data
            )
            computer = CollectorComputer(model=model, data=data, collector=collector, batches=grouped, cfg=config)
            if frozen_embedding:
                embedding.requires_grad_(False)
                handle = embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
            start = time.process_time()
            computer.run_with_collector_hooks()
            spent = time.process_time() - start
            if frozen_embedding:
                handle.remove()
            embedding.requires_grad_(False)
        return spent / len(setting.pool)

    return run


def _describe(setting: Setting, composed: list[TokenBatch]) -> None:
    padded = sum(len(batch) * int(batch.lengths_B.max()) for batch in composed)
    print(
        f"{len(setting.pool)} samples, {int(setting.pool.offsets[-1])} tokens ({padded} padded), "
        f"{int(setting.pool.labels_T.sum())} supervised, {len(composed)} batches, {torch.get_num_threads()} thread"
    )


def _table(seconds: dict[str, list[float]]) -> None:
    engine = np.array(seconds["engine"])
    print(f"\n{'':56}{'engine is faster by':^44}")
    print(f"{'arm':44}{'s a sample':>12}{'median round':>15}{'all rounds':>12}{'span':>17}")
    for name, spent in seconds.items():
        ratio = np.array(spent) / engine
        span = f"{ratio.min():.2f} .. {ratio.max():.2f}"
        print(
            f"{name:44}{np.median(spent):>12.3f}{np.median(ratio):>14.2f}x{sum(spent) / engine.sum():>11.2f}x{span:>17}"
        )


if __name__ == "__main__":
    main()
