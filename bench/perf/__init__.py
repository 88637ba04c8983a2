"""Measurements of speed and cost: what runs on a GPU, how fast, how far from its limits; what builds take."""

from engine.settings.environment import offline

offline()  # here, since each of these programs imports the model libraries, which read it once
