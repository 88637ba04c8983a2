"""Ways to share a GPU: what each sets, that it is undone, and why one is not to be had here."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
import torch

from bench.perf.overlap import green_context, sharing
from bench.perf.overlap.sharing import ONE_STREAM, SHARINGS, STREAMS, Sharing, missing, self_test, shared
from engine.machine.streams import LaneStreams
from kernels import sm_margin

CPU = torch.device("cpu")


@pytest.fixture
def cuda_like(monkeypatch: pytest.MonkeyPatch) -> LaneStreams:
    """Lanes whose streams are names; entering one notes it in `entered`."""

    class Stream(str):
        device = CPU
        priority = -1

    lanes = LaneStreams(CPU)
    lanes.streams.update(generate=Stream("g"), critique=Stream("c"))  # type: ignore[arg-type]
    monkeypatch.setattr(sharing, "_stream", lambda device, priority: Stream(f"priority {priority}"))
    monkeypatch.setattr(
        green_context, "stream_without", lambda device, n, priority: (Stream(f"without {n} at {priority}"), n)
    )
    return lanes


def entered(monkeypatch: pytest.MonkeyPatch, chosen: Sharing, lanes: LaneStreams) -> dict[str, str]:
    """The stream of each lane; "" is that of the caller."""
    seen: list[str] = []

    @contextmanager
    def stream(one: str):  # type: ignore[no-untyped-def]
        seen.append(str(one))
        yield

    monkeypatch.setattr(torch.cuda, "stream", stream)
    found = {}
    with shared(chosen, lanes) as on_lane:
        for lane in ("generate", "critique", "encode"):
            with on_lane(lane):
                found[lane] = seen.pop() if seen else ""
    return found


def test_each_sharing_gives_the_lanes_their_streams(
    monkeypatch: pytest.MonkeyPatch, cuda_like: LaneStreams
) -> None:
    def of(chosen: Sharing) -> tuple[str, ...]:
        return tuple(entered(monkeypatch, chosen, cuda_like).values())

    assert of(STREAMS) == ("g", "c", "")
    assert of(ONE_STREAM) == ("g", "g", "")
    assert of(Sharing(name="x", critic_priority=-2)) == ("g", "priority -2", "")
    assert of(Sharing(name="x", green_sms=16)) == ("without 16 at -1", "c", "")
    assert dict(cuda_like.streams) == {"generate": "g", "critique": "c"}, "the lanes' own are as they were"


def test_margins_hold_inside_and_are_taken_back(cuda_like: LaneStreams) -> None:
    both = Sharing(name="x", sm_margin=16, sm_carveout=32)
    with shared(both, cuda_like):
        assert (sm_margin.of_attention(), torch._C._get_sm_carveout_experimental()) == (16, 32)
    with pytest.raises(ValueError), shared(both, cuda_like):
        raise ValueError
    assert (sm_margin.of_attention(), torch._C._get_sm_carveout_experimental()) == (0, None)


def test_without_a_gpu_the_rest_says_why() -> None:
    reasons = {one.name: missing(one, CPU) for one in SHARINGS}
    assert reasons.pop(STREAMS.name) is None and reasons.pop(ONE_STREAM.name) is None
    assert len(reasons) == len(SHARINGS) - 2 and set(reasons.values()) == {"needs an NVIDIA GPU"}
    with shared(STREAMS, LaneStreams(CPU)) as on_lane, on_lane("generate"):
        pass


def test_missing_parts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(sharing, "find_spec", lambda name: None)
    assert missing(Sharing(name="x", sm_margin=16), cuda) == "the package fa3_fwd is not installed"
    monkeypatch.setattr(green_context, "_driver", lambda: object())
    assert missing(Sharing(name="x", green_sms=16), cuda) == f"the driver lacks {green_context._NEEDED[0]}"
    monkeypatch.delattr(torch._C, "_set_sm_carveout_experimental")
    assert missing(Sharing(name="x", sm_carveout=16), cuda) == sm_margin.gemms_missing()
    assert "sets no SM carveout" in str(sm_margin.gemms_missing())


def test_the_self_test_passes_where_nothing_is_changed() -> None:
    assert self_test(lambda lane: nullcontext(), CPU) is None


def test_the_self_test_finds_a_lane_with_wrong_products(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.Tensor.__matmul__
    wrong = [False]

    @contextmanager
    def on_lane(lane: str):  # type: ignore[no-untyped-def]
        wrong[0] = lane == "critique"
        yield
        wrong[0] = False

    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        found = right(x, w)
        if wrong[0]:
            found[:1] *= float("nan")
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    assert "lane critique has a relative error of nan" in str(self_test(on_lane, CPU))


@pytest.mark.gpu
@pytest.mark.parametrize("chosen", SHARINGS, ids=lambda one: one.name)
def test_every_sharing_on_a_gpu(chosen: Sharing) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")
    if reason := missing(chosen, device):
        pytest.skip(reason)
    with shared(chosen, LaneStreams(device)) as on_lane:
        assert self_test(on_lane, device) is None
