"""Steps that changed nothing, and the likely reason, as their metrics tell.

Of GRPO mostly those in which no group taught anything: a group whose rewards are all equal has no advantage to learn
from. A run of nothing else costs as much as any and leaves the model as it was, so it is told from the first step, and
at the head of the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Metrics = Mapping[str, float | None]
# A share from which a reason stands for the whole step, and one that is as good as none.
_MOST, _FEW = 0.5, 0.01
_ISSUE = "format/issue/"


class LessonWatch:
    """Says when a run learns nothing: at its first step, after 10 such steps in a row, 100, 1,000, and at its end."""

    def __init__(self) -> None:
        self._without = 0
        self._taught = False
        self._told = False
        self._steps = 0
        self._why = ""

    def look(self, step: int, metrics: Metrics) -> str | None:
        """What to tell of a finished step, in one line; None for nothing."""
        why = reason(metrics)
        self._steps += 1
        if why is None:
            told, self._told, self._without = self._told, False, 0
            self._taught = True
            return f"step {step}: groups teach again" if told else None
        self._why = why
        self._without += 1
        # Of a run that has learned before, a single such step may be chance.
        if str(self._without).rstrip("0") != "1" or (self._without == 1 and self._taught):
            return None
        self._told = True
        nothing = "no step was taken" if metrics.get("policy/updates") != 0 else "no group taught anything"
        count = nothing if self._without == 1 else f"{self._without} steps without a lesson"
        return f"step {step}: {count}; {why}"

    def last_words(self) -> str | None:
        """What to tell of a run that ends and has taken no step; None where it took one, or had none to take."""
        if self._taught or not self._steps:
            return None
        return f"{self._steps} steps, and none has changed the model; {self._why}"


def without_lesson(rows: Sequence[Metrics]) -> tuple[int, str] | None:
    """How many of a run's last steps taught nothing, and the last one's reason; None where that step taught."""
    reasons = [reason(row) for row in reversed(rows)]
    count = next((number for number, why in enumerate(reasons) if why is None), len(reasons))
    return (count, reasons[0]) if count and reasons[0] is not None else None


def reason(metrics: Metrics) -> str | None:
    """The likely reason why a step made no update, with what to change; None where it made one."""
    if (skipped := metrics.get("policy/skipped_updates")) and skipped == metrics.get("policy/updates", 1.0):
        return "loss or gradient was not finite: lower optimizer.learning_rate, or look at the data"
    # In a critic's warm-up the policy stays as it is on purpose.
    if metrics.get("policy/updates") != 0 or metrics.get("critic/updates"):
        return None

    def share(name: str) -> float:
        return metrics.get(name) or 0.0

    if share("groups/null_reward_share") >= _MOST:
        return f"{share('groups/null_reward_share'):.0%} of the responses could not be scored: see the server's log"
    if share("format/error_share") >= _MOST:
        return _form(metrics)
    if share("groups/identical_share") >= _MOST:
        return "the responses of a group are all the same: raise rollout.temperature"
    if share("groups/mixed_share") > 0 and share("groups/zero_advantage_share") == 1:
        return "right and wrong answers of a group get the same reward: look at reward.preset"
    if share("groups/zero_advantage_share") < 1:
        return "all that teaches was left out by algorithm.overlong_filter: raise rollout.max_new_tokens"
    if share("accuracy/mean") >= 1 - _FEW:
        return "all answers are right: the questions are too easy for this model, give it harder ones"
    if share("accuracy/mean") <= _FEW:
        return (
            "hardly an answer is right: the questions are too hard for this model, warm it up by SFT, give it easier "
            "ones, or raise rollout.group_size"
        )
    return (
        "each group is all right or all wrong: raise rollout.group_size, or pass such groups over with "
        "rollout.adaptive=true or rollout.max_batches=10"
    )


def _form(metrics: Metrics) -> str:
    """Why most responses of a step are not of the form of an answer."""
    errors = f"{metrics['format/error_share']:.0%} of the responses"
    if (metrics.get("length/truncated_share") or 0.0) >= _MOST:
        return f"{errors} have no answer, most of them cut off: raise rollout.max_new_tokens"
    issues = {name.removeprefix(_ISSUE): value or 0.0 for name, value in metrics.items() if name.startswith(_ISSUE)}
    gravest = max(issues, key=lambda name: issues[name], default="")
    if gravest == "unopened_thinking":
        return (
            f"{errors} close a <think> that they did not open, as where the chat template opens it: set "
            "reward.format=lenient"
        )
    if gravest:
        return (
            f"{errors} lack the form <think>...</think><answer>...</answer>, mostly {gravest}: the model does not know "
            "it, warm it up by SFT (recipes.sft) or ask for it with data.style"
        )
    return f"{errors} have the form and no answer that can be read: look at rollouts/, and at how the task is graded"
