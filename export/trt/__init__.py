"""Building, inspecting and running engines of either TensorRT; `export.targets.tensorrt` joins them."""
