"""Convolutions of videos, one file an implementation."""
