"""Fused element-wise kernels: what lies between the GEMMs of a transformer block, read and written once."""

from kernels.fused._operators import kernels_inside

__all__ = ["kernels_inside"]
