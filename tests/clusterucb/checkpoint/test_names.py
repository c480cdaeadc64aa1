"""One parameter, one name, whatever wraps the model."""

import pytest
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_llama

from clusterucb.checkpoint.names import canonical_name

A = "model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "runtime_name",
    [
        A,
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "module.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "_fsdp_wrapped_module.base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.lora_A.default.weight",
        "_orig_mod.model.layers.0.self_attn.q_proj.lora_A.weight",
    ],
)
def test_wrappers_leave_no_trace(runtime_name: str):
    assert canonical_name(runtime_name) == A


def test_a_base_weight_keeps_its_name_under_an_adapter():
    base = tiny_llama()
    names = {name for name, _ in base.named_parameters()}
    adapted = get_peft_model(base, LoraConfig(target_modules="all-linear"))
    assert {canonical_name(name) for name, _ in adapted.named_parameters() if "lora_" not in name} == names


def test_canonical_names_are_unique_and_stable_over_a_whole_model():
    model = get_peft_model(tiny_llama(), LoraConfig(target_modules="all-linear"))
    names = [canonical_name(name) for name, _ in model.named_parameters()]
    assert len(set(names)) == len(names)
    assert [canonical_name(name) for name in names] == names
