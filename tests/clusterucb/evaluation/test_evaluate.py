"""Judging a model: torch's own losses, answers that are compared as they should be, and nothing done twice."""

import json
from pathlib import Path

import pytest
import torch
from selection_cases import write_rows
from torch.nn import functional
from training_cases import training_config
from transformers import AutoModelForCausalLM

from clusterucb.config import ExactMatch, RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ConfigError, DataError, Stopped
from clusterucb.evaluation.answers import extracted, same
from clusterucb.evaluation.evaluate import evaluate
from clusterucb.evaluation.held_out import NAME
from clusterucb.evaluation.preparation import prepare_evaluation
from clusterucb.evaluation.summary import Answer, EvaluationSummary, matches
from clusterucb.run.events import Event, Progressed
from clusterucb.run.run_folder import RunFolder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("evaluate")
    held_out = write_rows(folder / "held-out.jsonl", 9, ["sums", "birds"], seed=3)
    rows = [json.loads(line) | {"answer": str(i)} for i, line in enumerate(held_out.read_text().splitlines())]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return training_config(
        folder,
        f"evaluation.held_out.path={held_out}",
        "evaluation.held_out.subtask_field=source",
        "evaluation.batch_tokens=128",
        "evaluation.exact_match.max_new_tokens=5",
        "evaluation.exact_match.batch_size=4",
    )


def evaluated(
    config: RunConfig, folder: RunFolder, emit=lambda event: None, stopped=lambda: False
) -> EvaluationSummary:
    prepare_evaluation(config, folder, lambda what, rows: None)
    return evaluate(config, folder, CPU, emit, stopped)


@pytest.fixture(scope="module")
def whole(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    evaluated(config, folder)
    return folder


def test_loss_and_accuracy_are_those_of_transformers(config: RunConfig, whole: RunFolder):
    summary = EvaluationSummary.model_validate_json(whole.summary_file.read_bytes())
    model, store = AutoModelForCausalLM.from_pretrained(config.model.base), TokenStore.open(whole.state / NAME)
    losses, right, labels = [], 0, 0
    for i in range(len(store)):
        batch = store.batch([i])
        ids = torch.from_numpy(batch.tokens_T).long()[None]
        wanted = torch.where(torch.from_numpy(batch.labels_T)[None], ids, -100)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        losses.append(float(functional.cross_entropy(logits, wanted[0, 1:], ignore_index=-100)))
        right += int((logits.argmax(1) == wanted[0, 1:]).sum())
        labels += int((wanted != -100).sum())
    assert summary.held_out.examples == 9
    assert summary.held_out.loss == pytest.approx(sum(losses) / 9, rel=1e-5)
    assert summary.held_out.accuracy == right / labels
    assert {name: each.examples for name, each in summary.subtasks.items()} == {"birds": 4, "sums": 5}


def test_answers_are_what_the_model_says_greedily(config: RunConfig, whole: RunFolder):
    found = [Answer.model_validate_json(line) for line in (whole.path / "answers.jsonl").read_text().splitlines()]
    assert len(found) == 9
    model = AutoModelForCausalLM.from_pretrained(config.model.base)
    from clusterucb.checkpoint.model import load_tokenizer
    from clusterucb.data.chat import ChatEncoder
    from clusterucb.data.rows import read_rows

    tokenizer = load_tokenizer(config.model)
    encoder, rows = ChatEncoder(tokenizer, config.tokens), list(read_rows(config.evaluation.held_out))
    for row, answer in zip(rows, found, strict=True):
        tokens = encoder.prompt(row.messages).tolist()
        start = len(tokens)
        for _ in range(5):  # one token after another, alone in its batch
            with torch.no_grad():
                tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == tokenizer.eos_token_id:
                break
        assert answer.text == tokenizer.decode(tokens[start:], skip_special_tokens=True).strip()


def test_an_evaluation_that_was_interrupted_repeats_nothing_and_ends_alike(
    config: RunConfig, whole: RunFolder, tmp_path: Path
):
    folder, seen = RunFolder(tmp_path / "run"), list[Event]()
    for least in (1, 4):
        with pytest.raises(Stopped):
            evaluated(config, folder, seen.append, lambda least=least: _done(seen) >= least)
    again: list[Event] = []
    evaluated(config, folder, again.append)
    assert 0 < _done(again) < 18
    assert _done(seen) + _done(again) == 18, "nine losses and nine answers"
    for name in ("summary.json", "examples.jsonl", "answers.jsonl"):
        assert (folder.path / name).read_bytes() == (whole.path / name).read_bytes()


def _done(events: list[Event]) -> int:
    return sum(event.samples for event in events if isinstance(event, Progressed))


@pytest.mark.parametrize(
    ("text", "settings", "answer"),
    [
        ("3 + 4 = 7, so the answer is 1,234.50.", {}, "1234.50"),
        ("She pays $-3", {}, "-3"),
        ("It is 5-3", {}, "3"),
        ("no idea", {}, None),
        ("#### 12 and then #### 13", {"extract": "regex", "pattern": r"#### (\S+)"}, "13"),
        ("nothing", {"extract": "regex", "pattern": r"#### (\S+)"}, None),
        ("  Yes.  ", {"extract": "whole"}, "Yes."),
    ],
)
def test_answers_are_read_out_of_texts(text: str, settings: dict, answer: str | None):
    assert extracted(text, ExactMatch(**settings)) == answer


def test_answers_are_compared_as_numbers_where_they_are_and_as_text_else():
    assert same("1234.50", "1,234.5")
    assert same("7", "7.0")
    assert same("  YES ", "yes")
    assert not same("7", "8")
    assert not same(None, "7")
    assert not same("7 apples", "7")


def test_wilsons_interval_holds_the_share_even_at_the_ends():
    answers = [Answer(id=str(i), subtask="all", text="", found=None, wanted="1", right=i < 8) for i in range(8)]
    found = matches(answers)
    assert (found.share, found.high, found.without_answer) == (1.0, 1.0, 8)
    assert found.low == pytest.approx(0.6756, abs=1e-4)


def test_mistakes_are_named_before_anything_is_computed(config: RunConfig, tmp_path: Path):
    def asking(**more: object) -> RunConfig:
        return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=more)})

    for wrong, kind, words in (
        (asking(held_out=None), ConfigError, "name a file of them with --held-out"),
        (asking(exact_match=ExactMatch(answer_field="solution")), DataError, "no row of .* has the field 'solution'"),
        (asking(exact_match=ExactMatch(answer_field="source")), DataError, "in which there is no number"),
        (asking(max_length=2), DataError, "no sample of .* can be used"),
    ):
        with pytest.raises(kind, match=words):
            prepare_evaluation(wrong, RunFolder(tmp_path / "run"), lambda what, rows: None)
        assert not (tmp_path / "run").exists()
