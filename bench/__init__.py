"""Benchmarks, the scorer, evaluators, datasets and submissions. No other package imports this one.

Its commands are found by name.
"""
