"""Measurements of speed: what runs on a GPU, how fast, how far from its limits."""
