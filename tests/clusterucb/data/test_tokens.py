"""A store holds exactly what the encoder gave, in file order, in the same bytes every time."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer
from transformers import AutoTokenizer

from clusterucb.config import Rows, Target, Tokens
from clusterucb.data.chat import ChatEncoder
from clusterucb.data.rows import read_rows
from clusterucb.data.tokens import TokenStore, pool_fingerprint, tokenise
from clusterucb.errors import DataError, RunFolderError
from clusterucb.types import Failure


def write_pool(path: Path, chats: list[tuple[str, str]], **more: Any) -> Path:
    rows = [{"prompt": prompt, "completion": answer, **more} for prompt, answer in chats]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def built(path: Path, folder: Path, tokens: Tokens = Tokens(), **rows: Any) -> TokenStore:  # noqa: B008
    return tokenise(read_rows(Rows(path=str(path), **rows)), ChatEncoder(tiny_tokenizer(), tokens), folder, "print")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


text = st.text(st.characters(min_codepoint=32, max_codepoint=124), min_size=1, max_size=30).filter(str.strip)


@given(
    chats=st.lists(st.tuples(text, text), min_size=1, max_size=8),
    most=st.integers(25, 60),
    truncation=st.sampled_from(["right", "left", "exclude"]),
    data=st.data(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_gives_back_what_was_encoded(
    tmp_path: Path, chats: list[tuple[str, str]], most: int, truncation: Any, data: st.DataObject
):
    path = write_pool(tmp_path / "pool.jsonl", [*chats, ("a", "b")])
    encoder = ChatEncoder(tiny_tokenizer(), Tokens(max_length=most, truncation=truncation))
    reader = read_rows(Rows(path=str(path)))
    store = tokenise(reader, encoder, tmp_path / "store", "print")
    rows = list(reader)
    encoded = [encoder.encode(row.messages) for row in rows]
    samples = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    batch = store.batch(samples)
    assert batch.samples_B.tolist() == samples
    for i, sample in enumerate(samples):
        tokens_T, labels_T = batch.row(i)
        assert tokens_T.tolist() == encoded[sample].tokens.tolist()
        assert labels_T.tolist() == encoded[sample].labels.tolist()
    assert (batch.tokens_T.dtype, batch.labels_T.dtype) == (np.int32, np.bool_)
    assert store.lengths_N.tolist() == [len(one.tokens) for one in encoded]
    assert store.label_counts_N.tolist() == [one.labels.sum() for one in encoded]
    assert store.truncated_N.tolist() == [one.truncated for one in encoded]
    assert store.num_truncated == sum(one.truncated for one in encoded)
    assert store.usable_N.tolist() == [bool(one.labels.any()) for one in encoded]
    assert list(store.ids) == [row.id for row in rows]


def test_names_come_back_by_sample(tmp_path: Path):
    rows = [
        {"prompt": "q", "completion": str(i), "id": f"i{i}", "source": f"s{i % 2}", "task": i % 3} for i in range(9)
    ]
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = read_rows(Target(path=str(path), subtask_field="task"))
    store = tokenise(reader, ChatEncoder(tiny_tokenizer(), Tokens()), tmp_path / "store", "print")
    assert len(store) == store.num_samples == 9
    assert (store.ids[3], store.ids[-1], store.ids[7:]) == ("i3", "i8", ["i7", "i8"])
    assert store.ids.take([4, 0, 4]) == ["i4", "i0", "i4"]
    codes, names = store.subtasks.codes()
    assert (codes.tolist(), names) == ([0, 1, 2] * 3, ("0", "1", "2"))
    assert list(store.sources) == [f"s{i % 2}" for i in range(9)]


def test_the_same_pool_gives_the_same_bytes(tmp_path: Path):
    path = write_pool(tmp_path / "pool.jsonl", [(f"q{i}", "a" * (i % 50 + 1)) for i in range(300)])
    tokens = Tokens(max_length=40)
    built(path, tmp_path / "one", tokens)
    built(path, tmp_path / "two", tokens)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_store_is_replaced_whole_and_leftovers_are_cleared(tmp_path: Path):
    one = write_pool(tmp_path / "one.jsonl", [("q", "a"), ("r", "b")])
    two = write_pool(tmp_path / "two.jsonl", [("q", "c")])
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "tokens.i32").write_text("left by a crash")
    assert len(built(one, tmp_path / "store")) == 2
    assert len(built(two, tmp_path / "store")) == 1
    assert not (tmp_path / "store.partial").exists()


def test_unusable_samples_keep_their_place(tmp_path: Path):
    path = write_pool(tmp_path / "pool.jsonl", [("q", "short"), ("q" * 50, "far"), ("q", "a" * 80), ("r", "b")])
    right = built(path, tmp_path / "right", Tokens(max_length=40))
    assert right.failures == (Failure(1, "no_label_tokens", f"{1 + 6 + 50 + 1 + 11 + 3 + 1} tokens before truncation"),)
    assert right.usable_N.tolist() == [True, False, True, True]
    assert right.num_truncated == 2
    exclude = built(path, tmp_path / "exclude", Tokens(max_length=40, truncation="exclude"))
    assert [(failure.sample, failure.reason) for failure in exclude.failures] == [(1, "too_long"), (2, "too_long")]
    assert exclude.failures[0].detail == "73 tokens"
    assert exclude.lengths_N[1] == 0
    assert len(exclude.batch([1, 3]).row(0)[0]) == 0
    left = built(path, tmp_path / "left", Tokens(max_length=40, truncation="left"))
    assert left.failures == ()


def test_a_pool_without_a_usable_sample_is_an_error_and_leaves_no_store(tmp_path: Path):
    path = write_pool(tmp_path / "pool.jsonl", [("q" * 50, "far")] * 3)
    with pytest.raises(DataError, match=r"no sample of .*pool\.jsonl can be used: all 3 .*tokens\.max_length \(20\)"):
        built(path, tmp_path / "store", Tokens(max_length=20))
    assert not (tmp_path / "store").exists()


def test_skipped_rows_are_kept_with_the_store(tmp_path: Path):
    path = tmp_path / "pool.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\nbroken\n{"prompt": "r", "completion": "b"}\n')
    store = built(path, tmp_path / "store", on_bad_row="skip")
    assert (store.num_samples, store.num_skipped) == (2, 1)
    (skipped,) = store.skipped()
    assert skipped.location == f"{path}, line 2"
    assert "JSON" in skipped.reason


def test_a_row_that_the_template_refuses_is_named_or_fails(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['content'] == 'odd' %}{{ raise_exception('too odd') }}{% endif %}"
        "{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    )
    encoder = ChatEncoder(tokenizer, Tokens())
    path = write_pool(tmp_path / "pool.jsonl", [("q", "a"), ("odd", "b"), ("r", "c")])
    with pytest.raises(DataError, match=r"pool\.jsonl, line 2: the chat template refuses this chat \(too odd"):
        tokenise(read_rows(Rows(path=str(path))), encoder, tmp_path / "store", "print")
    store = tokenise(read_rows(Rows(path=str(path), on_bad_row="skip")), encoder, tmp_path / "store", "print")
    (failure,) = store.failures
    assert (failure.sample, failure.reason) == (1, "no_label_tokens")
    assert "too odd" in failure.detail


def test_progress_ends_at_the_number_of_rows(tmp_path: Path):
    path = write_pool(tmp_path / "pool.jsonl", [(str(i), "a") for i in range(600)])
    told: list[int] = []
    reader, encoder = read_rows(Rows(path=str(path))), ChatEncoder(tiny_tokenizer(), Tokens())
    tokenise(reader, encoder, tmp_path / "store", "print", told.append)
    assert told == sorted(told)
    assert told[-1] == 600
    assert len(told) > 2


def test_a_store_travels_as_its_folder(tmp_path: Path):
    store = built(write_pool(tmp_path / "pool.jsonl", [("q", "a" * 30)] * 50), tmp_path / "store")
    parcel = pickle.dumps(store)
    assert len(parcel) < 300
    np.testing.assert_array_equal(pickle.loads(parcel).batch([3]).tokens_T, store.batch([3]).tokens_T)


def test_the_store_tells_what_it_was_made_of(tmp_path: Path):
    path = write_pool(tmp_path / "pool.jsonl", [("q", "a")])
    encoder = ChatEncoder(tiny_tokenizer(), Tokens(max_length=64))
    reader = read_rows(Rows(path=str(path)))
    store = tokenise(reader, encoder, tmp_path / "store", pool_fingerprint(reader, encoder))
    opened = TokenStore.open(tmp_path / "store")
    assert opened.fingerprint == store.fingerprint == pool_fingerprint(read_rows(Rows(path=str(path))), encoder)
    assert opened.tokenizer_identity == encoder.identity
    assert opened.config == Tokens(max_length=64)
    assert opened.notes == encoder.notes
    other = ChatEncoder(tiny_tokenizer(), Tokens(max_length=65))
    assert pool_fingerprint(reader, other) != store.fingerprint
    write_pool(path, [("q", "b")])
    assert pool_fingerprint(reader, encoder) != store.fingerprint


@pytest.mark.parametrize("name", ["meta.json", "tokens.i32", "labels.u8", "offsets.i64", "rows.parquet"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_store_says_so(tmp_path: Path, name: str, harm: str):
    built(write_pool(tmp_path / "pool.jsonl", [("q", "a"), ("r", "b")]), tmp_path / "store")
    path = tmp_path / "store" / name
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        path.unlink()
    with pytest.raises(RunFolderError, match=r"tokenise the pool again"):
        TokenStore.open(tmp_path / "store")


def test_a_store_of_another_format_says_so(tmp_path: Path):
    built(write_pool(tmp_path / "pool.jsonl", [("q", "a")]), tmp_path / "store")
    meta = tmp_path / "store" / "meta.json"
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(RunFolderError, match="has format 0"):
        TokenStore.open(tmp_path / "store")


@pytest.mark.material
def test_the_real_pool_with_the_real_tokenizer(material: Path, tmp_path: Path):
    encoder = ChatEncoder(AutoTokenizer.from_pretrained(material / "models" / "stories260k"), Tokens())
    reader = read_rows(Rows(path=str(material / "pool" / "pool_ci.jsonl")))
    store = tokenise(reader, encoder, tmp_path / "store", pool_fingerprint(reader, encoder))
    assert store.num_samples == 290
    assert store.lengths_N.max() == 512
    assert store.num_truncated == store.truncated_N.sum() > 0
    assert {failure.reason for failure in store.failures} <= {"no_label_tokens"}
    assert store.usable_N.sum() == 290 - len(store.failures)
    assert not store.batch(np.arange(290)).labels_T[store.offsets[:-1]].any()
