"""Loading: what comes out is complete, finite and seeded; what cannot work is refused with the reason."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoHaConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import saved, tiny_gpt2, tiny_llama, tiny_neox
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from clusterucb.checkpoint.model import check_model, describe, load_model, load_tokenizer
from clusterucb.checkpoint.moments import Moments, save_moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.config import Gradients, Lora, Model
from clusterucb.errors import ModelError

CPU = torch.device("cpu")
TARGETS = ("q_proj", "v_proj")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved(tiny_llama(), tmp_path / "base")


def an_adapter(folder: Path, seed: int = 0, **model_settings: object) -> Path:
    model = get_peft_model(tiny_llama(**model_settings), LoraConfig(r=3, target_modules=list(TARGETS)))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def lora_weights(config: Model, seed: int = 0) -> dict[str, torch.Tensor]:
    model = load_model(config, CPU, seed, "lora").model
    return {canonical_name(n): p for n, p in model.named_parameters() if "lora_" in n}


def refused(config: Model, *words: str, gradients: Gradients | None = None, driver_sees_it: bool = True) -> None:
    """Both the driver's check and the worker's load refuse, naming `words`, on one line."""
    gradients = gradients or Gradients()
    calls: list[Callable[[], object]] = [lambda: load_model(config, CPU, 0, gradients.modules)]
    if driver_sees_it:
        calls.append(lambda: check_model(config, gradients))
    for call in calls:
        with pytest.raises(ModelError) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message


def test_the_loaded_model_is_the_saved_one_without_gradients(base: Path):
    loaded = load_model(Model(base=str(base)), CPU, 0, ("q_proj",)).model
    tokens = torch.arange(12)[None]
    assert torch.equal(loaded(tokens).logits, tiny_llama()(tokens).logits)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not any("lora_" in name for name, _ in loaded.named_parameters())


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_neox])
def test_a_fresh_adapter_with_zero_b_changes_no_logit(build: Callable[[], torch.nn.Module], tmp_path: Path):
    folder = saved(build(), tmp_path)
    config = Model(base=str(folder), lora=Lora(target_modules="all-linear"))
    loaded = load_model(config, CPU, 0, "lora")
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(loaded.model(tokens).logits, build()(tokens).logits)
    assert any("LoRA-B is zero" in note for note in loaded.notes)
    assert check_model(config, Gradients()) == loaded.notes


def test_a_fresh_adapter_follows_from_the_seed_and_the_name_alone(base: Path):
    small = Model(base=str(base), lora=Lora(target_modules=("v_proj",), init_b="gaussian"))
    large = Model(base=str(base), lora=Lora(target_modules="all-linear", init_b="gaussian"))
    torch.manual_seed(1)
    first = lora_weights(small, seed=5)
    torch.manual_seed(2)
    again, other = lora_weights(large, seed=5), lora_weights(small, seed=6)
    assert first.keys() < again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert len({tuple(weight.flatten()[:8].tolist()) for weight in again.values()}) == len(again)


def test_loading_leaves_the_global_generator_alone(base: Path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_model(Model(base=str(base)), CPU, 0, "lora")
    assert torch.equal(before, torch.get_rng_state())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**63 - 1))
def test_a_is_uniform_within_one_over_root_fan_in_and_gaussian_b_a_hundredth_of_it(
    tmp_path_factory: pytest.TempPathFactory, seed: int
):
    folder = tmp_path_factory.getbasetemp() / "wide"
    if not folder.exists():
        saved(tiny_llama(hidden=64), folder)
    config = Model(base=str(folder), lora=Lora(r=64, target_modules=("q_proj", "o_proj"), init_b="gaussian"))
    for name, weight in lora_weights(config, seed).items():
        if "lora_A" in name:
            bound = 64**-0.5
            assert weight.abs().max() <= bound
            assert weight.abs().max() > 0.99 * bound
            assert abs(weight.mean()) < 0.05 * bound
        else:
            assert weight.std().item() == pytest.approx(0.01 / (3 * 64) ** 0.5, rel=0.1)


def test_adapter_weights_stay_float32_on_a_bfloat16_base(base: Path, tmp_path: Path):
    for adapter in (None, str(an_adapter(tmp_path / "adapter"))):
        config = Model(base=str(base), dtype="bfloat16", adapter=adapter)
        model = load_model(config, CPU, 0, "lora").model
        for name, parameter in model.named_parameters():
            assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
        model(torch.arange(12)[None])


def test_a_trained_adapter_is_loaded_exactly(base: Path, tmp_path: Path):
    folder = an_adapter(tmp_path / "adapter")
    config = Model(base=str(base), adapter=str(folder))
    expected = {canonical_name(n): t for n, t in load_file(folder / "adapter_model.safetensors").items()}
    found = lora_weights(config)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert check_model(config, Gradients()) == load_model(config, CPU, 0, "lora").notes == ()


def test_an_untrained_adapter_is_told(base: Path, tmp_path: Path):
    get_peft_model(tiny_llama(), LoraConfig(target_modules=list(TARGETS))).save_pretrained(tmp_path / "adapter")
    notes = load_model(Model(base=str(base), adapter=str(tmp_path / "adapter")), CPU, 0, "lora").notes
    assert any("untrained" in note for note in notes)


def test_an_adapter_of_a_wider_model_is_refused_by_name_and_shape(base: Path, tmp_path: Path):
    folder = an_adapter(tmp_path / "adapter", hidden=64)
    refused(Model(base=str(base), adapter=str(folder)), "does not fit", "q_proj.lora_A", "3x64")


def test_an_adapter_of_a_deeper_or_shallower_model_is_refused(base: Path, tmp_path: Path):
    deep, shallow = an_adapter(tmp_path / "deep", layers=3), an_adapter(tmp_path / "shallow", layers=1)
    refused(Model(base=str(base), adapter=str(deep)), "does not fit", "layers.2.")
    refused(Model(base=str(base), adapter=str(shallow)), "does not fit", "layers.1.")


def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path):
    base = saved(tiny_gpt2(), tmp_path / "base")
    refused(Model(base=str(base), adapter=str(an_adapter(tmp_path / "adapter"))), "does not fit", "q_proj")


def test_broken_adapters_are_refused(base: Path, tmp_path: Path):
    config = Model(base=str(base), adapter=str(tmp_path / "adapter"))
    refused(config, "model.adapter", "does not exist")
    (tmp_path / "adapter").mkdir()
    refused(config, "adapter_config.json")
    an_adapter(tmp_path / "adapter")
    (tmp_path / "adapter/adapter_model.safetensors").rename(tmp_path / "adapter/adapter_model.bin")
    refused(config, "adapter_model.safetensors")
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"\0" * 50)
    refused(config, "adapter_model.safetensors", "cannot be read")
    (tmp_path / "adapter/adapter_config.json").write_text("{")
    refused(config, "adapter_config.json", "cannot be read")


def test_an_adapter_with_nan_is_refused_by_name(base: Path, tmp_path: Path):
    file = an_adapter(tmp_path / "adapter") / "adapter_model.safetensors"
    weights = load_file(file)
    weights["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"][0, 0] = torch.nan
    save_file(weights, file)
    config = Model(base=str(base), adapter=str(tmp_path / "adapter"))
    refused(config, "model.layers.1.self_attn.v_proj.lora_B.weight", "NaN", driver_sees_it=False)


def test_only_lora_adapters_are_accepted(base: Path, tmp_path: Path):
    get_peft_model(tiny_llama(), LoHaConfig(target_modules=list(TARGETS))).save_pretrained(tmp_path / "adapter")
    refused(Model(base=str(base), adapter=str(tmp_path / "adapter")), "LOHA")


def test_missing_bases_are_refused(tmp_path: Path):
    refused(Model(base=str(tmp_path / "nowhere")), "model.base", "does not exist")
    refused(Model(base="nobody/no-such-model"), "nobody/no-such-model", "hub")
    refused(Model(base=str(tmp_path)), "config.json")


def test_an_adapter_folder_as_base_is_refused(tmp_path: Path):
    refused(Model(base=str(an_adapter(tmp_path / "adapter"))), "set model.adapter")


def test_broken_configurations_are_refused(base: Path):
    settings_file = base / "config.json"
    whole = json.loads(settings_file.read_text())
    for text, word in (
        ("{broken", "not valid JSON"),
        ("{}", "config.json"),
        (json.dumps({"model_type": "no-such-architecture"}), "no-such-architecture"),
        (json.dumps(whole | {"hidden_size": "wide"}), "hidden_size"),
    ):
        settings_file.write_text(text)
        refused(Model(base=str(base)), word)


def test_weights_of_another_shape_than_the_configuration_are_refused(base: Path):
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"intermediate_size": 80}))
    refused(Model(base=str(base)), "mlp")


def test_only_safetensors_weights_are_opened(base: Path):
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused(Model(base=str(base)), "pickled", "save_pretrained")
    (base / "pytorch_model.bin").unlink()
    refused(Model(base=str(base)), "safetensors")


def test_truncated_weights_are_refused(base: Path):
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(Model(base=str(base)), "model.safetensors", "cannot be read")


def test_a_missing_tensor_is_not_made_up(base: Path):
    file = base / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, {"format": "pt"})
    refused(Model(base=str(base)), "model.layers.1.mlp.up_proj.weight", "lack", driver_sees_it=False)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(base: Path, bad: float):
    file = base / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = bad
    save_file(weights, file, {"format": "pt"})
    refused(Model(base=str(base)), "model.layers.1.mlp.down_proj.weight", driver_sees_it=False)


@pytest.mark.parametrize("kind", ["encoder", "encoder with a head", "encoder-decoder"])
def test_only_causal_models_are_accepted(kind: str, tmp_path: Path):
    bert = BertConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    if kind == "encoder-decoder":
        t5 = T5Config(vocab_size=96, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
        T5ForConditionalGeneration(t5).save_pretrained(tmp_path)
    else:
        (BertForMaskedLM if kind == "encoder" else BertLMHeadModel)(bert).save_pretrained(tmp_path)
    refused(Model(base=str(tmp_path)), "not a causal language model")


def test_target_modules_that_fit_nothing_are_refused_with_what_there_is(base: Path):
    refused(Model(base=str(base), lora=Lora(target_modules=("c_attn",))), "c_attn", "q_proj", "down_proj")


def test_target_modules_that_fit_in_part_are_told(base: Path):
    config = Model(base=str(base), lora=Lora(target_modules=("q_proj", "query_key_value")))
    notes = load_model(config, CPU, 0, "lora").notes
    assert any("query_key_value" in note and "q_proj, k_proj" not in note for note in notes)
    assert check_model(config, Gradients()) == notes


def test_module_patterns_that_find_nothing_are_refused_by_the_driver(base: Path):
    with pytest.raises(ModelError, match="c_attn"):
        check_model(Model(base=str(base)), Gradients(modules=(".*c_attn",)))


def test_a_tokenizer_that_exceeds_the_embedding_is_refused(tmp_path: Path):
    config = Model(base=str(saved(tiny_llama(vocab=90), tmp_path)))
    for call in (lambda: load_tokenizer(config), lambda: check_model(config, Gradients())):
        with pytest.raises(ModelError, match=r"token 95.*90 embedding rows"):
            call()


def test_a_missing_or_broken_tokenizer_is_refused(base: Path):
    assert load_tokenizer(Model(base=str(base)))("a").input_ids == [65]
    (base / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(Model(base=str(base)))
    for file in base.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(Model(base=str(base)))


def test_the_driver_refuses_moments_of_another_adapter(base: Path, tmp_path: Path):
    config = Model(base=str(base), adapter=str(an_adapter(tmp_path / "adapter")), moments=str(tmp_path / "moments"))
    own = {name: torch.ones_like(weight) for name, weight in lora_weights(config).items()}
    squares = {name: 2 * weight for name, weight in own.items()}
    save_moments(tmp_path / "moments", Moments(own, squares, 1))
    check_model(config, Gradients())
    other = {name.replace("v_proj", "k_proj"): moment for name, moment in own.items()}
    save_moments(tmp_path / "moments", Moments(other, other, 1))
    with pytest.raises(ModelError, match="v_proj"):
        check_model(config, Gradients())


@pytest.mark.parametrize("tied", [True, False])
def test_sizes_are_those_of_the_loaded_model(tied: bool, tmp_path: Path):
    folder = saved(tiny_llama(tied=tied), tmp_path)
    for modules in ("lora", (".*mlp.*", ".*q_proj")):
        config, gradients = Model(base=str(folder)), Gradients(modules=modules)
        shape = describe(config, gradients)
        model = load_model(config, CPU, 0, modules).model
        parameters = {canonical_name(name): p for name, p in model.named_parameters()}
        lora = {name: p for name, p in parameters.items() if "lora_" in name}
        counted = lora or {n: p for n, p in parameters.items() if "mlp" in n or "q_proj" in n}
        assert shape.num_parameters == sum(p.numel() for n, p in parameters.items() if n not in lora)
        assert (shape.num_layers, shape.hidden_size, shape.vocab_size) == (2, 32, 96)
        assert shape.max_positions == 256
        assert shape.gradient_tensors == len(counted)
        assert shape.gradient_coordinates == sum(p.numel() for p in counted.values())


def test_a_copy_at_another_place_loads_the_same(base: Path, tmp_path: Path):
    shutil.copytree(base, tmp_path / "copy")
    here, there = (lora_weights(Model(base=str(folder))) for folder in (base, tmp_path / "copy"))
    assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.material
def test_the_real_model_loads_and_predicts(material: Path):
    config = Model(base=str(material / "models/stories260k"))
    check_model(config, Gradients())
    model, tokenizer = load_model(config, CPU, 0, "lora").model, load_tokenizer(config)
    tokens = tokenizer("Once upon a time, there was a little girl named", return_tensors="pt").input_ids
    assert model(tokens, labels=tokens).loss.item() < 2.5


def test_threads_that_load_and_check_together_get_what_each_gets_alone(base: Path):
    config = Model(base=str(base))
    alone = lora_weights(config)

    def load_often() -> list[dict[str, torch.Tensor]]:
        return [lora_weights(config) for _ in range(8)]

    def check_often() -> list[tuple[str, ...]]:
        return [check_model(config, Gradients()) for _ in range(16)]

    with ThreadPoolExecutor(4) as threads:
        loads = [threads.submit(load_often) for _ in range(2)]
        checks = [threads.submit(check_often) for _ in range(2)]
        for weights in (weights for load in loads for weights in load.result()):
            torch.testing.assert_close(weights, alone, rtol=0, atol=0)
        assert {notes for check in checks for notes in check.result()} == {check_model(config, Gradients())}
