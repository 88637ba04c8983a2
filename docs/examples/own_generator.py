"""A generator of one's own in the loop: here one that holds the last frame of the prefix still.

python docs/examples/own_generator.py CLIPS runs/still
"""

import sys
from collections.abc import Mapping

import numpy as np

import retake


class Still:
    spec = retake.VideoSpec(width=128, height=128, fps=8.0, prefix_frames=24, num_frames=40)
    negative_prompt = ""
    notes: Mapping[str, str] = {}

    def footprint(self, spec: retake.VideoSpec) -> retake.Footprint:
        return retake.Footprint(weights_bytes=0, activation_bytes=0)

    def start(self, scenario: retake.Scenario, prompt: retake.Prompt) -> retake.Job[retake.Video]:
        return retake.OneStep(lambda: self.make(scenario, prompt))

    def make(self, scenario: retake.Scenario, prompt: retake.Prompt) -> retake.Video:
        last = retake.read_prefix(scenario, self.spec)[-1:]  # uint8 RGB [1, H, W, 3]
        return retake.Video(frames=np.repeat(last, self.spec.num_frames, axis=0), fps=self.spec.fps)


def main(clips: str, out: str) -> dict[str, retake.Outcome]:
    generator, critic = Still(), retake.load_critic("demo")
    scenarios = retake.open_scenarios(clips, generator.spec.fps)
    outcomes = retake.refine(scenarios, generator, critic, out, loop=retake.LoopConfig(loops=1))
    for name, outcome in outcomes.items():
        print(name, outcome.failure or f"take {outcome.chosen}, of {len(outcome.attempts)} takes")
    print("report:", retake.report(out))
    return outcomes


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
