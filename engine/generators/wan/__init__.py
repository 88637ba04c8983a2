"""The Wan family of video diffusion transformers."""

PIPELINES = ("Wan", "AnyFlowFAR")
STATES = True
"""Takes can keep hidden states; a variant that cannot says so itself."""
