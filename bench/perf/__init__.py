"""Measurements of speed and cost: what runs on a GPU, how fast, how far from its limits; what builds take."""
