"""The same picture, cheaper: adapters and their registry, LCM-LoRA, LoRA formats and merging."""
