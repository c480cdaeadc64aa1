"""A stretch of training: torch's own numbers, the same bytes whatever interrupts it, on any number of ranks."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from tiny_models import tiny_llama
from train_on_ranks import RANKS, Ranks
from training_cases import a_stretch, by_torch_alone, config_file, differences, files_of, outcome_of

from clusterucb.checkpoint.model import load_model
from clusterucb.errors import ModelError, Stopped
from clusterucb.run.events import Event, Stepped
from clusterucb.training.checkpoint import read_record
from clusterucb.training.stretch import Stretch, evenly
from clusterucb.training.trainer import ALONE, kept_checkpoints, train


def changed(stretch: Stretch, **settings: object) -> Stretch:
    return stretch.model_copy(update={"training": stretch.training.model_copy(update=settings)})


def trained(stretch: Stretch, folder: Path) -> Path:
    return train(stretch, folder, ALONE, lambda event: None)


@pytest.fixture(scope="module")
def stretch(tmp_path_factory: pytest.TempPathFactory) -> Stretch:
    return a_stretch(tmp_path_factory.mktemp("stretch"))


@pytest.fixture(scope="module")
def checkpoint(stretch: Stretch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(stretch, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    "settings",
    [{}, {"packing": True}, {"gradient_checkpointing": True}, {"group_by_length": True, "schedule": "cosine"}],
    ids=["padded", "packed", "checkpointing", "grouped"],
)
def test_losses_weights_and_moments_are_those_of_torch_alone(stretch: Stretch, settings: dict, tmp_path: Path):
    asked = changed(stretch, **settings)
    found = outcome_of(trained(asked, tmp_path), asked)
    assert max(differences(found, by_torch_alone(asked)).values()) < 1e-5


def test_a_second_stretch_goes_on_with_weights_moments_and_schedule(stretch: Stretch, checkpoint: Path, tmp_path: Path):
    further = stretch.model_copy(update={"start": checkpoint, "first_step": 6, "steps": 3, "schedule_steps": 12})
    found = outcome_of(trained(further, tmp_path), stretch)
    assert found.step == 9
    assert max(differences(found, by_torch_alone(further)).values()) < 1e-5


def test_the_same_training_leaves_the_same_bytes(stretch: Stretch, checkpoint: Path, tmp_path: Path):
    assert files_of(trained(stretch, tmp_path)) == files_of(checkpoint)


@pytest.fixture(scope="module")
def whole(stretch: Stretch, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stretch, Path]:
    """A training with dropout and a checkpoint on the way, which nothing interrupts."""
    asked, folder = changed(stretch, dropout=0.3).model_copy(update={"keep": (2,)}), tmp_path_factory.mktemp("whole")
    trained(asked, folder)
    return asked, folder


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("how", ["crash", "stop"])
def test_an_interrupted_training_ends_with_the_same_bytes(
    whole: tuple[Stretch, Path], how: str, after: int, tmp_path: Path
):
    asked, expected = whole
    made: list[int] = []

    class Crash(Exception):
        pass

    def emit(event: Event) -> None:
        if isinstance(event, Stepped):
            made.append(event.step)
            if how == "crash" and len(made) > after:
                raise Crash

    with pytest.raises((Crash, Stopped)):
        train(asked, tmp_path / "cut", ALONE, emit, lambda: how == "stop" and len(made) == after)
    first = len(made)
    train(asked, tmp_path / "cut", ALONE, emit if how == "stop" else lambda event: None)
    for name in ("checkpoint", "checkpoint-2"):
        assert files_of(tmp_path / "cut" / name) == files_of(expected / name)
    assert not list((tmp_path / "cut" / "state").glob("*"))
    if how == "stop":
        assert made == list(range(1, 7)), "a stopped training repeats no step"
    else:
        assert first == after + 1


def test_checkpoints_on_the_way_are_kept_with_the_rates_since_the_last(stretch: Stretch, tmp_path: Path):
    asked = stretch.model_copy(update={"keep": evenly(6, 3)})
    trained(asked, tmp_path)
    records = [read_record(folder) for folder in kept_checkpoints(asked, tmp_path)]
    assert [record.step for record in records] == [2, 4, 6]
    rates = [step.learning_rate for step in records[-1].steps]
    for record, (start, stop) in zip(records, [(0, 2), (2, 4), (4, 6)], strict=True):
        assert record.mean_learning_rate == pytest.approx(sum(rates[start:stop]) / 2)


def test_a_loss_that_is_not_finite_ends_the_training_by_name(stretch: Stretch, tmp_path: Path):
    with pytest.raises(ModelError, match=r"loss of training step \d+ is .*lower training\.learning_rate \(1e\+30\)"):
        trained(changed(stretch, learning_rate=1e30), tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_peft_loads_the_adapter_with_the_names_that_vllm_expects(stretch: Stretch, checkpoint: Path):
    ours = load_model(stretch.model.model_copy(update={"adapter": str(checkpoint)}), torch.device("cpu"), 0, "lora")
    theirs = PeftModel.from_pretrained(tiny_llama(), checkpoint)
    ids = torch.arange(20)[None]
    assert torch.equal(ours.model(input_ids=ids).logits, theirs(input_ids=ids).logits)
    with safe_open(checkpoint / "adapter_model.safetensors", framework="pt") as file:
        names = set(file.keys())
    layers = (f"base_model.model.model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qkvo")
    assert names == {f"{layer}.lora_{side}.weight" for layer in layers for side in "AB"}
    settings = config_file(checkpoint)
    assert settings["peft_type"] == "LORA"
    assert settings["r"] == 8
    assert isinstance(settings["lora_alpha"], int)
    assert settings["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert settings["base_model_name_or_path"] == stretch.model.base
    assert settings["bias"] == "none"
    assert not any(settings[name] for name in ("modules_to_save", "use_dora", "use_rslora"))


def test_an_adapter_that_is_more_than_lora_is_refused(stretch: Stretch, checkpoint: Path, tmp_path: Path):
    (tmp_path / "more").mkdir()
    for name, content in files_of(checkpoint).items():
        (tmp_path / "more" / name).write_bytes(content)
    settings = config_file(checkpoint) | {"bias": "lora_only"}
    (tmp_path / "more" / "adapter_config.json").write_text(json.dumps(settings))
    asked = stretch.model_copy(update={"start": tmp_path / "more"})
    with pytest.raises(ModelError, match="bias 'lora_only'"):
        trained(asked, tmp_path / "run")


# --- ranks ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(RANKS) as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_train_as_one_process_does(
    stretch: Stretch, checkpoint: Path, ranks: Ranks, stage: int, tmp_path: Path
):
    sharded = changed(stretch, zero=stage)
    found = outcome_of(ranks.train(sharded, tmp_path), stretch)
    assert max(differences(found, outcome_of(checkpoint, stretch)).values()) < 1e-4
    assert read_record(tmp_path / "checkpoint").ranks == RANKS


@pytest.mark.slow
def test_a_zero_training_is_taken_up_by_another_stage(stretch: Stretch, checkpoint: Path, ranks: Ranks, tmp_path: Path):
    half = changed(stretch, zero=3, schedule="constant").model_copy(update={"steps": 3})
    ranks.train(half, tmp_path / "first")
    further = {"start": tmp_path / "first" / "checkpoint", "first_step": 3, "steps": 3}
    found, wanted = (
        outcome_of(train_further, stretch)
        for train_further in (
            ranks.train(changed(half, zero=2).model_copy(update=further), tmp_path / "second"),
            trained(changed(half, zero=0).model_copy(update=further), tmp_path / "alone"),
        )
    )
    assert max(differences(found, wanted).values()) < 1e-4
