"""Tasks of lm-evaluation-harness, where it is installed; one line where it is not."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny_models import saved, tiny_llama

from clusterucb.checkpoint.model import load_model, load_tokenizer
from clusterucb.config import Harness, Model
from clusterucb.errors import ConfigError
from clusterucb.evaluation.harness import check_harness, harness_results

TASK = {
    "task": "tiny_sums",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": ["one", "two"],
    "doc_to_target": "{{a}}",
    "metric_list": [{"metric": "acc"}],
}


def test_a_harness_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"names arc_easy, but lm-evaluation-harness is not installed: pip install"):
        check_harness(Harness(tasks=("arc_easy",)))
    check_harness(None)


def test_the_harness_runs_tasks_of_ones_own(tmp_path: Path):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install '.[harness]'")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"q": f"{i} plus", "a": i % 2}) + "\n" for i in range(8)))
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(rows)}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(task))
    asked = Model(base=str(saved(tiny_llama(), tmp_path / "model")))
    model = load_model(asked, torch.device("cpu"), 0, ()).model
    settings = Harness(tasks=("tiny_sums",), include=str(tmp_path), limit=6)
    found = harness_results(model, load_tokenizer(asked), settings)
    assert 0 <= found["tiny_sums"]["acc,none"] <= 1
    with pytest.raises(ConfigError, match="knows no task 'nonsense'"):
        harness_results(model, load_tokenizer(asked), settings.model_copy(update={"tasks": ("nonsense",)}))
