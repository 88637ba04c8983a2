"""The Cosmos3 family: one transformer with a tower that reads text and a tower that makes video."""

PIPELINES = ("Cosmos3Omni",)
PARTS = ("transformer", "vae", "text_tokenizer", "scheduler")
"""Folders that a take needs."""
UNUSED = ("sound_tokenizer", "vision_encoder", "safety_checker")
"""Folders that the index may name and no take reads; the reasoner's eyes are its critic's."""
STATES = True
"""Takes can keep hidden states."""
LENDS = True
"""A critic of the same folder can read by this generator's text tower."""
