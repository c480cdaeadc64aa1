"""Sketches are one fixed map that keeps cosines to about 1 / sqrt(D), also on gradients made to break it."""

import math

import numpy as np
import pytest
import torch
from gradient_cases import CPU, batch_of, llama_linears
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb.config import HashSketch, NoSketch, RademacherSketch, Sketch
from clusterucb.gradients.engine import GradientEngine
from clusterucb.gradients.sketch import sketcher, unit_rows

SEEDS = range(12)


def sketch_of(config: Sketch, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sketch [B, P] gradients by parameter name."""
    made = sketcher(config, CPU)
    sketch_BD = torch.zeros(len(next(iter(parts.values()))), config.dim)
    for name, rows_BP in parts.items():
        made.fold(name, rows_BP, sketch_BD)
    return sketch_BD


def rms_error(kind, dim: int, parts: dict[str, torch.Tensor], seeds=SEEDS, **more) -> float:
    """Return the RMS, over seeds and pairs of samples, of the error of cosines."""
    whole = unit_rows(torch.cat(list(parts.values()), 1))
    pairs = torch.ones(len(whole), len(whole)).tril(-1).bool()
    errors = []
    for seed in seeds:
        sketch_BD = unit_rows(sketch_of(kind(dim=dim, seed=seed, **more), parts))
        errors.append((sketch_BD @ sketch_BD.T - whole @ whole.T)[pairs])
    return float(torch.cat(errors).square().mean().sqrt())


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rank_one(samples: int, rows: int, columns: int, hot: list[int], *, shared: bool) -> torch.Tensor:
    """Gradients g a^T whose input `a` is almost all in the hot columns; `shared`: samples differ little."""
    a = 0.01 * gaussian(samples, columns, seed=1)
    a[:, hot] = 1.0 + 0.3 * gaussian(samples, len(hot), seed=2)
    g = gaussian(samples, rows, seed=3)
    if shared:
        g = gaussian(1, rows, seed=4) + 0.3 * g
    return (g[:, :, None] * a[:, None, :]).flatten(1)


ADVERSARIAL = {
    # LoRA pairs smaller than D
    "one hot column, LoRA A": (rank_one, {"rows": 8, "columns": 576, "hot": [123]}),
    # linears whose width divides D, is a multiple of it, or is prime to it
    "one hot column, width divides D": (rank_one, {"rows": 300, "columns": 64, "hot": [17]}),
    "one hot column, width is D": (rank_one, {"rows": 200, "columns": 512, "hot": [17]}),
    "one hot column, width is 2 D": (rank_one, {"rows": 150, "columns": 1024, "hot": [17]}),
    "one hot column, odd width": (rank_one, {"rows": 300, "columns": 193, "hot": [17]}),
    "one hot row": (rank_one, {"rows": 300, "columns": 192, "hot": list(range(192))}),
    "columns D apart": (rank_one, {"rows": 64, "columns": 1536, "hot": [5, 517, 1029]}),
    "columns D / 2 apart": (rank_one, {"rows": 64, "columns": 512, "hot": [5, 261]}),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_hash_does_not_collapse_on_rank_one_gradients_with_hot_columns(name, shared):
    build, how = ADVERSARIAL[name]
    dim = 512
    parts = {"layer.weight": build(6, shared=shared, **how)}
    assert rms_error(HashSketch, dim, parts, seeds=range(40)) <= 1.2 / math.sqrt(dim)


@pytest.mark.parametrize("shared", [False, True])
def test_hash_does_not_collapse_where_many_layers_share_a_hot_column(shared):
    parts = {f"layers.{i}.{p}_proj": rank_one(6, 8, 64, [9], shared=shared) for i in range(4) for p in "qkv"}
    assert rms_error(HashSketch, 512, parts, seeds=range(40)) <= 1.2 / math.sqrt(512)


@pytest.mark.parametrize("dim", [64, 500, 512, 1000])
@pytest.mark.parametrize("nonzeros", [1, 3])
def test_hash_keeps_inner_products_of_random_vectors_of_any_size(dim, nonzeros):
    parts = {"a": gaussian(5, 40), "b": gaussian(5, 3 * dim + 7, seed=1), "c": gaussian(5, dim, seed=2)}
    assert rms_error(HashSketch, dim, parts, nonzeros=nonzeros) <= 1.2 / math.sqrt(dim)


def test_rademacher_keeps_inner_products():
    parts = {"a": gaussian(5, 40), "b": rank_one(5, 20, 30, [3], shared=True)}
    assert rms_error(RademacherSketch, 256, parts) <= 1.2 / math.sqrt(256)


@pytest.mark.parametrize("kind", [HashSketch, RademacherSketch])
def test_real_gradients_keep_their_cosines(kind):
    model, config = llama_linears()
    found = GradientEngine(model, config, None, CPU).gradients(batch_of([9, 14, 5, 22, 8]))
    parts = {name: vectors.flatten(1) for name, vectors in found.vectors.items()}
    assert rms_error(kind, 256, parts) <= 1.2 / math.sqrt(256)


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 1500),
    dim=st.integers(64, 300),
    nonzeros=st.integers(1, 3),
    seed=st.integers(0, 2**62),
)
def test_hash_is_linear_and_each_coordinate_has_its_signs(size, dim, nonzeros, seed):
    config = HashSketch(dim=dim, nonzeros=nonzeros, seed=seed)
    x, y = gaussian(1, size, seed=1), gaussian(1, size, seed=2)
    found = sketch_of(config, {"w": 2 * x - 3 * y})
    torch.testing.assert_close(
        found, 2 * sketch_of(config, {"w": x}) - 3 * sketch_of(config, {"w": y}), rtol=1e-4, atol=1e-4
    )
    one = torch.zeros(1, size)
    one[0, size // 2] = 1.0
    assert sketch_of(config, {"w": one}).abs().sum() <= math.sqrt(nonzeros) + 1e-5
    if nonzeros == 1:
        assert sorted(sketch_of(config, {"w": one}).abs().flatten().tolist())[-2:] == [0.0, 1.0]


@pytest.mark.parametrize("config", [HashSketch(dim=100, nonzeros=2), RademacherSketch(dim=100)])
def test_one_map_whatever_the_batch_and_the_order_of_layers(config):
    parts = {"a": gaussian(4, 90), "b": gaussian(4, 700, seed=1)}
    whole = sketch_of(config, parts)
    backwards = sketch_of(config, dict(reversed(parts.items())))
    alone = torch.cat([sketch_of(config, {name: rows[i : i + 1] for name, rows in parts.items()}) for i in range(4)])
    torch.testing.assert_close(backwards, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-5)


def test_seed_and_name_make_the_map():
    rows = {"a": gaussian(1, 300)}
    base = sketch_of(HashSketch(dim=128, seed=1), rows)
    assert torch.equal(base, sketch_of(HashSketch(dim=128, seed=1), rows))
    assert not torch.equal(base, sketch_of(HashSketch(dim=128, seed=2), rows))
    assert not torch.equal(base, sketch_of(HashSketch(dim=128, seed=1), {"b": rows["a"]}))


PINNED_HASH = [-2.0, 207.0, 106.0, -321.0, -210.0, 211.0]
PINNED_DENSE = [2176, -1660, 1516, 274]


def test_the_map_never_changes():
    """Stored sketches stay comparable: these numbers were written down once."""
    rows = {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.arange(1.0, 201.0)[None]}
    found = sketch_of(HashSketch(dim=64, seed=3), rows)[0, :6]
    dense = sketch_of(RademacherSketch(dim=64, seed=3), rows)[0, :4] * 8
    assert found.tolist() == PINNED_HASH
    assert [round(x) for x in dense.tolist()] == PINNED_DENSE


def test_unit_rows_leaves_zero_rows():
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_no_sketch_is_none():
    assert sketcher(NoSketch(), CPU) is None
