"""Registry by file name: one VLM family a file."""
