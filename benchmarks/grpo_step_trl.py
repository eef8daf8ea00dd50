"""Step times of TRL's GRPOTrainer on CPU; runs in an environment of its own (requirements/trl.txt).

    python benchmarks/grpo_step_trl.py MODEL [--steps 6] [--prompts 16] [--group 8] [--new-tokens 64]

The last line is one JSON object: `steps_s` (seconds of each step), `sampled_tokens` (a step, on average).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Clock(TrainerCallback):
    """Seconds of each whole step: sampling, reward and update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    chosen = parser.parse_args()
    sampled: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        sampled.extend(len(ids) for ids in completion_ids)
        return [sum(c.isdigit() for c in text) / 10 for text in completions]

    settings = GRPOConfig(
        output_dir=str(chosen.model / "trl"),
        per_device_train_batch_size=chosen.prompts * chosen.group // 4,
        gradient_accumulation_steps=4,
        num_generations=chosen.group,
        max_completion_length=chosen.new_tokens,
        max_steps=chosen.steps,
        logging_steps=1000,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        learning_rate=1e-6,
        beta=0.0,
        num_iterations=1,
        temperature=1.0,
    )
    clock = Clock()
    prompts = json.loads((chosen.model / "prompts.json").read_text())
    trainer = GRPOTrainer(
        model=Qwen2ForCausalLM.from_pretrained(chosen.model),
        reward_funcs=reward,
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=AutoTokenizer.from_pretrained(chosen.model),
        callbacks=[clock],
    )
    trainer.train()
    print(json.dumps({"steps_s": clock.seconds, "sampled_tokens": sum(sampled) / chosen.steps}))


if __name__ == "__main__":
    main()
