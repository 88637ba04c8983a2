"""Which attention runs a problem here: asked, tested against the reference, timed, chosen once, logged.

Knows no implementation by name but the order on a CPU; the folder `kernels/attention` is the registry.
Invariant: what `choose` returns has passed the numeric self-test on this machine, and every other that was
considered has a reason.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from kernels import autotune, choice_cache, reference, timing
from kernels.attention._triton import launch_errors
from kernels.descriptors import AttentionProblem, KernelError, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

FOLDER = "kernels.attention"
ACCURACIES = ("exact", "8bit", "sparse")
CPU_ORDER = ("sdpa_flash", "sdpa_math")
PROBE_ROUNDS = 5


class Implementation(Protocol):
    """A file of the folder. One with TAKES_PREFIX is given the prefix of its problem. One with `expected`, of
    the arguments of `run`, is compared with that: it leaves keys out on purpose."""

    ACCURACY: str
    ERROR_FACTOR: float

    def supports(self, problem: AttentionProblem) -> str | None: ...

    @property
    def run(self) -> Callable[..., Tensor]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """The result on a small problem of the same type, head size and mask; `failure` None: passed."""

    failure: str | None
    errors: reference.Errors | None
    allowed: float
    """Of `errors.largest`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One implementation, bound: `run(q, k, v, scale=..., kv_lengths=...)`."""

    name: str
    run: Callable[..., Tensor]
    ms: Mapping[str, float]
    """Median times of the probe; empty where nothing was timed."""
    reasons: Mapping[str, str]
    """Why not the others."""
    tiles: autotune.Tiles | None
    """Of a Triton kernel tuned for this problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All that is known of one implementation; `reason` None: it can be chosen."""

    name: str
    accuracy: str
    reason: str | None
    test: SelfTest | None = None
    ms: float | None = None
    tiles: autotune.Tiles | None = None


def names(package: str = FOLDER) -> list[str]:
    folder = importlib.import_module(package)
    return sorted(e.name for e in pkgutil.iter_modules(folder.__path__) if not e.name.startswith("_"))


def load(name: str, package: str = FOLDER) -> Implementation:
    if name not in names(package):
        raise KernelError(f"{name!r} is not an attention kernel; there are: {', '.join(names(package))}")
    return cast(Implementation, importlib.import_module(f"{package}.{name}"))


def candidates(problem: AttentionProblem, package: str = FOLDER) -> dict[str, str | None]:
    """Every implementation with None, or the reason why it does not support `problem`."""
    return {name: load(name, package).supports(problem) for name in names(package)}


def self_test(name: str, problem: AttentionProblem, package: str = FOLDER) -> SelfTest:
    """Compare `name` with the reference on small tensors; a failure is logged as a warning that names it."""
    implementation = load(name, package)
    small = _small(problem)
    q, k, v, masks = example(small, seed=0)
    options = masks | prefix_of(implementation, small)
    exact = reference.attention(q, k, v, **masks)
    neighbour = reference.compare(reference.plain(q, k, v, **masks), exact)
    own = getattr(implementation, "expected", None)
    expected = exact if own is None else own(q, k, v, **options)
    allowed = reference.allowed_error(
        neighbour.largest, expected, torch_dtype(problem.dtype), implementation.ERROR_FACTOR
    )
    errors = None
    try:
        errors = reference.compare(implementation.run(q, k, v, **options), expected)
        failure = _too_far(errors, allowed, getattr(implementation, "COSINE_BOUND", None))
    except failures() as error:
        failure = f"{type(error).__name__}: {_first_line(error)}"
    if failure is not None:
        log.warning("attention kernel %s is disabled: self-test on %s: %s", name, small, failure)
    return SelfTest(failure=failure, errors=errors, allowed=allowed)


def choose(
    problem: AttentionProblem,
    *,
    wanted: Sequence[str] = (),
    accuracy: Sequence[str] = ("exact",),
    cache: Path | None = None,
    package: str = FOLDER,
) -> Choice:
    """The implementation for `problem`; KernelError with every reason when there is none.

    `wanted` is the user's ordered list: the first that is supported and passes, whatever its accuracy; a
    single name is thereby required. Without it the fastest of the classes in `accuracy` (on a CPU a fixed
    order). `cache` is a folder that keeps the decision, and tile sizes tuned for the problem, until anything
    changes.
    """
    for name in wanted:
        load(name, package)  # an unknown name is an error even behind one that would do
    unknown = [name for name in accuracy if name not in ACCURACIES]
    assert not unknown, f"accuracy {unknown}: there are {ACCURACIES}"
    path = None if cache is None else choice_cache.path(cache, problem, wanted, accuracy, package)
    decision = None if path is None else choice_cache.read(path)
    if decision is None:
        if wanted:
            decision = _first_wanted(problem, wanted, cache, package)
        else:
            decision = _best(problem, accuracy, cache, package)
        if path is not None:
            choice_cache.write(path, decision)
    options = {} if decision.tiles is None else {"tiles": decision.tiles}
    choice = Choice(
        name=decision.name,
        run=functools.partial(load(decision.name, package).run, **options),
        ms=decision.ms,
        reasons=decision.reasons,
        tiles=decision.tiles,
    )
    why = "; ".join(f"{name}: {reason}" for name, reason in choice.reasons.items())
    log.info("attention %s -> %s%s", problem, choice.name, f" ({why})" if why else "")
    return choice


def survey(
    problem: AttentionProblem,
    *,
    accuracy: Sequence[str] = ACCURACIES,
    timed: bool,
    cache: Path | None = None,
    only: Sequence[str] = (),
    package: str = FOLDER,
) -> list[Verdict]:
    """Every implementation, or `only` these, asked, tested and, with `timed` on CUDA, timed at the size of
    `problem`."""
    verdicts = []
    for name in only or names(package):
        implementation = load(name, package)
        reason, test = implementation.supports(problem), None
        if reason is None and implementation.ACCURACY not in accuracy:
            reason = f"accuracy {implementation.ACCURACY} is not asked for"
        if reason is None:
            test = self_test(name, problem, package)
            reason = test.failure
        verdicts.append(Verdict(name=name, accuracy=implementation.ACCURACY, reason=reason, test=test))
    if not timed or problem.target.kind != "cuda":
        return verdicts
    return _timed(verdicts, problem, cache, package)


def pick(verdicts: Sequence[Verdict], accuracy: Sequence[str] = ("exact",)) -> Verdict | None:
    """The fastest that can be chosen; of untimed ones the first in the order for CPUs, then by name."""
    usable = [verdict for verdict in verdicts if verdict.reason is None and verdict.accuracy in accuracy]
    ranks = {name: place for place, name in enumerate(CPU_ORDER)}

    def rank(verdict: Verdict) -> tuple[float, int, str]:
        ms = math.inf if verdict.ms is None else verdict.ms
        return ms, ranks.get(verdict.name, len(ranks)), verdict.name

    return min(usable, key=rank, default=None)


def failures(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What an implementation, or the library behind it, raises when it cannot do what it said it could; and
    `others`."""
    library = (RuntimeError, ImportError, OSError, TypeError, ValueError, AttributeError, LookupError)
    return library + launch_errors() + others


