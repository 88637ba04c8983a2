"""Decodes measured on a CPU, in small: checked before they are timed, gone on with where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.perf.vae import convolutions, decoding
from bench.perf.vae.__main__ import main, summary
from bench.perf.vae.models import build
from bench.perf.vae.ways import BEST, FP8_ALL, LIBRARY, Way, groups_of, ways
from kernels.conv import fp8

torch.set_num_threads(1)
CPU = torch.device("cpu")
LEVEL = "chunks of 4, channels last in level 3"
FEW = (LIBRARY, BEST, FP8_ALL, LEVEL)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(vae: Any, *, every: bool) -> Iterator[Way]:
        return (way for way in ways(vae, every=every) if way.name in FEW)

    monkeypatch.setattr(decoding, "ways", some)


def test_small_on_a_cpu_and_again(tmp_path: Path, few: None, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "vae.json"
    arguments = ["--sizes", "tiny", "--repeats", "1", "--out", str(out)]
    assert main([*arguments, "--only", "convolution"]) == 0
    document = json.loads(out.read_text())
    assert document["rows"] == [] and document["whole"] == ["convolution 32 to 64 at 6x4, 2 frames"]
    by_name = {row["name"]: row for row in document["convolutions"]}
    for name in ("cuDNN bf16, columns paired", "FP8, plain torch", "FP8, plain torch, columns paired"):
        assert by_name[name]["summary"]["n"] == 2 and by_name[name]["error"] < 0.05
    assert by_name["FP8, plain torch"]["error"] > 0.02
    assert main(arguments) == 0
    assert main(arguments) == 0, "what is there is not measured again"
    assert capsys.readouterr().out.count("decode tiny (") == 1
    document = json.loads(out.read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert [name for name in rows if "preview" not in name] == list(FEW)
    assert document["kind"] == "vae" and "machine" in document["manifest"]["timing"]
    assert all(row["summary"]["n"] == 1 and row["reason"] is None for row in rows.values())
    assert rows[LEVEL]["error_to_fp32"] < 2 * rows[LIBRARY]["error_to_fp32"]
    fp8_row = rows[FP8_ALL]
    assert rows[BEST]["num_fp8"] == 0 < fp8_row["num_fp8"]
    assert fp8_row["psnr_db"] < rows[BEST]["psnr_db"]
    assert fp8_row["error_to_fp32"] == pytest.approx(fp8_row["error_of_rounding"], rel=0.2)
    assert document["summary"]["tiny_fp8_over_library"] == fp8_row["speedup"]


def test_what_is_wrong_is_not_timed(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fp8.run

    def wrong(*given: Any, **named: Any) -> Any:
        return 0.7 * run(*given, **named)

    monkeypatch.setattr(fp8, "run", wrong)
    monkeypatch.setattr(fp8, "plain", wrong)
    with torch.inference_mode():
        rows = {row["name"]: row for row in decoding.measured("tiny", 1, CPU, 1e30, every=False)}
        found = convolutions.measured(convolutions.SHAPES["tiny"][0], 1, CPU, 1e30)
    assert "not timed" in rows[FP8_ALL]["reason"] and "ms" not in rows[FP8_ALL]
    assert rows[BEST]["reason"] is None and "summary" in rows[BEST]
    assert [row["name"] for row in found if row["reason"]] == [
        "FP8, plain torch",
        "FP8, plain torch, columns paired",
    ]
    late = decoding.measured("tiny", 1, CPU, -1.0, every=False)
    assert {row["reason"] for row in late} == {decoding.SPENT}


def test_without_time_left_nothing_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "vae.json"
    assert main(["--sizes", "480p,720p", "--budget", "1", "--out", str(out)]) == 1
    assert capsys.readouterr().out.count("left out") == 5 + 6 + 2 and not out.exists()


def test_other_files_and_sizes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "other.json"
    out.write_text(json.dumps({"kind": "vae", "rows": []}))
    assert main(["--sizes", "tiny", "--out", str(out)]) == 2
    assert "is not an unfinished" in capsys.readouterr().err
    for wrong, told in ((("--sizes", "8k"), "'8k'"), (("--sizes", "tiny", "--only", "vae"), "decode tiny")):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
        assert told in capsys.readouterr().err


def test_every_part_of_a_decoder_is_in_one_group() -> None:
    vae = build("tiny", CPU)
    prefixes = groups_of(vae).values()
    for name, module in vae.decoder.named_modules(prefix="decoder"):
        if isinstance(module, torch.nn.Conv3d) and "conv_" not in name.split(".")[1]:
            assert sum(name.startswith(prefix) for prefix in prefixes) == 1, name
    names = [way.name for way in ways(vae, every=True)]
    assert names[0] == LIBRARY and len(set(names)) == len(names) and set(FEW) < set(names)
    assert len(list(ways(vae, every=False))) < len(names)


def test_the_fastest_tile_of_the_first_picture_is_preferred() -> None:
    tile, other = fp8.TILES[8, 9][:2]

    def row(problem: str, tile: fp8.Tile, median: float) -> dict[str, Any]:
        fields = {name: getattr(tile, name) for name in ("m", "n", "num_warps", "num_stages", "maps")}
        return {"problem": problem, "tile": fields, "size": [32, 64], "summary": {"median": median}}

    rows = [row("a", tile, 2.0), row("a", other, 1.0), row("b", tile, 0.5), {"problem": "a", "name": "bf16"}]
    assert convolutions.fastest_tiles(rows) == {(32, 64): other}
    assert summary([]) == {}
