"""Denoisers as subjects of the speed measurements, one family a file."""
