"""Does an exported model answer as the trained one did? `python -m recipes.check_export output=RUN model.path=CKPT`.

Loads RUN/huggingface with plain transformers and CKPT with Megatron, has both answer `data.test` questions greedily
(the first 20 of each kind of task) and compares the texts, and the float32 logits at every position of the sequence.
Writes RUN/export.json and fails when they differ: the largest logit difference may be 1e-4, no answer may differ.

Left out: weights themselves, which `python -m conversion.verify` compares, and bfloat16, whose rounding differs.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from recipes.data.example import Example, read_examples
from recipes.engines import create_engine
from recipes.engines.base import Sampling
from recipes.monitor.run_folder import replace_file
from recipes.rollout.prompts import make_prompts
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader, run
from recipes.runtime.tokenizer import load_tokenizer, stop_ids

QUESTIONS = 20
TOLERANCE = 1e-4


def check(config: Config) -> None:
    """Compares on all ranks; rank 0 runs transformers and writes the result.

    Raises:
        SystemExit: when the two models differ.
    """
    tokenizer = load_tokenizer(config.model.path)
    chosen: dict[str, list[Example]] = {}
    for example in (e for path in config.data.test for e in read_examples(path)):
        chosen.setdefault(example.group, []).append(example)
    examples = [e for group in chosen.values() for e in group[:QUESTIONS]]
    prompts, _ = make_prompts(
        examples,
        tokenizer,
        style=config.data.style,
        length_target=config.reward.length_target,
        max_tokens=config.model.max_length - config.rollout.max_new_tokens,
    )
    engine = create_engine(config)
    stops = stop_ids(tokenizer)
    answers = [group[0].ids for group in engine.generate([p.ids for p in prompts], _greedy(config, stops))]
    sequences = [p.ids + answer for p, answer in zip(prompts, answers, strict=True)]
    logits = [engine.logits(ids) for ids in sequences]
    if not is_leader():
        return
    folder = Path(config.output) / "huggingface"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    largest, equal = 0.0, True
    for prompt, answer, ids, ours in zip(prompts, answers, sequences, logits, strict=True):
        with torch.no_grad():
            theirs = model(torch.tensor([ids])).logits[0]
        largest = max(largest, float((theirs - ours).abs().max()))
        generated = model.generate(
            torch.tensor([prompt.ids]),
            do_sample=False,
            max_new_tokens=config.rollout.max_new_tokens,
            eos_token_id=list(stops),
            pad_token_id=stops[0],
        )
        equal = equal and tuple(generated[0, len(prompt.ids) :].tolist()) == answer
    result = {"max_abs_logit_difference": largest, "greedy_equal": equal, "questions": len(prompts)}
    replace_file(Path(config.output) / "export.json", (json.dumps(result) + "\n").encode())
    print(f"export: largest logit difference {largest:.1e}, greedy answers {'equal' if equal else 'DIFFER'}")
    if not equal or largest > TOLERANCE:
        raise SystemExit(f"{folder}: does not answer as {config.model.path} does; convert it again and compare weights")


def _greedy(config: Config, stops: tuple[int, ...]) -> Sampling:
    return Sampling(1, 0.0, config.rollout.max_new_tokens, stops)


if __name__ == "__main__":
    run(check, "recipes.check_export", __doc__)
