"""Registry by file name: one dataset reader a file."""
