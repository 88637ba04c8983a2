"""RESULTS.md, its plots and the figures of other pages, from the files in bench/results. Measures nothing."""
