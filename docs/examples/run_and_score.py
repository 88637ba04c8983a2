"""The whole loop over a dataset with references, its scores, and what became of each scenario.

retake scenes scenes --seed 2000000 --count 2 --views center
python docs/examples/run_and_score.py scenes runs/from_python [steps]
"""

import sys

import retake


def main(dataset: str, out: str, steps: int | None = None) -> retake.Scores:
    settings = {"loop.loops": 1, "generator.steps": steps}  # keys as in docs/settings.md; None: not given
    run = retake.run(dataset, out, settings, on_take=lambda name, take: print(name, "take", take.index))
    for name, record in run.scenarios.items():
        outcome = record.outcome
        assert outcome is not None, "the run ended"
        what = f"take {outcome.chosen}, of {len(outcome.attempts)} takes ({outcome.stopped})"
        print(name, outcome.failure or what)

    scores = retake.score(out)
    print(f"Original {scores.physics_iq}, Verified {scores.physics_iq_verified}")
    print("report:", retake.report(out))
    return scores


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
