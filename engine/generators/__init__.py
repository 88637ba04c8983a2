"""Registry by file name: one video-model family a file."""
