"""Benchmarks and evaluators. The engine never imports this package."""
