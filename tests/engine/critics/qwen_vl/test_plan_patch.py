"""A patch and what it makes of a plan: exact for any two plans, never longer, refused where it is unclear."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from vlm_replies import PLAN, REPLY

from engine.build.model_folders import find_critic
from engine.critics.qwen_vl.grammar import Grammar, build_grammars
from engine.critics.qwen_vl.plan_patch import PlanPatch, merged, patch_of
from engine.critics.qwen_vl.reply_text import NO_OBJECT
from engine.critics.qwen_vl.schema import critique_json_schema, parse_critique, parse_plan
from engine.settings.config import BUNDLED
from engine.types import Critique, PhysicsPlan, PlanEvent, PlanMotion, PlanObject, PlanRest, Verdict

texts = st.text(max_size=70)
times = st.floats(-1.0, 6.0)


def tuples(entry: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(entry, max_size=4).map(tuple)


plans = st.builds(
    PhysicsPlan,
    objects=tuples(st.builds(PlanObject, name=texts, trait=texts)),
    motion=tuples(st.builds(PlanMotion, object=texts, direction=texts, speed=texts)),
    events=tuples(st.builds(PlanEvent, t=times, what=texts)),
    rest=tuples(st.builds(PlanRest, object=texts, t=st.none() | times)),
    still=tuples(texts),
    camera=texts,
)

names = st.sampled_from(["ball", "red ball", "wooden block, left", "table", "rail"]) | texts
half_seconds = st.integers(0, 10).map(lambda i: i / 2)
written_plans = st.fixed_dictionaries(
    {
        "objects": st.lists(st.fixed_dictionaries({"name": names, "trait": names}), max_size=3),
        "motion": st.lists(
            st.fixed_dictionaries({"object": names, "direction": names, "speed": names}), max_size=3
        ),
        "events": st.lists(st.fixed_dictionaries({"t": half_seconds, "what": names}), max_size=4),
        "rest": st.lists(st.fixed_dictionaries({"object": names, "t": st.none() | half_seconds}), max_size=3),
        "still": st.lists(names, max_size=3),
        "camera": names,
    }
)
"""As a model writes them: some say nothing or have an empty name, and are no plans."""


@functools.cache
def bundled_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(find_critic(BUNDLED).path, local_files_only=True)


def num_tokens(reply: dict[str, Any]) -> int:
    text = json.dumps(reply, separators=(",", ":"))
    return len(bundled_tokenizer()(text, add_special_tokens=False)["input_ids"])


def as_plan(written: dict[str, Any]) -> PhysicsPlan | None:
    return parse_plan(json.dumps(written))


OLD = as_plan(PLAN)
assert OLD is not None


def read(reply: Any, base: PhysicsPlan | None = OLD) -> Critique:
    text = reply if isinstance(reply, str) else json.dumps(reply)
    return parse_critique(text, num_tokens=7, seconds=0.5, base=base)


def patched(plan: Any) -> Critique:
    return read({**REPLY, "plan": plan})


@given(old=plans, new=plans)
def test_the_patch_of_any_two_plans_makes_the_one_of_the_other(old: PhysicsPlan, new: PhysicsPlan) -> None:
    patch = patch_of(old, new)
    assert merged(old, patch) == new
    assert set(patch.to_dict()) == {
        f.name for f in fields(old) if getattr(old, f.name) != getattr(new, f.name)
    }


@given(plan=plans)
def test_a_patch_that_changes_nothing_leaves_the_plan(plan: PhysicsPlan) -> None:
    assert patch_of(plan, plan) == PlanPatch() and merged(plan, PlanPatch()) == plan
    assert PlanPatch().to_dict() == {}


def test_a_patch_has_every_field_of_a_plan() -> None:
    assert [f.name for f in fields(PlanPatch)] == [f.name for f in fields(PhysicsPlan)]


@settings(deadline=None)
@given(before=written_plans, after=written_plans, same=st.sets(st.sampled_from(sorted(PLAN))))
def test_a_patch_reply_says_what_the_full_one_does_in_no_more_tokens(
    before: dict[str, Any], after: dict[str, Any], same: set[str]
) -> None:
    """Through the text and the parser, as in a run; `same`: fields that both plans share."""
    after |= {name: before[name] for name in same}
    old, full = as_plan(before), read({**REPLY, "plan": after}, base=None)
    if old is None or full.revised is None:
        return
    patch = {**REPLY, "plan": patch_of(old, full.revised).to_dict()}
    assert read(patch, base=old).revised == full.revised
    assert num_tokens(patch) <= num_tokens({**REPLY, "plan": asdict(full.revised)})


def test_a_changed_field_is_replaced_and_the_rest_stays() -> None:
    critique = patched({"events": [{"t": "3 s", "what": "it stops"}, {"t": 1, "what": "it rolls"}]})
    assert critique.verdict is Verdict.REVISE and critique.problem is None
    assert critique.revised is not None and OLD is not None
    assert [(e.t, e.what) for e in critique.revised.events] == [(1.0, "it rolls"), (3.0, "it stops")]
    assert patch_of(OLD, critique.revised).to_dict().keys() == {"events"}


def test_what_full_replies_may_do_patches_may() -> None:
    """A whole plan again, no plan at all, an emptied list, a lone string, words around the object."""
    assert patched(PLAN).revised == OLD == patched({}).revised
    assert patched(None).revised is None and read({k: v for k, v in REPLY.items() if k != "plan"}).score == 35
    assert patched({"rest": [], "still": "floor"}).revised == merged(
        OLD, PlanPatch(rest=(), still=("floor",))
    )
    assert read(f"Well:\n```json\n{json.dumps({**REPLY, 'plan': {}})}\n```").revised == OLD


EVERYTHING_EMPTY = {name: [] for name in PLAN if name != "camera"}


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        ({"colour": "red"}, "plan.colour: Extra inputs are not permitted"),
        ({"plan": PLAN}, "plan.plan: Extra inputs are not permitted"),
        ({"events": {"1": {"t": 2.0, "what": "it stops"}}}, "plan.events: Input should be a valid list"),
        ({"events": [{"t": 2.0}]}, "plan.events.0.what: Field required"),
        ({"events": [7]}, "plan.events.0: Input should be a valid dictionary"),
        ({"events": None}, "plan: Value error, 'events' is null, which is no new value"),
        ({"camera": ["static"]}, "plan.camera: Input should be a valid string"),
        ({"rest": [{"object": "ball", "t": "soon"}]}, "'soon' is not a time in seconds"),
        (
            [{"op": "replace", "path": "/camera", "value": "static"}],
            "plan: Input should be a valid dictionary",
        ),
        (EVERYTHING_EMPTY, "the plan is empty"),
    ],
)
def test_an_unclear_patch_is_unreadable_with_its_reason(plan: Any, problem: str) -> None:
    critique = patched(plan)
    assert critique.verdict is Verdict.UNREADABLE and critique.score is None and critique.revised is None
    assert critique.problem is not None and problem in critique.problem


def test_full_replies_say_why_they_are_unreadable_too() -> None:
    assert read("The video is fine.", base=None).problem == NO_OBJECT
    assert read({**REPLY, "verdict": "perhaps"}, base=None).problem == (
        "verdict: Value error, 'perhaps' is none of accept, revise"
    )
    long = read({**REPLY, "verdict": "\ud800\n" * 9000}, base=None).problem
    assert long is not None and len(long) <= 160 and long.isprintable()


def constrained(text: str) -> Grammar:
    """The grammar of a patch, told `text` to its end."""
    pytest.importorskip("llguidance", reason="optional dependency: retake-engine[constrained]")
    tokenizer = bundled_tokenizer()
    grammars = build_grammars(tokenizer, len(tokenizer), (tokenizer.eos_token_id,))
    assert grammars is not None
    grammar = grammars.start(critique_json_schema(patch=True), written="")
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        assert bool(grammar.allowed()[token]), f"{tokenizer.decode([token])!r} of {text}"
        grammar.consume(token)
    return grammar


@pytest.mark.parametrize("names", [(), ("camera",), ("events", "still"), tuple(PLAN)])
def test_the_grammar_of_a_patch_lets_any_fields_out(names: tuple[str, ...]) -> None:
    reply = {**REPLY, "plan": {name: PLAN[name] for name in names}}
    grammar = constrained(json.dumps(reply, separators=(",", ":")))
    assert bool(grammar.allowed()[bundled_tokenizer().eos_token_id])


def test_the_grammar_of_a_patch_knows_no_other_field() -> None:
    with pytest.raises(AssertionError, match=r"of .*colour"):
        constrained(json.dumps({**REPLY, "plan": {"colour": "red"}}, separators=(",", ":")))
