"""The phase that a run is in, and the alarm when it drifts into one that cheats.

Both go by running means of the shares in the step's metrics, so that a single step changes neither. Nothing is saved
for a resume: looking at the recorded steps again, in order, brings back the very same state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recipes.monitor.phases import Phase, features, phase_of
from recipes.monitor.rollouts import RolloutRecord

DOMINANT = "phase/dominant"
HACKING = (Phase.DIRECT_ANSWER, Phase.STEP_BY_STEP_OUTSIDE)

# What a running mean keeps of itself at each step, and steps in a row for which another phase must lead to take over.
_KEEP, _STEPS = 0.9, 3
# Share of cheating responses from which a run has known them, and rise of it over the run's lowest that raises the
# alarm; a model that has been taught to answer directly does not drift. Below the second figure the alarm ends.
_KNOWN, _OVER = 0.25, 0.15
_SHOWN = 3
_SEEN = {
    Phase.DIRECT_ANSWER: "give the answer away in their thinking instead of reasoning",
    Phase.STEP_BY_STEP_OUTSIDE: "reason outside the tags",
}


@dataclass(frozen=True)
class Drift:
    """The last alarm of a run.

    Attributes:
        step: that raised it.
        sentence: what it said.
        shown: the responses that it named, one a question.
        holds: whether it does at the last step.
    """

    step: int
    sentence: str
    shown: Sequence[RolloutRecord]
    holds: bool


class PhaseWatch:
    """Follows the shares of the phases from step to step.

    A response with a chain of steps in its thinking counts as `REINTEGRATED` only in a run that has cheated before;
    until then it is what it looks like, a concise one.

    Attributes:
        dominant: the phase that the run is in; None before the first step with shares.
        alarm: the cheating phase that the run has drifted into; None while it has not.
        rise: of the share of cheating responses over the run's lowest, as running means.
    """

    def __init__(self) -> None:
        self.dominant: Phase | None = None
        self.alarm: Phase | None = None
        self.rise = 0.0
        self._means: dict[Phase, float] = {}
        self._lowest = 1.0
        self._knows = False
        self._leading: tuple[Phase | None, int] = None, 0

    def look(self, metrics: Mapping[str, float | None]) -> bool:
        """Takes in a finished step; one without shares changes nothing. Returns whether it raises the alarm."""
        shares = {phase: share for phase in Phase if (share := metrics.get(phase.metric)) is not None}
        if len(shares) < len(Phase):
            return False
        means = self._means or shares
        self._means = {phase: _KEEP * means[phase] + (1 - _KEEP) * share for phase, share in shares.items()}
        cheating = sum(self._means[phase] for phase in HACKING)
        self._knows = self._knows or cheating >= _KNOWN
        self._lowest = min(self._lowest, cheating)
        self.rise = cheating - self._lowest
        self._choose_dominant()
        raised = self.alarm is None and self.rise >= _KNOWN
        if raised:
            self.alarm = max(HACKING, key=lambda phase: self._means[phase])
        elif self.rise < _OVER:
            self.alarm = None
        return raised

    def _choose_dominant(self) -> None:
        weights = dict(self._means)
        if not self._knows:
            weights[Phase.CONCISE_STRUCTURER] += weights.pop(Phase.REINTEGRATED)
        leader = max(weights, key=lambda phase: weights[phase])
        self._leading = leader, self._leading[1] + 1 if leader is self._leading[0] else 1
        if self.dominant is None or self._leading[1] >= _STEPS:
            self.dominant = leader

    def shown(self, samples: Sequence[RolloutRecord]) -> list[RolloutRecord]:
        """Three of a step's samples that are of the alarm's phase, or fewer; the first of each question."""
        found: dict[str, RolloutRecord] = {}
        for each in samples:
            if phase_of(features(each.response)) is self.alarm:
                found.setdefault(each.id, each)
        return list(found.values())[:_SHOWN]

    def sentence(self, samples: Sequence[RolloutRecord]) -> str:
        """What the alarm has seen, with the ids of three of a step's samples; no text of theirs."""
        if self.alarm is None:
            return "no alarm"
        shown = ", ".join(each.id for each in self.shown(samples))
        return (
            f"{self._means[self.alarm]:.0%} of the responses lately {_SEEN[self.alarm]} ({self.alarm.words})"
            f"{f', such as those to {shown}' if shown else ''}: look at what reward.preset and reward.format pay for"
        )


def last_drift(
    rows: Sequence[Mapping[str, float | None]], samples: Callable[[int], Sequence[RolloutRecord]]
) -> Drift | None:
    """The last alarm in a run's recorded steps; None where there was none.

    Args:
        rows: the steps' metrics with their `step`, in order.
        samples: the samples that a step has kept.
    """
    watch, found = PhaseWatch(), None
    for row in rows:
        if watch.look(row):
            step = int(row["step"] or 0)
            kept = samples(step)
            found = step, watch.sentence(kept), watch.shown(kept)
    return Drift(*found, watch.alarm is not None) if found else None
