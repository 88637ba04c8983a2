"""One file per group of commands; each registers its own on the app when it is imported."""
