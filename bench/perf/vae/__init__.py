"""Decoding of latents to pixels: the library's way, ours, and ours in FP8, whole and one convolution."""
