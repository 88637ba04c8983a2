"""What a GPU second buys: single takes, best-of-N, the paper's loop and scouts at equal cost, on held-out scenes.

In --work, each phase going on where it was stopped:
1. scenes are made; 2. the paper's loop runs on them by `retake run --loop paper`, which also gives the plans;
3. of each scene the generator makes every candidate (brief and plan, --seeds noises each) as a whole take and as
looks of --scout-steps steps and twice as many, both as takes of their own ("whole") and as first steps of the
take ("first"); 4. takes and looks are scored; 5. choosers compare the sets that each arm would have shown them.

A budget is 1, 2, 4 or 8 times a single take. Costs are seconds, measured here on a GPU; on a CPU they are the
same seconds in denoise steps, and mean little: give --costs FILE, a document of this program that was made with
the models whose price matters (a --count of 2 is enough for that). Which scouts are spent at each budget is not
looked for on the scenes that are measured: it is the default loop's, or that of --tuned FILE, a document made on
tuning scenes (--tuning).

    python -m bench.quality.loop_budget --work W --tuning --count 120 --out tuned.json
    python -m bench.quality.loop_budget --work V --costs 5b.json --tuned tuned.json \\
        --out bench/results/loop_budget.json
    python -m bench.quality.loop_budget --work T --count 2 --seeds 2 --steps 3 --scout-steps 1 --out tiny.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.console import page_console
from bench.files import write_json
from bench.quality.budget_arms import BUDGETS, Costs, PaperTake, Scene, ScoutPlan, combinations_of
from bench.quality.budget_figures import best_of, budgets, chosen_plan, rank_prediction, summary, table
from bench.quality.candidate_pool import Key, ScenePool, make_pool, read_pool
from bench.quality.demo_quality import first_held_out, make_dataset, published_manifest, run_loop
from bench.quality.set_scores import FILE, SetScores
from bench.scoring.case_scoring import Scorer, Work, score_works
from bench.scoring.physics_iq import score_folder
from bench.scoring.references import references
from bench.scoring.view_metrics import Case, case_score
from engine.build.model_folders import find_critic, find_generator
from engine.build.prepare import load_critic, load_generator
from engine.datasets.physics_iq import read_descriptions
from engine.demo.layout import write_dataset
from engine.demo.scenes import DEFAULT_WORLD, WIDE, WORLDS, choose_kinds, make_scene
from engine.demo.scenes.base import FPS
from engine.demo.scenes.seeds import TUNING
from engine.errors import ConfigError, RetakeError
from engine.loop.policy import CRITIC_SCORE, RefinementPolicy, choose_take
from engine.loop.scout_policy import ScoutPolicy
from engine.loop.selection import load_selectors
from engine.machine.device import resolve_device, resolve_dtype, use_threads
from engine.runs.store import RunStore
from engine.settings.config import BUNDLED, LoopConfig, RunConfig, read_config
from engine.settings.environment import cache_folder, num_threads, offline, usable_cores
from engine.types import Scenario, ScoutForm
from kernels.files import read_json
