"""Finished runs as a results table: attempt sets, ensembles, comparisons."""
