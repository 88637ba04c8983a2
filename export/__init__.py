"""Diffusion modules as ONNX graphs, TensorRT engines and AOTInductor packages: built, verified, loaded."""
