"""A run folder that looks like a real one, written through the product's own loggers; the same bytes every time."""

import json
import math
import random
from pathlib import Path

from recipes.monitor.loggers import MetricsLogger
from recipes.monitor.phases import Phase
from recipes.monitor.rollouts import RolloutRecord, write_rollouts

INJECTION = "<script>window.injected = true</script><img src=x onerror='window.injected = true'>"
CONFIG = """\
name: quickstart <demo>
model:
  name: tiny-qwen2-3.7m
  hf_path: runs/quickstart/model
algorithm:
  name: grpo
  group_size: 8
  learning_rate: 3.0e-05   # warm-up 10 steps
data:
  name: embedded
  tasks: [choice, calculation, text]
"""
TASKS = ("choice", "calculation", "text")
_OPENING = (
    "You are a careful medical assistant. Reason inside <think></think>, then answer inside <answer></answer>.\n\n"
)
_QUESTIONS = {
    "choice": (
        "A 54-year-old man has crushing chest pain for two hours and ST elevation in leads II, III and aVF. Which "
        "artery is most likely occluded?\nA. Left anterior descending\n"
        "B. Right coronary\nC. Left circumflex\nD. Left main",
        "B",
    ),
    "calculation": (
        "A woman weighs 68 kg and is 1.65 m tall. What is her body mass index in kg/m2, to one decimal place?",
        "25.0",
    ),
    "text": ("Which vitamin deficiency causes Wernicke encephalopathy?", "thiamine"),
}


def _phases(errors: float, grown: float) -> dict[str, float]:
    """Format failures give way to reasoning, and that, in the second half, to reasoning outside the tags."""
    formed = 1 - errors
    outside = formed * max(0.0, grown - 0.5)
    verbose = (formed - outside) * (1 - grown)
    shares = (errors, verbose, 0.8 * (formed - outside - verbose), 0.2 * (formed - outside - verbose), outside, 0.0)
    return {phase.metric: share for phase, share in zip(Phase, shares, strict=True)}


def step_metrics(step: int, steps: int, noise: random.Random) -> dict[str, float]:
    """Metrics of one step: growth along a logistic curve with noise; one task is absent on every seventh step."""
    grown = 1 / (1 + math.exp(-8 * (step / steps - 0.4)))
    shares = {
        "choice": 0.28 + 0.52 * grown + noise.gauss(0, 0.05),
        "calculation": 0.12 + 0.55 * grown + noise.gauss(0, 0.06),
        "text": 0.20 + 0.38 * grown + noise.gauss(0, 0.06),
    }
    shares = {task: min(1.0, max(0.0, value)) for task, value in shares.items()}
    length = 210 - 60 * grown + noise.gauss(0, 8)
    errors = max(0.0, 0.6 * math.exp(-6 * step / steps) + noise.gauss(0, 0.01))
    mean = sum(shares.values()) / 3
    metrics = {
        "reward/mean": mean - errors,
        "accuracy/mean": mean,
        **{f"reward/{task}": value - errors for task, value in shares.items()},
        **{f"accuracy/{task}": value for task, value in shares.items()},
        "reward/component/answer": mean,
        "reward/component/format": 1 - errors,
        "reward/component/length": 0.02 - 0.05 * (1 - grown),
        "length/mean": length,
        "length/p90": 1.5 * length + noise.gauss(0, 10),
        "length/error": 0.2 + 0.5 * errors,
        "length/within_share": 1 - 0.3 * errors,
        "length/truncated_share": 0.1 * errors,
        "format/error_share": errors,
        **_phases(errors, grown),
        "policy/kl": 0.02 * grown + abs(noise.gauss(0, 0.0008)),
        "policy/entropy": 1.4 - 0.8 * grown + noise.gauss(0, 0.03),
        "policy/clip_share": 0.02 + abs(noise.gauss(0, 0.005)),
        "policy/grad_norm": 0.6 + abs(noise.gauss(0, 0.2)),
        "policy/loss": noise.gauss(0, 0.01),
        "policy/learning_rate": 3e-5,
        **({} if step % 5 else {"reasoning/gain": 2.5 * grown - 0.3 + noise.gauss(0, 0.1)}),
        "critic/explained_variance": 0.7 * grown + noise.gauss(0, 0.03) - 0.1,
        "critic/r_squared": 0.7 * grown + noise.gauss(0, 0.03) - 0.2,
        "critic/grad_norm": 0.8 - 0.5 * grown + abs(noise.gauss(0, 0.05)),
        "groups/zero_advantage_share": 0.25 + 0.3 * grown + noise.gauss(0, 0.04),
        "groups/null_reward_share": 0.0,
        "mismatch/token_prob_error": 1.002 + abs(noise.gauss(0, 0.0005)),
        "time/generate_s": 2.1 - 0.5 * grown + noise.gauss(0, 0.08),
        "time/score_s": 0.15 + abs(noise.gauss(0, 0.02)),
        "time/train_s": 0.9 + noise.gauss(0, 0.03),
    }
    if step % 7 == 0:
        del metrics["reward/text"], metrics["accuracy/text"]
    return metrics


