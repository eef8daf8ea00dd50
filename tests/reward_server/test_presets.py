"""Rewards by hand, and the identity of a preset."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from reward_server.presets import PRESETS, Outcome
from reward_server.schema import RequestError, parse_request
from reward_server.service import VERIFIERS, score, versions
from reward_server.verifiers.base import VerdictStatus
from reward_server.verifiers.length import LengthMode

RIGHT = Outcome(status="correct", answered=True, format_ok=True)


def reward(preset: str, **changes: Any) -> float:
    return PRESETS[preset].reward(dataclasses.replace(RIGHT, **changes)).value


def test_gated() -> None:
    assert reward("gated") == 1.0
    assert reward("gated", status="incorrect") == 0.1
    assert reward("gated", status="no_answer") == 0.0
    assert reward("gated", status="malformed") == 0.0
    assert reward("gated", format_ok=False) == 0.0
    # max, n = 400: y = 500 is a quarter over, 1 - 0.2 * 0.25 = 0.95; y = 900 is clipped: 1 - 0.2 * 1 = 0.8
    assert reward("gated", length_mode="max", tokens=500, target=400) == pytest.approx(0.95)
    assert reward("gated", length_mode="max", tokens=900, target=400) == pytest.approx(0.8)
    assert reward("gated", length_mode="max", tokens=100, target=400) == 1.0
    # exact, n = 400: y = 300 is a quarter short
    assert reward("gated", length_mode="exact", tokens=300, target=400) == pytest.approx(0.95)
    # Only a right answer has a length to pay for: brevity alone earns nothing.
    assert reward("gated", status="incorrect", length_mode="max", tokens=900, target=400) == 0.1


def test_med_u1() -> None:
    assert reward("med_u1") == 2.0  # 1 + 1 + 0
    assert reward("med_u1", status="incorrect") == 0.0  # 1 - 1 + 0
    assert reward("med_u1", status="no_answer") == 0.0  # an answer block that commits to nothing is a wrong answer
    assert reward("med_u1", format_ok=False) == 0.0  # -1 + 1 + 0
    assert reward("med_u1", status="no_answer", answered=False) == -1.0  # 1 - 2
    assert reward("med_u1", status="no_answer", answered=False, format_ok=False) == -3.0  # -1 - 2
    # max, n = 600, y = 350: 1 + 1 + 250/500 = 2.5; wrong: 1 - 1 + 0.5; y = 0: 1 + 1 + 1 = 3
    assert reward("med_u1", length_mode="max", tokens=350, target=600) == pytest.approx(2.5)
    assert reward("med_u1", status="incorrect", length_mode="max", tokens=350, target=600) == pytest.approx(0.5)
    assert reward("med_u1", length_mode="max", tokens=0, target=600) == 3.0
    # exact, n = 600, y = 900: 1 + 1 + (1 - 300/1500) = 2.8
    assert reward("med_u1", length_mode="exact", tokens=900, target=600) == pytest.approx(2.8)


def test_med_rlvr_and_binary() -> None:
    outcomes = [("correct", True), ("incorrect", True), ("no_answer", True), ("correct", False), ("incorrect", False)]
    assert [reward("med_rlvr", status=s, format_ok=f) for s, f in outcomes] == [1.0, 0.0, 0.0, -1.0, -1.0]
    assert [reward("binary", status=s, format_ok=f) for s, f in outcomes] == [1.0, 0.0, 0.0, 0.0, 0.0]


_STEPS = "First, the toe is red. Then, the crystals are needles, so it is gout."
_NAMES = ("gated", "med_u1", "med_rlvr", "binary", "huatuo_o1", "general_reasoner", "reward_bridge")
_PAID = dict(zip(_NAMES, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0), strict=True))
_UNPAID = dict(zip(_NAMES, (0.0, 0.0, -1.0, 0.0, 0.0, -0.5, 0.0), strict=True))
_WRONG = dict(zip(_NAMES, (0.1, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0), strict=True))
# An explained answer has more words than the letter, at least ten.
_EXPLAINED = _PAID | {"med_u1": 0.0, "general_reasoner": 0.5}


@pytest.mark.parametrize(
    ("response", "strict", "lenient"),
    [
        (f"<think>{_STEPS}</think><answer>B</answer>", _PAID, _PAID),
        (f"<think>{_STEPS}</think><answer>A</answer>", _WRONG, _WRONG),
        # Reasoning outside the tags pays no more under the strict form than a wrong answer.
        (f"{_STEPS}<think></think><answer>B</answer>", _UNPAID, _PAID),
        (f"{_STEPS}<think>B</think><answer>B</answer>", _UNPAID, _PAID),
        (f"<think></think>{_STEPS}<answer>B</answer>", _UNPAID, _PAID),
        (f"<think></think><answer>B</answer>{_STEPS}", _UNPAID, _PAID),
        (f"{_STEPS}</think><answer>B</answer>", _UNPAID, _PAID),
        (f"<think></think>{_STEPS}</think><answer>B</answer>", _UNPAID, _UNPAID),
        (f"<think></think><answer>{_STEPS}</answer><answer>B</answer>", _UNPAID, _UNPAID),
        # An answer given away at once has the form, and so has an explained one, which Med-U1's rule does not read.
        ("<think></think><answer>B</answer>", _PAID, _PAID),
        ("<think>The answer is B.</think><answer>B</answer>", _PAID, _PAID),
        (f"<think></think><answer>B, because {_STEPS}</answer>", _EXPLAINED, _EXPLAINED),
    ],
)
def test_what_reasoning_is_paid_by_its_place(
    response: str, strict: dict[str, float], lenient: dict[str, float]
) -> None:
    reference = {"answer": "B", "options": {"A": "colchicine", "B": "gout"}}
    for form, expected in (("strict", strict), ("lenient", lenient)):
        item = {"id": "q", "task": "choice", "response": response, "reference": reference, "format": form}
        for name, paid in expected.items():
            request = parse_request(json.dumps({"preset": name, "items": [item]}).encode())
            [found] = score(request, PRESETS[name]).results
            assert found.reward == paid, (name, form)


def test_huatuo_o1() -> None:
    assert reward("huatuo_o1") == 1.0
    assert [reward("huatuo_o1", status=s) for s in ("incorrect", "no_answer", "malformed")] == [0.1, 0.1, 0.1]
    assert reward("huatuo_o1", format_ok=False) == 0.0
    assert reward("huatuo_o1", status="no_answer", answered=False) == 0.0


def test_general_reasoner() -> None:
    right = ("pulmonary embolism",)
    assert reward("general_reasoner", answer="embolism, pulmonary", right=right) == pytest.approx(0.95)  # one mark more
    assert reward("general_reasoner", answer="pulmonary embolism", right=right) == 1.0
    assert reward("general_reasoner", answer="pulmonary embolism", right=right, format_ok=False) == -0.5
    # twelve words more are clipped to ten: 1 - 0.05 * 10
    assert reward("general_reasoner", answer="word " * 14, right=right) == pytest.approx(0.5)
    assert reward("general_reasoner", status="incorrect", answer="word " * 14, right=right) == 0.0
    assert reward("general_reasoner", status="no_answer", answered=False) == -0.5


def test_reward_bridge() -> None:
    assert reward("reward_bridge", probability=0.37) == 0.37
    assert reward("reward_bridge", probability=0.37, format_ok=False) == 0.0
    assert reward("reward_bridge", status="incorrect", probability=0.37) == 0.37
    assert [reward("reward_bridge", status=s) for s in ("correct", "incorrect", "malformed")] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "paid", "status"),
    [
        # EMS of two words of which one is right: 50, and 33.3 of three; the form's 1 beside it.
        ("pulmonary embolism", 2.0, "correct"),
        ("pulmonary abscess", 1.5, "correct"),
        ("a pulmonary bacterial abscess", 1 + 1 / 3, "incorrect"),
        ("pneumonia", 1.0, "incorrect"),
        ("no pulmonary embolism", 1.0, "incorrect"),
        ("...", 1.0, "no_answer"),
    ],
)
def test_med_u1_pays_a_continuous_measure_as_it_is(answer: str, paid: float, status: str) -> None:
    """What denies the right answer, or says nothing, has no measure; other presets go by the threshold."""
    asked = {"answer": "pulmonary embolism", "metric": "ems", "threshold": 45}
    item = {"id": "q", "task": "text", "response": f"<think>t</think><answer>{answer}</answer>"}
    shown = []
    for preset, continuous in (("med_u1", True), ("med_u1", False), ("gated", True)):
        request = {"preset": preset, "items": [{**item, "reference": {**asked, "continuous": continuous}}]}
        [result] = score(parse_request(json.dumps(request).encode()), PRESETS[preset]).results
        shown.append(result)
    assert (shown[0].reward, shown[0].status) == (pytest.approx(paid), status)
    assert shown[0].components["answer"] == pytest.approx(paid - 1)
    right = status == "correct"
    assert [result.reward for result in shown[1:]] == [2.0 * right, {"correct": 1.0, "incorrect": 0.1}.get(status, 0.0)]


def test_a_continuous_measure_is_one_in_0_to_100() -> None:
    reference = {"answer": "x", "metric": "f1", "threshold": 0.5, "continuous": True}
    item = {"id": "q", "task": "text", "response": "x", "reference": reference}
    with pytest.raises(RequestError, match="continuous goes with a metric in 0 to 100: bleu, ems, merge, rouge_l"):
        parse_request(json.dumps({"preset": "med_u1", "items": [item]}).encode())


@pytest.mark.parametrize(
    ("preset", "span", "right", "wrong"),
    [
        # L1-Exact: 1 - 0.0003 * 400, and 0 - 0.12
        ("binary", {"mode": "exact", "shape": "l1", "tokens": 1000}, 0.88, -0.12),
        ("binary", {"mode": "exact", "shape": "l1", "tokens": 1000, "only_correct": True}, 0.88, 0.0),
        # L1-Max: 1 * (1 - 0.002 * 200) / 2 = 0.3; a short wrong answer earns nothing
        ("binary", {"mode": "max", "shape": "l1", "tokens": 800}, 0.3, 0.0),
        ("binary", {"mode": "max", "shape": "l1", "tokens": 1}, 1.0, 0.0),
        # between what gated and Med-U1 pay a wrong answer and a right one: 0.1 + 0.3 * 0.9, 0 + 0.3 * 2
        ("gated", {"mode": "max", "shape": "l1", "tokens": 800}, 0.37, 0.1),
        ("med_u1", {"mode": "max", "shape": "l1", "tokens": 800}, 0.6, 0.0),
        # DAPO, buffer 100: (600 - 100 - 550) / 100 = -0.5 for both
        ("binary", {"mode": "max", "shape": "dapo", "tokens": 550, "buffer": 100}, 0.5, -0.5),
        # relative: 1 - 0.2 * 300 / 600
        ("med_rlvr", {"mode": "exact", "shape": "relative", "tokens": 300}, 0.9, 0.0),
        ("gated", {"mode": "exact", "shape": "relative", "tokens": 300}, 0.9, 0.1),
        ("gated", {"mode": "exact", "tokens": 300}, 0.9, 0.1),
        ("general_reasoner", {"mode": "max", "shape": "relative", "tokens": 9000}, 0.8, 0.0),
        # the same of every answer: 0 - 0.2 * 300 / 600
        ("binary", {"mode": "exact", "shape": "relative_all", "tokens": 300}, 0.9, -0.1),
        ("binary", {"mode": "exact", "shape": "relative_all", "tokens": 300, "only_correct": True}, 0.9, 0.0),
        ("gated", {"mode": "max", "shape": "relative_all", "tokens": 660}, 0.98, 0.08),
        ("gated", {"mode": "max", "shape": "relative_all", "tokens": 1}, 1.0, 0.1),
    ],
)
def test_a_length_that_an_item_asks_for(preset: str, span: dict[str, Any], right: float, wrong: float) -> None:
    items = [
        {
            **{"id": answer, "task": "choice", "response": f"<think>t</think><answer>{answer}</answer>"},
            "reference": {"answer": "C", "options": {"A": "Aspirin", "C": "Heparin"}},
            "length": {"target": 600, **span},
        }
        for answer in ("C", "A")
    ]
    request = parse_request(json.dumps({"preset": preset, "items": items}).encode())
    results = score(request, PRESETS[preset]).results
    assert [result.reward for result in results] == pytest.approx([right, wrong])
    plain = [PRESETS[preset].reward(Outcome(s, True, True)).value for s in ("correct", "incorrect")]
    assert [result.components["length"] for result in results] == pytest.approx([right - plain[0], wrong - plain[1]])


@pytest.mark.parametrize("name", PRESETS)
def test_rewards_keep_their_range_and_right_is_never_below_wrong(name: str) -> None:
    preset = PRESETS[name]
    for form, mode, tokens in itertools.product((True, False), get_args(LengthMode), (0, 99, 400, 10_000)):
        outcomes = {
            status: preset.reward(Outcome(status, True, form, mode, tokens, 400)) for status in get_args(VerdictStatus)
        }
        assert all(preset.low <= outcome.value <= preset.high for outcome in outcomes.values())
        assert outcomes["correct"].value == max(outcome.value for outcome in outcomes.values())


def test_hash_changes_with_the_definition_and_with_any_verifier() -> None:
    now = versions(VERIFIERS)
    assert set(now) == {"choice", "number", "date", "duration", "text", "format", "length", "judge"}
    hashes = {preset.content_hash(now) for preset in PRESETS.values()}
    assert len(hashes) == len(PRESETS)
    assert all(len(value) == 64 for value in hashes)
    gated = PRESETS["gated"]
    assert gated.content_hash(now) == gated.content_hash(dict(reversed(now.items())))
    assert gated.content_hash(now) != gated.content_hash({**now, "format": "0"})
    assert gated.content_hash(now) != dataclasses.replace(gated, version="2").content_hash(now)
    assert gated.content_hash(now) != dataclasses.replace(gated, formula="other").content_hash(now)


def test_each_preset_has_a_config_with_the_same_keys_and_its_own_match() -> None:
    folder = Path(__file__).resolve().parents[2] / "configs" / "reward"
    configs = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    assert set(configs) == set(PRESETS)
    keys = ["preset", "url", "attempt_timeout_s", "total_timeout_s", "max_null_share", "match"]
    keys += ["length_mode", "length_target"]
    for name, config in configs.items():
        assert list(config) == keys
        assert config["preset"] == name
        assert config["match"] == PRESETS[name].match
