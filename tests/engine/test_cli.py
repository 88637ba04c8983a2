"""Every verb once, on tiny settings; errors as panels with status 2, failures as status 1."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluators import catch_evaluators
from tiny_run import Folders, make_folders, script_the_critic
from typer.testing import CliRunner, Result

from engine import cli
from engine.build import doctor
from engine.build.checks import Check
from engine.demo import showcase
from engine.demo.scenes import PLAIN, WORLDS
from engine.demo.scenes.base import HELD_OUT_SEED0
from engine.demo.scenes.seeds import HELD_OUT, MEANT_FOR, TUNING
from engine.errors import ConfigError
from engine.machine.memory import CONTEXT_BYTES
from engine.runs.store import RunStore
from engine.settings.config import DenoiseConfig, RunConfig, read_config
from engine.video.files import probe


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETAKE_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))  # for the benchmarks' processes
    monkeypatch.chdir(tmp_path)


def call(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result


def run_options(folders: Folders) -> list[object]:
    models = ["--generator", folders.generator, "--critic", folders.critic]
    return [folders.dataset, *models, "--device", "cpu", "--dtype", "fp32"]


@pytest.fixture
def finished(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script_the_critic(monkeypatch)
    out = tmp_path / "run"
    call("run", *run_options(folders), "--loops", 1, "--out", out)
    return out


def test_help_is_quick_and_has_an_example_for_each_verb() -> None:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "engine.cli", "--help"], check=True, capture_output=True)
    assert time.perf_counter() - start_s < 3  # 0.2 s on an idle machine; torch alone would take more
    for command in cli.app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert f"retake {name}" in call(name, "--help").output


def test_run_writes_a_run_with_the_options_given(folders: Folders, tmp_path: Path) -> None:
    options = ["--loops", 2, "--steps", 2, "--guidance-scale", 2, "--seed", 7, "--limit", 1]
    options += ["--only-incomplete", "--no-overlap", "--negative", "still", "--selectors", "consensus"]
    result = call("run", *run_options(folders), *options, "--out", tmp_path / "run")
    config = read_config(tmp_path / "run")
    assert (config.loop.loops, config.generator.steps, config.generator.guidance_scale) == (2, 2, 2.0)
    assert (config.loop.seed, config.limit, config.generator.negative) == (7, 1, "still")
    assert (config.loop.only_incomplete, config.schedule.overlap) == (True, False)
    assert config.loop.selectors == ("consensus",)
    assert "1 of 1 scenario done" in result.output and result.output.count("first prompt: brief, since") == 1
    assert (tmp_path / "run" / "report.html").is_file()


def test_run_takes_the_preset_and_parts_of_the_denoiser(folders: Folders, tmp_path: Path) -> None:
    options = [
        "--preset",
        "fast",
        "--attention",
        "sdpa_flash,sdpa_math",
        "--quantized-attention",
        "sdpa_math",
    ]
    options += ["--linear", "bf16", "--compile", "off", "--cfg-gate", 0.6, "--step-cache", 0.25]
    options += ["--early-stop", 0.05, "--loops", 0, "--limit", 1, "--out", tmp_path / "run"]
    call("run", *run_options(folders), *options)
    config = read_config(tmp_path / "run").denoise
    assert config == DenoiseConfig(
        preset="fast",
        attention=("sdpa_flash", "sdpa_math"),
        quantized_attention=("sdpa_math",),
        linear="bf16",
        compile="off",
        cfg_gate=0.6,
        step_cache=0.25,
        early_stop=0.05,
    )
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    notes = manifest["denoiser"]
    assert (notes["forward"], notes["linear"], notes["compile"]) == ("fast", "bf16", "off")
    assert notes["quantized_attention"] == "sdpa_math, without 0.1 first and 0.1 last"
    assert manifest["config"]["denoise"]["cfg_gate"] == 0.6


def test_settings_of_the_denoiser_are_refused_before_anything_runs(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for options, said in (
        (["--preset", "quick"], "exact, fast, fastest"),
        (["--linear", "fp8"], "--preset fast"),
        (["--preset", "fast", "--attention", "flash9"], "triton_dense"),
        (["--preset", "fast", "--quantized-attention", "triton_int8"], "retake kernels"),
        (["--step-cache", 0.7], "from 0.0 to 0.5"),
    ):
        output = call("run", *run_options(folders), *options, "--out", out, status=2).output
        assert said in output and "Traceback" not in output, options
        assert not out.exists(), options


def test_run_takes_settings_from_toml(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("limit = 1\n[loop]\nloops = 0\nseed = 3\n")
    call("run", *run_options(folders), "--config", tmp_path / "s.toml", "--seed", 4)
    (out,) = (tmp_path / "runs").iterdir()  # the default place
    assert (read_config(out).loop.loops, read_config(out).loop.seed) == (0, 4)


def test_a_failed_scenario_gives_status_1(folders: Folders, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(folders.dataset, dataset)
    bad = next(p for p in sorted(dataset.rglob("*conditioning-videos*.mp4")))
    bad.write_bytes(b"")
    options = [dataset, *run_options(folders)[1:], "--loops", 0, "--out", tmp_path / "run"]
    assert "1 of 2 scenarios done, 1 take, 1 failed" in call("run", *options, status=1).output
    assert bad.name in call("resume", tmp_path / "run", status=1).output


def test_resume_report_and_score(finished: Path, folders: Folders, tmp_path: Path) -> None:
    assert "2 of 2 scenarios done" in call("resume", finished).output
    (finished / "report.html").unlink()
    assert "report.html" in call("report", finished).output
    call("score", finished, "--all-attempts", "--no-cache", "--csv", tmp_path / "scores.csv")
    assert (finished / "scores.json").is_file()
    assert (tmp_path / "scores.csv").is_file()
    json_file = tmp_path / "plain.json"
    cache = ("--cache", tmp_path / "cache")
    call("score", finished / "chosen", "--dataset", folders.dataset, "--json", json_file, *cache)
    assert json_file.is_file()
    call("score", tmp_path, "--dataset", folders.dataset, status=2)
    assert "--dataset" in call("score", tmp_path, status=2).output


def test_select(finished: Path, tmp_path: Path) -> None:
    with RunStore.open(finished, read_only=True) as store:
        assert [outcome.chosen for outcome in store.outcomes().values()] == [1, 1]
    assert "0 of 2 scenarios get another take" in call("select", finished).output
    output = call(
        "select", finished, "--by", "critic_score", "--attempts", "0", "--out", tmp_path / "o"
    ).output
    assert "2 of 2 scenarios get another take" in output
    assert len(list((tmp_path / "o").glob("*.mp4"))) == 2
    assert "'1st' is not the number" in call("select", finished, "--attempts", "1st", status=2).output


def test_plan(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")  # a line that no terminal wraps stays whole
    output = call("plan", *run_options(folders), "--loops", 1).output
    assert "generator" in output
    assert "2 scenarios, 0 of them unusable" in output
    assert "if all 2 takes are used" in output and output.count("first prompt: brief, since") == 1
    named = call("plan", *run_options(folders), "--no-time", "--first-prompt", "plan").output
    assert "one take" not in named and "first prompt" not in named


def test_plan_goes_by_the_preset(folders: Folders, tmp_path: Path) -> None:
    options = [*run_options(folders), "--no-time"]
    output = call("plan", *options).output
    assert "planned for preset exact, denoise steps of a take: 1" in output
    (tmp_path / "s.toml").write_text('[denoise]\npreset = "fast"\ncfg_gate = 0.5\n')
    for fast in (["--preset", "fast", "--cfg-gate", "0.5"], ["--config", tmp_path / "s.toml"]):
        output = call("plan", *options, *fast, "--steps", 3).output
        assert "planned for preset fast with cfg_gate, denoise steps of a take: 3" in output


def test_plan_for_a_card_that_is_not_here(folders: Folders, tmp_path: Path) -> None:
    """Its memory, its formats; what would be changed to fit, or what is the least."""
    options = [folders.dataset, "--generator", folders.generator, "--critic", folders.critic]
    document = tmp_path / "plan.json"
    output = call("plan", *options, "--gpu", "rtx 4090", "--json", document).output
    found = json.loads(document.read_text())
    assert found["memory"]["budget_bytes"] == (24 << 30) - CONTEXT_BYTES and found["time"] is None
    assert set(found["memory"]["parts"]["critic"]["held"]) == {"model", "slots", "CUDA graphs"}
    assert found["memory"]["changed"] == [] and "changed to fit" not in output
    needed = found["memory"]["peak_bytes"] + CONTEXT_BYTES
    output = call("plan", *options, "--gpu", "RTX 4090", "--vram", f"{needed >> 20}MiB").output
    assert "changed to fit: " in output
    assert "not a GPU that is known" in call("plan", *options, "--gpu", "RTX 9", status=2).output


def test_memory_is_planned_without_a_dataset(folders: Folders, tmp_path: Path) -> None:
    models = ["--generator", folders.generator, "--critic", folders.critic]
    documents = []
    for given in ([folders.dataset], []):
        said = call("plan", *given, *models, "--gpu", "rtx 4090", "--json", tmp_path / "plan.json").output
        documents.append(json.loads((tmp_path / "plan.json").read_text()))
        assert ("of no dataset" in said) is not bool(given) and ("2 scenarios, 0 of them" in said) is bool(
            given
        )
    assert documents[0]["memory"] == documents[1]["memory"]
    assert (documents[1]["num_scenarios"], documents[1]["num_refused"]) == (None, None)
    assert "of no dataset" in call("plan", *models, "--device", "cpu", "--no-time").output
    refused = " ".join(call("plan", *models, "--device", "cpu", status=2).output.replace("│", " ").split())
    assert "the time is taken on a clip of it" in refused and "--no-time or --gpu NAME" in refused
    assert "dataset is not set" in call("run", *models, status=2).output


def test_run_and_plan_resolve_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[RunConfig] = []

    def keep(config: RunConfig, timed: bool | None = None, card: object = None) -> None:
        resolved.append(config)
        raise ConfigError("far enough", fix="none")

    monkeypatch.setattr("engine.build.run.build_run", keep)
    monkeypatch.setattr("engine.build.needs.plan_run", keep)
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "a.mp4").touch()
    (tmp_path / "scenes" / "a.txt").write_text("A ball.")
    (tmp_path / "s.toml").write_text('[denoise]\npreset = "fast"\n[generator]\nsteps = 9\n')
    options = ["scenes", "--out", "o", "--config", "s.toml", "--cfg-gate", 0.5, "--patience", 3, "--steps", 5]
    for verb in ("run", "plan"):
        call(verb, *options, status=2)
    assert resolved[0] == resolved[1]
    assert (resolved[0].denoise.preset, resolved[0].denoise.cfg_gate) == ("fast", 0.5)
    assert (resolved[0].generator.steps, resolved[0].loop.patience) == (5, 3)


def test_scenes(tmp_path: Path) -> None:
    options = ["--count", 1, "--seed", 4, "--size", 64, "--views", "center", "--world", "wide"]
    options += ["--kinds", "two-cups"]
    said = call("scenes", tmp_path / "scenes", *options)
    assert "retake run" in said.output
    (clip,) = (tmp_path / "scenes").rglob("0001_conditioning-videos*.mp4")
    assert (probe(clip).num_frames, probe(clip).width) == (24, 64)
    assert f"1 training scene: {MEANT_FOR['training']}" in said.stderr and "--seed 1200000" in said.stderr
    assert "not a view" in call("scenes", tmp_path / "x", "--views", "top", status=2).output


def test_scenes_say_of_which_sets_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showcase, "write_scenes", lambda out, **options: None)
    said = call("scenes", tmp_path / "s", "--seed", HELD_OUT.seeds[-1], "--count", 3)
    assert [line.partition(":")[0] for line in said.stdout.splitlines()[1:]] == [
        "1 held-out scene",
        "2 unused scenes",
    ]
    assert "tuning scenes" in call("scenes", tmp_path / "s", "--seed", TUNING.first).stdout
    assert said.stderr == "", "to measure on these is no fault"
    assert "--seed 1000000" in call("scenes", tmp_path / "s", "--world", PLAIN, "--seed", 0).stderr
    told = " ".join(call("scenes", "--help").output.replace("│", " ").split())
    assert f"Below {HELD_OUT_SEED0} they are scenes that models were trained on" in told
    assert f"{HELD_OUT.count} from {HELD_OUT.first} are held out" in told
    assert f"{TUNING.count} from {TUNING.first} are for tuning" in told


@pytest.mark.parametrize("world", WORLDS)
def test_scenes_without_a_seed_are_of_no_set(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[range] = []
    monkeypatch.setattr(showcase, "write_scenes", lambda out, **options: asked.append(options["seeds"]))
    said = call("scenes", tmp_path / "s", "--world", world)
    assert said.stderr == "" and f"12 unused scenes: {MEANT_FOR['unused']}" in said.stdout
    told = " ".join(call("scenes", "--help").output.replace("│", " ").split())
    assert f"Default: {asked[0].start}, scenes of no set" in told


@pytest.mark.parametrize("world", WORLDS)
def test_scenes_are_of_the_world_that_the_bundled_models_know(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("engine.demo.scenes.DEFAULT_WORLD", world)
    monkeypatch.setattr(showcase, "write_scenes", lambda out, **options: asked.append(options["world"]))
    call("scenes", tmp_path / "scenes")
    call("scenes", tmp_path / "scenes", "--world", PLAIN)
    assert asked == [world, PLAIN]


def test_demo_runs_scores_and_reports(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_the_critic(monkeypatch)
    (tmp_path / "models").mkdir()
    for what in ("generator", "critic"):
        shutil.copytree(getattr(folders, what), tmp_path / "models" / what)
    monkeypatch.setattr("engine.build.model_folders.MODELS", tmp_path / "models")
    monkeypatch.setattr(showcase, "write_showcase", lambda out: shutil.copytree(folders.dataset, out))
    (tmp_path / "s.toml").write_text("dataset = 'elsewhere'\n[loop]\nloops = 3\npatience = 5\n")
    options = ["--config", tmp_path / "s.toml", "--preset", "fast", "--loops", 1, "--device", "cpu"]
    monkeypatch.setenv("COLUMNS", "60")  # a line that no terminal wraps stays whole
    output = call("demo", "--out", tmp_path / "demo", *options).output
    assert f"writing ten simulated scenes to {tmp_path / 'demo' / 'dataset'}\n" in output
    config = read_config(tmp_path / "demo")
    assert (config.denoise.preset, config.loop.loops, config.loop.patience) == ("fast", 1, 5)
    assert config.dataset == tmp_path / "demo" / "dataset"
    assert "2 of 2 scenarios done, 4 takes, 0 failed" in output
    assert output.count("first prompt: brief, since the demo shows what the plan adds") == 1
    assert f"report: {tmp_path / 'demo' / 'report.html'}" in output
    assert (tmp_path / "demo" / "scores.json").is_file()


def test_demo_measure_starts_the_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = catch_evaluators(monkeypatch, status=3)
    call("demo", "--measure", "--count", 5, "--json", "m.json", "--loops", 1, "--out", "work", status=3)
    assert started[0][1:6] == ["-P", "-m", "bench.commands._evaluator", "quality.demo_quality", "--out"]
    monkeypatch.undo()
    from bench.quality import demo_quality  # the options exist there

    monkeypatch.setattr(
        demo_quality, "make_dataset", lambda *a, **k: pytest.fail("parsed: " + str(k["count"]))
    )
    with pytest.raises(pytest.fail.Exception, match="parsed: 5"):
        demo_quality.main(started[0][5:])


@pytest.mark.parametrize(
    ("option", "named"),
    [(["--preset", "fast"], "--preset"), (["--no-overlap"], "--overlap"), (["--config", "a"], "--config")],
)
def test_demo_measure_refuses_what_it_would_not_pass_on(option: list[str], named: str) -> None:
    output = call("demo", "--measure", *option, status=2).output
    assert f"--measure does not take {named}" in output
    assert "--out, --loops, --steps, --device" in output


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Check(name="a thing", ok=True, detail="here", required=True)
    missing = Check(name="b thing", ok=False, detail="absent", required=True, fix="get it")
    monkeypatch.setattr(doctor, "examine", lambda: [fine])
    assert "the default run works here" in call("doctor").output
    monkeypatch.setattr(doctor, "examine", lambda: [fine, missing])
    output = call("doctor", status=1).output
    assert "get it" in output


def test_errors_are_panels_without_a_traceback(folders: Folders, tmp_path: Path) -> None:
    result = call("run", folders.dataset, "--generator", tmp_path / "absent", status=2)
    assert "ModelError" in result.output
    assert "Fix:" in result.output
    assert "Traceback" not in result.output
    missing = call("run", status=2).output
    assert "dataset is not set" in missing and "a folder of your own clips" in missing
    assert "nf4" in call("run", folders.dataset, "--quantization", "nf5", status=2).output
    assert "not a run folder" in call("resume", tmp_path, status=2).output
    assert "not a run folder" in call("report", tmp_path, status=2).output


def test_an_interrupt_says_how_to_go_on(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.build.run import Run

    def interrupt(self: Run, display: object) -> None:
        raise KeyboardInterrupt

    script_the_critic(monkeypatch)
    monkeypatch.setattr(Run, "execute", interrupt)
    output = call("run", *run_options(folders), "--out", tmp_path / "run", status=130).output
    assert f"retake resume {tmp_path / 'run'}" in output


@pytest.mark.slow
def test_a_killed_run_loses_no_finished_attempt_and_repeats_none(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*map(str, run_options(folders)), "--loops", "0", "--steps", "150", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "engine.cli", "run", *options])
    try:
        while not (done := finished_attempts(out)):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    (first,) = done
    assert len(done) == 1
    written_ns = first.stat().st_mtime_ns
    call("resume", out)
    assert len(finished_attempts(out)) == 2
    assert first.stat().st_mtime_ns == written_ns


def finished_attempts(run: Path) -> list[Path]:
    if not (run / "run.sqlite").is_file():
        return []
    with RunStore.open(run, read_only=True) as store:
        attempts = [a for scenario in store.scenarios() for a in store.attempts(scenario.id)]
    return [run / attempt.video_path for attempt in attempts]
