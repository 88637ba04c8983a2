"""Replies written side by side: they do not feel each other, and nothing of them is lost when slots grow."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch
from tiny_vlm import tiny_hybrid, tiny_model, tiny_tokenizer
from torch import Tensor

from engine.critics.qwen_vl import decode as decode_module
from engine.critics.qwen_vl import slots as slots_module
from engine.critics.qwen_vl.decode import Decoding
from engine.critics.qwen_vl.slots import Slots
from engine.critics.qwen_vl.text_step import TextStep
from engine.errors import ModelError
from engine.machine.streams import HostFence

MAKE: dict[str, Any] = {"qwen3_vl": tiny_model, "qwen3_5": tiny_hybrid}
CUDA = pytest.param(("cuda", torch.bfloat16), marks=pytest.mark.gpu)
LIMIT = 24
TOKENIZER = tiny_tokenizer()
VOCABULARY = len(TOKENIZER)


def PLACES(test: Any) -> Any:
    """Where, in which type, and of which family the model is."""
    places = pytest.mark.parametrize("place", [("cpu", torch.float32), CUDA])
    return places(pytest.mark.parametrize("family", MAKE)(test))


def slots_on(
    place: tuple[str, torch.dtype],
    family: str = "qwen3_vl",
    *,
    drafts: int | None = None,
    at_once: int = 1,
) -> tuple[Any, Slots]:
    device, dtype = place
    model: Any = MAKE[family](TOKENIZER).to(device, dtype)
    ids = (model.config.get_text_config().eos_token_id,)
    step, where = TextStep(model), torch.device(device)
    limits = {"max_new_tokens": LIMIT, "drafts": drafts, "at_once": at_once}
    return model, Slots(step, device=where, eos_ids=ids, **limits)


class OnlyEven:
    """A grammar that allows even tokens, and counts what it was told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def allowed(self) -> Tensor:
        return torch.arange(VOCABULARY) % 2 == 0

    def consume(self, token: int) -> None:
        self.told.append(token)


def reply(model: Any, slots: Slots, text: str, **options: Any) -> Decoding:
    ids = torch.tensor([[ord(letter) % 200 for letter in text]])
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    return Decoding(model, slots, inputs, max_new_tokens=LIMIT, chunk_tokens=5, **options)


def finish(*decodings: Decoding) -> list[list[int]]:
    """All in turn, a chunk each, joined one after the other; what each wrote."""
    going: list[Decoding] = []
    for decoding in decodings:
        going.append(decoding)
        decoding.prefill().wait()
        for other in going:
            if not other.finished:
                other.extend().wait()
    for _ in range(10 * LIMIT):
        if all(decoding.finished for decoding in going):
            return [decoding.tokens() for decoding in going]
        for decoding in going:
            if not decoding.finished:
                decoding.extend().wait()
    raise AssertionError("a decoding never ends")


PROMPTS = ("the ball falls", "a cube " * 9, "water", "two balls meet in the middle")


@PLACES
def test_a_reply_does_not_depend_on_its_neighbours(place: tuple[str, torch.dtype], family: str) -> None:
    model, slots = slots_on(place, family)
    alone = [finish(reply(model, slots, prompt))[0] for prompt in PROMPTS]
    assert len({tuple(tokens) for tokens in alone}) > 1
    first = reply(model, slots, PROMPTS[0])
    finish(first)
    together = [reply(model, slots, prompt) for prompt in PROMPTS]
    assert finish(*together) == alone and together[0].logprobs() == first.logprobs()
    steered = reply(model, slots, PROMPTS[1], seed=3)
    constrained = reply(model, slots, PROMPTS[2], seed=3, grammar=OnlyEven())
    mixed = finish(reply(model, slots, PROMPTS[0]), steered, constrained, reply(model, slots, PROMPTS[3]))
    assert mixed[0] == alone[0] and mixed[3] == alone[3]
    assert mixed[1] == finish(reply(model, slots, PROMPTS[1], seed=3))[0] != alone[1]


