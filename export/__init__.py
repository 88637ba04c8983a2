"""Diffusion modules as ONNX graphs, TensorRT engines and AOTInductor packages: built, verified, loaded."""

import engine  # noqa: F401, before torch: it says how torch's threads wait
