"""A run folder: its store, manifest and trace."""
