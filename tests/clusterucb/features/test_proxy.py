"""A proxy's features are sketches of its own gradients on its own tokens, as autograd gives them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gradient_cases import CPU, batch_of, frozen, relative_error, truth
from selection_cases import config_of, run_here, small_selection
from tiny_models import saved, tiny_llama, tiny_neox
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clusterucb.checkpoint.layers import find_layers
from clusterucb.config import HashSketch, ProxyFeatures
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ModelError
from clusterucb.features.proxy import Proxy
from clusterucb.gradients.sketch import SignedHash
from clusterucb.plan.planned_work import plan_work
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.preparation import prepare
from clusterucb.run.prepared import open_prepared
from clusterucb.run.run_folder import RunFolder

PATTERN = r"gpt_neox\.layers\.1\..*\.(query_key_value|dense_4h_to_h)"


def other_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows lower-case letters only, by ids of its own."""
    vocabulary = {letter: i for i, letter in enumerate("zyxwvutsrqponmlkjihgfedcba ")}
    for token in ("<unk>", "<s>", "</s>"):
        vocabulary[token] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def proxy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proxy")
    saved(tiny_neox(hidden=16), folder)
    other_tokenizer().save_pretrained(folder)
    return folder


def test_features_are_sketches_of_autograds_gradients(proxy_folder: Path):
    features = ProxyFeatures(base=str(proxy_folder), modules=(PATTERN,), dim=256, seed=5)
    batch = batch_of([9, 20, 4], vocabulary=29)
    actual = Proxy(features, CPU, 0).features(batch)
    model = frozen(tiny_neox(hidden=16))
    layers = {layer.name: layer for layer in find_layers(model, (PATTERN,))}
    _, gradients = truth(model, list(layers), batch)
    expected_BD = torch.zeros(3, 256)
    sketcher = SignedHash(HashSketch(dim=256, seed=5), CPU)
    for name, gradient in gradients.items():
        sketcher.fold(name, layers[name].rows(gradient), expected_BD)
    expected_BD /= expected_BD.norm(dim=1, keepdim=True)
    assert actual.samples_B.tolist() == batch.samples_B.tolist()
    assert relative_error(torch.from_numpy(actual.features_BF).float(), expected_BD) < 2e-3  # half precision


def test_a_run_takes_a_proxy_beside_hidden_states_and_charges_its_parameters(proxy_folder: Path, tmp_path: Path):
    proxy = f"{{kind: proxy, base: {proxy_folder}, dim: 128, batch_tokens: 256, max_length: 60, lora: {{r: 2}}}}"
    config = config_of(
        small_selection(tmp_path, 80),
        f"features={{kind: several, parts: [{{kind: hidden}}, {proxy}]}}",
        "search.allocator.kind=predictive",
    )
    plan = RunFolder(tmp_path / "plan")
    prepared = prepare(config, plan, lambda what, rows: None)
    work = {stage.stage: stage for stage in plan_work(config, prepared.pool, prepared.target).stages}
    run = run_here(config, tmp_path / "run")
    cost = {stage["stage"]: stage for stage in json.loads(run.summary_file.read_text())["cost"]["stages"]}
    pool, _ = open_prepared(run)
    tokens = TokenStore.open(run.state / "features-2-tokens")
    assert list(tokens.ids) == list(pool.ids)
    assert int(tokens.lengths_N.max()) <= 60
    assert int(tokens.batch(np.arange(80)).tokens_T.max()) < 30, "ids of its own tokenizer"
    own = cost["features-2"]
    assert (own["samples"], own["forward_passes"], own["backward_passes"]) == (80, 80, 80)
    assert own["tokens"] == int(tokens.lengths_N.sum())
    assert len(work["features-2"].samples) == 80
    parameters = [sum(p.numel() for p in model.parameters()) for model in (tiny_neox(hidden=16), tiny_llama())]
    assert own["share"] == pytest.approx(parameters[0] / parameters[1])
    matrix = FeatureStore(run.state, 80, name="features-2").matrix()
    assert matrix.shape == (80, 128)
    np.testing.assert_allclose(np.linalg.norm(matrix.astype(np.float32), axis=1), 1.0, atol=1e-2)


def test_a_proxy_that_is_not_there_is_named_before_a_folder_is_claimed(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    config = config_of(small_selection(tmp_path, 80), f"features={{kind: proxy, base: {tmp_path / 'empty'}}}")
    with pytest.raises(ModelError, match=r"the proxy of features\.kind proxy"):
        prepare(config, RunFolder(tmp_path / "run"), lambda what, rows: None)
    assert not (tmp_path / "run").exists()
