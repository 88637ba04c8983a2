"""The engine: plans, generates, critiques and keeps the best take of each scenario."""
