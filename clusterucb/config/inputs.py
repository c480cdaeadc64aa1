"""What users bring: rows, the model and how chats become tokens."""

from typing import Literal

from pydantic import Field

from clusterucb.config.section import Section


class Rows(Section):
    """Rows of chat `messages` or `prompt`/`completion`, from a file or a Hugging Face dataset."""

    path: str
    """A `.jsonl`, `.jsonl.gz`, `.json` or `.parquet` file, a folder or glob of them, a dataset saved to disk, or a
    hub id."""
    format: Literal["auto", "jsonl", "parquet", "dataset"] = "auto"
    """`auto` decides by what stands at the path; `dataset` is a Hugging Face dataset, saved to disk or on the hub."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    revision: str | None = None
    """Revision of a hub dataset."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first rows."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`skip` leaves bad rows out and reports every one of them."""
    id_field: str = "id"
    """Field with a unique id; rows without it get a hash of their content."""
    source_field: str = "source"
    """Field that says where a row comes from; used for reports and caps."""


class Target(Rows):
    """The examples that embody the wanted skill."""

    subtask_field: str | None = None
    """Field that groups the examples in subtasks; none means one subtask. The influence is the maximum over them."""


class NamedTarget(Target):
    """One of several targets that share a run's draws."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What its columns and its selection are called."""
    weight: float = Field(default=1.0, gt=0)
    """Its part of the draws, and of the joint selection, against the other targets'."""


class Lora(Section):
    """A fresh, seeded LoRA adapter, used where no trained one is given."""

    r: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    target_modules: tuple[str, ...] | Literal["all-linear"] | None = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Names of the linear layers that get an adapter; null leaves the choice to peft."""
    init_b: Literal["zero", "gaussian"] = "zero"
    """With `zero` (the usual start) every LoRA-A gradient is exactly zero; `gaussian` draws B at a hundredth of A's
    scale."""


class Model(Section):
    """Base model, adapter and Adam moments: the checkpoint whose gradients are taken."""

    base: str
    """Folder or hub id of a causal language model that transformers loads."""
    revision: str | None = None
    adapter: str | None = None
    """Folder or hub id of a LoRA adapter that peft loads; none means a fresh one from `lora`."""
    lora: Lora = Lora()
    moments: str | None = None
    """Adam moments: our safetensors file or folder, or an optimizer state of transformers, DeepSpeed or FSDP. None:
    plain gradients."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights: `auto` is bfloat16 on a GPU that has it and float32 elsewhere. Gradient arithmetic is float32."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


class Tokens(Section):
    """How a chat becomes tokens and labels."""

    max_length: int = Field(default=512, ge=2)
    truncation: Literal["right", "left", "exclude"] = "right"
    """What happens to longer samples: keep the first tokens, keep the last, or exclude the sample and report it."""
    loss_on: Literal["assistant", "last_assistant", "all"] = "assistant"
    """Which messages carry the loss."""
    template: Literal["auto", "tokenizer", "plain"] = "auto"
    """`tokenizer` needs its chat template; `plain` is `User: ..` / `Assistant: ..`; `auto` falls back to `plain`
    and says so."""