def example(problem: AttentionProblem, *, seed: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """q, k, v [B, A, N, D], tokens before heads in memory as a transformer makes them; scale and mask."""
    device = torch.device("cuda" if problem.target.kind == "cuda" else "cpu")
    generator = torch.Generator(device).manual_seed(seed)
    dtype = torch_dtype(problem.dtype)

    def normal(num_tokens: int) -> Tensor:
        shape = (problem.batch, num_tokens, problem.heads, problem.head_dim)
        return torch.randn(shape, generator=generator, device=device, dtype=dtype).transpose(1, 2)

    q, k, v = normal(problem.q_len), normal(problem.kv_len), normal(problem.kv_len)
    options: dict[str, Any] = {"scale": problem.head_dim**-0.5}
    if problem.mask == "lengths":
        # The first row is full, the others lose a part, and what they lose is NaN.
        step = problem.kv_len // (2 * problem.batch)
        lengths = [problem.kv_len - row * step for row in range(problem.batch)]
        for row, length in enumerate(lengths):
            k[row, :, length:] = v[row, :, length:] = math.nan
        options["kv_lengths"] = torch.tensor(lengths, dtype=torch.int32, device=device)
    return q, k, v, options


def prefix_of(implementation: Implementation, problem: AttentionProblem) -> dict[str, int]:
    """The argument `prefix` of a call, where the kernel takes it."""
    return {"prefix": problem.prefix} if getattr(implementation, "TAKES_PREFIX", False) else {}


def _small(problem: AttentionProblem) -> AttentionProblem:
    """Of the same kind: several tiles, the last one cut, and cross-attention where `problem` is."""
    q_len, kv_len = (40, 75) if problem.target.interpreted else (200, 333)
    return dataclasses.replace(
        problem,
        batch=2,
        heads=2,
        q_len=kv_len if problem.q_len == problem.kv_len else q_len,
        kv_len=kv_len,
        prefix=kv_len * problem.prefix // problem.kv_len,
    )


def _too_far(errors: reference.Errors, allowed: float, cosine_bound: float | None) -> str | None:
    # Comparisons are written so that NaN fails them.
    if not errors.largest <= allowed:
        return f"largest error {errors.largest:.3g}, allowed {allowed:.3g} (relative {errors.relative:.3g})"
    if cosine_bound is not None and not errors.cosine >= cosine_bound:
        return f"cosine {errors.cosine:.5f} is below {cosine_bound}"
    return None


def _first_wanted(
    problem: AttentionProblem, wanted: Sequence[str], cache: Path | None, package: str
) -> choice_cache.Decision:
    reasons: dict[str, str] = {}
    for name in wanted:
        reason = load(name, package).supports(problem) or self_test(name, problem, package).failure
        if reason is None:
            tiles = None if cache is None else tuned_tiles(name, problem, cache, package)
            return choice_cache.Decision(name=name, ms={}, reasons=reasons, tiles=tiles)
        reasons[name] = reason
    raise _none(problem, reasons)


def _best(
    problem: AttentionProblem, accuracy: Sequence[str], cache: Path | None, package: str
) -> choice_cache.Decision:
    if problem.target.kind == "cpu":
        return _first_on_cpu(problem, accuracy, package)
    verdicts = survey(problem, accuracy=accuracy, timed=True, cache=cache, package=package)
    reasons = {verdict.name: verdict.reason for verdict in verdicts if verdict.reason is not None}
    best = pick(verdicts, accuracy)
    if best is None:
        raise _none(problem, reasons)
    ms = {verdict.name: verdict.ms for verdict in verdicts if verdict.ms is not None}
    others = [name for name in ms if name != best.name]
    reasons |= {name: f"{ms[name]:.3f} ms, {best.name} {ms[best.name]:.3f}" for name in others}
    return choice_cache.Decision(name=best.name, ms=ms, reasons=reasons, tiles=best.tiles)


def _first_on_cpu(problem: AttentionProblem, accuracy: Sequence[str], package: str) -> choice_cache.Decision:
    """Nothing is timed: torch's kernels in their known order, then the rest by name."""
    existing = names(package)
    order = [name for name in CPU_ORDER if name in existing]
    order += [name for name in existing if name not in order]
    reasons: dict[str, str] = {}
    for place, name in enumerate(order):
        implementation = load(name, package)
        reason = implementation.supports(problem)
        if reason is None and implementation.ACCURACY not in accuracy:
            reason = f"accuracy {implementation.ACCURACY} is not asked for"
        reason = reason or self_test(name, problem, package).failure
        if reason is None:
            later = {rest: load(rest, package).supports(problem) for rest in order[place + 1 :]}
            reasons |= {rest: why or f"after {name} in the order for CPUs" for rest, why in later.items()}
            return choice_cache.Decision(name=name, ms={}, reasons=reasons)
        reasons[name] = reason
    raise _none(problem, reasons)


def _timed(
    verdicts: Sequence[Verdict], problem: AttentionProblem, cache: Path | None, package: str
) -> list[Verdict]:
    """The verdicts with times, one run of each in turn; what fails at full size gets that as its reason."""
    q, k, v, options = example(problem, seed=1)
    functions: dict[str, timing.Function] = {}
    result = {verdict.name: verdict for verdict in verdicts}
    for verdict in verdicts:
        if verdict.reason is not None:
            continue
        try:
            tiles = None if cache is None else tuned_tiles(verdict.name, problem, cache, package)
            implementation = load(verdict.name, package)
            more = options | prefix_of(implementation, problem)
            more |= {} if tiles is None else {"tiles": tiles}
            function = timed_call(implementation, q, k, v, more)
            function()
            torch.cuda.synchronize()
        except failures() as error:
            reason = f"fails at full size: {type(error).__name__}: {_first_line(error)}"
            result[verdict.name] = dataclasses.replace(verdict, reason=reason)
            continue
        functions[verdict.name] = function
        result[verdict.name] = dataclasses.replace(verdict, tiles=tiles)
    if functions:
        for name, times_ms in timing.alternate(functions, PROBE_ROUNDS, warmup=1).items():
            median_ms = timing.summary(times_ms).median
            result[name] = dataclasses.replace(result[name], ms=median_ms)
    return [result[verdict.name] for verdict in verdicts]


def timed_call(
    implementation: Implementation, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]
) -> timing.Function:
    """The part that counts: a kernel that takes E4M3 from the passes before it (`quantize` says so) is not
    charged for passes of its own."""
    quantize = getattr(implementation, "quantize", None)
    if quantize is None:
        return functools.partial(implementation.run, q, k, v, **options)
    inputs = quantize(q, k, v, kv_lengths=options.get("kv_lengths"))
    return functools.partial(implementation.run_quantized, *inputs, **options)  # type: ignore[attr-defined]


def tuned_tiles(
    name: str, problem: AttentionProblem, cache: Path, package: str = FOLDER
) -> autotune.Tiles | None:
    """The tile sizes of a Triton kernel for `problem`, measured once and kept in `cache`; None for others."""
    implementation = load(name, package)
    table: str | None = getattr(implementation, "TABLE", None)
    if table is None or problem.target.kind != "cuda":
        return None
    q, k, v, options = example(problem, seed=1)
    options |= prefix_of(implementation, problem)
    return autotune.tune(
        name,
        problem,
        lambda tiles: implementation.run(q, k, v, tiles=tiles, **options),
        folder=cache,
        among=autotune.candidates(table, problem.target, problem.head_dim),
        fails=launch_errors(),
    )


def _none(problem: AttentionProblem, reasons: Mapping[str, str]) -> KernelError:
    lines = "".join(f"\n  {name}: {reason}" for name, reason in sorted(reasons.items()))
    return KernelError(f"no attention kernel does {problem}:{lines}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
