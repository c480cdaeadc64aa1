"""The subset as it is written is what TRL's SFTTrainer trains on, and what it trains peft loads."""

import json
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel
from selection_cases import run_here
from tiny_models import tiny_llama
from training_cases import training_config
from transformers import AutoModelForCausalLM, AutoTokenizer

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"


@pytest.mark.slow
def test_trl_trains_on_the_selection_as_it_was_written(tmp_path: Path):
    from trl import SFTConfig, SFTTrainer

    config = training_config(tmp_path, "search.cold_start_min=1", "selection.share=0.1", "audit.samples=0", rows=96)
    run = run_here(config, tmp_path / "run")
    rows = load_dataset("json", data_files=str(run.selection_file), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 9
    tokenizer = AutoTokenizer.from_pretrained(config.model.base)
    tokenizer.chat_template, tokenizer.pad_token = TEMPLATE, tokenizer.eos_token
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(config.model.base),
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2,
            max_length=128, report_to="none", save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 2
    trainer.save_model(str(tmp_path / "adapter"))
    theirs = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter")
    ids = torch.arange(20)[None]
    assert not torch.equal(theirs(input_ids=ids).logits, tiny_llama()(input_ids=ids).logits)
    written = [json.loads(line) for line in run.selection_file.read_text().splitlines()]
    assert [row["messages"] for row in rows] == [row["messages"] for row in written]
