"""Device and number format are resolved once, from the hardware, and impossible wishes are refused."""

from __future__ import annotations

import pytest
import torch

from engine.errors import ConfigError
from engine.machine.device import (
    cpu_multiplies_bf16,
    open_ahead,
    resolve_device,
    resolve_dtype,
    use_threads,
)


def with_cuda(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)


def with_bf16(monkeypatch: pytest.MonkeyPatch, *, tiles: bool, dot: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: dot)


def test_auto_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cuda(monkeypatch, True)
    assert (resolve_device("auto"), resolve_device("cuda"), resolve_device("cpu")) == ("cuda", "cuda", "cpu")
    with_cuda(monkeypatch, False)
    assert resolve_device("auto") == "cpu"


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cuda(monkeypatch, False)
    with pytest.raises(ConfigError, match="no CUDA GPU"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("tiles", "dot", "dtype"),
    [(True, True, "bf16"), (True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")],
)
def test_auto_dtype_on_cpus(monkeypatch: pytest.MonkeyPatch, tiles: bool, dot: bool, dtype: str) -> None:
    with_bf16(monkeypatch, tiles=tiles, dot=dot)
    assert resolve_dtype("auto", "cpu") == dtype
    assert resolve_dtype("auto", "cuda") == "bf16"


def test_a_stated_dtype_is_kept_or_refused() -> None:
    assert resolve_dtype("fp32", "cuda") == "fp32"
    assert resolve_dtype("fp16", "cuda") == "fp16"
    with pytest.raises(ConfigError, match="fp16"):
        resolve_dtype("fp16", "cpu")


def test_this_cpu_answers() -> None:
    assert cpu_multiplies_bf16() in (True, False)


def test_use_threads() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        use_threads(before)


def test_a_device_that_cannot_be_opened_ahead_is_told_of_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []

    def fail(size: int, *, device: str) -> None:
        opened.append(device)
        raise RuntimeError("CUDA unknown error")

    monkeypatch.setattr(torch, "empty", fail)
    open_ahead("cuda").join()
    assert opened == ["cuda"] and capfd.readouterr().err == ""
