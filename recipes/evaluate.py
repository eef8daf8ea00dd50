"""Accuracy of a checkpoint on held-out questions: `python -m recipes.evaluate output=RUN name=before model.path=CKPT`.

Answers every question of `data.test` greedily, has the reward server's verifiers grade the answers, and writes
RUN/evaluation/NAME.json: for each kind of task the number of questions, accuracy with its standard error, shares of
format errors and of answers that contradict their own reasoning, and the mean length; and all answers as
RUN/evaluation/NAME.jsonl.

Left out: sampling several answers a question (pass@k, majority), published benchmarks' own prompts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.data.example import REPORT_GROUPS, read_examples
from recipes.monitor.run_folder import evaluation_lock_path, evaluation_path, replace_file
from recipes.rollout.consistency import contradicts
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader, run
from recipes.runtime.rules import Stage

if TYPE_CHECKING:
    from recipes.rollout.scoring import Trajectory

_PROMPTS_AT_ONCE = 256


def evaluate(config: Config) -> None:
    """Evaluates on all ranks; rank 0 writes the result."""
    # These bring torch and transformers: --help and a mistake in a setting are answered without.
    from recipes.engines import create_engine
    from recipes.engines.base import Sampling
    from recipes.rollout.prompts import make_prompts
    from recipes.rollout.scoring import check_rows, score
    from recipes.rollout.server import reward_client
    from recipes.runtime.tokenizer import load_tokenizer, stop_ids

    target = evaluation_path(config.output, config.name)
    if is_leader():
        # Where this cannot be, nobody wants to hear of it after an hour of answers.
        target.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(config.model.path)
    examples = read_examples(*config.data.test)
    room = config.model.max_length - config.rollout.max_new_tokens
    prompts, dropped = make_prompts(
        examples, tokenizer, style=config.data.style, length_target=config.reward.length_target, max_tokens=room
    )
    engine = create_engine(config)
    sampling = Sampling(1, 0.0, config.rollout.max_new_tokens, stop_ids(tokenizer))
    answers: list[Trajectory] = []
    with reward_client(config.reward) as client:
        check_rows([prompt.example for prompt in prompts], client, config.reward)
        for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
            asked = prompts[start : start + _PROMPTS_AT_ONCE]
            completions = engine.generate([p.ids for p in asked], sampling)
            groups = score(asked, completions, tokenizer=tokenizer, client=client, config=config.reward)
            answers += [group[0] for group in groups]
    if is_leader():
        about = {"name": config.name, "split": "test", "checkpoint": str(Path(config.model.path).resolve())}
        result = {**about, "dropped": dropped, **summarize(answers)}
        replace_file(target.with_suffix(".jsonl"), "".join(_line(t) for t in answers).encode())
        replace_file(target, (json.dumps(result, indent=1) + "\n").encode())
        shown = "  ".join(f"{name} {task['accuracy']:.1%}" for name, task in result["tasks"].items())
        print(f"{config.name}: {shown}  mean {result['mean']:.1%} (standard error {result['stderr']:.1%})")


def summarize(answers: Sequence[Trajectory]) -> dict[str, Any]:
    """Per kind of task and their mean, with standard errors sqrt(p (1 - p) / n); unscored answers are left out."""
    tasks: dict[str, dict[str, Any]] = {}
    for name in REPORT_GROUPS:
        own = [t for t in answers if t.prompt.example.group == name and t.score.reward is not None]
        if not own:
            continue
        share = sum(t.score.status == "correct" for t in own) / len(own)
        compared = [c for t in own if (c := contradicts(t.prompt.example, t.text)) is not None]
        tasks[name] = {
            "questions": len(own),
            "accuracy": share,
            "stderr": math.sqrt(share * (1 - share) / len(own)),
            "format_error_share": sum(t.score.status in ("malformed", "no_answer") for t in own) / len(own),
            "contradiction_share": sum(compared) / len(compared) if compared else None,
            "mean_tokens": sum(len(t.completion.ids) for t in own) / len(own),
        }
    count = max(1, len(tasks))
    return {
        "tasks": tasks,
        "mean": sum(t["accuracy"] for t in tasks.values()) / count,
        "stderr": math.sqrt(sum(t["stderr"] ** 2 for t in tasks.values())) / count,
    }


def _line(trajectory: Trajectory) -> str:
    example = trajectory.prompt.example
    row = {
        "id": example.id,
        "group": example.group,
        "skill": example.meta.get("skill"),
        "response": trajectory.text,
        "answer": example.gold(),
        "status": trajectory.score.status,
        "tokens": len(trajectory.completion.ids),
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    run(
        evaluate,
        "recipes.evaluate",
        __doc__,
        Stage.EVALUATE,
        owns=lambda config: evaluation_lock_path(config.output, config.name),
    )
