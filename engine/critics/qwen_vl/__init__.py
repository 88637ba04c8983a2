"""Critics of the Qwen-VL layout: Qwen3-VL, Qwen3.5, Qwen2.5-VL, and the reasoner in a folder of Cosmos3."""

MODEL_TYPES = ("qwen3_vl", "qwen3_5", "qwen2_5_vl", "cosmos3_omni")
REFUSED = {
    "cosmos3_edge": "the reasoner of Cosmos3-Edge has feed-forwards without a gate (relu2), which decoding "
    "here does not compute",
    "qwen3_5_moe": "this Qwen3.5 mixes experts",
    "qwen3_vl_moe": "this Qwen3-VL mixes experts",
}
"""Types of model that are known and not read -> why."""
