"""Evaluators: scores of finished runs."""
