"""Greedy answers to chats: the model goes on from where the assistant's last turn begins.

Prompts are padded on the left, so that all of a batch go on at its end; which prompts share a batch follows from their
lengths alone, so that a repeated evaluation computes the same.
"""

# transformers is typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

Prompt = npt.NDArray[np.int32]
AnyModel = PreTrainedModel | PeftModel


def stop_tokens(model: AnyModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that end an answer: those the model was made with, and the tokenizer's."""
    settings: Any = model.generation_config
    given: Any = getattr(settings, "eos_token_id", None)
    found: set[int] = {given} if isinstance(given, int) else set(given or ())
    if isinstance(tokenizer.eos_token_id, int):
        found.add(tokenizer.eos_token_id)
    return tuple(sorted(found))


def prompt_batches(prompts: Sequence[Prompt], size: int) -> list[list[int]]:
    """Return which prompts are answered together, the longest first."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    return [order[i : i + size] for i in range(0, len(order), size)]


@torch.no_grad()
def answers(
    model: AnyModel,
    prompts: Sequence[Prompt],
    stop: Sequence[int],
    most: int,
    device: torch.device,
) -> list[list[int]]:
    """Return the tokens of each prompt's answer, what ends it left out; at most `most`, and as positions allow."""
    longest = max(len(prompt) for prompt in prompts)
    config: Any = model.config
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    room = most if positions is None else min(most, positions - longest)
    if room < 1:
        return [[] for _ in prompts]
    pad = stop[0] if stop else 0
    ids_BT = torch.full((len(prompts), longest), pad, dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for i, prompt in enumerate(prompts):
        ids_BT[i, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask_BT[i, longest - len(prompt) :] = 1
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=room, pad_token_id=pad, eos_token_id=list(stop) or None
    )
    generate: Any = model.generate
    made: Any = generate(input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device), generation_config=settings)
    return [_until(row, set(stop)) for row in made[:, longest:].tolist()]


def _until(tokens: list[int], stop: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[:end]
