"""Scoring never raises and keeps its promises, whatever a model writes."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reward_server.presets import PRESETS
from reward_server.schema import parse_request
from reward_server.service import score

OPTIONS = {"A": "Aspirin", "B": "E. coli", "C": "Do not treat", "D": "5%", "E": ""}
REFERENCES: dict[str, list[dict[str, Any]]] = {
    "choice": [{"answer": "B", "options": OPTIONS}],
    "number": [{"answer": 5, "lower": 4.75, "upper": 5.25}, {"answer": 5, "rounding": "integer"}],
    "date": [{"answer": "09/03/2014"}],
    "duration": [{"answer": {"weeks": 17, "days": 6}}],
    "text": [{"answer": "E. coli"}, {"answer": "E. coli", "metric": "f1", "threshold": 0.5}],
}
PIECES = st.sampled_from(
    [
        *("<think>", "</think>", "<answer>", "</answer>", "A", "B.", "(C)", "E. coli", "not", " or ", " is ", "="),
        *(
            "5",
            "5%",
            "1e9",
            "9" * 30,
            "/",
            "-",
            ",",
            ".",
            "10^",
            "09/03/2014",
            "2014-",
            "17 weeks",
            "6 days",
            "\n",
            " ",
        ),
        *(
            "\u0661",
            "\u00b2",
            "\u2212",
            "\ufdfa",
            "\u0130",
            "\u00df",
            "\x00",
            "**",
            "\\boxed{",
            "}",
            "out of ",
            "x 10^",
        ),
    ]
)
RESPONSES = st.one_of(
    st.text(max_size=200),
    st.lists(PIECES, max_size=12).map("".join),
    st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=8).map("".join)).map(
        lambda answer: f"<think>t</think><answer>{answer}</answer>"
    ),
)


@settings(max_examples=300, deadline=None)
@given(RESPONSES, st.sampled_from(sorted(PRESETS)), st.sampled_from(["strict", "lenient", None]), st.integers(0, 10**7))
def test_scoring_never_raises(response: str, preset: str, match: str | None, tokens: int) -> None:
    items = [
        {"id": f"{task}/{n}/{mode}", "task": task, "response": response, "match": match, "reference": reference}
        | {"length": {"mode": mode, "target": 100, "tokens": tokens}}
        for task, references in REFERENCES.items()
        for n, reference in enumerate(references)
        for mode in ("none", "exact", "max")
    ]
    # A lone surrogate is no JSON text; the client replaces it before it sends.
    body = json.dumps({"preset": preset, "items": items}, ensure_ascii=False).encode("utf-8", "replace")
    for result in score(parse_request(body), PRESETS[preset]).results:
        assert result.status in {"correct", "incorrect", "no_answer", "malformed"}
        assert result.reward is not None
        assert math.isfinite(result.reward)
        assert PRESETS[preset].low <= result.reward <= PRESETS[preset].high
        assert (result.extracted is None) == (result.status in {"no_answer", "malformed"})
        assert result.components["answer"] == (result.status == "correct")


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e12, 1e12), st.sampled_from(["{}", "{} mmol/L", "the value is {}", "({})", "**{}**"]))
def test_a_printed_number_is_read_back(value: float, template: str) -> None:
    reference = {"answer": value, "lower": value - abs(value) * 1e-9, "upper": value + abs(value) * 1e-9}
    response = f"<think>t</think><answer>{template.format(repr(value))}</answer>"
    body = {"preset": "binary", "items": [{"id": "a", "task": "number", "response": response, "reference": reference}]}
    (result,) = score(parse_request(json.dumps(body).encode()), PRESETS["binary"]).results
    assert result.status == "correct"
