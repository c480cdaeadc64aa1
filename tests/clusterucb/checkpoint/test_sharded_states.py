"""Moments that several ranks wrote in shards, with DeepSpeed and FSDP: put together they are those of one process."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import train_with_deepspeed
import train_with_fsdp
from moments_cases import lora_llama, sizes, trained
from torch.distributed import checkpoint
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from clusterucb.checkpoint.moments import Moments, check_moments, load_moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.errors import ModelError


def on_two_ranks(program: ModuleType, folder: Path) -> Path:
    """Have two ranks write their checkpoints into a folder."""
    ranks = ["--standalone", "--nproc-per-node", str(train_with_deepspeed.RANKS)]
    command = [sys.executable, "-m", "torch.distributed.run", *ranks, str(program.__file__), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.fixture(scope="module")
def deepspeed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of ZeRO 1, 2 and 3."""
    return on_two_ranks(train_with_deepspeed, tmp_path_factory.mktemp("deepspeed"))


@pytest.fixture(scope="module")
def fsdp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of FSDP 1 and 2."""
    return on_two_ranks(train_with_fsdp, tmp_path_factory.mktemp("fsdp"))


def assert_close_to_one_process(moments: Moments) -> None:
    expected = {canonical_name(name): state for name, state in train_with_deepspeed.reference().items()}
    assert moments.exp_avg.keys() == expected.keys()
    for name, state in expected.items():
        torch.testing.assert_close(moments.exp_avg[name], state["exp_avg"], rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(moments.exp_avg_sq[name], state["exp_avg_sq"], rtol=1e-4, atol=1e-12)
    assert moments.step == train_with_deepspeed.STEPS


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_zero_checkpoint_of_two_ranks_is_put_together(deepspeed_folder: Path, stage: int, tmp_path: Path):
    model = train_with_deepspeed.a_model()
    moments = load_moments(deepspeed_folder / f"zero{stage}", model)
    check_moments(moments, sizes(model))
    assert_close_to_one_process(moments)

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


@pytest.mark.slow
@pytest.mark.parametrize("saved", ["optimizer_0", "flat", "optimizer.bin"])
@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_an_fsdp_checkpoint_of_two_ranks_is_put_together(fsdp_folder: Path, kind: str, saved: str, tmp_path: Path):
    model = train_with_deepspeed.a_model()
    place = shutil.move(shutil.copytree(fsdp_folder / kind, tmp_path / kind) / saved, tmp_path / saved)
    moments = load_moments(tmp_path if saved == "optimizer_0" else place, model)
    check_moments(moments, sizes(model))
    assert_close_to_one_process(moments)
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
