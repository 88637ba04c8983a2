"""What `retake.json` of a critic's folder may set: defaults for published models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.critics.qwen_vl.instructions import CRITIQUE_INSTRUCTION, PATCH_INSTRUCTION, PLAN_INSTRUCTION
from engine.errors import ConfigError, ModelError
from engine.settings.fields import setting, validate
from engine.settings.sidecars import CRITIC, read_sidecar

_INSTRUCTIONS = "that of engine/critics/qwen_vl/instructions.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticSettings:
    plan_instruction: str = setting(
        PLAN_INSTRUCTION, shown=_INSTRUCTIONS, help="What the critic is asked about a prefix."
    )
    critique_instruction: str = setting(
        CRITIQUE_INSTRUCTION, shown=_INSTRUCTIONS, help="What the critic is asked about a take."
    )
    patch_instruction: str = setting(
        PATCH_INSTRUCTION,
        shown=_INSTRUCTIONS,
        help="The same of a critic that writes only what changes of the plan.",
    )
    num_prefix_frames: int = setting(
        8, low=2, high=256, help="Frames of the prefix that the critic sees, an even number."
    )
    num_take_frames: int = setting(
        16, low=2, high=256, help="Frames of a take that the critic sees, an even number."
    )
    frame_px: int = setting(448, low=1, high=4096, help="Longer side of such a frame, in pixels.")
    max_new_tokens: int = setting(
        1024, low=1, high=65_536, help="Tokens of a reply; one that is cut off there is unreadable."
    )
    sure: float = setting(
        0.0,
        low=0,
        high=1,
        help="Motions, events and rests that the critic states with less probability are left out of its "
        "plans; 0 leaves out none.",
    )
    plan_samples: int = setting(
        1,
        low=1,
        high=64,
        help="Plans that are written, all but one of them sampled; the one is used that agrees best with the "
        "others.",
    )

    def __post_init__(self) -> None:
        """Raises ConfigError; two frames are one position in time of the model."""
        validate(self, "")
        for key in ("num_prefix_frames", "num_take_frames"):
            value = getattr(self, key)
            if value % 2:
                raise ConfigError(f"{key} is {value}, which is odd", fix=f"set {key} to an even number")
        for key in ("plan_instruction", "critique_instruction", "patch_instruction"):
            value = getattr(self, key)
            if not value.strip():
                raise ConfigError(f"{key} is {value!r}, not a text", fix=f"give {key} a sentence")


SIDECAR_SETTINGS = CriticSettings


def read_settings(folder: Path, *, patches: bool = False) -> CriticSettings:
    """The settings of a model folder.

    Raises ModelError as `read_sidecar` does, and for `patches` where there is an instruction for critiques
    and none for patches. The model was trained on the former, or a user wrote it: ours in its place would get
    replies that nobody can read, or ask something else than was meant.
    """
    both = (folder / "model_index.json").is_file()  # a generator of the same folder has the file itself
    found = read_sidecar(folder, CriticSettings, section=CRITIC if both else "")
    own = found.critique_instruction != CRITIQUE_INSTRUCTION
    if patches and own and found.patch_instruction == PATCH_INSTRUCTION:
        raise ModelError(
            f"{folder} has a critique_instruction and no patch_instruction: its critic writes full critiques",
            fix="leave --critique-form patch out; or give the instruction by which it writes patches",
        )
    return found
