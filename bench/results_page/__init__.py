"""RESULTS.md and its plots, generated from the measurements in bench/results. Measures nothing."""
