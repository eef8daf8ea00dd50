"""Knowledge-or-Reasoning's information gain (arXiv 2506.02126; code UCSC-VLAA/ReasoningEval, metrics.py) of a policy.

How much likelier each step of a response's reasoning makes the right answer. With steps 1 to n and

    ppl_i = exp(mean negative log-likelihood of the right answer's tokens, after question and steps 1 to i)

the released code's InfoGain is the sum of ppl_{i-1} - ppl_i over i, divided by n + 1: (ppl_0 - ppl_n) / (n + 1).
Beside it stands the whole reasoning's gain in nats, nll_0 - nll_n, which one unlikely token does not rule.

Where it differs from the code: the likelihood is of the answer's tokens alone, while the code's perplexity is of
question, steps and answer together and falls with their length; it is the policy's own, or any checkpoint's that is
named, in the form in which it answers (`<think>steps</think><answer>right answer</answer>`), while the code has
Qwen2.5-7B read plain text; steps are cut by a rule (`recipes.evaluation.steps`) and not by a language model; responses
without a step are left out, not 0. The paper's text could not be read beyond its abstract: the formula is the code's,
read in a copy of its repository. Left out: its Knowledge Index, which needs a retriever and a judge.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from conversion.tokenizer_check import encode
from recipes.engines.base import TokenSequence
from recipes.evaluation.statistics import interval_of_values
from recipes.evaluation.steps import reasoning, reasoning_steps
from recipes.rollout.prompts import Prompt


def answer_sequences(prompt: Prompt, response: str, tokenizer: Any) -> tuple[list[TokenSequence], int]:
    """The right answer after none of a response's steps, after the first, and so on to all of them.

    It is tokenised by itself, so that its tokens are the same after every step.

    Args:
        prompt: of the question.
        response: a policy's.
        tokenizer: of the checkpoint whose likelihoods are wanted.

    Returns:
        a sequence for each number of steps, none where there is no step; and the number of the answer's tokens, which
        end each of them.
    """
    # The prompt ends with what the chat template opened, the response begins with it.
    opened = prompt.opened.removeprefix("<think>")
    steps = reasoning_steps(reasoning(response).removeprefix(opened))
    if not steps:
        return [], 0
    begins = "" if prompt.opened else "<think>"
    written = [f"{begins}{''.join(steps[:count])}</think><answer>" for count in range(len(steps) + 1)]
    answer, *thoughts = encode(tokenizer, [prompt.example.gold(), *written])
    ids = [(*prompt.ids, *thought, *answer) for thought in thoughts]
    return [TokenSequence(each, len(prompt.ids)) for each in ids], len(answer)


def answer_nlls(logprobs: Sequence[Sequence[float]], tokens: int) -> list[float]:
    """The mean negative log-likelihood of each sequence's last tokens, in nats a token."""
    return [-sum(values[-tokens:]) / tokens for values in logprobs]


def info_gain(nlls: Sequence[float]) -> float:
    """(ppl_0 - ppl_n) / (n + 1) of the answer's likelihoods after 0 to n steps."""
    return (math.exp(nlls[0]) - math.exp(nlls[-1])) / len(nlls)


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over all responses, right ones and wrong ones: mean and median InfoGain, mean gain in nats, share that gains.

    Beside them the 95 % bootstrap `intervals` of means and share, over questions; those of gains, which have no limits,
    only where they differ.
    """
    parts = {
        "all": rows,
        "correct": [row for row in rows if row["status"] == "correct"],
        "incorrect": [row for row in rows if row["status"] == "incorrect"],
    }
    return {name: _figures([row for row in own if row["nlls"]]) for name, own in parts.items()}


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {"responses": 0}
    gains, nats = [row["info_gain"] for row in rows], [row["nlls"][0] - row["nlls"][-1] for row in rows]
    asked, gaining = [row["id"] for row in rows], [float(value > 0) for value in nats]
    intervals = {"gaining": list(interval_of_values(list(zip(asked, gaining, strict=True))))}
    for name, values in (("info_gain", gains), ("nats", nats)):
        if len(set(asked)) > 1 and len(set(values)) > 1:
            intervals[name] = list(interval_of_values(list(zip(asked, values, strict=True)), least=None))
    return {
        "responses": len(rows),
        "mean_steps": statistics.fmean(len(row["nlls"]) - 1 for row in rows),
        "info_gain": statistics.fmean(gains),
        "median_info_gain": statistics.median(gains),
        "nats": statistics.fmean(nats),
        "gaining": statistics.fmean(gaining),
        "intervals": intervals,
    }
