"""One variant of the Wan family a file, each a `VARIANT`."""
