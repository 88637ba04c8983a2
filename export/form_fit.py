"""Whether a target and a subject can hold a form; every refusal says why, and what can."""

from __future__ import annotations

from export.forms import DENSE, TWO_GRAPHS, Form
from export.spec import ExportError, require_attention
from export.subjects import wan_dit
from export.targets import aoti


def require_form(form: Form, subject: str, target: str) -> None:
    """ExportError where the subject has one form alone, or the target cannot hold this one."""
    require_attention(form.attention)
    if form.is_plain:
        return
    if subject != wan_dit.SUBJECT:
        raise ExportError(f"{subject} has one form alone, not: {form}", fix="leave --attention out")
    if target in TWO_GRAPHS or (form.in_step and form.attention == DENSE):
        return
    if form.attention != DENSE:
        why = "which keys it reads is decided by a kernel of ours, and a graph holds standard operators alone"
    else:
        why = "two graphs over the same weights would be two engines, each with a copy of them"
    raise ExportError(
        f"target {target} cannot hold the form: {form}; {why}",
        fix=f"use --target {aoti.TARGET}, or --attention dense, which every target has",
    )
