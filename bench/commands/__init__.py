"""The commands that score, measure, tabulate and submit, found by file name; see engine.plugins."""
