"""Whether a benchmark tree on disk is whole."""