def rollout(step: int, number: int, task: str, kind: str) -> RolloutRecord:
    """One rollout of a kind: correct, incorrect, malformed, leaky (text before the tags) or fault."""
    question, answer = _QUESTIONS[task]
    given = {"correct": answer, "incorrect": "A", "leaky": answer, "fault": answer}.get(kind)
    thought = f"Let me work through this carefully. The question of step {step} asks for one fact, and I recall it."
    response = f"<think>\n{thought}\n</think>\n<answer>{given}</answer>"
    if kind == "malformed":
        response = f"<think>\n{thought} {INJECTION} and so on without an end"
    elif kind == "leaky":
        response = f"The answer is {answer}. Step by step:\n{response}"
    score = {"correct": 1.0, "leaky": 1.0, "incorrect": 0.0, "malformed": -1.0, "fault": None}[kind]
    return RolloutRecord(
        step=step,
        id=f"{task}-{step}-{number}/0",
        task=task,
        prompt=f"{_OPENING}Case {number}. {question}",
        response=response,
        answer=answer,
        extracted=given,
        status={"leaky": "correct", "fault": "timeout"}.get(kind, kind),
        reward=score,
        components={}
        if score is None
        else {"answer": max(score, 0.0), "format": 1.0 if given else -1.0, "length": -0.08},
        tokens=40 + number,
        group=number,
    )


def evaluation(name: str, accuracies: tuple[float, float, float]) -> dict[str, object]:
    """One evaluation of 120 questions a task; standard error sqrt(p (1 - p) / n)."""
    errors = [math.sqrt(p * (1 - p) / 120) for p in accuracies]
    return {
        "name": name,
        "split": "test",
        "checkpoint": f"/runs/{name}",
        "weights": name * 8,
        "measured": {
            "data": [{"path": "/data/test.jsonl", "sha256": "cd" * 32}],
            "reward": {"name": "gated", "version": "1", "hash": "ab" * 32},
            "prompts": {"style": "plain"},
            "decoding": {"temperature": 0.0},
        },
        "seen": {"questions": 0, "unread": []},
        "dropped": 7 if name == "before" else 0,
        "unscored": 0,
        "tasks": {
            task: {
                "questions": 120,
                "accuracy": p,
                "stderr": error,
                "format_error_share": 0.25 if name == "before" else 0.01,
                "contradiction_share": 0.03,
                "mean_tokens": 180.0,
            }
            for task, p, error in zip(TASKS, accuracies, errors, strict=True)
        },
        "mean": sum(accuracies) / 3,
        "stderr": math.sqrt(sum(error**2 for error in errors)) / 3,
    }


def write_synthetic_run(run_dir: Path, *, steps: int = 200, sft: bool = True) -> Path:
    """Write a whole run folder and return it."""
    noise = random.Random(7)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(CONFIG)
    with MetricsLogger(run_dir) as logger:
        for step in range(1, steps + 1):
            metrics = step_metrics(step, steps, noise)
            if step == 50:
                metrics["policy/grad_norm"] = math.nan
            logger.log(step, metrics, seconds=3.2 * step)
    for step in range(10, steps + 1, 10):
        kinds = (
            ("malformed", "incorrect", "incorrect", "correct")
            if step < steps / 3
            else ("correct", "incorrect", "leaky")
        )
        records = [rollout(step, number, task, kind) for task in TASKS for number, kind in enumerate(kinds)]
        if step == steps // 2:
            records.append(rollout(step, 9, "text", "fault"))
        write_rollouts(run_dir, step, records)
    folder = run_dir / "evaluation"
    folder.mkdir(exist_ok=True)
    (folder / "before.json").write_text(json.dumps(evaluation("before", (0.30, 0.12, 0.21))))
    (folder / "after.json").write_text(json.dumps(evaluation("after", (0.79, 0.66, 0.19))))
    if sft:
        (folder / "sft_control.json").write_text(json.dumps(evaluation("sft_control", (0.71, 0.35, 0.52))))
    (run_dir / "summary.json").write_text(json.dumps({"gpus": 0, "git_commit": "0123abc", "status": "finished"}))
    return run_dir
