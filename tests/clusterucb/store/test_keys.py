"""A key changes with whatever changes a sketch, and with nothing else."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from selection_cases import config_of, run_here, small_selection

from clusterucb.checkpoint.identity import Digests
from clusterucb.data.tokens import TokenStore
from clusterucb.store.keys import fingerprints, key_of
from clusterucb.store.shards import FINGERPRINT


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_selection(tmp_path_factory.mktemp("material"), rows=40)


def digest(settings: dict[str, object], folder: Path, *overrides: str, device: str = "cpu") -> str:
    return key_of(config_of(settings, *overrides), device, Digests(folder / "digests")).key.digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",  # of a fresh adapter
        "model.lora.r=4",
        "model.lora.alpha=8",
        "model.lora.init_b=gaussian",
        "model.lora.target_modules=all-linear",
        "model.dtype=bfloat16",
        "model.attention=eager",
        "gradients.modules=['model.layers.1.mlp.down_proj']",
        "gradients.sketch.dim=256",
        "gradients.sketch.nonzeros=2",
        "gradients.sketch.seed=1",
        "gradients.sketch.kind=rademacher",
    ],
)
def test_what_changes_a_sketch_changes_the_key(settings, tmp_path: Path, override: str):
    assert digest(settings, tmp_path, override) != digest(settings, tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "search.budget=0.5",
        "search.allocator.kind=uniform",
        "selection.count=3",
        "tokens.max_length=64",  # samples are named by their tokens
        "gradients.scoring=sketch",
        "gradients.batch_tokens=64",
        "gradients.precondition.beta1=0.5",  # no moments, no Adam
        "workers.count=1",
    ],
)
def test_what_does_not_leaves_it(settings, tmp_path: Path, override: str):
    assert digest(settings, tmp_path, override) == digest(settings, tmp_path)


def test_checkpoints_are_known_by_content(settings, tmp_path: Path):
    before = digest(settings, tmp_path)
    copy = Path(shutil.copytree(settings["model"]["base"], tmp_path / "model"))
    assert digest(settings, tmp_path, f"model.base={copy}") == before
    assert digest(settings, tmp_path, device="cuda") != before
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    os.utime(copy / "model.safetensors", (1, 1))
    assert digest(settings, tmp_path, f"model.base={copy}") != before


def test_moments_are_known_by_content_and_bring_the_preconditioner_in(settings, tmp_path: Path):
    moments = tmp_path / "moments.safetensors"
    moments.write_bytes(b"one")
    given = f"model.moments={moments}"
    first = digest(settings, tmp_path, given)
    assert first != digest(settings, tmp_path)
    assert digest(settings, tmp_path, given, "gradients.precondition.beta1=0.5") != first
    assert digest(settings, tmp_path, given, "gradients.precondition.kind=plain") == digest(settings, tmp_path)
    moments.write_bytes(b"two")
    assert digest(settings, tmp_path, given) != first


def test_a_kept_digest_is_of_the_file_as_it_is(tmp_path: Path):
    path, digests = tmp_path / "weights", Digests(tmp_path / "kept")
    path.write_bytes(b"old")
    os.utime(path, (1, 1))
    old = digests.of(path)
    assert digests.of(path) == old
    assert list((tmp_path / "kept").iterdir())
    path.write_bytes(b"new")  # the same size, changed just now
    assert digests.of(path) != old


def test_samples_are_named_by_tokens_and_labels(settings, tmp_path: Path):
    folder = run_here(config_of(settings, "search.allocator.kind=uniform", "audit.samples=0"), tmp_path / "run")
    other = config_of(settings, "search.allocator.kind=uniform", "audit.samples=0", "tokens.loss_on=all")
    pools = [TokenStore.open(run.state / "pool") for run in (folder, run_here(other, tmp_path / "other"))]
    names = [fingerprints(pool, np.arange(pool.num_samples)) for pool in pools]
    distinct = {(tuple(pools[0].batch([i]).tokens_T), tuple(pools[0].batch([i]).labels_T)) for i in range(40)}
    assert len({name.tobytes() for name in names[0]}) == len(distinct)
    assert not (names[0] == names[1]).any()
    shuffled = np.random.default_rng(0).permutation(40)
    assert (fingerprints(pools[0], shuffled) == names[0][shuffled]).all()
    assert fingerprints(pools[0], np.arange(0)).dtype == FINGERPRINT
