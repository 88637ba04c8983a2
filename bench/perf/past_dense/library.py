"""diffusers at its best for the steps of a take: compiled, the fastest attention that it can be given here,
and a step cache: cache-dit's, or its own where cache-dit is not installed.

A step cache keeps residuals between calls. Every take forgets those of the take before, and each branch of
guidance has its own.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from diffusers import FirstBlockCacheConfig
from diffusers.utils.import_utils import is_flash_attn_3_available
from torch import Tensor

from bench.perf.denoisers.base import module_tree
from bench.perf.denoisers.wan import WanSubject, use_attention
from bench.perf.past_dense.case import Case, against
from engine.denoise.guidance import COND
from engine.denoise.sampler import PrefixTimestep
from engine.generators.wan.eager import EagerDenoiser
from engine.protocols import Denoiser
from kernels.attention import fa3
from kernels.descriptors import AttentionProblem, Target

NAME = "diffusers compiled"
CACHED = f"{NAME}, step cache"
PACKAGE = "cache_dit"
ALLOWED = 0.05
"""Relative error of a forward to the library's own, eager: rounding to 16 bits in another order."""
ATTENTIONS = {
    "_flash_3": "FA3 (backend _flash_3)",
    "fa3": "FA3 (fa3_fwd in a processor, as backend _flash_3 needs the package flash_attn_3)",
    "_native_cudnn": "cuDNN's (backend _native_cudnn)",
    "native": "torch's choice (backend native)",
}
FIRST_BLOCKS, WARM_UP = 8, 8
"""The defaults of cache-dit, of a model and a take that have twice as many."""


class StepCache(Protocol):
    fullgraph: bool
    """Whether a block compiles in one graph with it."""

    def begin(self) -> None:
        """Of a take: nothing of the one before is left."""
        ...

    def around(self, branch: str) -> AbstractContextManager[None]:
        """One forward."""
        ...

    def skipped(self) -> int:
        """Forwards of the take whose blocks were not all computed."""
        ...


class NoCache:
    fullgraph = True

    def begin(self) -> None:
        """Nothing is kept."""

    def around(self, branch: str) -> AbstractContextManager[None]:
        return nullcontext()

    def skipped(self) -> int:
        return 0


class CacheDit:
    """DBCache of cache-dit, told that there are two branches, which it tells apart by counting calls."""

    fullgraph = True

    def __init__(self, module: Any, num_steps: int) -> None:
        self._library, self._module, self._num_steps = importlib.import_module(PACKAGE), module, num_steps
        self._library.enable_cache(module, cache_config=cache_dit_settings(len(module.blocks), num_steps))

    def begin(self) -> None:
        # by itself it would notice the next take one forward late, and exchange the branches from there on
        self._library.refresh_context(self._module, num_inference_steps=self._num_steps)

    def around(self, branch: str) -> AbstractContextManager[None]:
        return nullcontext()

    def skipped(self) -> int:
        found = self._library.summary(self._module, logging=False)[-1]
        return len(found.cached_steps) + len(found.cfg_cached_steps)


class FirstBlockCache:
    """The library's own, with its default threshold; the branches have names."""

    fullgraph = False  # its hooks read a number back from the device

    def __init__(self, module: Any) -> None:
        module.enable_cache(FirstBlockCacheConfig())
        self._module = module
        self._skipped = 0

    def begin(self) -> None:
        self._module._reset_stateful_cache()  # as its pipelines do behind each take
        self._skipped = 0

    @contextmanager
    def around(self, branch: str) -> Iterator[None]:
        with self._module.cache_context(branch):
            yield
            (head,) = (
                hook for hook in self._module.blocks[0]._diffusers_hook.hooks.values()
                if hasattr(hook, "state_manager")
            )  # fmt: skip
            self._skipped += not head.state_manager.get_state().should_compute

    def skipped(self) -> int:
        return self._skipped


class LibraryDenoiser:
    """The library's transformer behind the Denoiser protocol, with what its step cache must be told."""

    def __init__(self, module: Any, cache: StepCache) -> None:
        self._eager, self.cache = EagerDenoiser(module), cache

    def of_take(self) -> LibraryDenoiser:
        self.cache.begin()
        return self

    def prepare(self, text: Tensor) -> Tensor:
        return self._eager.prepare(text)

    def __call__(self, latents: Tensor, timestep: PrefixTimestep, text: Tensor, *, branch: str) -> Tensor:
        with self.cache.around(branch):
            return self._eager(latents, timestep, text, branch=branch)


