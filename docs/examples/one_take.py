"""Plan, one take and its critique, then a second take of the plan that the critic corrected.

python docs/examples/one_take.py clip.mp4 "A red ball rolls towards a wooden block." [steps]
"""

import sys

import retake


def main(clip: str, text: str, steps: int | None = None) -> list[retake.Critique]:
    generator = retake.load_generator("demo", {"generator.steps": steps})  # or a model folder
    critic = retake.load_critic("demo")
    scenario = retake.scenario(clip, text)

    plan = retake.plan(critic, scenario).plan
    critiques = []
    for number in range(2):
        prompt = retake.prompt(scenario, plan=plan, seed=7, negative=generator.negative_prompt)
        video = retake.take(generator, scenario, prompt)
        critique = retake.critique(critic, scenario, prompt, video)
        retake.write_video(f"take-{number}.mp4", video)
        print(f"take {number}: {critique.verdict}, score {critique.score}")
        for finding in critique.findings:
            print(f"  at {finding.t:.1f} s, {finding.object}: {finding.issue}")
        plan = critique.revised or plan
        critiques.append(critique)
    return critiques


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
