"""The Wan family of video diffusion transformers."""

PIPELINES = ("Wan", "AnyFlowFAR")
