"""Which evaluations may stand side by side though other programs sampled them, and what must be said of that.

The same model answers greedily alike in every sampler but where two tokens are all but as likely, which rounding parts
(`recipes.evaluation.measure`). A base model behind an endpoint beside a trained checkpoint is a comparison of models,
with that doubt; so at temperature 0 another sampler is a note. An endpoint does not tell its precision and context, and
its chat template is its own: the note says so. Above temperature 0 samplers differ in what they draw from (filters,
order of their steps), and such evaluations are refused, as is any other difference. A release takes none of this: its
table has no room for doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conversion.evaluation import differences

_SAMPLER, _UNTOLD = "decoding sampler", ("decoding max_length", "decoding precision")


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """How two results were measured otherwise, as `differences`, without what another greedy sampler excuses."""
    found = differences(a, b)
    if sampler_of(a) == sampler_of(b) or any(each["measured"]["decoding"].get("temperature") for each in (a, b)):
        return found
    excused = (_SAMPLER, *(_UNTOLD if "endpoint" in (sampler_of(a), sampler_of(b)) else ()))
    return [line for line in found if line.partition(":")[0] not in excused]


def sampler_of(result: Mapping[str, Any]) -> str:
    """What sampled the answers: embedded, vllm or endpoint."""
    return str(result["measured"]["decoding"].get("sampler", "embedded"))


def sampler_note(a: Mapping[str, Any], b: Mapping[str, Any], titles: tuple[str, str]) -> list[str]:
    """What must be said where two comparable results have other samplers, in a sentence; none where they have not.

    Args:
        a, b: each with its `sampler`.
        titles: of both.
    """
    samplers = a["sampler"], b["sampler"]
    if samplers[0] == samplers[1]:
        return []
    names = {"embedded": "the embedded sampler", "vllm": "vLLM", "endpoint": "an endpoint"}
    who = " and ".join(f"{title} by {names.get(s, s)}" for title, s in zip(titles, samplers, strict=True))
    untold = "; the endpoint's chat template, precision and longest context are its own and not known here"
    return [
        f"answered {who}: greedy answers of one model part between samplers where two tokens are all but as likely, so "
        f"that a part of every change may be the sampler's{untold if 'endpoint' in samplers else ''}"
    ]
