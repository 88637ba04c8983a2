"""Own clips by the command line: what is said before a run, what is chosen, and a file to post of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from clips_with_sound import SIZE, sound_of, write_with_tone
from tiny_run import Folders, make_folders
from typer.testing import CliRunner, Result

from engine import cli
from engine.video.files import probe

KNOW = "made for simulated scenes only"


def retake(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, words)])


def told(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide clip with a tone, as of a camera, and one without sound."""
    folder = tmp_path_factory.mktemp("clips")
    for name, codec in (("box.mp4", "aac"), ("ramp.mkv", None)):
        path = write_with_tone(folder / name, fps=24.0, codec=codec)
        path.with_suffix(".txt").write_text("A red box slides over a table.")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A critic of random weights, whose replies nobody can read."""
    return make_folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def run(clips: Path, models: Folders, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("runs") / "own"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETAKE_THREADS", "1")
        options = ["--generator", models.generator, "--critic", models.critic, "--device", "cpu"]
        done = retake("run", clips, *options, "--dtype", "fp32", "--loops", 0, "--out", out)
    return out, done


def test_the_bundled_models_say_what_they_know_before_anything_is_loaded(
    clips: Path, models: Folders, tmp_path: Path
) -> None:
    both = retake("plan", clips, "--no-time", "--json", "-")
    assert f"bundled generator and critic: {KNOW}" in both.stderr
    assert json.loads(both.stdout)["num_scenarios"] == 2
    assert both.stderr.index(KNOW) < both.stderr.index("planned for preset")
    assert KNOW not in retake("plan", models.dataset, "--no-time").output
    own = ["--generator", models.generator, "--critic", models.critic, "--no-time"]
    assert KNOW not in retake("plan", clips, *own).output
    assert f"bundled critic: {KNOW}" in told(retake("plan", clips, *own[:2], "--no-time"))


def test_a_clip_of_which_no_critique_could_be_read_has_no_take_until_one_is_named(
    run: tuple[Path, Result],
) -> None:
    out, done = run
    assert done.exit_code == 1
    assert "no reply of the critic could be read" in told(done) and "retake choose" in told(done)
    assert list((out / "chosen").iterdir()) == []
    refused = retake("join", out, "box", "--with-prefix")
    assert refused.exit_code == 1 and f"retake choose {out} box 0" in told(refused)
    chosen = retake("choose", out, "box", 0)
    assert chosen.exit_code == 0, chosen.output
    assert [path.name for path in (out / "chosen").iterdir()] == ["box.mp4"]


def test_a_file_to_post_has_the_clip_in_front_at_its_size_rate_and_sound(
    run: tuple[Path, Result], tmp_path: Path
) -> None:
    out, _ = run
    for name in ("box", "ramp"):
        assert retake("choose", out, name, 0).exit_code == 0
    done = retake("join", out, "--with-prefix", "--json", tmp_path / "posts.json")
    assert done.exit_code == 0, done.output
    post = probe(out / "joined" / "box.mp4")
    assert (post.width, post.height, post.fps, post.seconds) == (*SIZE, 24.0, 8.0)
    assert sound_of(post.path)[0] == "aac"
    posts = {one["scenario_id"]: one for one in json.loads((tmp_path / "posts.json").read_text())["joined"]}
    assert posts["box"]["made"]["sound"] == "aac, as it is in the clip"
    assert posts["ramp"]["made"]["silent"] == "the clip has no sound" and "the clip has no sound" in told(
        done
    )
    alone = retake("join", out, "box", "--out", tmp_path / "alone")
    assert alone.exit_code == 0 and probe(tmp_path / "alone" / "box.mp4").seconds == 5.0


def test_a_clip_that_changed_since_is_not_joined_and_the_others_are(
    run: tuple[Path, Result], clips: Path
) -> None:
    out, _ = run
    for name in ("box", "ramp"):
        assert retake("choose", out, name, 0).exit_code == 0
    kept = (clips / "box.mp4").read_bytes()
    write_with_tone(clips / "box.mp4", fps=24.0, codec=None)
    try:
        done = retake("join", out, "--with-prefix")
    finally:
        (clips / "box.mp4").write_bytes(kept)
    assert done.exit_code == 1 and "box.mp4 is not the clip that the run continued" in told(done)
    assert "ramp.mp4: take 0" in told(done)
    missing = retake("join", out, "bx")
    assert missing.exit_code == 2 and "nearest: box" in told(missing)


def test_a_run_whose_takes_would_lie_among_the_clips_is_refused(clips: Path, tmp_path: Path) -> None:
    """The loop opens no video of the dataset but prefixes: each of its own takes would end its scenario."""
    before = sorted(clips.iterdir())
    (tmp_path / "link").symlink_to(clips)
    for out in (clips, tmp_path / "link"):
        refused = retake("run", clips, "--out", out, "--dry-run")
        assert refused.exit_code == 2
        assert "its videos would lie among the clips of" in told(refused)
        assert "choose another folder with --out" in told(refused)
    assert sorted(clips.iterdir()) == before
    assert retake("run", clips, "--out", clips / "runs" / "a", "--dry-run").exit_code == 0


def test_a_clip_shorter_than_the_generators_prefix_is_refused_before_a_weight_is_read(
    models: Folders, tmp_path: Path
) -> None:
    """`prefix_frames` of 5 s at 8 frames a second: one clip has them, the other is long enough for others."""
    generator, clips = tmp_path / "generator", tmp_path / "clips"
    shutil.copytree(models.generator, generator)
    sidecar = json.loads((generator / "retake.json").read_text())
    (generator / "retake.json").write_text(json.dumps(sidecar | {"prefix_frames": 40}))
    clips.mkdir()
    for name, seconds in (("long.mp4", 5.0), ("short.mp4", 4.0)):
        write_with_tone(clips / name, seconds=seconds, fps=24.0, codec=None)
        (clips / name).with_suffix(".txt").write_text("A red box slides over a table.")
    options = ["--generator", generator, "--critic", models.critic, "--no-time", "--json", "-"]
    planned = retake("plan", clips, *options)
    found = json.loads(planned.stdout)
    assert (found["num_scenarios"], found["num_refused"]) == (2, 1)
    assert list(found["refused"]) == ["short"]
    assert "2 scenarios, 1 of them unusable" in told(planned)
    assert re.search(r"short: \S+short\.mp4 .* the generator reads a prefix of 5\.00 s", told(planned))
    assert "more; --json" not in told(planned)
    for number in range(4):
        for suffix in (".mp4", ".txt"):
            shutil.copyfile(clips / f"short{suffix}", clips / f"short-{number}{suffix}")
    several = told(retake("plan", clips, *options[:5]))
    assert several.count("the generator reads a prefix") == 3 and "and 2 more; --json FILE" in several
    for path in clips.glob("short-*"):
        path.unlink()
    (clips / "long.mp4").unlink()
    (clips / "long.txt").unlink()
    refused = retake("run", clips, *options[:4], "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "no scenario of" in told(refused)
    assert "the generator reads a prefix of 5.00 s" in told(refused)
    assert not (tmp_path / "run").exists()
