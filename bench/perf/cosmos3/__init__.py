"""Cosmos3 as generator and critic on one GPU: takes from end to end, beside the library's pipeline.

One folder of random weights of the published sizes, made where it is measured. Every take reads its text and
its prefix, denoises, decodes, and writes its mp4.
"""

import time

STARTED_S = time.perf_counter()
"""Of this process, on the clock of perf_counter: read before anything heavy is imported."""
