"""Rows come in from every format alike, go out untouched, and every bad one is named with file, line and field."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterucb.config import Rows, Target
from clusterucb.data.messages import Message
from clusterucb.data.rows import read_rows
from clusterucb.errors import DataError


def chat(question: str = "2+2?", answer: str = "4", **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **more,
    }


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[Any], **how: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **how)
    return path


def save_dataset(path: Path, rows: list[Any], **_: Any) -> Path:
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(str(path))
    return path


def write_gzip(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def write_json(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


WRITERS = {
    "pool.jsonl": write_jsonl,
    "pool.jsonl.gz": write_gzip,
    "pool.json": write_json,
    "pool.parquet": write_parquet,
    "pool": save_dataset,
}


# --- what comes in and goes out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_chats_and_gives_rows_back_untouched(tmp_path: Path, name: str):
    rows = [chat(f"q{i}\nü\u2028", f"a{i}", id=f"id{i}", source=f"s{i % 3}", extra={"n": i}) for i in range(3000)]
    reader = read_rows(Rows(path=str(WRITERS[name](tmp_path / name, rows))))
    read = list(reader)
    assert [row.id for row in read] == [f"id{i}" for i in range(3000)]
    assert [row.source for row in read[:4]] == ["s0", "s1", "s2", "s0"]
    assert [row.position for row in read] == list(range(3000))
    assert read[7].messages == (Message("user", "q7\nü\u2028"), Message("assistant", "a7"))
    order = [*random.Random(0).sample(range(3000), 200), 5, 5, 2999, 0]
    assert list(reader.raw(order)) == [rows[i] for i in order]
    assert list(reader.messages([7])) == [read[7].messages]
    assert len(reader) == 3000


@pytest.mark.parametrize("name", WRITERS)
def test_raw_needs_no_pass_before_it(tmp_path: Path, name: str):
    rows = [chat(f"q{i}") for i in range(5)]
    assert list(read_rows(Rows(path=str(WRITERS[name](tmp_path / name, rows)))).raw([4, 0])) == [rows[4], rows[0]]


def test_parquet_rows_come_back_across_row_groups(tmp_path: Path):
    rows = [chat(f"q{i}", id=str(i)) for i in range(2500)]
    path = write_parquet(tmp_path / "pool.parquet", rows, row_group_size=1100)
    order = [2499, 0, 1099, 1100, 1101, 2200, 1023, 1024]
    assert list(read_rows(Rows(path=str(path))).raw(order)) == [rows[i] for i in order]


def test_a_folder_and_a_glob_are_read_in_sorted_order(tmp_path: Path):
    write_jsonl(tmp_path / "b.jsonl", [chat("b")])
    write_gzip(tmp_path / "a.jsonl.gz", [chat("a")])
    write_parquet(tmp_path / "c.parquet", [chat("c")])
    (tmp_path / "README.md").write_text("not rows")
    everything = list(read_rows(Rows(path=str(tmp_path))))
    assert [row.messages[0].content for row in everything] == ["a", "b", "c"]
    assert [row.source for row in everything] == ["a", "b", "c"]
    assert [row.messages[0].content for row in read_rows(Rows(path=str(tmp_path / "*.jsonl")))] == ["b"]
    assert [row.source for row in read_rows(Rows(path=str(tmp_path), format="parquet"))] == ["c"]
    assert list(read_rows(Rows(path=str(tmp_path))).raw([2, 0, 1])) == [chat("c"), chat("a"), chat("b")]


def test_prompt_and_completion_are_a_chat(tmp_path: Path):
    system = {"role": "system", "content": "s"}
    rows = [
        {"prompt": "p", "completion": "c"},
        {"prompt": [system, {"role": "user", "content": "p"}], "completion": [{"role": "assistant", "content": "c"}]},
        {"prompt": "unused", **chat("p", "c")},
        {"messages": None, "prompt": "p", "completion": "c"},
    ]
    read = list(read_rows(Rows(path=str(write_jsonl(tmp_path / "pool.jsonl", rows)))))
    plain = (Message("user", "p"), Message("assistant", "c"))
    assert [row.messages for row in read] == [plain, (Message("system", "s"), *plain), plain, plain]


def test_blank_lines_marks_and_line_ends_do_no_harm(tmp_path: Path):
    path = tmp_path / "pool.jsonl"
    lines = [json.dumps(chat(f"q{i}")) for i in range(3)]
    path.write_bytes(b"\xef\xbb\xbf" + f"{lines[0]}\r\n\n  \n{lines[1]}\r\n{lines[2]}".encode())
    reader = read_rows(Rows(path=str(path)))
    assert [row.location for row in reader] == [f"{path}, line {n}" for n in (1, 4, 5)]
    assert list(reader.raw([2, 0])) == [chat("q2"), chat("q0")]


def test_json_lines_may_be_called_json(tmp_path: Path):
    assert len(list(read_rows(Rows(path=str(write_jsonl(tmp_path / "pool.json", [chat("a"), chat("b")])))))) == 2


def test_limit_takes_the_first_usable_rows(tmp_path: Path):
    path = write_jsonl(tmp_path / "pool.jsonl", [chat("a"), {"bad": 1}, chat("b"), chat("c")])
    reader = read_rows(Rows(path=str(path), limit=2, on_bad_row="skip"))
    assert [row.messages[0].content for row in reader] == ["a", "b"]
    assert list(reader.raw([1])) == [chat("b")]


def test_a_dataset_split_is_chosen_and_a_wrong_one_is_named(tmp_path: Path):
    from datasets import Dataset, DatasetDict

    parts = {"train": Dataset.from_list([chat("a")]), "test": Dataset.from_list([chat("b")])}
    DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    (row,) = read_rows(Rows(path=str(tmp_path / "set"), split="test"))
    assert (row.messages[0].content, row.source) == ("b", "set")
    with pytest.raises(DataError, match="no split 'dev': set split to one of train, test"):
        read_rows(Rows(path=str(tmp_path / "set"), split="dev"))


# --- ids, sources, subtasks ---------------------------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["a", "b"]), st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_content_ids_are_unique_stable_and_raw_is_the_identity(tmp_path: Path, answers: list[str]):
    path = write_jsonl(tmp_path / "pool.jsonl", [chat(answer=answer) for answer in answers])
    reader = read_rows(Rows(path=str(path)))
    ids = [row.id for row in reader]
    assert len(set(ids)) == len(ids)
    assert ids == [row.id for row in reader]
    assert list(reader.raw(range(len(answers)))) == [chat(answer=answer) for answer in answers]
    for i, answer in enumerate(answers):
        base, _, copy = ids[i].partition("-")
        assert base == ids[answers.index(answer)]
        assert (int(copy) if copy else 1) == answers[: i + 1].count(answer)


def test_an_id_depends_on_the_chat_alone(tmp_path: Path):
    one = write_jsonl(tmp_path / "one.jsonl", [chat("x"), chat("y", note=1)])
    two = write_parquet(tmp_path / "two.parquet", [chat("y", source="other")])
    assert list(read_rows(Rows(path=str(one))))[1].id == next(iter(read_rows(Rows(path=str(two))))).id


def test_fields_are_taken_where_the_settings_say(tmp_path: Path):
    rows = [chat(uid=7, origin="web"), chat(uid="8", origin=None), chat(origin=3)]
    path = write_jsonl(tmp_path / "pool.jsonl", rows)
    read = list(read_rows(Rows(path=str(path), id_field="uid", source_field="origin")))
    assert [row.id for row in read[:2]] == ["7", "8"]
    assert [row.source for row in read] == ["web", "pool", "3"]


def test_subtasks_group_a_target(tmp_path: Path):
    path = write_jsonl(tmp_path / "dev.jsonl", [chat(task="a"), chat(task=2)])
    assert [row.subtask for row in read_rows(Target(path=str(path), subtask_field="task"))] == ["a", "2"]
    assert [row.subtask for row in read_rows(Target(path=str(path)))] == ["all", "all"]


# --- bad rows -----------------------------------------------------------------------------------------------------


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "q"}, fields]}


BAD: dict[str, tuple[bytes, str]] = {
    "broken JSON": (b'{"messages": [', "not valid JSON"),
    "cut UTF-8": (b'{"messages": "\xc3"}', "not UTF-8"),
    "Latin-1": ('{"messages": "café"}'.encode("latin-1"), "0xe9"),
    "two values on a line": (b"{} {}", "not valid JSON"),
    "JSON nested beyond reason": (b"[" * 100_000, "JSON"),
    "a number of 5,000 digits": (b'{"id": ' + b"9" * 5000 + b"}", "JSON that cannot be read"),
    "a list": (b"[1]", "the row is a list"),
    "text": (b'"hello"', "the row is text"),
    "null": (b"null", "the row is null"),
    "no field at all": (b"{}", "neither messages nor prompt"),
    "neither field": (dump({"instruction": "a", "output": "b"}), "instruction, output"),
    "ShareGPT": (dump({"conversations": [{"from": "human", "value": "x"}]}), "from/value"),
    "null messages": (dump({"messages": None}), "neither messages"),
    "empty messages": (dump({"messages": []}), "messages is empty"),
    "messages is text": (dump({"messages": "hi"}), "messages is text"),
    "messages is an object": (dump({"messages": {"role": "user"}}), "messages is an object"),
    "a message is text": (dump({"messages": ["hi"]}), "messages[0] is text"),
    "no role": (dump(message(content="a")), "messages[1] has no role"),
    "no content": (dump(message(role="assistant")), "messages[1] has no content"),
    "from and value": (
        dump({"messages": [{"from": "gpt", "value": "a"}]}),
        "has no role (it has from, value)",
    ),
    "null content": (dump(message(role="assistant", content=None)), "messages[1].content is null"),
    "content is a number": (dump(message(role="assistant", content=4)), "messages[1].content is a number"),
    "content in parts": (
        dump(message(role="assistant", content=[{"type": "text", "text": "a"}])),
        "messages[1].content is a list",
    ),
    "unknown role": (dump(message(role="bot", content="a")), "messages[1].role is 'bot'"),
    "role is a number": (dump(message(role=1, content="a")), "messages[1].role is a number"),
    "tool calls": (dump(message(role="assistant", content="", tool_calls=[{"id": 1}])), "messages[1].tool_calls"),
    "no assistant": (dump({"messages": [{"role": "user", "content": "q"}]}), "no assistant message"),
    "a blank assistant": (dump(chat(answer=" \n")), "no assistant message with text"),
    "half a surrogate pair": (b'{"prompt": "\\ud83d", "completion": "a"}', "prompt holds half a surrogate pair"),
    "prompt alone": (dump({"prompt": "q"}), "prompt stands without completion"),
    "completion alone": (dump({"completion": "a"}), "completion stands without prompt"),
    "completion is a number": (dump({"prompt": "q", "completion": 4}), "completion is a number"),
    "completion is empty": (dump({"prompt": "q", "completion": []}), "completion is empty"),
    "null id": (dump(chat(id=None)), "id is null"),
    "blank id": (dump(chat(id=" ")), "id is blank"),
    "id is a fraction": (dump(chat(id=1.5)), "id is a number"),
    "id is a truth value": (dump(chat(id=True)), "id is a truth value"),
    "source is a list": (dump(chat(source=["web"])), "source is a list"),
    "id given twice": (dump(chat(id="first")), "line 1: make ids unique"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_with_file_line_and_field(tmp_path: Path, case: str):
    line, what = BAD[case]
    path = tmp_path / "pool.jsonl"
    path.write_bytes(dump(chat(id="first")) + b"\n\n" + line + b"\n" + dump(chat("last")) + b"\n")
    with pytest.raises(DataError) as caught:
        list(read_rows(Rows(path=str(path))))
    assert f"{path}, line 3: " in str(caught.value)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)

    reader = read_rows(Rows(path=str(path), on_bad_row="skip"))
    assert [row.messages[0].content for row in reader] == ["2+2?", "last"]
    (skipped,) = reader.skipped
    assert skipped.location == f"{path}, line 3"
    assert what in skipped.reason
    assert list(reader.raw([1])) == [chat("last")]
    assert len(list(reader)) == 2
    assert len(reader.skipped) == 1


BAD_VALUES = {
    "null role": ({"messages": [{"role": None, "content": "q"}]}, "messages[0].role is null"),
    "unknown role": ({"messages": [{"role": "human", "content": "q"}]}, "messages[0].role is 'human'"),
    "no messages": ({"messages": []}, "messages is empty"),
    "null id": ({**chat(), "id": None}, "id is null"),
}


@pytest.mark.parametrize("name", ["pool.json", "pool.parquet", "pool"])
@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_bad_row_is_named_with_its_number_in_other_formats(tmp_path: Path, case: str, name: str):
    bad, what = BAD_VALUES[case]
    path = WRITERS[name](tmp_path / name, [chat(id="a"), {"id": "b", **bad}])
    with pytest.raises(DataError) as caught:
        list(read_rows(Rows(path=str(path))))
    assert str(path) in str(caught.value)
    assert f", row 2: {what}" in str(caught.value)


def test_a_second_id_names_both_places(tmp_path: Path):
    write_jsonl(tmp_path / "a.jsonl", [chat(id="x"), chat(id="y")])
    write_jsonl(tmp_path / "b.jsonl", [chat(id="y")])
    with pytest.raises(DataError, match=r"b\.jsonl, line 1: id 'y' was already given at .*a\.jsonl, line 2"):
        list(read_rows(Rows(path=str(tmp_path))))


@pytest.mark.parametrize("setting", ["id_field", "source_field"])
def test_a_misspelt_field_says_so(tmp_path: Path, setting: str):
    path = write_jsonl(tmp_path / "pool.jsonl", [chat(uid="a"), chat(uid="b")])
    with pytest.raises(DataError, match=f"{setting} is 'uuid' but no row of .* has it .*messages, uid"):
        list(read_rows(Rows(path=str(path), **{setting: "uuid"})))


def test_a_default_spelt_out_is_no_misspelling(tmp_path: Path):
    path = write_jsonl(tmp_path / "pool.jsonl", [chat()])
    resolved = Rows.model_validate(Rows(path=str(path)).model_dump())
    assert len(list(read_rows(resolved))) == 1


def test_a_missing_subtask_is_a_bad_row(tmp_path: Path):
    path = write_jsonl(tmp_path / "dev.jsonl", [chat(task="a"), chat(tusk="b")])
    with pytest.raises(DataError, match=r"dev\.jsonl, line 2: subtask_field 'task' is missing .*messages, tusk"):
        list(read_rows(Target(path=str(path), subtask_field="task")))


# --- bad files ----------------------------------------------------------------------------------------------------


def test_an_empty_pool_is_an_error(tmp_path: Path):
    path = write_jsonl(tmp_path / "pool.jsonl", [])
    with pytest.raises(DataError, match=r"pool\.jsonl holds no row: give at least one"):
        list(read_rows(Rows(path=str(path))))


def test_a_pool_of_bad_rows_says_why_the_first_is_bad(tmp_path: Path):
    path = write_jsonl(tmp_path / "pool.jsonl", [{"a": 1}, {}])
    with pytest.raises(DataError, match=r"no usable row: all 2 were left out, the first because .* line 1: neither"):
        list(read_rows(Rows(path=str(path), on_bad_row="skip")))


def test_nothing_at_the_path_says_what_was_tried(tmp_path: Path):
    with pytest.raises(DataError, match=r"no file or folder .*pool\.jsonl: check the path"):
        read_rows(Rows(path=str(tmp_path / "pool.jsonl")))
    with pytest.raises(DataError, match=r"no file matches .*\*\.jsonl"):
        read_rows(Rows(path=str(tmp_path / "*.jsonl")))
    with pytest.raises(DataError, match=r"holds no \.jsonl or"):
        read_rows(Rows(path=str(tmp_path)))


def test_an_unknown_hub_id_says_what_was_tried_and_the_way_out():
    with pytest.raises(DataError, match=r"no-such-owner/no-such-set.*load_dataset.*check the path or id.*\.jsonl"):
        read_rows(Rows(path="no-such-owner/no-such-set"))


def test_an_unknown_ending_says_what_can_be_read(tmp_path: Path):
    (tmp_path / "pool.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"pool\.csv ends in none of \.jsonl"):
        read_rows(Rows(path=str(tmp_path / "pool.csv")))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pool.jsonl.gz", gzip.compress(dump(chat()) * 500)[:-20]),
        ("pool.parquet", b"PAR1 and then nothing"),
        ("pool.json", b'[{"messages": '),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        list(read_rows(Rows(path=str(tmp_path / name), on_bad_row="skip")))


def test_a_file_that_changed_in_between_is_noticed(tmp_path: Path):
    path = write_jsonl(tmp_path / "pool.jsonl", [chat("a"), chat("b")])
    reader = read_rows(Rows(path=str(path)))
    assert len(reader) == 2
    write_jsonl(path, [chat("something longer"), chat("b")])
    with pytest.raises(DataError, match="changed while it was in use"):
        list(reader.raw([1]))


# --- fingerprints and columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_the_fingerprint_follows_content_not_place(tmp_path: Path, name: str):
    prints: list[str] = []
    for place, answer in [("a", "4"), ("b", "4"), ("c", "5")]:
        (tmp_path / place).mkdir()
        path = WRITERS[name](tmp_path / place / name, [chat(answer=answer)])
        prints.append(read_rows(Rows(path=str(path))).fingerprint())
    assert prints[0] == prints[1] != prints[2]
    assert read_rows(Rows(path=str(path), limit=1)).fingerprint() != prints[2]


@pytest.mark.parametrize("name", WRITERS)
def test_a_column_of_numbers_is_an_array(tmp_path: Path, name: str):
    values = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    rows = [chat(str(i), features=values[i].tolist()) for i in range(9)]
    column = read_rows(Rows(path=str(WRITERS[name](tmp_path / name, rows)))).column("features")
    assert column.dtype == np.float32
    np.testing.assert_array_equal(column, values)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "v is missing"),
        ([1.0], "v holds 1 numbers where the first row holds 2"),
        ([1.0, float("nan")], "v[1] is nan"),
        ([1e300, 1.0], "v[0] is 1e+300"),
        (["a", "b"], "v is a list, not a flat list of numbers"),
        ([[1.0], [2.0, 3.0]], "v is nested unevenly"),
        ([[1.0, 2.0]], "v is a list, not a flat list"),
        ([True, False], "v is a list, not a flat list"),
        (3.0, "v is a number"),
        ([], "v is a list"),
    ],
)
def test_an_odd_value_in_a_column_names_the_row(tmp_path: Path, value: Any, what: str):
    path = write_jsonl(tmp_path / "pool.jsonl", [chat(v=[1, 2]), chat(v=value)])
    with pytest.raises(DataError) as caught:
        read_rows(Rows(path=str(path))).column("v")
    assert f"{path}, line 2: {what}" in str(caught.value)


@pytest.mark.material
def test_the_real_pool_reads(material: Path):
    reader = read_rows(Rows(path=str(material / "pool" / "pool_ci.jsonl")))
    rows = list(reader)
    assert len(rows) == 290
    assert len({row.source for row in rows}) == 29
    assert next(reader.raw([17]))["id"] == rows[17].id
    target = Target(path=str(material / "pool" / "targets" / "bbh.dev.jsonl"), subtask_field="task")
    assert len({row.subtask for row in read_rows(target)}) == 27