@pytest.mark.gpu
@pytest.mark.parametrize("family", MAKE)
def test_greedy_tokens_on_a_card_are_those_of_generate(family: str) -> None:
    model, slots = slots_on(("cuda", torch.float32), family)
    for prompt in PROMPTS:
        ids = torch.tensor([[ord(letter) % 200 for letter in prompt]], device="cuda")
        mask = torch.ones_like(ids)
        whole = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LIMIT, do_sample=False)
        written = whole[0, ids.shape[1] :].tolist()
        end = model.config.get_text_config().eos_token_id
        expected = written[: written.index(end)] if end in written else written
        assert finish(reply(model, slots, prompt)) == [expected]


@PLACES
def test_drafts_make_it_shorter_and_change_nothing(place: tuple[str, torch.dtype], family: str) -> None:
    """Right drafts, wrong ones, and right ones that go on after the end or the limit."""
    model, without = slots_on(place, family, drafts=0)
    expected = [finish(reply(model, without, prompt))[0] for prompt in PROMPTS]
    _, slots = slots_on(place, family, drafts=7)
    for prompt, tokens in zip(PROMPTS, expected, strict=True):
        for lookup in ([], tokens, [*tokens, *tokens[:5], 7, *tokens[3:9]], [tokens[0], tokens[1], 3, 3] * 9):
            assert finish(reply(model, slots, prompt, lookup=lookup)) == [tokens]
    quick = reply(model, slots, PROMPTS[0], lookup=expected[0])
    quick.prefill().wait()
    num_chunks = 0
    while not quick.finished:
        quick.extend().wait()
        num_chunks += 1
    assert num_chunks <= 3, "chunks of five steps; without drafts five of them write 24 tokens"
    together = (reply(model, slots, prompt, lookup=expected[0]) for prompt in PROMPTS)
    assert finish(*together) == expected


def test_a_reply_ends_at_its_end_token_though_drafts_go_on() -> None:
    place = ("cpu", torch.float32)
    model, without = slots_on(place, drafts=0)
    whole = finish(reply(model, without, PROMPTS[0]))[0]
    end = whole[len(whole) // 2]
    first = whole.index(end)
    slots = Slots(without.step, device=without.device, eos_ids=(end,), max_new_tokens=LIMIT, drafts=7)
    decoding = reply(model, slots, PROMPTS[0], lookup=whole)
    assert finish(decoding) == [whole[:first]] and not decoding.cut


def logprobs_of(model: Any, prompt: str, tokens: list[int]) -> Tensor:
    """[T]: by the library's model, which reads prompt and reply at once."""
    device = model.device
    ids = torch.tensor([[*(ord(letter) % 200 for letter in prompt), *tokens]], device=device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
    wanted = torch.tensor(tokens, device=device)[:, None]
    return logits.double().log_softmax(-1).gather(1, wanted)[:, 0].float().cpu()


WRITTEN: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"seed": 3},
    "constrained": {"seed": 3, "grammar": OnlyEven},
}


@PLACES
@pytest.mark.parametrize("drafts", [0, 7])
def test_logprobs_are_those_of_the_model_however_a_token_was_chosen(
    place: tuple[str, torch.dtype], family: str, drafts: int
) -> None:
    """Of accepted drafts too, with neighbours, and in a slot that was used before."""
    model, slots = slots_on(place, family, drafts=drafts, at_once=2)
    known = finish(reply(model, slots, PROMPTS[0]))[0]
    for options in WRITTEN.values():
        made = {name: value() if name == "grammar" else value for name, value in options.items()}
        pair = (reply(model, slots, PROMPTS[0], lookup=known), reply(model, slots, PROMPTS[1], **made))
        for prompt, decoding, tokens in zip(PROMPTS, pair, finish(*pair), strict=False):
            found = torch.tensor(decoding.logprobs())
            tolerance = 1e-4 if place[1] is torch.float32 else 0.1  # nats: probabilities differ by as much
            torch.testing.assert_close(found, logprobs_of(model, prompt, tokens), rtol=0, atol=tolerance)


