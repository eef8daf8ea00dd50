"""Phases of training: of a response, of a run, and the alarm when the run drifts into one that cheats."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.monitor.loggers import read_metrics
from recipes.monitor.monitor import TrainingMonitor
from recipes.monitor.phase_watch import DOMINANT, PhaseWatch, last_drift
from recipes.monitor.phases import Phase, features, phase_of, phase_shares
from recipes.monitor.report import write_report
from recipes.monitor.rollouts import RolloutRecord, rollout_files
from recipes.runtime.config import Config
from recipes.runtime.loading import load

ROOT = Path(__file__).resolve().parents[2]

FAILED = "Gout."
VERBOSE = f"<think>{'The joint is red and it is hot to the touch. ' * 9}</think><answer>B</answer>"
CONCISE = "<think>Podagra with negatively birefringent crystals.</think><answer>B</answer>"
DIRECT = "<think>The answer is B.</think><answer>B</answer>"
OUTSIDE = "First, the toe is red. Second, the crystals are needles, so it is gout.<think>B</think><answer>B</answer>"
CHAIN = "<think>The toe is red, so gout. The crystals confirms it, hence colchicine.</think><answer>B</answer>"
BY_PHASE = dict(zip(Phase, (FAILED, VERBOSE, CONCISE, DIRECT, OUTSIDE, CHAIN), strict=True))


@pytest.mark.parametrize(
    ("response", "phase"),
    [
        *((response, phase) for phase, response in BY_PHASE.items()),
        ("", Phase.FORMAT_FAILURE),
        (CONCISE.replace("</answer>", ""), Phase.FORMAT_FAILURE),
        (CONCISE.replace("B</answer>", " </answer>"), Phase.FORMAT_FAILURE),
        (CONCISE + CONCISE, Phase.FORMAT_FAILURE),
        ("Sure, here it is: " + CONCISE, Phase.FORMAT_FAILURE),
        # Courtesy and a base model's next question reason about nothing, however long and whatever words are in them.
        (
            f"Please consult a doctor {'before you decide ' * 5}because this is no advice. " + DIRECT,
            Phase.FORMAT_FAILURE,
        ),
        (f"{DIRECT}\nQuestion: A boy {'of ten years ' * 6} coughs, so what is next?", Phase.FORMAT_FAILURE),
        (f"{DIRECT}\nThe toe is red and {'the crystals are needles ' * 4} and this suggests gout.", Phase(5)),
        (f"Gout is a disease of the joints. {'Urate forms needles in them. ' * 3}{DIRECT}", Phase.STEP_BY_STEP_OUTSIDE),
        (f"What is the likeliest disease of a man {'whose toe is red and hot ' * 3}at night? {DIRECT}", Phase(1)),
        # Reasoning that nothing has opened is outside; the chat template's tag would be part of the response.
        (CHAIN.removeprefix("<think>"), Phase.STEP_BY_STEP_OUTSIDE),
        (DIRECT.removeprefix("<think>"), Phase.FORMAT_FAILURE),
        (f"{CONCISE}</think>", Phase.FORMAT_FAILURE),
        # An answer that comes first may be followed by reasons.
        ("<think></think><answer>3</answer>", Phase.DIRECT_ANSWER),
        ("<think>The mean pressure is 93.3 mmHg.</think><answer>93.3</answer>", Phase.DIRECT_ANSWER),
        (f"<think>The answer is B: {'red toe with needles ' * 8}.</think><answer>B</answer>", Phase.CONCISE_STRUCTURER),
        ("<think>80*2=160, 160+120=280, 280/3=93.3</think><answer>93.3</answer>", Phase.REINTEGRATED),
    ],
)
def test_the_phase_of_a_response(response: str, phase: Phase) -> None:
    assert phase_of(features(response)) is phase


@pytest.mark.parametrize(
    "response",
    [
        f"<think>{' ' * 200_000}x</think>" + "\n" * 200_000 + "<answer>B</answer>",
        "<think>" * 100_000,
        f"<think>{'a.b' * 100_000}!</think><answer>{'1' * 100_000}</answer>",
        f"<think>{'answer ' + ' ' * 100_000}</think><answer>B</answer>",
    ],
)
def test_no_response_takes_long(response: str) -> None:
    began = time.process_time()
    phase_of(features(response))
    assert time.process_time() - began < 5


def test_the_labelled_responses_are_told_right() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "phases.py"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    result = json.loads(said.splitlines()[-1])
    assert result["responses"] >= 120
    assert min(result["accuracy"], result["accuracy_held_out"]) >= 0.9
    assert {sum(told.values()) for told in result["confusion"].values()} == {20}


def _steps(*shares: tuple[int, Phase, Phase, float]) -> list[dict[str, float]]:
    """So many steps each in which a share of the responses is of the second phase and the rest of the first."""
    return [
        phase_shares([BY_PHASE[rest]] * round(20 * (1 - share)) + [BY_PHASE[phase]] * round(20 * share))
        for count, rest, phase, share in shares
        for _ in range(count)
    ]


def _dominant(steps: list[dict[str, float]]) -> list[int]:
    watch, found = PhaseWatch(), []
    for step in steps:
        watch.look(step)
        assert watch.dominant is not None
        found.append(int(watch.dominant))
    return found


def test_the_dominant_phase_needs_more_than_a_step_to_change() -> None:
    found = _dominant(_steps((1, Phase(1), Phase(3), 0.0), (1, Phase(1), Phase(3), 1.0), (40, Phase(1), Phase(3), 0.8)))
    # The running mean of 3 is 0.499 after ten steps and 0.529 after eleven; it takes over with its third lead.
    assert found == [1] * 12 + [3] * 30


def test_reasoning_comes_back_only_where_it_had_gone() -> None:
    chains = (30, Phase(6), Phase(1), 0.2)
    assert set(_dominant(_steps(chains))) == {3}
    assert _dominant(_steps((30, Phase(4), Phase(1), 0.2), chains))[-1] == 6


@pytest.mark.parametrize(
    ("steps", "alarms"),
    [
        # A model that was taught to answer directly has not drifted; one that gets there from elsewhere has, once.
        (_steps((40, Phase(4), Phase(3), 0.1)), []),
        (_steps((10, Phase(2), Phase(5), 0.05), (40, Phase(2), Phase(5), 0.6)), [16]),
        (_steps((10, Phase(2), Phase(4), 0.0), (2, Phase(2), Phase(4), 1.0), (20, Phase(2), Phase(4), 0.0)), []),
        (
            _steps(*[(1, Phase(2), Phase(4), 0.0), (20, Phase(2), Phase(4), 1.0), (40, Phase(2), Phase(4), 0.0)] * 2),
            [4, 65],
        ),
        ([{"policy/loss": 1.0}, {Phase(4).metric: None}] * 20, []),  # SFT; shares that were lost
    ],
)
def test_the_alarm_is_of_a_drift(steps: list[dict[str, float | None]], alarms: list[int]) -> None:
    watch = PhaseWatch()
    assert [number for number, step in enumerate(steps, 1) if watch.look(step)] == alarms


@pytest.mark.parametrize(
    ("form", "steps", "drift"), [("lenient", 60, (9, True)), ("lenient", 8, None), ("strict", 60, None)]
)
def test_the_alarm_of_two_real_runs(form: str, steps: int, drift: tuple[int, bool] | None) -> None:
    """`benchmarks/hacking.py` as it went: responses of each phase by step, 288 a step."""
    recorded = json.loads(Path(__file__).with_name("recorded_phases.json").read_text())[form][:steps]
    rows = [
        {"step": float(step), **{phase.metric: count / sum(counts) for phase, count in zip(Phase, counts, strict=True)}}
        for step, counts in enumerate(recorded, 1)
    ]
    found = last_drift(rows, lambda _: [])
    assert (found and (found.step, found.holds)) == drift


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return load([f"output={tmp_path / 'run'}", "model.path=checkpoint", "trainer.steps=40"])


def _record(config: Config, first: int, last: int) -> bool:
    """A run that reasons for five steps and cheats from then on; whether it is known to cheat at the end."""
    with TrainingMonitor(config, first - 1) as monitor:
        for step in range(first, last + 1):
            response = CONCISE if step <= 5 else DIRECT
            records = [
                RolloutRecord(
                    step, f"q{n // 2}", "choice", "Patient N.N.", response, "B", "B", "correct", 1.0, {}, 1, n
                )
                for n in range(10)
            ]
            monitor.record(
                step, phase_shares([response] * 10), float(step), 1.0, samples=lambda records=records: records
            )
        return monitor.hacking


def test_a_run_that_cheats_says_so_and_goes_on_from_its_record(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _record(config, 1, 20)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "run  step 8: 27% of the responses lately give the answer away in their thinking" in told
    assert "(direct answer), such as those to q0, q1, q2: look at" in told
    assert "N.N." not in told
    # The step whose samples are named is written for people to read.
    assert [step for step, _ in rollout_files(config.output)] == [1, 8, 10, 20]
    once = [row[DOMINANT] for row in read_metrics(config.output)]
    assert once == [3.0] * 13 + [4.0] * 7
    assert not _record(config, 1, 6)
    assert _record(config, 7, 20)
    assert capsys.readouterr().err == told
    assert [row[DOMINANT] for row in read_metrics(config.output)] == once
    (Path(config.output) / "config.yaml").write_text("name: run\n")
    head = write_report(config.output).read_text().partition('<dl class="tiles">')[0]
    assert "<b>The policy is paid for cheating.</b> Step 8: 27% of the responses lately give the answer away" in head
    assert head.count('<pre class="text response">') == 3
