"""The critic on a real, tiny Qwen3-VL: own decoding equals generate, jobs are resumable, replies are read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vlm import CHAT_TEMPLATE, save_tiny_vlm, tiny_tokenizer
from transformers import AutoModelForImageTextToText, DynamicCache, Qwen3VLConfig
from vlm_replies import PLAN, REPLY

from engine.build.model_folders import find_critic
from engine.build.prepare import load_critic
from engine.critics.qwen_vl import critic as qwen_vl
from engine.critics.qwen_vl.critic import QwenVLCritic
from engine.critics.qwen_vl.decode import Decoding
from engine.critics.qwen_vl.footprint import prefill_bytes
from engine.critics.qwen_vl.instructions import PATCH_INSTRUCTION, plan_segments
from engine.critics.qwen_vl.plan_samples import PlanSamplesJob, most_agreed
from engine.critics.qwen_vl.preprocess import VideoSegment, build_inputs
from engine.critics.qwen_vl.reply_job import ReplyJob
from engine.critics.qwen_vl.schema import critique_json_schema, parse_plan
from engine.critics.qwen_vl.settings import CriticSettings, read_settings
from engine.critics.qwen_vl.slots import Slots
from engine.critics.qwen_vl.text_step import TextStep
from engine.errors import ConfigError, ModelError, VideoError
from engine.machine.counted import peak_bytes
from engine.settings.config import BUNDLED, CriticConfig, RunConfig
from engine.types import PlanEvent, Prompt, Scenario, Verdict, Video, VideoSpec
from engine.video.files import probe, write_mp4
from kernels.linear import int8

torch.set_num_threads(1)

SIDECAR: dict[str, Any] = {
    "plan_instruction": "Plan.",
    "critique_instruction": "Judge.",
    "patch_instruction": "Patch.",
    "num_prefix_frames": 2,
    "num_take_frames": 4,
    "frame_px": 32,
    "max_new_tokens": 40,
}
PROMPT = Prompt(text="The ball rolls.", negative="", seed=3, revision=0)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("critic"), json.dumps(SIDECAR))


@pytest.fixture(scope="module")
def critic(folder: Path) -> QwenVLCritic:
    """Unconstrained, as where llguidance is not installed."""
    return replace(qwen_vl.load(folder, device="cpu", dtype="fp32"), grammars=None)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    path = tmp_path_factory.mktemp("clips") / "prefix.mp4"
    write_mp4(path, noise(24, 64, 64, 3), 8.0)
    return Scenario(
        id="0001_perspective-left",
        text="A ball.",
        prefix=probe(path),
        category="solid",
        output_name="0001_perspective-left_trimmed-ball.mp4",
    )


def take() -> Video:
    return Video(frames=noise(40, 64, 64, 3), fps=8.0)


def finish(job: ReplyJob[Any]) -> Any:
    """As the scheduler drives a job; fails when `steps_left` promises too few steps."""
    for _ in range(1000):
        if job.steps_left == 0:
            return job.result()
        job.launch().wait()
    raise AssertionError("the job never ends")


def inputs_of(critic: QwenVLCritic, question: str = "A ball.") -> dict[str, torch.Tensor]:
    prefix = VideoSegment(frames=noise(4, 32, 32, 3), times_s=(0.0, 0.125, 2.75, 2.875))
    segments = plan_segments(critic.tokenizer, "Plan.", prefix, question)
    model = critic.model
    return build_inputs(critic.tokenizer, model.config, segments, geometry=critic.geometry, dtype=model.dtype)


def slots_of(critic: QwenVLCritic, eos_ids: tuple[int, ...], *, limit: int = 40) -> Slots:
    device = critic.model.device
    return Slots(TextStep(critic.model), device=device, eos_ids=eos_ids, max_new_tokens=limit)


def with_limit(critic: QwenVLCritic, limit: int) -> QwenVLCritic:
    """The critic with another number of new tokens."""
    settings = replace(critic.settings, max_new_tokens=limit)
    return replace(critic, settings=settings, slots=slots_of(critic, critic.eos_ids, limit=limit))


def decode(critic: QwenVLCritic, *, chunk: int = 7, eos: int | None = None, **options: Any) -> list[int]:
    slots = slots_of(critic, critic.eos_ids if eos is None else (eos,))
    decoding = Decoding(
        critic.model, slots, inputs_of(critic), max_new_tokens=24, chunk_tokens=chunk, **options
    )
    decoding.prefill().wait()
    while not decoding.finished:
        decoding.extend().wait()
    return decoding.tokens()


def generated(critic: QwenVLCritic, eos: int) -> list[int]:
    inputs = inputs_of(critic)
    ids = critic.model.generate(**inputs, max_new_tokens=24, do_sample=False, eos_token_id=eos)
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def test_the_template_of_the_processor_is_used_and_noted(folder: Path, tmp_path: Path) -> None:
    """chat_template.json, which transformers' tokenizer does not read."""
    copied = Path(shutil.copytree(folder, tmp_path / "m"))
    template = CHAT_TEMPLATE.replace("{{ m['role'] }}", "asks")
    (copied / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    critic = qwen_vl.load(copied, device="cpu", dtype="fp32", with_weights=False)
    assert critic.notes == {"chat_template": "chat_template.json; another one in chat_template.jinja"}
    video = VideoSegment(frames=noise(2, 32, 32, 3), times_s=(0.0, 0.1))
    assert str(plan_segments(critic.tokenizer, "Plan.", video, "a ball")[0]).startswith("<|im_start|>asks")


def test_greedy_tokens_are_those_of_generate(critic: QwenVLCritic) -> None:
    expected = generated(critic, critic.eos_ids[0])
    assert len(expected) == 24 and decode(critic) == expected
    assert decode(critic, chunk=1) == expected


def test_decoding_ends_at_the_end_token(critic: QwenVLCritic) -> None:
    free = generated(critic, critic.eos_ids[0])
    end = free[-1]
    first = free.index(end)
    assert decode(critic, eos=end) == free[:first]
    assert generated(critic, end) == free[: first + 1]


def test_another_conversation_in_between_changes_nothing(critic: QwenVLCritic) -> None:
    options: dict[str, Any] = {"max_new_tokens": 24, "chunk_tokens": 4}
    slots = slots_of(critic, critic.eos_ids)
    one = Decoding(critic.model, slots, inputs_of(critic), **options)
    two = Decoding(critic.model, slots, inputs_of(critic, "Two longer balls of other lengths."), **options)
    one.prefill()
    two.prefill()
    while not (one.finished and two.finished):
        one.extend()
        two.extend()
    assert one.tokens() == decode(critic)


def test_sampling_depends_on_its_seed_only(critic: QwenVLCritic) -> None:
    assert decode(critic, seed=1) == decode(critic, seed=1, chunk=2)
    assert decode(critic, seed=1) != decode(critic, seed=2)


def test_unreadable_replies_get_one_retry_and_no_score(critic: QwenVLCritic, scenario: Scenario) -> None:
    reply = finish(critic.plan(scenario))
    assert reply.plan is None and reply.num_tokens == 2 * 40 and reply.seconds > 0
    assert reply.raw.startswith("{")  # the retry's prefilled brace
    critique = finish(critic.start(scenario, PROMPT, take(), None))
    assert critique.verdict is Verdict.UNREADABLE and critique.score is None
    assert 40 < critique.num_tokens <= 80
    assert finish(critic.start(scenario, PROMPT, take(), None)).raw == critique.raw
    # random weights hardly heed a text, so one other prompt may well sample the same letters
    prompts = [replace(PROMPT, text=text) for text in ("A cube falls.", "Water rises.", "x" * 40)]
    assert {finish(critic.start(scenario, prompt, take(), None)).raw for prompt in prompts} != {critique.raw}


def test_of_a_long_clip_the_critic_sees_what_the_generator_continues(
    critic: QwenVLCritic, scenario: Scenario, tmp_path: Path
) -> None:
    """Ten seconds whose grey level tells the second; the critic is told of the 3 s before the switch."""
    frames = np.stack([np.full((64, 64, 3), 20 + 20 * (i // 8), np.uint8) for i in range(80)])
    write_mp4(tmp_path / "ten.mp4", frames, 8.0)
    seen = critic._prefix(probe(tmp_path / "ten.mp4"))
    assert np.round((seen.frames.mean((1, 2, 3)) - 20) / 20).min() == 7 and max(seen.times_s) < 3.0
    assert critic._prefix(scenario.prefix).times_s == (0.0, 1 / 8)


THINKING = (
    "{% for m in messages %}<|im_start|>user\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n<think>\n"
)


def test_thoughts_that_the_template_opened_and_the_limit_cut_are_no_reply(
    critic: QwenVLCritic, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critic.tokenizer, "chat_template", THINKING)
    draft = json.dumps({"objects": [{"name": "ball"}], "still": ["table"]})
    monkeypatch.setattr(type(critic.tokenizer), "decode", lambda *given, **options: draft)
    job = critic.plan(scenario)
    job.launch().wait()
    job.launch().wait()
    assert job._opening == "<think>"
    while job._num_tries == 1:
        job.launch().wait()
    assert job._opening == "{", "the retry closes the thoughts and opens the object"
    segments = job._segments(critic._prefix(scenario.prefix), True)
    assert segments[-1].endswith("<think>\n\n</think>\n\n{")


def test_a_reply_can_be_begun_for_the_critic(
    critic: QwenVLCritic, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thoughts stay empty, what it writes comes behind, and it has one try."""
    monkeypatch.setattr(critic.tokenizer, "chat_template", THINKING)
    begun = '{"fault":"'
    job = critic.start(scenario, PROMPT, take(), None, begun=begun)
    segments = job._segments(critic._prefix(scenario.prefix), False)
    assert str(segments[-1]).endswith('<think>\n\n</think>\n\n{"fault":"')
    critique = finish(job)
    assert critique.verdict is Verdict.UNREADABLE and critique.num_tokens <= 40, "no second try"
    assert job.answer is not None and job.answer.text.startswith(begun) and job.answer.text != begun
    monkeypatch.setattr(type(critic.tokenizer), "decode", lambda *given, **options: json.dumps(REPLY)[1:])
    read = finish(critic.start(scenario, PROMPT, take(), None, begun="{"))
    assert read.verdict is Verdict.REVISE and read.score == 35


class OneWord:
    """Grammars that allow these letters alone."""

    def __init__(self, critic: QwenVLCritic, word: str) -> None:
        self.tokens = [*critic.tokenizer(word)["input_ids"], critic.eos_ids[0]]
        self.written: list[str] = []

    def start(self, schema: dict[str, Any], *, written: str) -> OneWord:
        self.written.append(written)
        return self

    def allowed(self) -> torch.Tensor:
        mask = torch.zeros(len(tiny_tokenizer()), dtype=torch.bool)
        mask[self.tokens[0]] = True
        return mask

    def consume(self, token: int) -> None:
        assert token == self.tokens.pop(0)


def test_a_begun_reply_can_be_constrained(critic: QwenVLCritic, scenario: Scenario) -> None:
    grammars: Any = OneWord(critic, 'model","x')
    job = replace(critic, grammars=grammars).start(
        scenario, PROMPT, take(), None, begun='{"fault":"', constrained=True
    )
    finish(job)
    assert job.answer is not None and job.answer.text == '{"fault":"model","x' and not job.answer.cut
    assert grammars.written == ['{"fault":"'], "the grammar knows what was begun"
    with pytest.raises(AssertionError, match="without grammars"):
        critic.start(scenario, PROMPT, take(), None, constrained=True)


@pytest.mark.parametrize(("limit", "cut"), [(24, True), (40, False)])
def test_a_decoding_knows_whether_the_limit_ended_it(critic: QwenVLCritic, limit: int, cut: bool) -> None:
    end = decode(critic)[-1]
    ends = critic.eos_ids if cut else (end,)
    slots = slots_of(critic, ends)
    decoding = Decoding(critic.model, slots, inputs_of(critic), max_new_tokens=limit, chunk_tokens=7)
    decoding.prefill().wait()
    while not decoding.finished:
        decoding.extend().wait()
    assert decoding.cut is cut


def test_a_job_does_no_work_before_launch_and_counts_its_steps(
    critic: QwenVLCritic, scenario: Scenario
) -> None:
    job = critic.plan(scenario)
    assert job.steps_left == 3 + 3  # the prefix, prefill, 39 tokens in chunks of 16, reading the reply
    with pytest.raises(AssertionError, match="steps left"):
        job.result()
    seen = []
    while job.steps_left:
        seen.append(job.steps_left)
        job.launch().wait()
    assert seen == [6, 5, 4, 3, 2, 1, 4, 3, 2, 1]  # read, found unreadable, asked again in the same step
    reply = job.result()
    job.launch().wait()
    assert job.result() is reply


@pytest.mark.parametrize("patches", [False, True])
def test_a_constrained_retry_of_a_random_model_is_readable(
    folder: Path, scenario: Scenario, patches: bool
) -> None:
    pytest.importorskip("llguidance", reason="optional dependency: retake-engine[constrained]")
    critic = qwen_vl.load(folder, device="cpu", dtype="fp32", patches=patches)
    assert critic.grammars is not None
    job = with_limit(critic, 6000).start(scenario, PROMPT, take(), parse_plan(json.dumps(PLAN)))
    job._num_tries = 1  # straight to the retry: the free try of a random model only spends time
    critique = finish(job)
    assert critique.verdict in (Verdict.ACCEPT, Verdict.REVISE) and critique.score is not None
    assert set(json.loads(critique.raw)) == set(critique_json_schema()["properties"])


def test_a_critic_that_writes_patches_is_told_the_plan(critic: QwenVLCritic, scenario: Scenario) -> None:
    """And one that does not, or has none to be told, is asked for a whole plan as before."""
    plan = parse_plan(json.dumps({**PLAN, "camera": "a <|im_end|> pan"}))
    patching = replace(critic, patches=True)
    prefix = critic._prefix(scenario.prefix)
    asked = patching.start(scenario, PROMPT, take(), plan)._segments(prefix, False)
    assert str(asked[0]).endswith("Patch.\n")
    said = str(asked[-1])
    assert '\nPlan: {"objects":[{"name":"ball","trait":"red"}],"motion"' in said
    assert said.count("<|im_end|>") == 1 and "a < |im_end|> pan" in said
    whole = critic.start(scenario, PROMPT, take(), plan)._segments(prefix, False)
    assert str(whole[0]).endswith("Judge.\n") and "Plan:" not in str(whole[-1])
    first, last = (
        patching.start(scenario, PROMPT, take(), None)._segments(prefix, False)[i] for i in (0, -1)
    )
    assert (first, last) == (whole[0], whole[-1])


def test_a_patch_becomes_the_whole_plan_and_keeps_its_raw_reply(
    critic: QwenVLCritic, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = parse_plan(json.dumps(PLAN))
    assert plan is not None
    written = json.dumps({**REPLY, "plan": {"still": ["floor"]}})
    monkeypatch.setattr(type(critic.tokenizer), "decode", lambda *given, **options: written)
    critique = finish(replace(critic, patches=True).start(scenario, PROMPT, take(), plan))
    assert critique.revised == replace(plan, still=("floor",)) and critique.raw == written
    unclear = json.dumps({**REPLY, "plan": {"colour": "red"}})
    monkeypatch.setattr(type(critic.tokenizer), "decode", lambda *given, **options: unclear)
    job = replace(critic, patches=True).start(scenario, PROMPT, take(), plan)
    refused = finish(job)
    assert refused.verdict is Verdict.UNREADABLE and refused.problem.startswith("plan.colour: ")
    assert job._num_tries == 2, "asked once more, as after any reply that cannot be read"


def writes(monkeypatch: pytest.MonkeyPatch, critic: QwenVLCritic, text: str, *unsure: str) -> None:
    """Every reply is `text`, and the critic is sure of all tokens but those of some phrases."""
    made = critic.tokenizer(text, return_offsets_mapping=True)
    places = [(text.index(phrase), text.index(phrase) + len(phrase)) for phrase in unsure]
    logprobs = [
        -3.0 if any(a < end and b > begin for begin, end in places) else 0.0
        for a, b in made["offset_mapping"]
    ]
    monkeypatch.setattr(Decoding, "tokens", lambda decoding: made["input_ids"])
    monkeypatch.setattr(Decoding, "logprobs", lambda decoding: logprobs)


def sure_at(critic: QwenVLCritic, sure: float, **changes: Any) -> QwenVLCritic:
    return replace(critic, settings=replace(critic.settings, sure=sure), **changes)


UNSURE = ("the ball stops", '"to the left"', "null")
SURE_PLAN = {**PLAN, "motion": [], "events": PLAN["events"][1:], "rest": PLAN["rest"][:1]}


def test_facts_that_the_critic_is_not_sure_of_are_left_out_of_its_plan(
    critic: QwenVLCritic,
    scenario: Scenario,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reply is kept whole; without the setting, all of it is used."""
    text = json.dumps(PLAN)
    writes(monkeypatch, critic, text, *UNSURE)
    off = finish(critic.plan(scenario))
    assert off.plan == parse_plan(text) and off.raw == text
    with caplog.at_level("INFO", logger="engine"):
        found = finish(sure_at(critic, 0.95).plan(scenario))
    assert found.plan == parse_plan(json.dumps(SURE_PLAN)) and found.raw == text
    assert "plan scenario=0001_perspective-left facts=5 left_out=3 sure=0.95" in caplog.text
    writes(monkeypatch, critic, text, text)
    left = finish(sure_at(critic, 0.95).plan(scenario)).plan
    assert left is not None and len(left.motion + left.events + left.rest) == 1, "never emptied"


def test_facts_are_left_out_of_revised_plans_too(
    critic: QwenVLCritic, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a patch those that it writes; a field that it leaves as it was stays, sure or not."""
    base = parse_plan(json.dumps(PLAN))
    assert base is not None
    whole = json.dumps(REPLY)
    writes(monkeypatch, critic, whole, *UNSURE)
    critique = finish(sure_at(critic, 0.95).start(scenario, PROMPT, take(), base))
    assert critique.revised == parse_plan(json.dumps(SURE_PLAN)) and critique.raw == whole
    assert finish(critic.start(scenario, PROMPT, take(), base)).revised == base
    events = [{"t": 1, "what": "it turns back"}, {"t": 2, "what": "it falls"}]
    patch = json.dumps({**REPLY, "plan": {"events": events, "still": ["floor"]}})
    writes(monkeypatch, critic, patch, "it falls")
    patched = finish(sure_at(critic, 0.95, patches=True).start(scenario, PROMPT, take(), base))
    assert patched.revised == replace(base, events=(PlanEvent(t=1, what="it turns back"),), still=("floor",))
    writes(monkeypatch, critic, json.dumps({**REPLY, "plan": None}))
    assert finish(sure_at(critic, 0.95).start(scenario, PROMPT, take(), base)).revised is None


def test_a_critic_is_as_sure_as_the_run_says_or_else_its_folder(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "m"))
    (copied / "retake.json").write_text(json.dumps({**SIDECAR, "sure": 0.9, "plan_samples": 3}))
    found = find_critic(str(copied))
    for asked, samples, told in (
        (None, None, "without facts below 0.9, most agreed of 3"),
        (0.0, None, "most agreed of 3"),
        (0.5, 1, "without facts below 0.5"),
        (0.0, 1, None),
    ):
        settings = CriticConfig(sure=asked, plan_samples=samples)
        config = RunConfig(dataset=tmp_path, out=tmp_path / "run", critic=settings)
        critic: Any = load_critic(config, found, "cpu", "fp32", with_weights=False)
        assert critic.settings.sure == (0.9 if asked is None else asked)
        assert critic.settings.plan_samples == samples or (samples, critic.settings.plan_samples) == (None, 3)
        assert critic.notes.get("plans") == told
    with pytest.raises(ConfigError, match=r"critic\.sure is 1\.5"):
        CriticConfig(sure=1.5)


def test_of_several_plans_the_most_agreed_one_is_used(
    critic: QwenVLCritic, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of three is right about the ball, and two agree; what was written is what the seeds say."""
    reads, seeds = [], []
    text = json.dumps(PLAN)
    texts = iter([text.replace("to the left", "up"), "no plan", text, text])
    settle, ask = ReplyJob._settle, ReplyJob._ask

    def written(job: ReplyJob[Any], decoding: Any) -> Any:
        now = next(texts)
        monkeypatch.setattr(type(job._critic.tokenizer), "decode", lambda *_, **__: now)
        return settle(job, decoding)

    def asked(job: ReplyJob[Any], prefix: Any) -> Any:
        reads.append(id(prefix))
        seeds.append(job._seed if job._sampled else None)
        return ask(job, prefix)

    monkeypatch.setattr(ReplyJob, "_settle", written)
    monkeypatch.setattr(ReplyJob, "_ask", asked)
    job = with_limit(replace(critic, settings=replace(critic.settings, plan_samples=4)), 8).plan(scenario)
    assert isinstance(job, PlanSamplesJob) and job.stage == "plan 1 of 4: prefix" and job.answer is None
    reply = finish(job)
    assert reply.plan == parse_plan(text) and reply.raw == text
    assert job.answer is not None and job.answer.text == text
    assert seeds == [None, 1, 2, 3], "an unreadable sample is not asked for again"
    assert len(set(reads)) == 1, "the prefix is read once"
    assert reply.num_tokens == sum(one.result().num_tokens for one in job._jobs) > 3


def test_plans_agree_by_what_both_hold() -> None:
    plan = parse_plan(json.dumps(PLAN))
    assert plan is not None
    assert most_agreed([None, plan, None]) == 1 and most_agreed([None]) == 0 and most_agreed([]) == 0
    other = replace(plan, motion=())
    assert most_agreed([other, plan, plan]) == 1 and most_agreed([plan, other]) == 0, "of equals the first"


def test_a_missing_prefix_fails_its_own_job_only(critic: QwenVLCritic, scenario: Scenario) -> None:
    gone = replace(scenario, prefix=replace(scenario.prefix, path=Path("gone.mp4")))
    job = critic.plan(gone)
    job.launch().wait()
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        job.launch()


def test_a_model_that_has_learned_its_reply_gives_a_plan(folder: Path, scenario: Scenario) -> None:
    critic = qwen_vl.load(folder, device="cpu", dtype="fp32")
    reply = json.dumps({"objects": PLAN["objects"], "still": PLAN["still"]}, separators=(",", ":"))
    answer = critic.tokenizer(reply + "<|im_end|>", return_tensors="pt")["input_ids"]
    prefix = critic._prefix(scenario.prefix)
    segments = plan_segments(critic.tokenizer, "Plan.", prefix, scenario.text)
    inputs = build_inputs(critic.tokenizer, critic.model.config, segments, geometry=critic.geometry)
    prompt_tokens = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, answer.shape[1]))
    labels = inputs["input_ids"].clone()
    labels[:, :prompt_tokens] = -100
    optimizer = torch.optim.Adam(critic.model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = critic.model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    plan = finish(with_limit(critic, 100).plan(scenario))
    assert plan.raw == reply and plan.num_tokens == answer.shape[1] - 1
    assert plan.plan is not None and plan.plan.objects[0].trait == "red" and plan.plan.still == ("table",)


def test_footprint_is_of_the_loaded_weights_and_grows_with_the_take(critic: QwenVLCritic) -> None:
    spec = VideoSpec(width=64, height=64, fps=8.0, prefix_frames=24, num_frames=40)
    footprint = critic.footprint(spec)
    assert footprint.held_bytes >= 4 * sum(p.numel() for p in critic.model.parameters())
    fewer = critic.footprint(replace(spec, num_frames=2))
    assert 0 < fewer.working_bytes < footprint.working_bytes
    told = replace(critic, patches=True).footprint(spec)
    assert told.working_bytes > footprint.working_bytes, "the prompt holds the plan too"


def test_reading_a_prompt_is_planned_as_it_is_counted() -> None:
    """Layers as wide as a published model's, without values: keys and values beside the peak of a layer."""
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 4096,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 3,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        }
    )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()
    tokens, text = 2000, config.get_text_config()
    given = torch.empty(1, tokens, 4096, device="meta", dtype=torch.bfloat16)
    positions = torch.empty(3, 1, tokens, device="meta", dtype=torch.long)

    def read() -> Any:
        cache = DynamicCache(config=text)
        return model.model.language_model(
            inputs_embeds=given, position_ids=positions, past_key_values=cache, use_cache=True
        )

    keys_and_values = 2 * 3 * 8 * 128 * 2 * tokens
    planned = prefill_bytes(text, tokens, 2)
    assert peak_bytes(read) - keys_and_values == pytest.approx(planned, rel=0.02)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("quantization", "kind", "most"), [("nf4", "Linear4bit", 0.3), ("int8", "Linear8bitLt", 0.05)]
)
@torch.inference_mode()
def test_a_quantized_critic(
    folder: Path, scenario: Scenario, device: str, quantization: str, kind: str, most: float
) -> None:
    """The layers of the language model and no others; close to bf16, as small as planned, and it answers."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    load = partial(qwen_vl.load, folder, device=device, dtype="bf16")
    if quantization == "int8" and device == "cpu" and not int8.library_is_exact():
        with pytest.raises(ModelError, match="no VNNI"):
            load(quantization=quantization)
        return
    critic, exact = load(quantization=quantization), load()
    kind = "FourBitLinear" if (quantization, device) == ("nf4", "cuda") else kind
    quantized = [name for name, module in critic.model.named_modules() if type(module).__name__ == kind]
    assert len(quantized) == 2 * 7 and all("language_model" in name for name in quantized)
    inputs = {name: value.to(device) for name, value in inputs_of(exact).items()}
    expected, actual = (each.model(**inputs).logits.float() for each in (exact, critic))
    assert 0 < (actual - expected).norm() / expected.norm() < most
    spec = VideoSpec(width=64, height=64, fps=8.0, prefix_frames=24, num_frames=40)
    planned = load(quantization=quantization, with_weights=False).footprint(spec).held_bytes
    assert critic.footprint(spec).held_bytes == pytest.approx(planned, rel=0.05)
    assert finish(critic.plan(scenario)).num_tokens > 0
    assert finish(critic.start(scenario, PROMPT, take(), None)).num_tokens > 0


@torch.inference_mode()
def test_rows_that_are_small_beside_others_keep_their_scale(folder: Path, tmp_path: Path) -> None:
    """Each 64 weights have a scale of their own, which nothing rounds by the size of its neighbours."""
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    from safetensors.torch import load_file, save_file

    uneven = shutil.copytree(folder, tmp_path / "uneven")
    weights = load_file(uneven / "model.safetensors")
    name = next(name for name in weights if name.endswith("language_model.layers.0.mlp.up_proj.weight"))
    exact = weights[name].float() * torch.logspace(0, -4, len(weights[name]))[:, None]
    weights[name] = exact.to(weights[name].dtype)
    save_file(weights, uneven / "model.safetensors", metadata={"format": "pt"})
    critic = qwen_vl.load(uneven, device="cpu", dtype="bf16", quantization="nf4")
    layer = critic.model.get_submodule(name.removesuffix(".weight"))
    found = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    assert ((found - exact).norm(dim=1) / exact.norm(dim=1)).max() < 0.15
    assert (found * exact >= 0).all()


def test_plain_weights_under_a_config_of_bitsandbytes_are_refused(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    claimed = shutil.copytree(folder, tmp_path / "claimed")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (claimed / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"quantized by bitsandbytes, but \d+ of its layers are not"):
        qwen_vl.load(claimed, device="cpu", dtype="bf16")


def test_int8_is_refused_on_a_cpu_whose_library_adds_wrongly(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "library_is_exact", lambda: False)
    for with_weights in (False, True):
        with pytest.raises(ModelError, match="wrong sums: it has no VNNI") as error:
            qwen_vl.load(folder, device="cpu", dtype="bf16", quantization="int8", with_weights=with_weights)
    assert "nf4" in error.value.fix


def test_unknown_names_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="fp8"):
        qwen_vl.load(folder, device="cpu", dtype="fp8")
    with pytest.raises(ConfigError, match="nf4"):
        qwen_vl.load(folder, device="cpu", dtype="fp32", quantization="nf5")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs bitsandbytes"):
        qwen_vl.load(folder, device="cpu", dtype="fp32", quantization="nf4")


def test_broken_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(ModelError, match="cannot be loaded"):
        qwen_vl.load(tmp_path, device="cpu", dtype="fp32")
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights.pop(next(name for name in weights if "mlp" in name))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 weight"):
        qwen_vl.load(broken, device="cpu", dtype="fp32")
    more = {**load_file(folder / "model.safetensors"), "model.layers.0.mlp.weight_scale": torch.ones(3)}
    save_file(more, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"holds 1 weight that .* does not use: model\.layers\.0\.mlp\.w"):
        qwen_vl.load(broken, device="cpu", dtype="fp32")
    (broken / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        qwen_vl.load(broken, device="cpu", dtype="fp32")
    config = json.loads((folder / "config.json").read_text())
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({**config, "video_token_id": 3}))
    with pytest.raises(ModelError, match="is not video_token_id 3"):
        qwen_vl.load(other, device="cpu", dtype="fp32")


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("older", [False, True])
def test_headers_say_what_is_missing_and_surplus(
    folder: Path, tmp_path: Path, quantization: str, older: bool
) -> None:
    from safetensors.torch import load_file, save_file

    def named(name: str) -> str:
        renamed = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        return renamed if older else name

    changed = shutil.copytree(folder, tmp_path / "changed")
    weights = {named(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    path, options = changed / "model.safetensors", {"quantization": quantization, "with_weights": False}
    save_file(weights, path, metadata={"format": "pt"})
    qwen_vl.load(changed, device="cpu", dtype="fp32", **options)
    gone = named("model.language_model.layers.0.mlp.down_proj.weight")
    weights["model.extra"] = weights.pop(gone)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"1 missing: {gone}; 1 surplus: model.extra"):
        qwen_vl.load(changed, device="cpu", dtype="fp32", **options)


def test_words_for_sizes_are_refused(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "text_config": 5}))
    with pytest.raises(ModelError, match="cannot be loaded as qwen_vl"):
        qwen_vl.load(changed, device="cpu", dtype="fp32", with_weights=False)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_a_model_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    adapted = shutil.copytree(folder, tmp_path / "adapted")
    (adapted / name).write_text("{}")
    with pytest.raises(ModelError, match=name) as error:
        qwen_vl.load(adapted, device="cpu", dtype="fp32", with_weights=False)
    assert "merge" in error.value.fix


PREQUANTIZED = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "hqq": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
    "unheard-of": {"quant_method": "unheard-of"},
}


@pytest.mark.parametrize("method", PREQUANTIZED)
def test_a_quantized_folder_whose_package_is_missing_says_which(
    folder: Path, tmp_path: Path, method: str
) -> None:
    quantized = shutil.copytree(folder, tmp_path / method)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = PREQUANTIZED[method]
    (quantized / "config.json").write_text(json.dumps(config))
    for weights in (False, True):
        with pytest.raises(ModelError, match=method) as error:
            qwen_vl.load(quantized, device="cpu", dtype="fp32", with_weights=weights)
    assert "install" in error.value.fix or "from the same model" in error.value.fix
    with pytest.raises(ModelError, match=f"is quantized already .{method}"):
        qwen_vl.load(quantized, device="cpu", dtype="fp32", quantization="nf4", with_weights=False)


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"num_take_frame": 4}', "nearest: num_take_frames"),
        ('{"num_take_frames": 5}', "odd"),
        ('{"num_take_frames": "4"}', "whole number"),
        ('{"frame_px": true}', "whole number"),
        ('{"max_new_tokens": 1000000000}', "out of range\n.*from 1 to 65536"),
        ('{"plan_instruction": ""}', "not a text"),
    ],
)
def test_sidecar_mistakes_are_refused(sidecar: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "retake.json").write_text(sidecar)
    with pytest.raises(ModelError, match=message):
        read_settings(tmp_path)


def test_sidecar_is_optional_and_overrides(folder: Path, tmp_path: Path) -> None:
    assert read_settings(tmp_path) == CriticSettings()
    assert read_settings(folder) == CriticSettings(**SIDECAR)


def test_a_critic_with_an_instruction_of_its_own_needs_one_for_patches(tmp_path: Path) -> None:
    """As the bundled one, which was trained on full critiques and would answer ours by nothing readable."""
    config = RunConfig(dataset=tmp_path, out=tmp_path / "run", critic=CriticConfig(critique_form="patch"))
    with pytest.raises(ModelError, match="no patch_instruction: its critic writes full critiques"):
        load_critic(config, find_critic(BUNDLED), "cpu", "fp32", with_weights=False)
    assert read_settings(tmp_path, patches=True).patch_instruction == PATCH_INSTRUCTION
    own = {"critique_instruction": "Judge.", "patch_instruction": "Patch."}
    (tmp_path / "retake.json").write_text(json.dumps(own))
    assert read_settings(tmp_path, patches=True).patch_instruction == "Patch."
    (tmp_path / "retake.json").write_text(json.dumps({"critique_instruction": "Judge."}))
    assert read_settings(tmp_path).critique_instruction == "Judge."


def test_weights_are_read_straight_to_their_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = AutoModelForImageTextToText.from_pretrained
    asked: list[dict[str, Any]] = []

    def spied(folder: Path, **options: Any) -> Any:
        asked.append(options)
        return library(folder, **options)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", spied)
    model = qwen_vl.load(folder, device="cpu", dtype="bf16").model
    assert asked[0]["device_map"] == {"": "cpu"}
    whole = library(folder, dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