def cases(
    wan: WanSubject,
    transformer: Any,
    num_steps: int,
    take: Callable[[Callable[[], Denoiser]], Callable[[], Tensor]],
) -> Iterator[Case]:
    """Without and with a step cache. `take` makes all steps of a take from what makes its denoiser."""
    attention = fastest_attention(wan)
    expected: list[Tensor] = []
    told = f"all {num_steps} steps, attention {ATTENTIONS[attention]}"
    for name, cached in ((NAME, False), (CACHED, True)):
        made = functools.cache(
            functools.partial(built, wan, transformer, attention, num_steps=num_steps, cached=cached)
        )
        yield Case(
            name=name,
            of=f"{told}, {told_cache(wan, num_steps)}" if cached else told,
            make=functools.partial(_make, made, take),
            check=functools.partial(_check, wan, transformer, made, 2 * num_steps, expected),
            allowed=ALLOWED,
        )


def built(
    wan: WanSubject, transformer: Any, attention: str, *, num_steps: int, cached: bool
) -> LibraryDenoiser:
    module = module_tree(transformer)
    use_attention(module, attention)
    cache: StepCache = NoCache()
    if cached:
        cache = CacheDit(module, num_steps) if find_spec(PACKAGE) else FirstBlockCache(module)
    module.compile_repeated_blocks(fullgraph=cache.fullgraph, dynamic=False)
    return LibraryDenoiser(module, cache)


def fastest_attention(wan: WanSubject) -> str:
    """Of ATTENTIONS, in their order. FA3 has no kernels but for compute capability 9.x, and the library's
    `_flash_3_hub` needs the network."""
    if not torch.cuda.is_available():
        return "native"
    heads, size = wan.config["num_attention_heads"], wan.config.get("attention_head_dim", 128)
    target = Target.of(torch.device("cuda"))
    problem = AttentionProblem(
        batch=1, heads=heads, q_len=wan.num_tokens, kv_len=wan.num_tokens, head_dim=size,
        dtype="bf16", mask="none", target=target,
    )  # fmt: skip
    assert target.capability is not None
    if target.capability[0] == 9 and is_flash_attn_3_available():
        return "_flash_3"
    return "fa3" if fa3.supports(problem) is None else "_native_cudnn"


def cache_dit_settings(num_blocks: int, num_steps: int) -> Any:
    """Its defaults. `num_blocks` that compute always, `num_steps` before any is skipped: half at most."""
    return importlib.import_module(PACKAGE).DBCacheConfig(
        Fn_compute_blocks=min(FIRST_BLOCKS, num_blocks // 2),
        max_warmup_steps=min(WARM_UP, num_steps // 2),
        num_inference_steps=num_steps,
        enable_separate_cfg=True,
    )


def told_cache(wan: WanSubject, num_steps: int) -> str:
    if find_spec(PACKAGE) is None:
        return (
            f"first block cache, threshold {FirstBlockCacheConfig().threshold:g}: no cache-dit is installed"
        )
    settings = cache_dit_settings(wan.config["num_layers"], num_steps)
    return f"cache-dit {importlib.import_module(PACKAGE).__version__} {settings.strify()}"


def _make(
    made: Callable[[], LibraryDenoiser], take: Callable[[Callable[[], Denoiser]], Callable[[], Tensor]]
) -> Callable[[], Tensor]:
    denoiser = made()
    return take(denoiser.of_take)


def _check(
    wan: WanSubject,
    transformer: Any,
    made: Callable[[], LibraryDenoiser],
    num_forwards: int,
    expected: list[Tensor],
    latents: Tensor,
) -> dict[str, float]:
    """The first forward against the library's own, eager; the take against that without a step cache."""
    assert bool(torch.isfinite(latents).all()), "not a number in the take"
    if not expected:
        expected.append(latents.clone())
    cache = made().cache
    found = {"forwards": float(num_forwards)}
    if not isinstance(cache, NoCache):
        found["skipped_forwards"] = float(cache.skipped())
    noise, timestep, text = wan.inputs(latents.device)
    untouched = module_tree(transformer)
    use_attention(untouched, "native")
    of_library = EagerDenoiser(untouched)(noise, timestep, text, branch=COND)
    velocity = made().of_take()(noise, timestep, text, branch=COND)
    found |= against(lambda: of_library, lambda made: made)(velocity)
    whole = against(lambda: expected[0], lambda made: made)(latents)
    return found | {"error_to_preset": whole["relative_error"]}
