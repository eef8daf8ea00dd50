"""`recipes.evaluate` with portions of four answers to two questions, as a process of its own."""

from __future__ import annotations

from recipes.evaluate import evaluate
from recipes.evaluation import policy
from recipes.runtime.launch import run
from recipes.runtime.rules import Stage

policy._FEWEST, policy._MOST, policy._QUESTIONS_AT_ONCE = 4, 4, 2

if __name__ == "__main__":
    run(evaluate, "tests.end_to_end.small_portions", __doc__, Stage.EVALUATE)
