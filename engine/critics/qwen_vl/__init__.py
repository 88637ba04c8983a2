"""Critics of the Qwen-VL layout: Qwen3-VL, Qwen2.5-VL, and the reasoner in a folder of Cosmos3."""

MODEL_TYPES = ("qwen3_vl", "qwen2_5_vl", "cosmos3_omni")
REFUSED = {
    "cosmos3_edge": "the reasoner of Cosmos3-Edge has feed-forwards without a gate (relu2), which decoding "
    "here does not compute"
}
