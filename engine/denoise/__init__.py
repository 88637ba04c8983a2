"""Samplers, guidance, layers that fast forwards share, and how a denoiser is assembled; knows no family."""
