"""Accuracy of a checkpoint on held-out questions: `python -m recipes.evaluate output=RUN name=before model.path=CKPT`.

Answers every question of `data.test` greedily, by the engine itself or by servers of vLLM (`rollout=vllm`), has the
reward server's verifiers grade the answers, and writes RUN/evaluation/NAME.json: for each kind of task the number of
questions, accuracy with its standard error, shares of format errors and of answers that contradict their own reasoning,
and the mean length; digests of the weights, the data and all else that defines the result (`conversion.evaluation`);
and how many questions were left out. All answers are in RUN/evaluation/NAME.jsonl, written as they come: stopped, the
same command goes on behind the last.

Left out: sampling several answers a question (pass@k, majority), published benchmarks' own prompts.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.data.example import read_examples
from recipes.evaluation.summary import described, summarize
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
    from conversion.checkpoint import open_checkpoint
    from recipes.engines import create_engine
    from recipes.engines.base import Sampling
    from recipes.evaluation.answers import Answers
    from recipes.evaluation.measure import measured, seen_in_training
    from recipes.rollout.prompts import make_prompts
    from recipes.rollout.scoring import check_rows, reward_definition, score
    from recipes.rollout.server import reward_client
    from recipes.runtime.agreement import from_leader
    from recipes.runtime.tokenizer import load_tokenizer, stop_ids
    from recipes.sampling.base import create_sampler

    config = replace(config, rollout=replace(config.rollout, temperature=0.0, top_k=0, top_p=1.0))
    target = evaluation_path(config.output, config.name)
    about: dict[str, Any] = {}
    tokenizer = load_tokenizer(config.model.path)
    examples = read_examples(*config.data.test)
    if is_leader():
        # Where this cannot be, nobody wants to hear of it after an hour of answers.
        target.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = Path(config.model.path).resolve()
        about = {"name": config.name, "split": "test", "checkpoint": str(checkpoint)}
        about |= {"weights": open_checkpoint(checkpoint).digest(read=True)}
        about |= {"seen": seen_in_training(examples, checkpoint)}
    room = config.model.max_length - config.rollout.max_new_tokens
    prompts, dropped = make_prompts(
        examples, tokenizer, style=config.data.style, length_target=config.reward.length_target, max_tokens=room
    )
    engine = create_engine(config)
    sampling = Sampling(1, 0.0, config.rollout.max_new_tokens, stop_ids(tokenizer))
    with reward_client(config.reward, ranks_wait_s=60 * config.parallel.timeout_minutes) as client:
        reward = reward_definition(client, config.reward)
        check_rows([prompt.example for prompt in prompts], client, config.reward)
        answers = None
        if is_leader():
            about |= {"measured": measured(config, reward)}
            answers = Answers(target.with_suffix(".jsonl"), {key: about[key] for key in ("weights", "measured")})
        left = prompts[int(from_leader(0 if answers is None else len(answers.rows))) :]
        with closing(create_sampler(config, engine, [prompt.ids for prompt in prompts])) as sampler:
            sampler.update(0)
            for start in range(0, len(left), _PROMPTS_AT_ONCE):
                asked = left[start : start + _PROMPTS_AT_ONCE]
                completions = sampler.generate([p.ids for p in asked], sampling)
                groups = score(asked, completions, tokenizer=tokenizer, client=client, config=config.reward)
                if answers is not None:
                    answers.add([answer_row(group[0]) for group in groups])
    if answers is not None:
        result = {**about, "dropped": dropped, **summarize(answers.rows)}
        replace_file(target, (json.dumps(result, indent=1) + "\n").encode())
        answers.publish()
        print(described(result))


def answer_row(trajectory: Trajectory) -> dict[str, Any]:
    """One line of NAME.jsonl; see `docs/evaluation.md`."""
    example = trajectory.prompt.example
    return {
        "id": example.id,
        "group": example.group,
        "skill": example.meta.get("skill"),
        "response": trajectory.text,
        "answer": example.gold(),
        "status": trajectory.score.status,
        "tokens": len(trajectory.completion.ids),
        "contradicts": contradicts(example, trajectory.text),
        "source": example.source,
        "subject": example.meta.get("subject"),
        "calculator": example.meta.get("calculator"),
        "sample": 0,
        "variant": "plain",
        "extracted": trajectory.score.extracted,
        "cut": not trajectory.completion.finished,
    }


if __name__ == "__main__":
    run(
        evaluate,
        "recipes.evaluate",
        __doc__,
        Stage.EVALUATE,
        owns=lambda config: evaluation_lock_path(config.output, config.name),
    )
