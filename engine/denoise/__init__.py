"""Samplers and guidance: tensors in, tensors out."""
