"""GPUs that one may plan for without sitting at one: their memory and compute capability.

Facts of NVIDIA's data sheets and its table of CUDA GPUs; nothing is decided by a name but what a plan for
that card says.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ConfigError, nearest
from engine.machine.memory import CONTEXT_BYTES, GIB, allowed_bytes, read_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    name: str
    gib: int
    capability: tuple[int, int]

    def budget(self, vram: str = "") -> int:
        """Bytes for models on an otherwise empty card; `vram`: of which the run may take so much.

        ConfigError: it has less."""
        if not vram:
            return self.gib * GIB - CONTEXT_BYTES
        if read_size(vram) > self.gib * GIB:
            raise ConfigError(
                f"{self.name} has {self.gib} GiB, not {vram}", fix=f"give at most {self.gib}GiB"
            )
        return allowed_bytes("cuda", vram)


_TURING, _AMPERE, _ADA, _HOPPER, _BLACKWELL, _GEFORCE_50 = (7, 5), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)
_SIZES: tuple[tuple[str, int, tuple[int, int]], ...] = (
    ("RTX 2080 Ti", 11, _TURING),
    ("T4", 16, _TURING),
    ("RTX 3060", 12, _AMPERE),
    ("RTX 3080", 10, _AMPERE),
    ("RTX 3090", 24, _AMPERE),
    ("RTX A5000", 24, _AMPERE),
    ("RTX A6000", 48, _AMPERE),
    ("A10G", 24, _AMPERE),
    ("A100 40GB", 40, (8, 0)),
    ("A100 80GB", 80, (8, 0)),
    ("RTX 4070", 12, _ADA),
    ("RTX 4080", 16, _ADA),
    ("RTX 4090", 24, _ADA),
    ("RTX 6000 Ada", 48, _ADA),
    ("L4", 24, _ADA),
    ("L40S", 48, _ADA),
    ("H100", 80, _HOPPER),
    ("H200", 141, _HOPPER),
    ("B200", 180, _BLACKWELL),
    ("RTX 5070 Ti", 16, _GEFORCE_50),
    ("RTX 5080", 16, _GEFORCE_50),
    ("RTX 5090", 32, _GEFORCE_50),
    ("RTX PRO 6000", 96, _GEFORCE_50),
)
CARDS = {name: Card(name=name, gib=gib, capability=capability) for name, gib, capability in _SIZES}


def find(name: str) -> Card:
    """By its name, with or without the maker's and in any case. ConfigError: unknown."""
    wanted = name.casefold().removeprefix("nvidia ").removeprefix("geforce ").strip()
    by_name = {known.casefold(): card for known, card in CARDS.items()}
    if wanted not in by_name:
        raise ConfigError(
            f"{name!r} is not a GPU that is known here{nearest(wanted, by_name)}",
            fix=f"give one of: {', '.join(CARDS)}; or another with as much memory and the same architecture",
        )
    return by_name[wanted]
