"""Whatever a user gets wrong is one line on standard error that names it and the way out, and leaves nothing behind.

All cases but the last go through the command line's own entry in this process and name a cluster that is not there:
a mistake that were found only after connecting would be reported as that instead.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import saved, tiny_llama
from transformers import BertConfig, BertModel

from clusterucb.checkpoint.moments import Moments, save_moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.run.in_process import run_in_process
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.settings import load_config
from ray_app.cli import main

NOWHERE = "127.0.0.1:1"
ROWS = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command left behind."""

    code: int
    stderr: str


@dataclass(frozen=True, slots=True)
class Case:
    """A mistake: settings that name it, files that hold it, and what the answer must say."""

    name: str
    sets: tuple[str, ...]
    says: tuple[str, ...]
    make: Callable[[Path, Path], object] = lambda here, place: None

    def __str__(self) -> str:
        return self.name


def chat(i: int, **more: object) -> dict[str, object]:
    words = f"{'abcdefgh'[i % 8] * (i % 5 + 2)} {i}"
    turns = [{"role": "user", "content": f"say {words}"}, {"role": "assistant", "content": words}]
    return {"id": f"row{i}", "messages": turns} | more


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def adapted(rank: int = 2, hidden: int = 32) -> PeftModel:
    lora = LoraConfig(r=rank, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(tiny_llama(hidden=hidden), lora)  # pyright: ignore[reportReturnType]


def moments_in(folder: Path, second: float, rank: int = 2) -> Path:
    model = adapted(rank)
    shapes = {canonical_name(n): p.shape for n, p in model.named_parameters() if "lora_" in n}
    first = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return save_moments(folder, Moments(first, {n: torch.full(s, second) for n, s in shapes.items()}, 1))


def spoil(weights: Path) -> None:
    tensors = load_file(weights)
    first = next(iter(tensors))
    tensors[first] = torch.full_like(tensors[first], float("nan"))
    save_file(tensors, weights, {"format": "pt"})


def encoder_in(folder: Path) -> None:
    config = BertConfig(vocab_size=96, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    saved(BertModel(config), folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good model, adapter, pool, target, configuration, and runs that are done."""
    place = tmp_path_factory.mktemp("place")
    saved(tiny_llama(), place / "model")
    adapted().save_pretrained(place / "adapter")
    write_rows(place / "pool.jsonl", [chat(i) for i in range(ROWS)])
    write_rows(place / "other.jsonl", [chat(i + 1000) for i in range(ROWS)])
    write_rows(place / "target.jsonl", [chat(i, task="all") for i in range(4)])
    (place / "config.yaml").write_text(
        f"pool: {{path: {place}/pool.jsonl}}\ntarget: {{path: {place}/target.jsonl}}\nmodel: {{base: {place}/model}}\n"
    )
    sketched = ("features.kind=gradient", f"pool.path={place}/other.jsonl", "gradients.sketch.dim=64")
    for name, sets in (("run", ()), ("sketched", sketched)):
        config, folder = load_config(place / "config.yaml", sets), RunFolder(place / name)
        prepare(config, folder, lambda what, rows: None)
        run_in_process(config, folder, lambda event: None)
    return place


@pytest.fixture
def answer(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Return a function that gives a command line to the entry point."""

    def ask(*words: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["clusterucb", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Answer(int(end.value.code or 0), capfd.readouterr().err)

    return ask


def assert_one_line(found: Answer, says: Sequence[str]) -> None:
    assert found.code == 2, found
    lines = found.stderr.splitlines()
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith("error: ")
    for words in says:
        assert words in lines[0]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pool(name: str, says: tuple[str, ...], rows: Sequence[object] = (), raw: bytes | None = None) -> Case:
    def make(here: Path, place: Path) -> None:
        write_rows(here / "bad.jsonl", rows)
        if raw is not None:
            (here / "bad.jsonl").write_bytes(raw)

    return Case(name, ("pool.path=HERE/bad.jsonl",), ("bad.jsonl", *says), make)


def given(name: str, says: tuple[str, ...], columns: Sequence[object]) -> Case:
    def make(here: Path, place: Path) -> None:
        rows = [chat(i, **({} if column is None else {"features": column})) for i, column in enumerate(columns)]
        write_rows(here / "bad.jsonl", rows)

    return Case(name, ("pool.path=HERE/bad.jsonl", "features.kind=given"), ("bad.jsonl, line 3", *says), make)


def matrix(name: str, says: tuple[str, ...], make: Callable[[Path], object]) -> Case:
    sets = ("features.kind=gradient", "features.path=HERE/bad.npy")
    return Case(name, sets, ("features.path", "bad.npy", *says), lambda here, place: make(here / "bad.npy"))


def copied(what: str, change: Callable[[Path], object]) -> Callable[[Path, Path], object]:
    def make(here: Path, place: Path) -> None:
        shutil.copytree(place / what, here / "bad")
        change(here / "bad")

    return make


def with_nan(path: Path) -> None:
    features = np.ones((ROWS, 8), dtype=np.float32)
    features[7, 1] = np.nan
    np.save(path, features)


def turns(*roles: str) -> dict[str, object]:
    return {"messages": [{"role": role, "content": "hello"} for role in roles]}


GOOD_ROWS = [chat(i) for i in range(ROWS)]
VECTORS: list[object] = [[1.0, float(i)] for i in range(ROWS)]
MOMENTS = ("model.adapter=PLACE/adapter", "model.moments=HERE/bad")

CASES = [
    Case("typo", ("modle.base=x",), ("modle is not a setting", "did you mean 'model'")),
    Case("nested typo", ("search.rounds.frist=9",), ("search.rounds.frist", "did you mean 'first'")),
    Case("typo in a union", ("search.allocator.betta=2",), ("search.allocator.betta", "did you mean 'beta'")),
    Case("unknown kind", ("search.allocator.kind=ucb_bata",), ("search.allocator.kind is 'ucb_bata'", "'ucb_beta'")),
    Case("wrong type", ("search.budget=lots",), ("search.budget is 'lots'", "number")),
    Case("out of range", ("search.budget=1.5",), ("search.budget is 1.5", "less than or equal to 1")),
    Case("missing setting", ("model={}",), ("model.base is missing", "--set model.base=")),
    Case("override without value", ("search.budget",), ("override 'search.budget'", "section.key=value")),
    Case("override into a value", ("seed.x=1",), ("seed is {'x': 1}", "integer")),
    Case("share above budget", ("selection.share=0.5",), ("selection.share (0.5)", "search.budget (0.2)")),
    Case("no pool", ("pool.path=HERE/none.jsonl",), ("none.jsonl", "check the path")),
    Case("empty folder as pool", ("pool.path=HERE",), ("holds no .jsonl",)),
    pool("empty pool", ("holds no row",)),
    pool("broken JSON", ("line 2", "on_bad_row: skip"), raw=json.dumps(chat(0)).encode() + b"\n{broken\n"),
    pool("bad UTF-8", ("line 2", "on_bad_row: skip"), raw=json.dumps(chat(0)).encode() + b'\n{"id": "\xff\xfe"}\n'),
    pool("wrong fields", ("line 2", "messages"), [*GOOD_ROWS[:1], {"question": "1+1", "answer": "2"}]),
    pool("no assistant", ("line 2", "assistant"), [*GOOD_ROWS[:1], turns("user")]),
    pool("unknown role", ("line 2", "teacher"), [*GOOD_ROWS[:1], turns("user", "teacher")]),
    pool("id twice", ("line 3", "'row0'", "line 1", "make ids unique"), [chat(0), chat(1), chat(0)]),
    pool("no object", ("line 1", "give an object"), [[1, 2]]),
    Case("no target", ("target.path=HERE/none.jsonl",), ("none.jsonl", "check the path")),
    Case("no such subtask field", ("target.subtask_field=skill",), ("target.jsonl", "subtask_field 'skill'")),
    Case(
        "subtask without a usable example",
        ("target.path=HERE/bad.jsonl", "target.subtask_field=task", "tokens.max_length=40"),
        ("bad.jsonl", "subtask 'long'", "tokens.max_length"),
        lambda here, place: write_rows(
            here / "bad.jsonl",
            [
                chat(0, task="short"),
                {"task": "long", "prompt": "why " * 40, "completion": "so"},
            ],
        ),
    ),
    Case("all cut away", ("tokens.max_length=4",), ("target.jsonl", "tokens.max_length (4)")),
    Case(
        "longer than the model's positions",
        ("pool.path=HERE/bad.jsonl",),
        ("tokens.max_length (512)", "256"),
        lambda here, place: write_rows(
            here / "bad.jsonl", [*GOOD_ROWS, {"prompt": "go", "completion": "on " * 120}]
        ),
    ),
    Case("unknown model", ("model.base=nobody/nothing",), ("model.base nobody/nothing", "go online")),
    Case("no model folder", ("model.base=HERE/none",), ("model.base", "does not exist")),
    Case("no config.json", ("model.base=HERE",), ("model.base", "no config.json")),
    Case(
        "broken config.json",
        ("model.base=HERE/bad",),
        ("config.json", "not valid JSON"),
        copied("model", lambda bad: (bad / "config.json").write_text("{")),
    ),
    Case(
        "weights cut short",
        ("model.base=HERE/bad",),
        ("model.safetensors", "copy or download it again"),
        copied("model", lambda bad: os.truncate(bad / "model.safetensors", 5000)),
    ),
    Case(
        "pickled weights",
        ("model.base=HERE/bad",),
        ("pytorch_model.bin", "convert them once to safetensors"),
        copied("model", lambda bad: (bad / "model.safetensors").rename(bad / "pytorch_model.bin")),
    ),
    Case(
        "no tokenizer",
        ("model.base=HERE/bad",),
        ("model.base", "tokenizer"),
        copied("model", lambda bad: [path.unlink() for path in bad.glob("tokenizer*")]),
    ),
    Case(
        "encoder as model",
        ("model.base=HERE/bad",),
        ("(bert) is not a causal language model", "give a decoder"),
        lambda here, place: encoder_in(here / "bad"),
    ),
    Case("adapter as model", ("model.base=PLACE/adapter",), ("is an adapter", "set model.adapter")),
    Case("model as adapter", ("model.adapter=PLACE/model",), ("model.adapter", "no adapter_config.json")),
    Case(
        "NaN in the adapter",
        ("model.adapter=HERE/bad",),
        ("lora_", "NaN", "give an earlier one"),
        copied("adapter", lambda bad: spoil(bad / "adapter_model.safetensors")),
    ),
    Case(
        "adapter of another model",
        ("model.adapter=HERE/bad",),
        ("does not fit model.base", "Give the base model"),
        lambda here, place: adapted(hidden=64).save_pretrained(here / "bad"),
    ),
    Case("no moments", MOMENTS, ("model.moments", "does not exist")),
    Case(
        "folder without moments", MOMENTS, ("holds no Adam moments",), lambda here, place: (here / "bad").mkdir()
    ),
    Case(
        "weights as moments",
        ("model.moments=PLACE/model/model.safetensors",),
        ("holds no moments", "moments.safetensors"),
    ),
    Case(
        "moments of another adapter",
        MOMENTS,
        ("do not belong to this adapter",),
        lambda here, place: moments_in(here / "bad", 1.0, rank=4),
    ),
    Case(
        "negative squares",
        MOMENTS,
        ("exp_avg_sq", "negative"),
        lambda here, place: moments_in(here / "bad", -1.0),
    ),
    Case(
        "no such module",
        ("model.lora.target_modules=[qproj]",),
        ("model.lora.target_modules qproj", "q_proj", "all-linear"),
    ),
    Case("no such layer", ("gradients.modules=[nonsense]",), ("gradients.modules", "nonsense")),
    Case("bad pattern", ("gradients.modules=['(']",), ("gradients.modules", "(")),
    Case("cold start above budget", ("clusters.k=10",), ("search.budget (0.2)", "clusters.k", "cold_start_min")),
    Case("more clusters than samples", ("clusters.k=41",), ("clusters.k is 41", "40 samples", "lower it")),
    Case("selection above budget", ("selection.count=9",), ("selection of 9", "selection.count", "search.budget")),
    Case(
        "cap that no selection keeps",
        ("selection.count=8", "selection.caps.source.share=0.5"),
        ("selection.caps.source (4 of a group)", "4 of the 8", "raise it"),
    ),
    Case("no such block", ("features.layer=3",), ("features.layer is 3", "blocks 1 to 2")),
    Case(
        "run over another pool",
        ("features.kind=gradient", "features.path=PLACE/sketched"),
        ("no sketch of 40 of 40 samples", "row0"),
    ),
    Case("no run", ("features.kind=gradient", "features.path=HERE"), ("features.path", "nor a run folder")),
    matrix("rows missing", ("(39, 8)", "40 samples"), lambda path: np.save(path, np.ones((ROWS - 1, 8)))),
    matrix("no matrix", ("numpy.save",), lambda path: path.write_bytes(b"\x00\x01")),
    matrix("NaN in the matrix", ("row 7", "not finite"), with_nan),
    matrix("texts", ("numpy.save",), lambda path: np.save(path, np.full((ROWS, 1), "x"))),
    given("no features", ("features is missing",), [*VECTORS[:2], None, *VECTORS[3:]]),
    given("ragged features", ("3 numbers",), [*VECTORS[:2], [1.0, 2.0, 3.0], *VECTORS[3:]]),
    given("NaN features", ("finite",), [*VECTORS[:2], [1.0, float("nan")], *VECTORS[3:]]),
    Case(
        "unknown encoder",
        ("features={kind: embedding, encoder: nobody/nothing}",),
        ("features.encoder nobody/nothing", "reachable"),
    ),
    Case(
        "encoder without padding",
        ("features={kind: embedding, encoder: PLACE/model}",),
        ("features.encoder", "padding token"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_mistake_is_one_line_and_leaves_nothing(
    case: Case, answer: Callable[..., Answer], place: Path, tmp_path: Path
):
    case.make(tmp_path, place)
    out = tmp_path / "runs" / "out"
    written = [text.replace("HERE", str(tmp_path)).replace("PLACE", str(place)) for text in case.sets]
    sets = [word for text in written for word in ("--set", text)]
    found = answer("select", f"{place}/config.yaml", "--out", str(out), "--address", NOWHERE, *sets)
    assert_one_line(found, case.says)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, ("does not exist", "give the path")),
        (b"pool: {path: [", ("not readable YAML",)),
        (b"pool: \xff\xfe", ("not readable YAML",)),
        (b"- pool", ("holds no mapping", "start from an example")),
        (b"", ("holds no mapping", "start from an example")),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(
    text: bytes | None, says: tuple[str, ...], answer: Callable[..., Answer], tmp_path: Path
):
    config = tmp_path / "mine.yaml"
    if text is not None:
        config.write_bytes(text)
    assert_one_line(answer("select", str(config), "--out", str(tmp_path / "out")), ("mine.yaml", *says))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["resume", "status", "watch", "cancel"])
def test_a_folder_without_a_run_is_named(verb: str, answer: Callable[..., Answer], tmp_path: Path):
    assert_one_line(answer(verb, str(tmp_path)), (str(tmp_path), "holds no run"))
    assert not snapshot(tmp_path)


def used(out: Path, place: Path) -> None:
    shutil.copytree(place / "run", out)


def holding_notes(out: Path, place: Path) -> None:
    out.mkdir()
    write_rows(out / "notes.jsonl", [1])


def unfinished(out: Path, place: Path) -> None:
    used(out, place)
    (out / "summary.json").unlink()


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    def make(out: Path, place: Path) -> None:
        unfinished(out, place)
        (out / name).write_bytes(change((out / name).read_bytes()))

    return make


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("make", "sets", "says"),
    [
        (used, ("search.budget=0.3",), ("other settings", "search.budget (0.2 then, 0.3 now)", "--out")),
        (used, ("seed=1", "selection.count=3"), ("selection.count", "seed (0 then, 1 now)")),
        (holding_notes, (), ("not empty and holds no run", "--out")),
        (damaged("config.json", lambda data: data[:50]), (), ("config.json", "damaged")),
        (damaged("state/scores.journal", flipped), (), ("scores.journal", "damaged at byte", "backup")),
        (damaged("state/pool/tokens.i32", lambda data: data[:-4]), (), ("tokens.i32", "tokenise the pool again")),
        (damaged("state/pool/rows.parquet", lambda data: data[:90]), (), ("rows.parquet", "tokenise the pool again")),
        (damaged("state/target/meta.json", lambda data: b"{}"), (), ("meta.json", "damaged")),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_left_as_it_was(
    make: Callable[[Path, Path], object],
    sets: tuple[str, ...],
    says: tuple[str, ...],
    answer: Callable[..., Answer],
    place: Path,
    tmp_path: Path,
):
    out = tmp_path / "out"
    make(out, place)
    before = snapshot(out)
    words = [word for text in sets for word in ("--set", text)]
    found = answer("select", f"{place}/config.yaml", "--out", str(out), "--address", NOWHERE, *words)
    assert_one_line(found, (str(out), *says))
    assert snapshot(out) == before


def test_a_file_in_the_folders_place_is_named(answer: Callable[..., Answer], place: Path, tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("mine")
    config = f"{place}/config.yaml"
    assert_one_line(answer("select", config, "--out", str(file), "--address", NOWHERE), ("is a file", "--out"))
    assert_one_line(
        answer("select", config, "--out", str(file / "run"), "--address", NOWHERE), ("cannot be written", "--out")
    )
    assert snapshot(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_named(answer: Callable[..., Answer], place: Path, tmp_path: Path):
    tmp_path.chmod(0o500)
    out = str(tmp_path / "run")
    assert_one_line(answer("select", f"{place}/config.yaml", "--out", out), ("cannot be written", "--out"))


@pytest.mark.parametrize(
    ("address", "says"),
    [(NOWHERE, ("no Ray cluster answers at 127.0.0.1:1", "ray start")), ("nonsense", ("nonsense", "host:port"))],
)
def test_a_cluster_that_is_not_there_is_named(
    address: str, says: tuple[str, ...], answer: Callable[..., Answer], place: Path, tmp_path: Path
):
    out = tmp_path / "out"
    out.mkdir()
    words = ("select", f"{place}/config.yaml", "--out", str(out), "--address", address, "--quiet")
    assert_one_line(answer(*words), says)
    assert not snapshot(tmp_path)
    assert out.exists()  # it was there before


@pytest.mark.parametrize("setting", ["modle.base=x", "model.lora.target_modules=[qproj]"])
def test_nothing_else_is_printed_in_a_process_of_its_own(setting: str, place: Path, tmp_path: Path):
    command = [sys.executable, "-m", "ray_app", "select", f"{place}/config.yaml", "--out", f"{tmp_path}/out"]
    root = Path(__file__).parents[2]
    done = subprocess.run([*command, "--set", setting], capture_output=True, text=True, check=False, cwd=root)
    assert_one_line(Answer(done.returncode, done.stderr), ())
    assert not done.stdout
    assert not snapshot(tmp_path)


@pytest.mark.ray
def test_what_only_a_cluster_can_tell_leaves_nothing_either(answer: Callable[..., Answer], place: Path, tmp_path: Path):
    """Workers that fit nowhere, and weights that only a worker reads."""
    shutil.copytree(place / "model", tmp_path / "model")
    spoil(tmp_path / "model" / "model.safetensors")
    for setting, says in (
        ("workers.num_gpus=512", ("512 GPU", "room for 0", "node 0", "Lower")),
        (f"model.base={tmp_path}/model", ("NaN or infinite weights", "give an earlier one")),
    ):
        words = ("select", f"{place}/config.yaml", "--out", f"{tmp_path}/out", "--address", "local", "--quiet")
        assert_one_line(answer(*words, "--set", setting, "--set", "workers.count=1"), says)
        assert not (tmp_path / "out").exists()
