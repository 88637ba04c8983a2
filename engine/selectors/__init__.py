"""Registry by file name: one target-free chooser of the best take a file."""
