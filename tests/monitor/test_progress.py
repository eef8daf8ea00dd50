import io
import math

import pytest
from rich.console import Console

from recipes.monitor.progress import TrainingProgress, duration

METRICS = {
    "reward/mean": 0.4123,
    "accuracy/choice": 0.5,
    "accuracy/text": math.nan,
    "accuracy/mean": 0.5,
    "length/mean": 301,
}


def plain() -> Console:
    return Console(file=io.StringIO(), width=40)


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_output_is_one_line_every_n_steps_with_the_first_and_the_last() -> None:
    console = plain()
    with TrainingProgress(25, "run", every=10, console=console) as progress:
        for step in range(1, 26):
            progress.update(step, METRICS, seconds=2.0)
    lines = output(console).splitlines()
    assert [line.split("step ")[1].split()[0] for line in lines] == ["1/25", "10/25", "20/25", "25/25"]
    assert lines[1] == (
        "run  step 10/25  reward 0.412  choice 50.0%  text -  length 301  KL -  entropy -  s/step 2.0  left 0:00:30"
    )


def test_a_resumed_run_prints_its_own_first_step_and_the_time_left() -> None:
    console = plain()
    with TrainingProgress(100, "run", initial_step=40, console=console) as progress:
        assert progress.seconds_left() is None
        progress.update(41, {}, seconds=10.0)
        # 59 steps are left at 10 s each.
        assert progress.seconds_left() == pytest.approx(590.0)
    assert "step 41/100" in output(console)


def test_the_live_panel_shows_the_step_and_leaves_the_terminal_clean_after_an_error() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=140)

    def fail() -> None:
        with TrainingProgress(3, "quickstart", console=console) as progress:
            progress.update(2, METRICS, seconds=1.0)
            raise RuntimeError("rank 1 died")

    with pytest.raises(RuntimeError, match="rank 1 died"):
        fail()
    shown = output(console)
    assert "2/3" in shown
    assert "50.0%" in shown
    assert shown.rstrip("\n").endswith("\x1b[?25h")  # the cursor is visible again


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (3725.4, "1:02:05"), (None, "-"), (math.nan, "-")])
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_impossible_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TrainingProgress(0, "run")
