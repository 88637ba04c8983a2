"""Registry by file name: one target-free selector of the best take a file."""
