"""The gates against brute force: sets of word sequences as Python sets, every pair compared."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb import config
from clusterucb.data.messages import Message
from clusterucb.errors import DataError
from clusterucb.gates.findings import Verdicts
from clusterucb.gates.gatekeeper import judge
from clusterucb.gates.minhash import Bands
from clusterucb.gates.words import WordHasher, sequences, words_of

REPORT = config.NearDuplicates(policy="report", threshold=0.7)
NO_TARGET = config.TargetDuplicates(policy="off")
NO_NEAR = config.NearDuplicates(policy="off")


def chat(text: str) -> tuple[Message, ...]:
    return (Message("user", text), Message("assistant", "yes"))


def shingles(text: str, length: int) -> frozenset[tuple[str, ...]]:
    words = words_of(f"{text}\nyes")
    return frozenset(tuple(words[i : i + length]) for i in range(max(1, len(words) - length + 1)))


def jaccard(one: frozenset, other: frozenset) -> float:
    return len(one & other) / len(one | other)


def judged(gates: config.Gates, texts: list[str], folder: Path, examples: list[str] | None = None) -> Verdicts:
    chats, given_examples = [chat(text) for text in texts], [chat(text) for text in examples or []]
    return judge(gates, chats, given_examples, np.ones(len(texts), bool), folder, lambda rows: None)


def varied(rng: random.Random, count: int, length: int = 60) -> list[str]:
    """Texts in families: some copies, some with a few words changed, some new."""
    vocabulary = [f"w{i}" for i in range(400)]
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < 0.6:
            words = rng.choice(texts).split()
            for _ in range(rng.choice([0, 1, 1, 2, 4, 8])):
                words[rng.randrange(len(words))] = rng.choice(vocabulary)
        else:
            words = rng.choices(vocabulary, k=rng.randint(length // 2, length))
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("length", [1, 3, 5])
def test_near_duplicates_are_those_of_brute_force(tmp_path: Path, length: int):
    texts = varied(random.Random(length), 260)
    near = config.NearDuplicates(policy="exclude", threshold=0.7)
    verdicts = judged(config.Gates(exact="off", near=near, target=NO_TARGET, shingle=length), texts, tmp_path)
    sets = [shingles(text, length) for text in texts]
    (found,) = verdicts.resembling
    for row, partner, similarity in zip(found.rows, found.partners, found.similarities, strict=True):
        assert partner < row
        assert verdicts.left_by_N[partner] < 0, "the partner has left too"
        assert similarity == pytest.approx(jaccard(sets[row], sets[partner]))
        assert similarity >= 0.7
    stay = np.flatnonzero(verdicts.left_by_N < 0)
    missed = [
        (i, j)
        for place, i in enumerate(stay.tolist())
        for j in stay[:place].tolist()
        if jaccard(sets[i], sets[j]) >= 0.75
    ]
    assert len(found.rows) > 60
    assert len(missed) <= 0.02 * len(found.rows), missed


def test_copies_stay_once_and_the_first_stays(tmp_path: Path):
    texts = ["one two", "three", "one two", " one two ", "One two", "three"]
    verdicts = judged(config.Gates(near=NO_NEAR, target=NO_TARGET), texts, tmp_path)
    assert np.flatnonzero(verdicts.left_by_N >= 0).tolist() == [2, 3, 5]
    assert verdicts.group_N.tolist() == [0, 1, 0, 0, -1, 1]
    assert verdicts.resembling[0].partners.tolist() == [0, 0, 1]


def test_another_role_or_another_turn_is_no_copy(tmp_path: Path):
    chats = [
        (Message("user", "a"), Message("assistant", "b")),
        (Message("system", "a"), Message("assistant", "b")),
        (Message("user", "a"), Message("assistant", "b"), Message("user", "")),
        (Message("user", 'a"], ["assistant", "b'), Message("assistant", "b")),
    ]
    verdicts = judge(
        config.Gates(near=NO_NEAR, target=NO_TARGET), chats, [], np.ones(4, bool), tmp_path, lambda rows: None
    )
    assert (verdicts.left_by_N < 0).all()


def test_a_row_that_cannot_be_scored_is_nobodys_partner(tmp_path: Path):
    usable = np.array([False, True, True])
    verdicts = judge(config.Gates(target=NO_TARGET), [chat("x")] * 3, [], usable, tmp_path, lambda rows: None)
    assert verdicts.left_by_N.tolist() == [-1, -1, 2]
    assert verdicts.resembling[0].partners.tolist() == [1]


def test_a_report_takes_nothing_out_and_finds_the_same(tmp_path: Path):
    texts = varied(random.Random(9), 80)
    found = {}
    for policy in ("report", "exclude"):
        near = config.NearDuplicates(policy=policy, threshold=0.7)
        folder = tmp_path / policy
        folder.mkdir()
        found[policy] = judged(config.Gates(exact="off", near=near, target=NO_TARGET), texts, folder)
    assert (found["report"].left_by_N < 0).all()
    np.testing.assert_array_equal(found["report"].resembling[0].rows, found["exclude"].resembling[0].rows)
    np.testing.assert_array_equal(found["report"].group_N, found["exclude"].group_N)


def test_groups_join_copies_of_near_duplicates(tmp_path: Path):
    words = [f"w{i}" for i in range(40)]
    near = " ".join([*words[:39], "other"])
    verdicts = judged(
        config.Gates(near=REPORT, target=NO_TARGET), [" ".join(words), near, near, "apart from all"], tmp_path
    )
    assert verdicts.group_N.tolist() == [0, 0, 0, -1]


def test_target_examples_are_found_with_their_similarity(tmp_path: Path):
    texts = varied(random.Random(3), 120)
    examples = [texts[17] + " more", "nothing of the kind here", texts[90]]
    target = config.TargetDuplicates(policy="exclude", threshold=0.7)
    verdicts = judged(config.Gates(exact="off", near=NO_NEAR, target=target), texts, tmp_path, examples)
    (found,) = verdicts.resembling
    expected = {
        row: max((jaccard(shingles(text, 5), shingles(example, 5)), -i) for i, example in enumerate(examples))
        for row, text in enumerate(texts)
    }
    wanted = {row: -best[1] for row, best in expected.items() if best[0] >= 0.7}
    assert {17, 90} <= wanted.keys()
    assert dict(zip(found.rows.tolist(), found.partners.tolist(), strict=True)) == wanted
    np.testing.assert_array_equal(np.flatnonzero(verdicts.left_by_N >= 0), found.rows)


def held_out_file(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def held_out_gates(path: Path, **settings) -> config.Gates:
    fields = settings.pop("text_fields", ("text",))
    sets = (config.HeldOutRows(path=str(path), text_fields=fields),)
    return config.Gates(exact="off", near=NO_NEAR, target=NO_TARGET, held_out=config.HeldOut(sets=sets, **settings))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(5, 8), shared=st.integers(1, 3))
def test_held_out_rows_are_those_of_brute_force(
    tmp_path_factory: pytest.TempPathFactory, seed: int, length: int, shared: int
):
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("held_out")
    few = [f"w{i}" for i in range(12)]

    def some(least: int, most: int) -> str:
        return " ".join(rng.choices(few, k=rng.randint(least, most)))

    held = [some(1, 14) for _ in range(6)]
    texts = [" ".join([some(0, 9), *rng.choice(held).split()[: rng.randint(1, 14)], some(0, 9)]) for _ in range(40)]
    path = held_out_file(folder / "test.jsonl", [{"id": f"t{i}", "text": text} for i, text in enumerate(held)])
    gates = held_out_gates(path, words=length, least_words=3, shared=shared, common=None)
    verdicts = judged(gates, texts, folder)

    known: set[tuple[str, ...]] = set()
    for words in map(words_of, held):
        if len(words) >= length:
            known |= {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}
        elif len(words) >= 3:
            known.add(tuple(words))
    expected = {}
    for row, text in enumerate(texts):
        words = words_of(f"{text}\nyes")
        count = sum(any(tuple(words[i : i + len(one)]) == one for i in range(len(words))) for one in known)
        if count >= shared:
            expected[row] = count
    assert {finding.row: finding.shared for finding in verdicts.held_out[0]} == expected
    for finding in verdicts.held_out[0]:
        assert finding.words in " ".join([*words_of(texts[finding.row]), "yes"])


def test_a_prompt_that_a_whole_set_shares_says_nothing(tmp_path: Path):
    prompt = "answer the following question with a single word and nothing else please"
    held = [{"text": f"{prompt} {' '.join(f'q{i}x{j}' for j in range(9))}"} for i in range(12)]
    path = held_out_file(tmp_path / "test.jsonl", held)
    texts = [f"{prompt} something of my own", f"well {held[4]['text']}"]
    strict = judged(held_out_gates(path, words=8, common=None), texts, tmp_path)
    usual = judged(held_out_gates(path, words=8), texts, tmp_path)
    assert [finding.row for finding in strict.held_out[0]] == [0, 1]
    assert [(finding.row, finding.partner) for finding in usual.held_out[0]] == [(1, "line 5")]
    assert any("do not count" in note for note in usual.notes)


def test_short_held_out_rows_are_counted(tmp_path: Path):
    path = held_out_file(tmp_path / "test.jsonl", [{"text": "too short"}, {"text": "a b c d e f g h i j"}])
    verdicts = judged(held_out_gates(path), ["so a b c d e f g h i j it is"], tmp_path)
    assert [finding.words for finding in verdicts.held_out[0]] == ["a b c d e f g h i j"]
    assert "1 of 2 rows" in verdicts.notes[0]


def test_held_out_rows_may_be_chats_without_an_answer(tmp_path: Path):
    words = " ".join(f"w{i}" for i in range(20))
    rows = [{"id": 7, "messages": [{"role": "user", "content": words}]}, {"prompt": "x"}]
    gates = held_out_gates(held_out_file(tmp_path / "t.jsonl", rows), text_fields=None)
    assert [finding.partner for finding in judged(gates, ["no", words], tmp_path).held_out[0]] == ["7"]


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        ([{"text": "a"}, {"other": "b"}], ("text",), r"line 2: text_fields names 'text', which the row has not"),
        ([{"text": 3}], ("text",), "line 1: text is a number: make it text"),
        ([{"text": "a"}], None, "neither messages nor prompt"),
        ([3], ("text",), "the row is a number: give an object"),
    ],
)
def test_bad_held_out_rows_are_named(tmp_path: Path, rows: list, fields, words: str):
    path = held_out_file(tmp_path / "t.jsonl", rows)
    with pytest.raises(DataError, match=words):
        judged(held_out_gates(path, text_fields=fields), ["x"], tmp_path)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=6), st.integers(1, 4), st.booleans())
def test_a_sequence_has_one_number_wherever_it_stands(texts: list[list[str]], length: int, whole: bool):
    block = WordHasher().block([" ".join(words) for words in texts])
    found = sequences(block, length, whole)
    numbers: dict[tuple[str, ...], int] = {}
    for row, words in enumerate(texts):
        expected = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
        if whole and 0 < len(words) < length:
            expected = [tuple(words)]
        part = found.hashes_G[found.offsets[row] : found.offsets[row + 1]].tolist()
        assert len(part) == len(expected)
        for one, number in zip(expected, part, strict=True):
            assert numbers.setdefault(one, number) == number
    assert len(set(numbers.values())) == len(numbers)


def test_words_of_scripts_without_spaces_are_their_characters():
    assert words_of("Ab_c1, 東京 é") == ["ab", "c1", "東", "京", "é"]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_a_pair_at_the_threshold(threshold: float):
    bands = Bands.at(threshold)
    assert 1 - (1 - threshold**bands.rows) ** bands.count >= 0.99
    assert bands.count * bands.rows <= 128
