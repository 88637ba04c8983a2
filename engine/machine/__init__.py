"""The machine a run works on: device, memory plan, streams and CUDA graphs."""
