"""8-bit matrix products with per-row and per-channel scales, one file per implementation."""
