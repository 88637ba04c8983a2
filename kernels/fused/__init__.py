"""Fused element-wise kernels: what lies between the matrix products of a transformer block, read and written
once."""
