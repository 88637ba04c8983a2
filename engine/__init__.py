"""The engine: plans, generates, critiques and keeps the best take of each scenario."""

from engine.machine.namesake import expect_namesake
from engine.settings.environment import let_memory_grow_in_place, let_waiting_threads_sleep

let_waiting_threads_sleep()  # here, since torch reads it once and may be the next import
let_memory_grow_in_place()
expect_namesake()  # likewise, of the libraries that import bitsandbytes
