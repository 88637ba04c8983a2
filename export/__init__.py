"""Export of diffusion modules to ONNX, TensorRT and AOTInductor. Empty until its issue lands."""
