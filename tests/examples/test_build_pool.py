"""The demo's pool is deterministic, diverse, spoilt as intended, and holds nothing of its targets."""

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import build_pool
import pytest
from demo_pool import target_programs

SHINGLE = 13
Row = dict


@pytest.fixture(scope="module")
def pool() -> list[Row]:
    return build_pool.build_pool(0)


@pytest.fixture(scope="module")
def targets() -> dict[str, list[Row]]:
    return {"arithmetic": build_pool.build_target_arithmetic(0), "python": build_pool.build_target_python()}


def text(row: Row) -> str:
    return "\n".join(message["content"] for message in row["messages"])


def shingles(row: Row) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text(row).lower())
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def answer(row: Row) -> str:
    return row["messages"][-1]["content"]


def test_every_row_is_a_question_with_an_answer(pool, targets):
    for row in [*pool, *targets["arithmetic"], *targets["python"]]:
        assert list(row) == ["id", "source", "domain", "messages"]
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert all(message["content"].strip() for message in row["messages"])


def test_the_pool_is_large_diverse_and_short(pool):
    assert len(pool) >= 1000
    assert len({row["id"] for row in pool}) == len(pool)
    domains = Counter(row["domain"] for row in pool)
    assert len(domains) >= 10
    assert min(domains.values()) >= 50
    assert max(len(text(row)) for row in pool) <= 600


def test_noise_and_near_duplicates_are_present(pool):
    noise = Counter(row["source"] for row in pool if row["domain"] == "noise")
    assert len(noise) == 4
    assert min(noise.values()) >= 15
    copies = [row for row in pool if row["source"].startswith("near-duplicate/")]
    assert 0.04 <= len(copies) / len(pool) <= 0.06
    originals = {answer(row): row for row in pool if row not in copies}
    for copy in copies:
        original = originals[answer(copy)]
        assert original["domain"] == copy["domain"]
        assert original["messages"][1]["content"] in copy["messages"][1]["content"]


def test_the_pool_holds_no_target_and_no_near_copy_of_one(pool, targets):
    questions = {row["messages"][1]["content"] for row in pool}
    in_pool = set().union(*map(shingles, pool))
    for rows in targets.values():
        assert 24 <= len(rows) <= 32
        assert len({row["id"] for row in rows}) == len(rows)
        for row in rows:
            assert row["messages"][1]["content"] not in questions
            assert shingles(row), "the check needs targets of at least 13 words"
            assert not shingles(row) & in_pool


def test_the_seed_settles_every_byte_in_any_process(tmp_path):
    written = []
    for hash_seed in ("1", "2"):
        out = tmp_path / hash_seed
        command = [sys.executable, build_pool.__file__, "--out", str(out), "--seed", "5"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": hash_seed})
        written.append({file.name: file.read_bytes() for file in sorted(out.iterdir())})
    assert written[0] == written[1]
    assert sorted(written[0]) == ["pool.jsonl", "target_arithmetic.jsonl", "target_python.jsonl"]
    rows = [json.loads(line) for line in written[0]["pool.jsonl"].splitlines()]
    assert rows == build_pool.build_pool(5)
    assert rows != build_pool.build_pool(6)


def test_arithmetic_answers_are_right(pool, targets):
    rows = [row for row in pool if row["domain"] == "arithmetic"] + targets["arithmetic"]
    for row in rows:
        equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", answer(row))
        assert len(equations) == answer(row).count("=")
        assert len(equations) >= 2
        for left, operator, right, result in equations:
            left, right = int(left), int(right)
            values = {"+": left + right, "-": left - right, "*": left * right, "/": left / right}
            assert values[operator] == int(result), text(row)


def test_python_answers_run_and_pass_their_tests(pool, targets):
    assert len(Path(target_programs.__file__).read_text("utf-8").split("# %% ")) - 1 == len(targets["python"])
    for row in [row for row in pool if row["domain"] == "python"] + targets["python"]:
        program = re.fullmatch(r"```python\n(.*)\n```", answer(row), flags=re.DOTALL)
        assert program is not None
        exec(compile(ast.parse(program[1]), row["id"], "exec"), {})


def test_regular_expressions_match_their_examples(pool):
    rows = [row for row in pool if row["source"] == "regex/exactly"]
    assert rows
    for row in rows:
        pattern = re.search(r"(\^.*\$) asks", answer(row))
        example = re.search(r'as in "(.*)"', answer(row))
        assert pattern is not None
        assert example is not None
        assert re.fullmatch(pattern[1], example[1]), text(row)
