"""Critics of the Qwen-VL layout: Qwen3-VL and Qwen2.5-VL."""

MODEL_TYPES = ("qwen3_vl", "qwen2_5_vl")
