"""8-bit GEMMs with per-row and per-channel scales, one file per implementation."""
