"""Adam moments come back exactly, whoever wrote them, and moments of something else are refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moments_cases import lora_llama, sizes, states_by_name, trained
from tiny_models import tiny_gpt2, tiny_llama
from torch import nn
from transformers import Trainer, TrainingArguments

from clusterucb.checkpoint.moments import FILE_NAME, Moments, check_moments, load_moments, save_moments
from clusterucb.errors import ModelError


def assert_same(moments: Moments, states: dict[str, dict[str, torch.Tensor]], step: int | None = 2) -> None:
    for kind, tensors in (("exp_avg", moments.exp_avg), ("exp_avg_sq", moments.exp_avg_sq)):
        assert tensors.keys() == states.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, states[name][kind]), name
    assert moments.step == step


def some_moments(model: nn.Module) -> Moments:
    generator = torch.Generator().manual_seed(1)
    first = {name: torch.randn(size, generator=generator) for name, size in sizes(model).items()}
    return Moments(first, {name: tensor**2 for name, tensor in first.items()}, 7)


# --- our own format ---------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=3), max_size=4),
    step=st.none() | st.integers(0, 2**40),
    as_file=st.booleans(),
)
def test_moments_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, shapes: list, step: int, as_file: bool
):
    first = {f"layer.{i}.weight": torch.randn(shape) for i, shape in enumerate(shapes)}
    moments = Moments(first, {name: tensor**2 for name, tensor in first.items()}, step)
    place = tmp_path_factory.mktemp("moments")
    written = save_moments(place / "adam.safetensors" if as_file else place, moments)
    assert written.name == ("adam.safetensors" if as_file else FILE_NAME)
    again = load_moments(written if as_file else place, nn.Linear(1, 1))
    assert again.step == step
    for old, new in ((moments.exp_avg, again.exp_avg), (moments.exp_avg_sq, again.exp_avg_sq)):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_transposed_moments_are_written_as_they_read(tmp_path: Path):
    tensor = torch.arange(6.0).reshape(2, 3).T
    save_moments(tmp_path, Moments({"w": tensor}, {"w": tensor}, None))
    assert torch.equal(load_moments(tmp_path, nn.Linear(1, 1)).exp_avg["w"], tensor)


# --- torch optimizers -------------------------------------------------------------------------------------------


def test_a_numbered_state_is_read_in_the_models_order(tmp_path: Path):
    model = lora_llama()
    optimizer, states = trained(model)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    model.requires_grad_(False)  # as a loaded model is
    for place in (tmp_path, tmp_path / "optimizer.pt"):
        assert_same(load_moments(place, model), states)


@pytest.mark.parametrize("rule", ["decay by name", "decay by shape", "another rate for B", "reversed LoRA+ of all"])
def test_the_groups_of_known_trainers_are_recognised(rule: str, tmp_path: Path):
    lora = "B" in rule or "LoRA" in rule
    model = lora_llama() if lora else tiny_gpt2()
    rules: dict[str, Callable[[str, nn.Parameter], int]] = {
        "decay by name": lambda name, p: int("bias" in name),
        "decay by shape": lambda name, p: int(p.dim() < 2),
        "another rate for B": lambda name, p: int("lora_B" in name),
        "reversed LoRA+ of all": lambda name, p: int("lora_A" in name),
    }
    optimizer, states = trained(model, rules[rule])
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    if rule.startswith("reversed"):
        with pytest.raises(ModelError, match="8 parameters in 2 groups"):
            load_moments(tmp_path, model)
    else:
        assert_same(load_moments(tmp_path, model), states)


@pytest.mark.parametrize("prefix", ["", "module.", "_fsdp_wrapped_module."])
def test_a_state_keyed_by_names_is_read(prefix: str, tmp_path: Path):
    model = lora_llama()
    optimizer, states = trained(model)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    state = optimizer.state_dict()
    named = {prefix + names[i]: values for i, values in state["state"].items()}
    groups = [group | {"params": [prefix + names[i] for i in group["params"]]} for group in state["param_groups"]]
    torch.save({"state": dict(reversed(named.items())), "param_groups": groups}, tmp_path / "optimizer.bin")
    assert_same(load_moments(tmp_path, model), states)


def test_names_kept_beside_numbers_are_believed(tmp_path: Path):
    model = lora_llama()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": named[3:]}, {"params": named[:3]}])  # in no known order
    rows = torch.arange(18).reshape(2, 9)
    for _ in range(2):
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    assert_same(load_moments(tmp_path, model), states_by_name(model, optimizer))


def test_bfloat16_moments_become_float32(tmp_path: Path):
    model = lora_llama().to(torch.bfloat16)
    optimizer, states = trained(model)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    widened = {name: {kind: tensor.float() for kind, tensor in state.items()} for name, state in states.items()}
    assert_same(load_moments(tmp_path, model), widened)


@pytest.mark.parametrize("kind", ["lora", "everything"])
def test_the_optimizer_of_a_real_trainer_is_read(kind: str, tmp_path: Path):
    model = lora_llama() if kind == "lora" else tiny_gpt2()
    rows = [{"input_ids": list(range(i, i + 8)), "labels": list(range(i, i + 8))} for i in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=2,
        weight_decay=0.1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    optimizer = trainer.optimizer
    states = states_by_name(model, getattr(optimizer, "optimizer", optimizer))
    moments = load_moments(tmp_path / "checkpoint-2", model)
    assert_same(moments, states)
    check_moments(moments, sizes(model))


# --- refusals ---------------------------------------------------------------------------------------------------


def test_what_holds_no_moments_is_refused(tmp_path: Path):
    model = lora_llama()
    with pytest.raises(ModelError, match="does not exist"):
        load_moments(tmp_path / "nowhere", model)
    with pytest.raises(ModelError, match="holds no Adam moments"):
        load_moments(tmp_path, model)
    (tmp_path / "optimizer.pt").write_bytes(b"no archive")
    with pytest.raises(ModelError, match=r"optimizer\.pt cannot be"):
        load_moments(tmp_path, model)
    torch.save([1], tmp_path / "optimizer.pt")
    with pytest.raises(ModelError, match="holds a list"):
        load_moments(tmp_path, model)
    torch.save(torch.optim.AdamW(model.parameters()).state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(ModelError, match="no step"):
        load_moments(tmp_path, model)
    (tmp_path / FILE_NAME).write_bytes(b"\0" * 30)
    with pytest.raises(ModelError, match="cannot be read"):
        load_moments(tmp_path, model)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="holds no moments"):
        load_moments(tmp_path / "adapter_model.safetensors", model)


def test_states_without_moments_are_refused(tmp_path: Path):
    model = lora_llama()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    rows = torch.arange(18).reshape(2, 9)
    model(input_ids=rows, labels=rows).loss.backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(ModelError, match="no state of Adam"):
        load_moments(tmp_path, model)


def test_code_in_a_state_is_not_run(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"state": {0: {"exp_avg": Trap()}}, "param_groups": []}, tmp_path / "optimizer.pt")
    with pytest.raises(ModelError, match=r"without running code.*mkdir"):
        load_moments(tmp_path, lora_llama())
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("other", [("q_proj", "v_proj", "o_proj"), ("q_proj",)])
def test_a_numbered_state_of_another_adapter_is_refused(other: tuple[str, ...], tmp_path: Path):
    optimizer, _ = trained(lora_llama(other))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(ModelError, match="another adapter"):
        load_moments(tmp_path, lora_llama())


def test_a_numbered_state_of_another_rank_is_refused(tmp_path: Path):
    optimizer, _ = trained(lora_llama(r=4))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(ModelError, match="shape"):
        load_moments(tmp_path, lora_llama(r=3))


def test_moments_that_fit_pass_the_check():
    check_moments(some_moments(lora_llama()), sizes(lora_llama()))


def test_moments_of_another_adapter_are_refused_by_name():
    wanted = sizes(lora_llama())
    for model, word in (
        (lora_llama(("q_proj",)), r"missing, first model\.layers\.0\.self_attn\.v_proj\.lora_A\.weight"),
        (lora_llama(("q_proj", "v_proj", "o_proj")), r"does not train, first model\.layers\.0\.self_attn\.o_proj"),
        (lora_llama(r=5), r"lora_A\.weight has shape \(5, 32\) instead of \(3, 32\)"),
    ):
        with pytest.raises(ModelError, match=word):
            check_moments(some_moments(model), wanted)


def test_gradients_of_a_few_layers_may_use_moments_of_a_full_training():
    few = {name: size for name, size in sizes(tiny_llama()).items() if "q_proj" in name}
    check_moments(some_moments(tiny_llama()), few)


@pytest.mark.parametrize(("value", "word"), [(torch.nan, "NaN"), (torch.inf, "NaN or infinite"), (-1.0, "negative")])
def test_impossible_second_moments_are_refused(value: float, word: str):
    moments = some_moments(lora_llama())
    name = next(iter(moments.exp_avg_sq))
    moments.exp_avg_sq[name][0, 0] = value
    with pytest.raises(ModelError, match=rf"exp_avg_sq of {name} .*{word}"):
        check_moments(moments, sizes(lora_llama()))


def test_moments_that_are_one_and_the_same_are_refused():
    moments = some_moments(lora_llama())
    with pytest.raises(ModelError, match=r"lora_A\.weight is the same as its exp_avg_sq"):
        check_moments(Moments(moments.exp_avg_sq, moments.exp_avg_sq, 1), sizes(lora_llama()))
