"""Critics of the Qwen-VL layout: Qwen3-VL and Qwen2.5-VL."""
