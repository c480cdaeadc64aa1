"""Labels are exactly what the assistant says and what closes its turn, whatever template and tokenizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from clusterucb.config import Tokens
from clusterucb.data.chat import ChatEncoder, Encoded
from clusterucb.data.messages import Message
from clusterucb.errors import DataError, ModelError

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<end_of_turn>", "<|end|>"]
CORPUS = [
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "User: what is two plus two? Assistant: it is four.\n\n  user assistant system tool model\n",
    "the quick brown fox jumps over the lazy dog 0123456789 <think> </think>",
]

# SmolLM2's own template
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) "
    "+ '\n' + (m['content'] | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DATED = "{{ bos_token + strftime_now('%d %B %Y') }}" + CHATML
# drops the reasoning of earlier turns, and writes an empty one into the last turn
REASONING = (
    "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'assistant' %}"
    "{% set r = '' %}{% if '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1] %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}{% set c = '<think>\n' + r.strip('\n') + '\n</think>\n\n' + c %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHOUTING = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'A: ' }}"
    "{% generation %}{{ m['content'].replace('yes', 'YES') + eos_token }}{% endgeneration %}"
    "{% else %}{{ 'U: ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
)
CLOSING = {CHATML: "<|im_end|>", MISTRAL: "</s>", GEMMA: "<end_of_turn>", PHI: "<|end|>", DATED: "<|im_end|>"}


def byte_level(template: str | None = None, trim_offsets: bool = False, **special: Any) -> PreTrainedTokenizerFast:
    """Return a small byte-level BPE, as GPT-2, Llama 3, Qwen and SmolLM have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", **special}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = template
    return fast


