"""Small models, batches and the dense truth that the gradient engine's tests compare with."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import tiny_gpt2, tiny_llama, tiny_neox
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional

from clusterucb.checkpoint.moments import Moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.config import Adam, Gradients
from clusterucb.types import TokenBatch

CPU = torch.device("cpu")


def adapted(model: nn.Module, targets: Sequence[str], *, fan_in_fan_out: bool = False, r: int = 3) -> PeftModel:
    """Return the model with a LoRA whose B is not zero, frozen."""
    config = LoraConfig(r=r, lora_alpha=2 * r, target_modules=list(targets), fan_in_fan_out=fan_in_fan_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        wrapped = get_peft_model(model, config)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.05)
    return frozen(wrapped)


def frozen(model):
    """Return the model in eval mode, nothing requiring a gradient."""
    return model.requires_grad_(False).eval()


def llama_lora() -> tuple[nn.Module, Gradients]:
    """Return a Llama with grouped queries and LoRA on attention and MLP."""
    model = adapted(tiny_llama(), ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"])
    return model, Gradients()


def llama_linears() -> tuple[nn.Module, Gradients]:
    """Return a Llama whose upper layer's own weights are taken, square, wide and tall."""
    modules = (r"model\.layers\.1\.(self_attn\.q_proj|self_attn\.k_proj|mlp\.down_proj|mlp\.up_proj)",)
    return frozen(tiny_llama()), Gradients(modules=modules)


def gpt2_lora() -> tuple[nn.Module, Gradients]:
    """Return a GPT-2 with LoRA on its Conv1D layers."""
    return adapted(tiny_gpt2(), ["c_attn", "c_proj"], fan_in_fan_out=True), Gradients()


def gpt2_conv1d() -> tuple[nn.Module, Gradients]:
    """Return a GPT-2 whose own Conv1D weights are taken."""
    return frozen(tiny_gpt2()), Gradients(modules=(r"transformer\.h\.\d\.(attn\.c_attn|mlp\.c_proj|mlp\.c_fc)",))


def neox_linears() -> tuple[nn.Module, Gradients]:
    """Return a GPT-NeoX: fused attention, biases, parallel residual."""
    return frozen(tiny_neox()), Gradients(modules=(r".*\.(query_key_value|dense_4h_to_h)",))


CASES: dict[str, Callable[[], tuple[nn.Module, Gradients]]] = {
    case.__name__: case for case in (llama_lora, llama_linears, gpt2_lora, gpt2_conv1d, neox_linears)
}


def batch_of(lengths: Sequence[int], *, seed: int = 0, first: int = 100, vocabulary: int = 90) -> TokenBatch:
    """Return samples of random tokens, about half of them labelled."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, vocabulary, n).astype(np.int32) for n in lengths]
    labels = [rng.random(n) < 0.5 for n in lengths]
    for label in labels:
        label[0], label[-1] = False, True
    return TokenBatch(
        samples_B=np.arange(first, first + len(lengths)),
        tokens_T=np.concatenate(tokens),
        labels_T=np.concatenate(labels),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )


def truth(model: nn.Module, names: Sequence[str], batch: TokenBatch) -> tuple[list[float], dict[str, Tensor]]:
    """Return losses and gradients [B, *shape], by autograd, one sample at a time and from the model's full logits."""
    parameters = {n: p.detach() for n, p in model.named_parameters() if canonical_name(n) in names}
    assert {canonical_name(n) for n in parameters} == set(names)
    losses: list[float] = []
    rows: list[dict[str, Tensor]] = []
    for i in range(len(batch)):
        tokens_T, labels_T = batch.row(i)
        ids = torch.from_numpy(tokens_T.astype(np.int64))[None]
        supervised = torch.from_numpy(np.flatnonzero(labels_T))

        def loss(chosen: dict[str, Tensor], ids: Tensor = ids, supervised: Tensor = supervised) -> Tensor:
            logits = functional_call(model, chosen, (), {"input_ids": ids, "use_cache": False}).logits[0]
            return functional.cross_entropy(logits[supervised - 1], ids[0, supervised])

        losses.append(float(loss(parameters)))
        rows.append({canonical_name(n): g for n, g in grad(loss)(parameters).items()})
    return losses, {name: torch.stack([row[name] for row in rows]) for name in names}


def random_moments(shapes, *, seed: int = 0, scale: float = 1.0) -> Moments:
    """Return moments as Adam could have left them; `scale` is the size of the gradients it saw."""
    generator = torch.Generator().manual_seed(seed)
    first = {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    second = {
        name: (scale * torch.randn(shape, generator=generator)).square() + (0.1 * scale) ** 2
        for name, shape in shapes.items()
    }
    return Moments(first, second, step=10)


def adam_by_hand(gradient: Tensor, first: Tensor, second: Tensor, adam: Adam) -> Tensor:
    """Return the definition's direction in float64."""
    g, m, v = gradient.double(), first.double(), second.double()
    m = adam.beta1 * m + (1 - adam.beta1) * g
    v = adam.beta2 * v + (1 - adam.beta2) * g**2
    return m / (v + adam.eps).sqrt() if adam.eps_inside_root else m / (v.sqrt() + adam.eps)


def flat(vectors: dict[str, Tensor]) -> Tensor:
    """Concatenate [B, *shape] by name to [B, P], float64."""
    return torch.cat([vectors[name].flatten(1).double() for name in sorted(vectors)], dim=1)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest, over rows, norm of the difference relative to the expected norm."""
    difference = torch.linalg.vector_norm((actual.double() - expected.double()).flatten(1), dim=1)
    return float((difference / torch.linalg.vector_norm(expected.double().flatten(1), dim=1)).max())
