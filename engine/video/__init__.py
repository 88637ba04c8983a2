"""Clips on disk and what is computed of their frames."""