def metaspace(template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a character tokenizer with sentencepiece's space marker and byte fallback, as Llama 2 and Mistral have."""
    letters = sorted({*"".join(CORPUS).replace(" ", "").replace("\n", ""), "\u2581"})
    pieces = [*SPECIAL, *[f"<0x{byte:02X}>" for byte in range(256)], *letters]
    model = models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return fast


def chat(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    turns = [Message("user" if i % 2 == 0 else "assistant", content) for i, content in enumerate(contents)]
    return (*([] if system is None else [Message("system", system)]), *turns)


def runs(encoded: Encoded) -> list[list[int]]:
    """Labelled tokens, one list for each uninterrupted stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], encoded.labels, [False]])))
    return [encoded.tokens[a:b].tolist() for a, b in edges.reshape(-1, 2)]


def spoken(tokenizer: PreTrainedTokenizerFast, encoded: Encoded) -> list[str]:
    return [tokenizer.decode(run) for run in runs(encoded)]


LONG = Tokens(max_length=100_000)
letters = st.characters(exclude_categories=["Cs", "Co", "Cn"], exclude_characters="<>[]|")
words = st.text(letters, min_size=1, max_size=20)
answers = words.filter(lambda text: text == text.strip() and text != "")

ENCODERS = {
    ("byte", template): (byte_level(template), ChatEncoder(byte_level(template), LONG)) for template in CLOSING
} | {("trim", CHATML): (byte_level(CHATML, True), ChatEncoder(byte_level(CHATML, True), LONG))}


@pytest.mark.parametrize("kind", ENCODERS, ids=lambda kind: f"{kind[0]}{list(CLOSING).index(kind[1])}")
@given(turns=st.lists(st.tuples(words, answers), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_the_labels_decode_to_what_the_assistant_says_and_the_closing_token(
    kind: tuple[str, str], turns: list[tuple[str, str]]
):
    tokenizer, encoder = ENCODERS[kind]
    encoded = encoder.encode(chat(*[text for turn in turns for text in turn]))
    said = [answer + CLOSING[kind[1]] for _, answer in turns]
    found = spoken(tokenizer, encoded)
    if kind[1] == MISTRAL:  # the space before an answer belongs to its first token
        found = [text.removeprefix(" ") for text in found]
    assert found == said
    assert not encoded.labels[0]


@given(turns=st.lists(st.tuples(words, answers), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_the_plain_fallback_labels_the_same(turns: list[tuple[str, str]]):
    tokenizer = metaspace()
    encoded = ChatEncoder(tokenizer, LONG).encode(chat(*[text for turn in turns for text in turn]))
    assert [text.removesuffix("</s>").strip() for text in spoken(tokenizer, encoded)] == [said for _, said in turns]
    assert all(text.endswith("</s>") for text in spoken(tokenizer, encoded))


def test_the_rendered_chat_is_what_the_template_says():
    tokenizer = byte_level(CHATML)
    messages = chat("hi", " a\n", "and?", "b", system="be brief")
    encoded = ChatEncoder(tokenizer, LONG).encode(messages)
    rows = [{"role": message.role, "content": message.content} for message in messages]
    assert encoded.tokens.tolist() == tokenizer.apply_chat_template(rows, tokenize=True)["input_ids"]
    assert spoken(tokenizer, encoded) == [" a\n<|im_end|>", "b<|im_end|>"]
    assert (encoded.tokens.dtype, encoded.labels.dtype) == (np.int32, np.bool_)


def test_plain_writes_names_and_the_tokenizers_own_ends():
    tokenizer = byte_level()
    encoder = ChatEncoder(tokenizer, LONG)
    encoded = encoder.encode((Message("system", "s"), *chat("q", "a"), Message("tool", "t"), Message("assistant", "b")))
    assert tokenizer.decode(encoded.tokens) == "<s>System: s</s>User: q</s>Assistant: a</s>Tool: t</s>Assistant: b</s>"
    assert [text.strip() for text in spoken(tokenizer, encoded)] == ["a</s>", "b</s>"]
    assert "no chat template" in encoder.notes[0]
    assert "User: " in encoder.notes[0]


def test_plain_without_an_end_token_closes_a_turn_with_a_line_break():
    tokenizer = byte_level(bos_token=None, eos_token=None)
    encoder = ChatEncoder(tokenizer, LONG)
    encoded = encoder.encode(chat("q", "a", "r", "b"))
    assert tokenizer.decode(encoded.tokens) == "User: q\nAssistant: a\nUser: r\nAssistant: b\n"
    assert [text.strip(" ") for text in spoken(tokenizer, encoded)] == ["a", "b"]
    assert "no end token" in encoder.notes[0]


def test_which_messages_carry_the_loss():
    tokenizer = byte_level(CHATML)
    messages = chat("q", "a", "r", "b")

    def labelled(loss_on: Any) -> list[str]:
        return spoken(tokenizer, ChatEncoder(tokenizer, Tokens(loss_on=loss_on)).encode(messages))

    assert labelled("assistant") == ["a<|im_end|>", "b<|im_end|>"]
    assert labelled("last_assistant") == ["b<|im_end|>"]
    (everything,) = labelled("all")
    assert everything.startswith("system\nYou are")  # all but the very first token
    assert everything.endswith("b<|im_end|>\n")


def test_a_question_after_the_last_answer_changes_nothing():
    encoder = ChatEncoder(byte_level(CHATML), LONG)
    one, two = encoder.encode(chat("q", "a")), encoder.encode(chat("q", "a", "r"))
    np.testing.assert_array_equal(one.tokens, two.tokens)
    np.testing.assert_array_equal(one.labels, two.labels)


def test_a_template_may_trim():
    tokenizer = byte_level(GEMMA)
    encoded = ChatEncoder(tokenizer, LONG).encode(chat("q ", "\n\n a b \n", " r", " yes\n"))
    assert spoken(tokenizer, encoded) == ["a b<end_of_turn>", "yes<end_of_turn>"]


def test_an_answer_that_repeats_the_question_is_still_found_in_its_place():
    tokenizer = byte_level(CHATML)
    encoded = ChatEncoder(tokenizer, LONG).encode(chat("system", "assistant", "assistant\n", "assistant"))
    assert spoken(tokenizer, encoded) == ["assistant<|im_end|>", "assistant<|im_end|>"]
    assert np.flatnonzero(encoded.labels)[-1] == len(encoded.tokens) - 2  # only the line break follows


def test_a_template_that_writes_before_the_last_answer_is_seen_through():
    tokenizer = byte_level(REASONING)
    encoded = ChatEncoder(tokenizer, LONG).encode(chat("q", "a", "r", "b"))
    assert "<think>\n\n</think>\n\nb" in tokenizer.decode(encoded.tokens)
    assert spoken(tokenizer, encoded) == ["a<|im_end|>", "b<|im_end|>"]


def test_reasoning_in_the_last_answer_is_labelled_with_it():
    tokenizer = byte_level(REASONING)
    encoded = ChatEncoder(tokenizer, LONG).encode(chat("q", "<think>\nhm\n</think>\n\nb"))
    assert spoken(tokenizer, encoded) == ["<think>\nhm\n</think>\n\nb<|im_end|>"]


def test_reasoning_that_the_template_drops_is_an_error_with_a_way_out():
    tokenizer = byte_level(REASONING)
    messages = chat("q", "<think>\nhm\n</think>\n\na", "r", "<think>\nso\n</think>\n\nb")
    with pytest.raises(DataError, match=r"does not show where the assistant speaks .* tokens\.template to plain"):
        ChatEncoder(tokenizer, LONG).encode(messages)
    last = ChatEncoder(tokenizer, Tokens(loss_on="last_assistant")).encode(messages)
    assert spoken(tokenizer, last) == ["<think>\nso\n</think>\n\nb<|im_end|>"]


def test_a_template_that_rewrites_may_mark_its_own_generations():
    tokenizer = byte_level(SHOUTING)
    messages = chat("q", "oh yes", "r", "yes yes")
    assert spoken(tokenizer, ChatEncoder(tokenizer, LONG).encode(messages)) == ["oh YES</s>", "YES YES</s>"]
    last = ChatEncoder(tokenizer, Tokens(loss_on="last_assistant")).encode(messages)
    assert spoken(tokenizer, last) == ["YES YES</s>"]


def test_a_template_without_a_closing_token_labels_the_text_alone():
    tokenizer = byte_level(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    encoded = ChatEncoder(tokenizer, LONG).encode(chat("q", "a.", "r", "b."))
    assert [text.strip(" ") for text in spoken(tokenizer, encoded)] == ["a.", "b."]


def test_a_closing_mark_of_ordinary_tokens_is_labelled_whole():
    tokenizer = byte_level("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ###\n' }}{% endfor %}")
    encoded = ChatEncoder(tokenizer, LONG).encode(chat("q", "a", "r", "b"))
    assert [text.strip(" ") for text in spoken(tokenizer, encoded)] == ["a ###", "b ###"]


def test_a_refusing_template_says_why():
    with pytest.raises(DataError, match=r"refuses this chat \(roles must alternate; roles: user, user, assistant\)"):
        ChatEncoder(byte_level(MISTRAL), LONG).encode((*chat("q"), *chat("r", "a")))


def test_no_assistant_message_is_an_error():
    with pytest.raises(DataError, match="no assistant message"):
        ChatEncoder(byte_level(CHATML), LONG).encode(chat("q"))


# --- truncation ---------------------------------------------------------------------------------------------------


@given(st.integers(2, 60), st.sampled_from(["right", "left", "exclude"]))
@settings(max_examples=60, deadline=None)
def test_truncation_keeps_one_end_and_its_labels(most: int, truncation: Any):
    tokenizer, whole_encoder = ENCODERS["byte", PHI]
    messages = chat("what is two plus two?", "it is four.", "and then?", "it is five.")
    whole = whole_encoder.encode(messages)
    cut = ChatEncoder(tokenizer, Tokens(max_length=most, truncation=truncation)).encode(messages)
    size = len(whole.tokens)
    assert cut.num_tokens_full == size
    if most >= size:
        assert (cut.truncated, cut.excluded) == (False, False)
        assert cut.tokens.tolist() == whole.tokens.tolist()
    elif truncation == "exclude":
        assert cut.excluded
        assert not cut.truncated
        assert len(cut.tokens) == len(cut.labels) == 0
    else:
        part = slice(0, most) if truncation == "right" else slice(size - most, size)
        assert cut.truncated
        assert cut.tokens.tolist() == whole.tokens[part].tolist()
        assert cut.labels[1:].tolist() == whole.labels[part][1:].tolist()
        assert not cut.labels[0]


# --- the encoder itself -------------------------------------------------------------------------------------------


def test_notes_tell_of_an_added_system_message_and_of_a_short_tokenizer():
    notes = ChatEncoder(byte_level(CHATML, model_max_length=64), Tokens()).notes
    assert "'You are a helpful AI assistant named SmolLM, trained by Hugging Face'" in notes[0]
    assert notes[1] == "tokens.max_length (512) exceeds the tokenizer's own limit (64)"
    assert ChatEncoder(byte_level(GEMMA), Tokens()).notes == ()
    assert ChatEncoder(byte_level(MISTRAL), Tokens()).notes == ()


def test_a_template_cannot_see_the_date():
    tokenizer = byte_level(DATED)
    encoder = ChatEncoder(tokenizer, LONG)
    assert tokenizer.decode(encoder.encode(chat("q", "a")).tokens).startswith("<s>26 Jul 2024<|im_start|>system")
    assert "date" in encoder.notes[-1]


def test_a_missing_template_is_an_error_only_where_it_is_asked_for():
    with pytest.raises(ModelError, match=r"no chat template: set tokens\.template to plain"):
        ChatEncoder(byte_level(), Tokens(template="tokenizer"))
    asked = ChatEncoder(byte_level(CHATML), Tokens(template="plain"))
    assert "template is plain" in asked.notes[0]


def test_several_templates_without_a_default_are_an_error():
    tokenizer = byte_level()
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}
    with pytest.raises(ModelError, match="several chat templates"):
        ChatEncoder(tokenizer, Tokens())


def test_a_slow_tokenizer_is_refused_unless_every_token_carries_loss(tmp_path: Path):
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    with pytest.raises(ModelError, match=r"ByT5Tokenizer.*tokenizer\.json, or set tokens\.loss_on to all"):
        ChatEncoder(tokenizer, Tokens())
    encoder = ChatEncoder(tokenizer, Tokens(loss_on="all"))
    assert encoder.encode(chat("q", "a")).labels.sum() == len(encoder.encode(chat("q", "a")).tokens) - 1
    assert encoder.identity == ChatEncoder(ByT5Tokenizer(), Tokens(loss_on="all")).identity


def test_the_identity_follows_tokenizer_template_and_settings_only():
    same = byte_level(CHATML)
    identity = ChatEncoder(same, Tokens()).identity
    same(["a", "b c d"], truncation=True, max_length=2)  # leaves its mark in the tokenizer
    assert ChatEncoder(same, Tokens()).identity == ChatEncoder(byte_level(CHATML), Tokens()).identity == identity
    others = [
        ChatEncoder(byte_level(PHI), Tokens()),
        ChatEncoder(metaspace(CHATML), Tokens()),
        ChatEncoder(byte_level(CHATML), Tokens(max_length=99)),
        ChatEncoder(byte_level(CHATML, eos_token="<|im_end|>"), Tokens()),
    ]
    assert len({identity, *(other.identity for other in others)}) == 5


@pytest.mark.material
def test_the_real_tokenizer_without_a_template(material: Path):
    tokenizer = AutoTokenizer.from_pretrained(material / "models" / "stories260k")
    encoder = ChatEncoder(tokenizer, LONG)
    for line in (material / "pool" / "pool_ci.jsonl").read_text().splitlines():
        messages = tuple(Message(message["role"], message["content"]) for message in json.loads(line)["messages"])
        encoded = encoder.encode(messages)
        assert (encoded.tokens[0], encoded.tokens[-1]) == (1, 2)
        said = [message.content for message in messages if message.role == "assistant"]
        found = [text.removesuffix("</s>").strip() for text in spoken(tokenizer, encoded)]
        assert found == [text.strip() for text in said]
        assert encoded.labels[-1]
