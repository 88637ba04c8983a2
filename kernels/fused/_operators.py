"""How a Triton kernel becomes an operator of torch, and a kernel file gets its `run`, `plain` and `launch`.

Knows no kernel. Invariant: the arguments of a kernel are written once, as a dataclass; an operator has the
same ones, flat, which torch.compile and torch.export keep.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch._subclasses.functional_tensor import FunctionalTensorMode

from kernels.fused._jit import HAS_TRITON

Function = Callable[..., Any]
Signature = ParamSpec("Signature")
Arguments = TypeVar("Arguments")
Result = TypeVar("Result")

_shapes_only: ContextVar[bool] = ContextVar("_shapes_only", default=False)
"""Whether the function of an operator only allocates its results: what tracing asks for."""
_inside: ContextVar[bool] = ContextVar("_inside", default=False)


def kernels_inside() -> AbstractContextManager[None]:
    """Within it the compiler launches the kernels of an operator itself, so that what it makes needs neither
    Python nor Triton to run: for code compiled ahead of time.

    Elsewhere torch.compile keeps an operator as one call. Launching its kernels would save host time, which a
    CUDA graph saves too, and costs: an argument that occurs twice (what stands for an absent one) is copied
    for each place, and Inductor gives a Python float as fp64, which spreads over the kernel and has no
    conversion to E4M3. Every float that a kernel takes is a constexpr, so that both ways work.
    """
    return _on(_inside)


def triton_op(name: str, function: Function, *, writes: Collection[str] = ()) -> Any:
    """`function` as an operator of torch; it starts its kernels by `wrap(kernel)[grid](...)`.

    `writes`: the arguments it writes into; an operator returns new tensors or writes, not both.
    """
    if not HAS_TRITON:
        return function
    operator = torch.library.custom_op(name, function, mutates_args=writes)

    @functools.wraps(function)
    def shapes(*args: Any) -> Any:
        with _on(_shapes_only):
            return function(*args)

    def functionalized(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _inside.get():
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return function(*args, **(kwargs or {}))

    operator.register_fake(shapes)
    operator.register_torch_dispatch(FunctionalTensorMode, functionalized)
    return operator


def operator(
    name: str,
    arguments: type[Arguments],
    function: Callable[[Arguments], Result],
    *,
    writes: Collection[str] = (),
) -> Callable[[Arguments], Result]:
    """`function` as a `triton_op` whose flat arguments are the fields of the dataclass `arguments`."""
    signature = inspect.signature(arguments)
    fields = tuple(signature.parameters)

    def flat(*values: Any) -> Result:
        return function(arguments(**dict(zip(fields, values, strict=True))))

    flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(field, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=given.annotation)
            for field, given in signature.parameters.items()
        ],
        return_annotation=inspect.signature(function).return_annotation,
    )
    call: Callable[..., Result] = triton_op(name, flat, writes=writes)
    return lambda given: call(*(getattr(given, field) for field in fields))


def entry_points(
    arguments: Callable[Signature, Arguments],
    *,
    plain: Callable[[Arguments], Result],
    launch: Callable[[Arguments], Result],
    check: Callable[[Arguments], None] | None = None,
) -> tuple[Callable[Signature, Result], Callable[Signature, Result], Callable[Signature, Result]]:
    """(run, plain, launch) of a kernel, all with the signature of its dataclass `arguments`.

    plain: the formula in torch, which is the path of the CPU and the oracle of the kernel. launch: the
    kernel, also under Triton's interpreter. run: `check`, then launch where the first argument is on a GPU.
    On the device meta, where memory is counted, it is launch too: the shapes that the kernel allocates.
    """
    first = next(iter(inspect.signature(arguments).parameters))

    def _run(*args: Signature.args, **kwargs: Signature.kwargs) -> Result:
        given = arguments(*args, **kwargs)
        if check is not None:
            check(given)
        tensor = getattr(given, first)
        return launch(given) if tensor.is_cuda or (tensor.is_meta and HAS_TRITON) else plain(given)

    def _plain(*args: Signature.args, **kwargs: Signature.kwargs) -> Result:
        return plain(arguments(*args, **kwargs))

    def _launch(*args: Signature.args, **kwargs: Signature.kwargs) -> Result:
        return launch(arguments(*args, **kwargs))

    for function in (_run, _plain, _launch):
        function.__doc__ = arguments.__doc__
    return _run, _plain, _launch


def wrap(kernel: Any) -> Any:
    """`kernel`, to be started from the function of a `triton_op`."""
    if _shapes_only.get():
        return _Nothing()
    return torch.library.wrap_triton(kernel) if _inside.get() else kernel


@contextmanager
def _on(switch: ContextVar[bool]) -> Iterator[None]:
    token = switch.set(True)
    try:
        yield
    finally:
        switch.reset(token)


class _Nothing:
    """Stands for a kernel that is not started."""

    def __getitem__(self, grid: object) -> Function:
        return lambda *args, **options: None
