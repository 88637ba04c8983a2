"""Critics of the Qwen-VL layout: Qwen3-VL and Qwen2.5-VL."""

MODEL_TYPES = ("qwen3_vl", "qwen2_5_vl")
NOT_LOADED = {
    "qwen3_5": "three of four of its layers have a state of their own (Gated DeltaNet), which is not decoded",
    "qwen3_5_moe": "it mixes experts, and most of its layers keep a state of their own (Gated DeltaNet)",
    "qwen3_vl_moe": "it mixes experts",
}
"""Models of the same publisher that are known and not read -> why."""
