"""The selector vjepa: which frames its windows show, what its score is, and what it refuses.

The tiny model has random weights and shows the plumbing only; scores with a meaning come from planted models.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vjepa import SIDE_PX, tiny_model, write_tiny_vjepa

from engine.errors import ModelError, VideoError
from engine.selectors import _vjepa_model, vjepa
from engine.selectors._vjepa_model import CONTEXT_FRAMES, WINDOW_FRAMES, surprise, window_starts
from engine.types import Scenario, SelectorSettings, Video
from engine.video.files import probe, write_mp4

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vjepa(tmp_path_factory.mktemp("vjepa") / "tiny")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    path = tmp_path_factory.mktemp("prefix") / "prefix.mp4"
    write_mp4(path, ramp(24, first=0), 8.0)
    return Scenario(id="0001", text="A ramp.", prefix=probe(path), category="solid", output_name="0001.mp4")


def ramp(num_frames: int, *, first: int, side: int = SIDE_PX) -> np.ndarray:
    """Frames of one grey level each, 3 levels brighter from frame to frame: the level tells the time."""
    levels = 16 + 3 * (first + np.arange(num_frames))
    return np.broadcast_to(levels[:, None, None, None], (num_frames, side, side, 3)).astype(np.uint8)


def take(num_frames: int = 40, *, fps: float = 8.0, first: int = 24, side: int = SIDE_PX) -> Video:
    return Video(frames=ramp(num_frames, first=first, side=side), fps=fps)


@dataclass
class Recorder:
    """A model that sees frames as their grey level; `prediction` maps the context to the future."""

    prediction: Any
    seen: list[np.ndarray] = field(default_factory=list)
    config: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(crop_size=SIDE_PX, patch_size=SIDE_PX, tubelet_size=1)
    )

    def encoder(self, pixel_values_videos: torch.Tensor) -> SimpleNamespace:
        if pixel_values_videos.shape[1] == WINDOW_FRAMES:
            self.seen += [*pixel_values_videos[:, :, 0, 0, 0].round().numpy()]
        return SimpleNamespace(
            last_hidden_state=pixel_values_videos[..., 0, 0]
        )  # [B, W, 3]: one token a frame

    def predictor(
        self, encoder_hidden_states: torch.Tensor, context_mask: list[torch.Tensor], target_mask: Any
    ) -> SimpleNamespace:
        assert torch.equal(context_mask[0][0], torch.arange(CONTEXT_FRAMES))
        assert torch.equal(target_mask[0][0], torch.arange(CONTEXT_FRAMES, WINDOW_FRAMES))
        assert encoder_hidden_states.shape[1] == CONTEXT_FRAMES, (
            "the future must not be encoded with the context"
        )
        return SimpleNamespace(last_hidden_state=self.prediction(encoder_hidden_states))


def planted(prediction: Any, fps: float = 8.0) -> tuple[vjepa.VjepaSurprise, Recorder]:
    model = Recorder(prediction)
    unit = torch.tensor([1.0 / 255.0] * 3)  # pixels reach the model as grey levels
    return vjepa.VjepaSurprise(model=model, fps=fps, mean=torch.zeros(3), std=unit, device="cpu"), model


def test_windows_tile_the_answer_and_begin_in_the_prefix() -> None:
    starts = window_starts(8 + 40, 8)
    assert starts == [0, 8, 16, 24, 32]
    future = [frame for start in starts for frame in range(start + CONTEXT_FRAMES, start + WINDOW_FRAMES)]
    assert future == [*range(8, 48)]
    assert window_starts(64, 24) == [16, 24, 32, 40, 48]


def test_windows_reach_the_last_frame() -> None:
    assert window_starts(8 + 20, 8) == [0, 8, 12]
    assert window_starts(16, 8) == [0] and window_starts(17, 8) == [0, 1]
    assert window_starts(16, 12) == [0]
    with pytest.raises(AssertionError, match="15 frames"):
        window_starts(15, 8)


def test_first_window_shows_the_end_of_the_prefix(scenario: Scenario) -> None:
    selector, model = planted(lambda context: context)
    selector.score(scenario, [take()], [])
    assert len(model.seen) == 5
    expected = 16 + 3 * np.arange(16, 32)  # prefix frames 16 to 23, then take frames 0 to 7
    np.testing.assert_allclose(model.seen[0], expected, atol=2.0)  # H.264
    np.testing.assert_array_equal(model.seen[0][8:], expected[8:])
    np.testing.assert_array_equal(model.seen[4], (16 + 3 * np.arange(48, 64)))


def test_takes_are_sampled_at_the_rate_of_the_model(scenario: Scenario) -> None:
    selector, model = planted(lambda context: context, fps=4.0)
    selector.score(scenario, [take()], [])
    assert len(model.seen) == 3  # 8 frames of prefix and 20 of the take: windows at 0, 8 and 12
    np.testing.assert_array_equal(model.seen[0][8:], 16 + 3 * (24 + 2 * np.arange(8)))
    np.testing.assert_allclose(model.seen[0][:8], 16 + 3 * (23 - 2 * np.arange(8)[::-1]), atol=2.0)


def test_frames_are_squeezed_to_the_side_of_the_model(scenario: Scenario) -> None:
    selector, model = planted(lambda context: context)
    selector.score(scenario, [take(side=96)], [])
    np.testing.assert_array_equal(model.seen[2], 16 + 3 * np.arange(32, 48))


def coloured(levels: list[tuple[int, int, int]]) -> Video:
    frames = np.zeros((len(levels), SIDE_PX, SIDE_PX, 3), np.uint8)
    frames[:] = np.array(levels, np.uint8)[:, None, None, :]
    return Video(frames=frames, fps=8.0)


def test_surprise_by_hand(scenario: Scenario) -> None:
    """A model that always predicts red: a red answer has surprise 0, a red-free one 1.5, half of each 0.75.

    Normalised red is (2, -1, -1) and normalised blue (-1, -1, 2), up to a factor: cosine -3 / 6.
    """
    red, blue = (200, 40, 40), (40, 40, 200)
    always_red = torch.tensor([1.0, 0.0, 0.0])
    selector, _ = planted(lambda context: always_red.expand(len(context), CONTEXT_FRAMES, 3))
    takes = [coloured([red] * 40), coloured([blue] * 40), coloured([red] * 20 + [blue] * 20)]
    np.testing.assert_allclose(selector.score(scenario, takes, []), [0.0, -1.5, -0.75], atol=1e-5)


def test_a_take_that_breaks_with_the_prefix_is_more_surprising(scenario: Scenario) -> None:
    """A model that predicts more of the last frame: only a break at the switch, or inside, is surprising."""
    selector, _ = planted(lambda context: context[:, -1:].expand(-1, CONTEXT_FRAMES, -1))
    blue, green = (40, 40, 200), (40, 200, 40)
    steady, broken = coloured([blue] * 40), coloured([blue] * 16 + [green] * 24)
    first, second = selector.score(scenario, [steady, broken], [])
    assert first > second


def test_a_take_too_short_for_a_window_has_no_score(scenario: Scenario) -> None:
    selector, _ = planted(lambda context: context)
    scores = selector.score(scenario, [take(7), take(8)], [])
    assert scores[0] == -math.inf and math.isfinite(scores[1])


def test_short_prefix_and_missing_prefix(scenario: Scenario, tmp_path: Path) -> None:
    write_mp4(tmp_path / "one.mp4", ramp(1, first=23), 8.0)
    selector, model = planted(lambda context: context)
    selector.score(replace(scenario, prefix=probe(tmp_path / "one.mp4")), [take()], [])
    np.testing.assert_array_equal(model.seen[0][1:], 16 + 3 * np.arange(24, 39))
    gone = replace(scenario.prefix, path=tmp_path / "gone.mp4")
    with pytest.raises(VideoError, match="gone"):
        selector.score(replace(scenario, prefix=gone), [take()], [])


def test_tiny_model_scores_each_take_by_itself(
    folder: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    selector = vjepa.build(SelectorSettings(vjepa=folder))
    takes = [take(), take(first=0), take(20, fps=4.0), take(side=64)]
    together = selector.score(scenario, takes, [])
    assert len(together) == 4 and all(-2.0 <= score <= 0.0 for score in together)
    assert together == selector.score(scenario, takes, [])
    monkeypatch.setattr(vjepa, "MAX_TOKENS", 1)  # one window a pass
    alone = [selector.score(scenario, [one], [])[0] for one in takes]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len({round(score, 6) for score in together}) >= 3


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(17, SIDE_PX, SIDE_PX), (16, SIDE_PX, 48), (16, 48, 48)]
)
def test_a_window_that_the_model_would_read_wrongly_is_not_scored(
    frames: int, height: int, width: int
) -> None:
    model = tiny_model()
    pixels = torch.zeros(1, frames, 3, height, width)
    with torch.no_grad():  # the library says nothing
        assert torch.isfinite(model.encoder(pixel_values_videos=pixels).last_hidden_state).all()
    with pytest.raises(AssertionError, match=r"frames by 2|for crops of 32"):
        surprise(model, pixels)


def test_future_is_predicted_without_having_been_seen(folder: Path) -> None:
    """Equal contexts give equal predictions whatever follows; only what was encoded may differ."""
    model = tiny_model()
    kept: list[torch.Tensor] = []
    model.predictor.register_forward_hook(lambda _, inputs, output: kept.append(output.last_hidden_state))
    pixels = torch.randn(2, WINDOW_FRAMES, 3, SIDE_PX, SIDE_PX)
    pixels[1, :CONTEXT_FRAMES] = pixels[0, :CONTEXT_FRAMES]
    first, second = _vjepa_model.surprise(model, pixels)
    assert torch.allclose(kept[0][0], kept[0][1], atol=1e-6) and kept[0].shape[1] == 16
    assert not torch.isclose(first, second)


def test_rate_is_the_folder_s_or_the_default(folder: Path, tmp_path: Path) -> None:
    unstated = write_tiny_vjepa(tmp_path / "unstated", fps=None)
    assert vjepa.build(SelectorSettings(vjepa=unstated)).fps == vjepa.DEFAULT_FPS  # type: ignore[attr-defined]
    four = write_tiny_vjepa(tmp_path / "four", fps=4.0)
    assert vjepa.build(SelectorSettings(vjepa=four)).fps == 4.0  # type: ignore[attr-defined]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_code_of_its_own_is_refused(tmp_path: Path) -> None:
    edit(write_tiny_vjepa(tmp_path) / "config.json", auto_map={"AutoModel": "mine.Model"})
    with pytest.raises(ModelError, match=r"config.json asks for code of its own"):
        vjepa.build(SelectorSettings(vjepa=tmp_path))


def test_unusable_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: Path | None, match: str) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            vjepa.build(SelectorSettings(vjepa=folder))
        assert "config.json" in caught.value.fix or "train_vjepa" in caught.value.fix

    refused(tmp_path / "none", "no config.json")
    monkeypatch.setattr(vjepa, "BUNDLED", tmp_path / "bundled")
    refused(None, "bundled.*no config.json")
    other = write_tiny_vjepa(tmp_path / "other")
    edit(other / "config.json", model_type="bert")
    refused(other, "'bert'")
    coarse = write_tiny_vjepa(tmp_path / "coarse")
    edit(coarse / "config.json", tubelet_size=3)
    refused(coarse, "3 frames")
    deeper = write_tiny_vjepa(tmp_path / "deeper")
    edit(deeper / "config.json", pred_num_hidden_layers=2)
    refused(deeper, "lacks .* weights.*predictor.layer.1")
    bare = write_tiny_vjepa(tmp_path / "bare")
    (bare / "video_preprocessor_config.json").write_text("{}")
    refused(bare, "image_mean None")
    (bare / "video_preprocessor_config.json").write_text("{")
    refused(bare, "not JSON")
    (bare / "video_preprocessor_config.json").unlink()
    refused(bare, "no video_preprocessor_config.json")
    cut = write_tiny_vjepa(tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    refused(cut, "does not load")
    (cut / "model.safetensors").unlink()
    refused(cut, "does not load")
