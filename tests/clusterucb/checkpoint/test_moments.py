"""Adam moments come back exactly, whoever wrote them, and moments of something else are refused."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import train_with_deepspeed
import train_with_fsdp
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_gpt2, tiny_llama
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import Trainer, TrainingArguments

from clusterucb.checkpoint.moments import FILE_NAME, Moments, check_moments, load_moments, save_moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.errors import ModelError


def lora_llama(targets: tuple[str, ...] = ("q_proj", "v_proj"), r: int = 3) -> nn.Module:
    return get_peft_model(tiny_llama(), LoraConfig(r=r, target_modules=list(targets)))


def sizes(model: nn.Module) -> dict[str, torch.Size]:
    return {canonical_name(n): p.shape for n, p in model.named_parameters() if p.requires_grad}


def trained(model: nn.Module, group: Callable[[str, nn.Parameter], int] = lambda name, parameter: 0):
    """Make two AdamW steps; return the optimizer and its state by canonical name."""
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(group(name, parameter), []).append(parameter)
    optimizer = torch.optim.AdamW([{"params": groups[i]} for i in sorted(groups)], lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        rows = torch.randint(0, 90, (2, 9), generator=generator)
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer, states_by_name(model, optimizer)


def states_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    return {canonical_name(n): optimizer.state[p] for n, p in model.named_parameters() if p.requires_grad}


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


# --- DeepSpeed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deepspeed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of ZeRO 1, 2 and 3, written by two ranks."""
    folder = tmp_path_factory.mktemp("deepspeed")
    ranks = ["--standalone", "--nproc-per-node", str(train_with_deepspeed.RANKS)]
    program = [str(Path(train_with_deepspeed.__file__)), str(folder)]
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *ranks, *program], capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_zero_checkpoint_of_two_ranks_is_put_together(deepspeed_folder: Path, stage: int, tmp_path: Path):
    model = train_with_deepspeed.a_model()
    moments = load_moments(deepspeed_folder / f"zero{stage}", model)
    check_moments(moments, sizes(model))
    expected = {canonical_name(name): state for name, state in train_with_deepspeed.reference().items()}
    for name, state in expected.items():
        torch.testing.assert_close(moments.exp_avg[name], state["exp_avg"], rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(moments.exp_avg_sq[name], state["exp_avg_sq"], rtol=1e-4, atol=1e-12)
    assert moments.step == train_with_deepspeed.STEPS

    copy = shutil.copytree(deepspeed_folder / f"zero{stage}", tmp_path / "copy")
    step = copy / (copy / "latest").read_text()
    next(step.glob("*rank_1*_optim_states.pt")).unlink()
    with pytest.raises(ModelError, match="written by 2 ranks and has 1 file"):
        load_moments(copy, model)


@pytest.mark.slow
def test_a_universal_checkpoint_holds_the_same_moments(deepspeed_folder: Path, tmp_path: Path):
    step = deepspeed_folder / "zero2" / f"global_step{train_with_deepspeed.STEPS}"
    folders = ["--input_folder", str(step), "--output_folder", str(tmp_path / "universal"), "--inject_missing_state"]
    converted = subprocess.run(
        [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", *folders],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert converted.returncode == 0, converted.stdout + converted.stderr
    model = train_with_deepspeed.a_model()
    moments, same = load_moments(tmp_path / "universal", model), load_moments(step, model)
    assert moments.exp_avg.keys() == same.exp_avg.keys()
    for name in same.exp_avg:
        assert torch.equal(moments.exp_avg[name], same.exp_avg[name])
        assert torch.equal(moments.exp_avg_sq[name], same.exp_avg_sq[name])


# --- FSDP -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fsdp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of FSDP 1 and 2, written by two ranks."""
    folder = tmp_path_factory.mktemp("fsdp")
    ranks = ["--standalone", "--nproc-per-node", str(train_with_deepspeed.RANKS)]
    program = [str(Path(train_with_fsdp.__file__)), str(folder)]
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *ranks, *program], capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("saved", ["optimizer_0", "flat", "optimizer.bin"])
@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_an_fsdp_checkpoint_of_two_ranks_is_put_together(fsdp_folder: Path, kind: str, saved: str, tmp_path: Path):
    model = train_with_deepspeed.a_model()
    place = shutil.move(shutil.copytree(fsdp_folder / kind, tmp_path / kind) / saved, tmp_path / saved)
    moments = load_moments(tmp_path if saved == "optimizer_0" else place, model)
    check_moments(moments, sizes(model))
    expected = {canonical_name(name): state for name, state in train_with_deepspeed.reference().items()}
    assert moments.exp_avg.keys() == expected.keys()
    for name, state in expected.items():
        torch.testing.assert_close(moments.exp_avg[name], state["exp_avg"], rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(moments.exp_avg_sq[name], state["exp_avg_sq"], rtol=1e-4, atol=1e-12)
    assert moments.step == train_with_deepspeed.STEPS
    other = lora_llama(("q_proj",))
    with pytest.raises(ModelError, match=r"does not train, first model\.layers\.0\.self_attn\.v_proj\.lora_A"):
        check_moments(moments, sizes(other))


@pytest.mark.slow
def test_a_sharded_state_written_as_one_file_is_read_too(fsdp_folder: Path, tmp_path: Path):
    sharded, model = fsdp_folder / "fsdp2" / "optimizer_0", train_with_deepspeed.a_model()
    dcp_to_torch_save(sharded, tmp_path / "optimizer.bin")
    moments, same = load_moments(tmp_path, model), load_moments(sharded, model)
    assert moments.exp_avg.keys() == same.exp_avg.keys()
    assert all(torch.equal(moments.exp_avg_sq[name], same.exp_avg_sq[name]) for name in same.exp_avg_sq)
    assert moments.step == same.step


@pytest.mark.slow
def test_a_torn_sharded_state_is_refused(fsdp_folder: Path, tmp_path: Path):
    model = train_with_deepspeed.a_model()
    torn = shutil.copytree(fsdp_folder / "fsdp2" / "flat", tmp_path / "torn")
    (torn / "__1_0.distcp").unlink()
    with pytest.raises(ModelError, match=r"__1_0\.distcp cannot be read .*copy all files"):
        load_moments(torn, model)
    metadata = torn / ".metadata"
    metadata.write_bytes(metadata.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"damaged|cannot be opened"):
        load_moments(torn, model)
    metadata.unlink()
    with pytest.raises(ModelError, match="copy it too"):
        load_moments(torn, model)


def distributed_checkpoint(state: dict[str, object], folder: Path) -> Path:
    checkpoint.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def test_sharded_states_without_names_or_without_adam_are_refused(tmp_path: Path):
    model = lora_llama()
    numbered = {"optimizer": trained(model)[0].state_dict()}
    with pytest.raises(ModelError, match=r"numbers its parameters .*get_optimizer_state_dict"):
        load_moments(distributed_checkpoint(numbered, tmp_path / "numbered"), model)
    weights = {"model": model.state_dict()}
    with pytest.raises(ModelError, match="holds no moments of Adam by parameter name"):
        load_moments(distributed_checkpoint(weights, tmp_path / "weights"), model)


def test_code_in_the_metadata_of_a_sharded_state_is_not_run(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "__0_0.distcp").touch()
    for trap in (Trap(), {"state_dict_metadata": Trap()}, [Trap]):
        (tmp_path / ".metadata").write_bytes(_pickled(trap))
        with pytest.raises(ModelError, match=r"without running code.*dcp_to_torch_save"):
            load_moments(tmp_path, lora_llama())
    assert not (tmp_path / "sprung").exists()


def test_a_sharded_state_points_at_files_of_its_own_folder_only(tmp_path: Path):
    generous = {"state.a.exp_avg": torch.ones(2), "state.a.exp_avg_sq": torch.ones(2)}
    folder = distributed_checkpoint(generous, tmp_path / "run")
    metadata = (folder / ".metadata").read_bytes()
    assert metadata.count(b"__0_0.distcp") >= 1
    (folder / ".metadata").write_bytes(metadata.replace(b"__0_0.distcp", b"../a__.distc"))
    with pytest.raises(ModelError, match="transformed or elsewhere"):
        load_moments(folder, lora_llama())


def _pickled(thing: object) -> bytes:
    if isinstance(thing, list):  # a class cannot be pickled from inside a function: name a dangerous one
        return b"\x80\x04cos\nsystem\n."
    return pickle.dumps(thing)
