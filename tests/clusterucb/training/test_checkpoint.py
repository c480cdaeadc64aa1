"""What a checkpoint says of its tokenizer depends on the tokenizer alone."""

from pathlib import Path

from tiny_models import saved, tiny_llama
from transformers import AutoTokenizer

from clusterucb.training.checkpoint import save_tokenizer


def test_a_tokenizer_is_written_alike_however_it_was_loaded(tmp_path: Path):
    base = saved(tiny_llama(), tmp_path / "model")
    for name, offline in (("online", False), ("offline", True)):
        save_tokenizer(AutoTokenizer.from_pretrained(base, local_files_only=offline), tmp_path / name)
    files = {name: {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("online", "offline")}
    assert files["online"] == files["offline"]
    again = AutoTokenizer.from_pretrained(tmp_path / "online")
    assert again("one two three")["input_ids"] == AutoTokenizer.from_pretrained(base)("one two three")["input_ids"]
