"""The table of attacks on the grader: no preset pays one more, or less, than its row says."""

from __future__ import annotations

from benchmarks.attack_cases import attacks
from benchmarks.attacks import differences, in_process, judging


def test_no_attack_is_paid() -> None:
    tried = attacks()
    assert len(tried) >= 700
    with judging() as url:
        rewards, _ = in_process(tried, url)
    above, below, lines = differences(tried, rewards)
    assert not above, lines
    assert not below, lines
