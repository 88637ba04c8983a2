"""Several GPUs against one: the same scenarios, with `retake run --gpus N` and `--gpus 1`.

`python -m bench.perf.scaling --help` says how.
"""
