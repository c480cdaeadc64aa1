"""The checkpoint: base model, LoRA adapter and Adam moments, from whatever wrote them."""