@PLACES
def test_a_grammar_is_asked_before_each_token_and_told_each(
    place: tuple[str, torch.dtype], family: str
) -> None:
    model, slots = slots_on(place, family)
    grammar = OnlyEven()
    tokens = finish(reply(model, slots, "water", grammar=grammar))[0]
    assert len(tokens) == LIMIT and all(token % 2 == 0 for token in tokens)
    assert grammar.told == tokens[:-1]


@PLACES
def test_slots_grow_while_replies_are_being_written(place: tuple[str, torch.dtype], family: str) -> None:
    model, slots = slots_on(place, family)
    short, long = "water", "a long story " * 60
    assert len(long) > slots_module.LENGTH_STEP
    alone = [finish(reply(model, slots_on(place, family)[1], prompt))[0] for prompt in (short, long)]
    first = reply(model, slots, short)
    first.prefill().wait()
    first.extend().wait()
    second = reply(model, slots, long)
    second.prefill().wait()
    while not (first.finished and second.finished):
        first.extend().wait()
        second.extend().wait()
    assert [first.tokens(), second.tokens()] == alone


class Late(HostFence):
    """Done when the test says so, as a chunk on a GPU is."""

    over = False

    def done(self) -> bool:
        return self.over


def test_the_end_is_seen_while_the_next_chunk_runs(monkeypatch: Any) -> None:
    """Two chunks are always in flight in a run; waiting for both would write on to the token limit."""
    model, slots = slots_on(("cpu", torch.float32))
    whole = finish(reply(model, slots, PROMPTS[0]))[0]
    slots.eos_ids, slots._eos = (whole[7],), torch.tensor([whole[7]])
    made: list[Late] = []
    monkeypatch.setattr(decode_module, "fence", lambda device: made.append(Late()) or made[-1])
    one = reply(model, slots, PROMPTS[0])
    one.prefill()
    while not one.finished:
        one.extend()
        made[-2].over = True  # the last one but one: one chunk stays in flight
    end = whole.index(whole[7])
    assert one.tokens() == whole[:end] and not made[-1].over
    assert len(made) == 1 + -(-end // 5) + 1, "one chunk more than the answer has"


def test_a_slot_is_given_back_when_its_reply_goes() -> None:
    model, slots = slots_on(("cpu", torch.float32))
    for prompt in PROMPTS:
        finish(reply(model, slots, prompt))
        gc.collect()
    dropped = reply(model, slots, PROMPTS[0])
    dropped.prefill()
    del dropped
    gc.collect()
    assert len(slots._state.token) == 1 and slots.take() == 0
    assert int(slots._state.budget[0]) == 0


class Failing(OnlyEven):
    """A grammar that breaks in the middle of a reply, as whatever a scenario's job does may."""

    def consume(self, token: int) -> None:
        super().consume(token)
        if len(self.told) == 2:
            raise RuntimeError("broken")


@PLACES
@pytest.mark.parametrize("drafts", [0, 7])
def test_a_reply_that_fails_leaves_its_neighbours_and_its_slot_as_they_were(
    place: tuple[str, torch.dtype], family: str, drafts: int
) -> None:
    model, slots = slots_on(place, family, drafts=drafts)
    alone = [finish(reply(model, slots_on(place, family, drafts=drafts)[1], prompt))[0] for prompt in PROMPTS]
    first, failing, third = (
        reply(model, slots, PROMPTS[0]),
        reply(model, slots, PROMPTS[1], seed=3, grammar=Failing()),
        reply(model, slots, PROMPTS[2]),
    )
    for decoding in (first, failing, third):
        decoding.prefill().wait()
    with pytest.raises(RuntimeError, match="broken"):
        for _ in range(LIMIT):
            for decoding in (first, third, failing):
                decoding.extend().wait()
    assert not first.finished and not third.finished, "the failure has to come in their middle"
    slot = failing._slot
    del failing, decoding  # as a lane drops the job of a scenario that failed
    gc.collect()
    after = reply(model, slots, PROMPTS[3])
    assert finish(after)[0] == alone[3] and after._slot == slot
    for _ in range(LIMIT):
        for decoding in (first, third):
            if not decoding.finished:
                decoding.extend().wait()
    assert [first.tokens(), third.tokens()] == [alone[0], alone[2]]


def test_a_reply_that_another_thread_drops_disturbs_no_step() -> None:
    """The lane's thread may be writing; the slot stops at its next call, and is then free."""
    model, slots = slots_on(("cpu", torch.float32))
    dropped = [reply(model, slots, PROMPTS[0])]
    dropped[0].prefill()
    budget = int(slots._state.budget[0])
    thread = threading.Thread(target=dropped.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert budget > 0 and int(slots._state.budget[0]) == budget
    slots.advance(0, 1)
    assert int(slots._state.budget[0]) == 0 and slots.take() == 0


def test_slots_come_several_at_a_time() -> None:
    model, slots = slots_on(("cpu", torch.float32), at_once=3)
    expected = [finish(reply(model, slots_on(("cpu", torch.float32))[1], prompt))[0] for prompt in PROMPTS]
    assert finish(*(reply(model, slots, prompt) for prompt in PROMPTS)) == expected
    assert len(slots._state.token) == max(3, len(PROMPTS))


def test_where_there_is_no_memory_for_another_slot_the_others_go_on(monkeypatch: Any) -> None:
    model, slots = slots_on(("cpu", torch.float32))
    expected = finish(reply(model, slots, PROMPTS[0]))
    first = reply(model, slots, PROMPTS[0])
    first.prefill().wait()

    def full(*sizes: int) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(slots.step, "empty_cache", full)
        with pytest.raises(torch.OutOfMemoryError):
            reply(model, slots, PROMPTS[0]).prefill()
    assert len(slots._state.token) == 1
    while not first.finished:
        first.extend().wait()
    assert [first.tokens()] == expected
    assert finish(reply(model, slots, PROMPTS[0])) == expected


def test_more_slots_than_rows_of_a_gemm_are_refused() -> None:
    _, slots = slots_on(("cpu", torch.float32))
    for _ in range(slots_module.MAX_SLOTS):
        slots.take()
    with pytest.raises(AssertionError, match="all of 16 slots are taken"):
        slots.take()


def test_too_many_tokens_are_refused() -> None:
    model, slots = slots_on(("cpu", torch.float32))
    inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}
    with pytest.raises(AssertionError, match="the slots hold 24"):
        Decoding(model, slots, inputs, max_new_tokens=LIMIT + 1, chunk_tokens=4)


def test_noise_is_gumbel_and_depends_on_seed_place_and_token() -> None:
    seed, count = torch.tensor([0, 0, 7]), torch.tensor([0, 1, 0])
    noise = slots_module._gumbel(seed, count, 20000).double()
    mean, deviation = 0.5772, 1.2825  # of the standard Gumbel distribution: Euler's constant, pi / sqrt(6)
    assert torch.allclose(noise.mean(1), torch.tensor(mean).double(), atol=0.05)
    assert torch.allclose(noise.std(1), torch.tensor(deviation).double(), atol=0.05)
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.03
    assert torch.equal(noise, slots_module._gumbel(seed, count, 20000).double())


@pytest.mark.gpu
def test_noise_is_the_same_on_a_card() -> None:
    seed, count = torch.tensor([0, 5]), torch.tensor([3, 1])
    noise = slots_module._gumbel(seed.cuda(), count.cuda(), 500).cpu()
    torch.testing.assert_close(noise, slots_module._gumbel(seed, count, 500), rtol=1e-5, atol=1e-5)


def test_what_the_step_does_not_compute_is_refused() -> None:
    model: Any = tiny_model(TOKENIZER)
    model.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ModelError, match="1 layer of sliding_attention"):
        TextStep(model)
    model.config.text_config.layer_types = None
    model.config.text_config.hidden_act = "gelu"
    with pytest.raises(ModelError, match="gelu"):
        TextStep(model)


def test_merged_layers_are_stored_once_and_stay_the_model() -> None:
    model: Any = tiny_model(TOKENIZER)
    ids = torch.tensor([[5, 9, 2]])
    before = model(input_ids=ids).logits
    TextStep(model)
    attention = model.model.language_model.layers[0].self_attn
    q, k = attention.q_proj.weight, attention.k_proj.weight
    assert q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    assert torch.equal(model(input_ids=ids).logits, before)
