"""The sections of decoding: convolutions beside their neighbour, and what was chosen for the picture."""

from __future__ import annotations

from typing import Any

from bench.results_page.result_files import ResultFile
from bench.results_page.vae_section import vae, vae_calibration

DECODES = [
    {"problem": "decode 480p", "name": "library", "accuracy": "all frames", "reason": None, "ms": [9.0] * 3},
    {"problem": "decode 480p", "name": "fused", "accuracy": "all frames", "reason": None, "ms": [3.0] * 3},
]


def row(name: str, ms: float | None, **more: Any) -> dict[str, Any]:
    problem = "convolution 96 to 96 at 832x480, 16 frames"
    if ms is None:
        return {"problem": problem, "name": name, "reason": "OutOfResources: shared memory", **more}
    return {"problem": problem, "name": name, "reason": None, "ms": [ms] * 3, "error": 0.037, **more}


def made(**more: Any) -> str:
    document = {"rows": DECODES, **more}
    return vae(ResultFile(name="vae_h200", kind="vae", document=document)).body


def test_a_convolution_is_its_fastest_in_bf16_beside_its_fastest_in_fp8() -> None:
    assert "One convolution" not in made()
    rows = [
        row("cuDNN bf16, planes", 8.0),
        row("cuDNN bf16, columns paired", 6.0),
        row("FP8, 256x192", None),
        row("FP8, 128x192", 4.0, tflop_per_s=900.0),
        row("FP8, 128x128", 5.0, tflop_per_s=700.0),
    ]
    body = made(convolutions=rows)
    assert "### One convolution" in body and "3.00×" in body
    (line,) = (line for line in body.splitlines() if line.startswith("| 96 to 96 at"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "cuDNN bf16, columns paired" and cells[3] == "128x192"
    assert float(cells[2]) == 6.0 and float(cells[4]) == 4.0 and cells[5] == "900" and cells[-1] == "1.50×"
    (line,) = (line for line in made(convolutions=rows[:3]).splitlines() if line.startswith("| 96 to 96 at"))
    assert line.endswith("| 6 |")


def test_what_was_chosen_and_what_cannot_be() -> None:
    document = {
        "min_psnr_db": 45.0,
        "chosen": ["a"],
        "rows": [
            {"name": "c", "reason": "24 input channels are no multiple of 32"},
            {"name": "library", "psnr_db": 62.0},
            {"name": "a", "psnr_db": 54.25, "multiplications": 3.0, "chosen": True},
            {"name": "b", "psnr_db": 44.0, "multiplications": 1.0, "chosen": False},
        ],
    }
    section = vae_calibration(ResultFile(name="vae_calibration", kind="vae_calibration", document=document))
    assert section.headline == "1 of 3"
    assert "| a | 54.2 | 75.0 | yes |" in section.body and "| b | 44.0 | 25.0 | no |" in section.body
    assert "keep 45 dB" in section.body and "`c`: 24 input channels" in section.body
