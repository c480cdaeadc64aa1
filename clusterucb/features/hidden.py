"""Pooled hidden states: one forward pass, stopped after the block that is asked for, no vocabulary projection.

A sample's features do not depend on what shares its batch: samples are padded on the right without a mask, which no
real token of a causal model can see, and padding is left out of the pooling.
"""

# transformers is typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import time
from typing import Any, NoReturn

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from clusterucb.config import HiddenFeatures
from clusterucb.errors import ConfigError, ModelError
from clusterucb.features.pooling import pool, unit_rows
from clusterucb.gradients.memory_limit import MemoryLimit, Passes
from clusterucb.types import Hidden, TokenBatch


class _ReachedError(Exception):
    """Ends the forward pass with the hidden states that were wanted."""

    def __init__(self, states_BTF: Tensor) -> None:
        super().__init__()
        self.states_BTF = states_BTF


class HiddenFeaturiser:
    """Turns token batches into features of unit length.

    Layer `final` is the last block's output after the final norm, as the vocabulary projection sees it; `middle` and
    an index are a block's own output. Raises ConfigError for a block that the model lacks.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, config: HiddenFeatures, passes: Passes | None = None
    ) -> None:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        assert isinstance(base, PreTrainedModel)
        self._trunk = _trunk(base)
        self._width: int = base.config.get_text_config().hidden_size
        self._device = base.device
        self._weighted = config.pooling == "weighted"
        self._last_block = None if config.layer == "final" else _block(find_blocks(base), config.layer)
        self._memory = MemoryLimit(passes)

    @torch.inference_mode()
    def features(self, batch: TokenBatch) -> Hidden:
        """Return the features of the samples that have any; the others are reported."""
        started = time.perf_counter()
        pieces, failures = self._memory.run(batch, lambda piece: (piece.samples_B, self._pooled(piece)))
        pooled_BF = torch.cat([pooled for _, pooled in pieces]) if pieces else torch.empty(0, self._width)
        samples_B = np.concatenate([samples for samples, _ in pieces]) if pieces else batch.samples_B[:0]
        samples_B, features_BF, unusable = unit_rows(samples_B, pooled_BF)
        return Hidden(samples_B, features_BF, failures + unusable, time.perf_counter() - started)

    def _pooled(self, batch: TokenBatch) -> Tensor:
        real_BT = np.arange(int(batch.lengths_B.max())) < batch.lengths_B[:, None]
        tokens_BT = np.zeros(real_BT.shape, dtype=np.int64)
        tokens_BT[real_BT] = batch.tokens_T
        states_BTF = self._states(torch.from_numpy(tokens_BT).to(self._device))
        return pool(states_BTF, torch.from_numpy(real_BT).to(self._device), self._weighted)

    def _states(self, tokens_BT: Tensor) -> Tensor:
        if self._last_block is None:
            return self._trunk(input_ids=tokens_BT, use_cache=False).last_hidden_state
        hook = self._last_block.register_forward_hook(_stop)
        try:
            self._trunk(input_ids=tokens_BT, use_cache=False)
        except _ReachedError as reached:
            return reached.states_BTF
        finally:
            hook.remove()
        raise AssertionError("the forward pass did not come to the block")


def find_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder's blocks: the only outermost list with as many modules as the configuration has layers.

    Raises ModelError where there is none or several.
    """
    trunk, depth = _trunk(model), model.config.get_text_config().num_hidden_layers
    paths = [path for path, part in trunk.named_modules() if isinstance(part, nn.ModuleList) and len(part) == depth]
    outermost = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    if len(outermost) != 1:
        raise ModelError(
            f"a {model.config.model_type} model has {len(outermost)} lists that could be its {depth} blocks: "
            "use features.layer final or features.kind embedding"
        )
    blocks = trunk.get_submodule(outermost[0])
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def check_block(number: int, num_blocks: int) -> None:
    """Raise ConfigError unless the model has a block of this number."""
    if not 1 <= number <= num_blocks:
        raise ConfigError(f"features.layer is {number}, but the model has blocks 1 to {num_blocks}: give one of them")


def blocks_run(layer: int | str, num_blocks: int) -> int:
    """Return how many blocks a forward pass runs for these features; raises ConfigError where there are not as many."""
    number = _number(layer, num_blocks)
    check_block(number, num_blocks)
    return number


def _trunk(model: PreTrainedModel) -> nn.Module:
    """Return the model without its vocabulary projection."""
    trunk = model.base_model
    assert isinstance(trunk, nn.Module)
    return trunk


def _block(blocks: nn.ModuleList, layer: int | str) -> nn.Module:
    return blocks[blocks_run(layer, len(blocks)) - 1]


def _number(layer: int | str, num_blocks: int) -> int:
    if isinstance(layer, int):
        return layer
    return num_blocks if layer == "final" else max(1, num_blocks // 2)


def _stop(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> NoReturn:
    raise _ReachedError(output[0] if isinstance(output, tuple) else output)
