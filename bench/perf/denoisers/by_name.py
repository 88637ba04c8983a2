"""The subjects of the speed measurements by name; each family has a file of its own."""

from __future__ import annotations

from bench.perf.denoisers.base import Subject
from bench.perf.denoisers.cosmos3 import Cosmos3Subject
from bench.perf.denoisers.wan import WanSubject

SUBJECTS: dict[str, Subject] = {
    "1.3b": WanSubject(architecture="wan2.1-1.3b", width=832, height=480, num_frames=81),
    "draft": WanSubject(architecture="wan2.1-1.3b", width=416, height=240, num_frames=81),
    "draft-cfg": WanSubject(architecture="wan2.1-1.3b", width=416, height=240, num_frames=81, batch=2),
    "1.3b-cfg": WanSubject(architecture="wan2.1-1.3b", width=832, height=480, num_frames=81, batch=2),
    "14b": WanSubject(architecture="wan2.1-14b", width=832, height=480, num_frames=81),
    "5b": WanSubject(architecture="wan2.2-5b", width=1280, height=704, num_frames=121, prefix_frames=1),
    "cosmos3-nano": Cosmos3Subject(
        architecture="cosmos3-nano", width=832, height=480, num_frames=193, prefix_frames=19, text_tokens=300
    ),
    "tiny": WanSubject(architecture="tiny", width=64, height=64, num_frames=9, prefix_frames=1),
    "tiny-cosmos3": Cosmos3Subject(
        architecture="tiny-cosmos3", width=128, height=96, num_frames=17, prefix_frames=2, text_tokens=7
    ),
}
