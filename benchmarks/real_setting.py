"""The real setting that the gradient benchmarks share: SmolLM2-135M-Instruct with LoRA, and samples of the pool.

Batches are composed as a run composes them: sorted by length, `tokens` padded tokens each.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clusterucb.checkpoint.model import load_model, load_tokenizer
from clusterucb.config import Lora, Model, Rows, Tokens
from clusterucb.data.chat import ChatEncoder
from clusterucb.data.rows import read_rows
from clusterucb.gradients.padding import some
from clusterucb.run.batching import micro_batches
from clusterucb.types import TokenBatch

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, eq=False)
class Setting:
    """A model with a LoRA, frozen, and encoded samples."""

    model: nn.Module
    pool: TokenBatch
    target: TokenBatch


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every gradient benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / ".cache" / "SmolLM2-135M-Instruct"), help="folder of the model")
    parser.add_argument("--samples", type=int, default=48, help="pool samples")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=1024, help="padded tokens in a batch")
    parser.add_argument("--rank", type=int, default=8, help="of the LoRA on q, k, v and o")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def load(options: argparse.Namespace, *, targets: int) -> Setting:
    """Load the model with a fresh LoRA and draw samples; CLUSTERUCB_MATERIAL names the folder with the pool."""
    torch.set_num_threads(options.threads)
    material = os.environ.get("CLUSTERUCB_MATERIAL")
    if material is None:
        raise SystemExit("set CLUSTERUCB_MATERIAL to the folder that holds pool/pool.jsonl")
    config = Model(base=options.model, lora=Lora(r=options.rank, alpha=2 * options.rank, init_b="gaussian"))
    encoder = ChatEncoder(load_tokenizer(config), Tokens(max_length=options.max_length))
    pool = Path(material) / "pool"
    return Setting(
        model=load_model(config, CPU, options.seed, "lora").model,
        pool=_drawn(pool / "pool.jsonl", encoder, options.samples, options.seed),
        target=_drawn(pool / "targets" / "gsm8k.dev.jsonl", encoder, targets, options.seed),
    )


def batches(samples: TokenBatch, tokens: int) -> list[TokenBatch]:
    """Compose micro-batches as a run does."""
    return [some(samples, rows) for rows in micro_batches(np.arange(len(samples)), samples.lengths_B, tokens)]


def _drawn(path: Path, encoder: ChatEncoder, count: int, seed: int) -> TokenBatch:
    reader = read_rows(Rows(path=str(path)))
    total = sum(1 for _ in path.open())
    order = np.random.default_rng(seed).permutation(total)[: 2 * count]
    encoded = [encoder.encode(messages) for messages in reader.messages(order.tolist())]
    usable = [one for one in encoded if one.labels.any()][:count]
    return TokenBatch(
        samples_B=np.arange(len(usable)),
        tokens_T=np.concatenate([one.tokens for one in usable]),
        labels_T=np.concatenate([one.labels for one in usable]),
        offsets=np.concatenate([[0], np.cumsum([len(one.tokens) for one in usable])]).astype(np.int64),
    )
