"""Does an exported model answer as the trained one did? `python -m recipes.check_export output=RUN model.path=CKPT`.

Loads RUN/huggingface with plain transformers and CKPT with Megatron, has both answer `data.test` questions greedily
(the first 20 of each kind of task) and compares the texts, and the float32 logits at every position of the sequence.
Writes RUN/export.json and fails when they differ: the largest logit difference may be 1e-4, no answer may differ.

Left out: weights themselves, which `python -m conversion.verify` compares, and bfloat16, whose rounding differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recipes.data.example import Example, read_examples
from recipes.monitor.run_folder import replace_file
from recipes.runtime.config import Config
from recipes.runtime.launch import is_leader, run
from recipes.runtime.rules import Stage

QUESTIONS = 20
TOLERANCE = 1e-4
DEADLINE_S = 600
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


def check(config: Config) -> None:
    """Compares on all ranks; rank 0 runs transformers and writes the result.

    Raises:
        SystemExit: when the two models differ.
    """
    # These bring torch and transformers: --help and a mistake in a setting are answered without.
    from recipes.engines import create_engine
    from recipes.engines.base import Sampling
    from recipes.rollout.prompts import make_prompts, prompt_form
    from recipes.runtime.tokenizer import load_tokenizer, stop_ids

    tokenizer = load_tokenizer(config.model.path)
    chosen: dict[str, list[Example]] = {}
    for example in read_examples(*config.data.test):
        chosen.setdefault(example.group, []).append(example)
    examples = [e for group in chosen.values() for e in group[:QUESTIONS]]
    prompts, _ = make_prompts(
        examples,
        tokenizer,
        prompt_form(config),
        max_tokens=config.model.max_length - config.rollout.max_new_tokens,
    )
    engine = create_engine(config, bare=True)
    stops = stop_ids(tokenizer)
    greedy = Sampling(1, 0.0, config.rollout.max_new_tokens, stops)
    answers = [group[0].ids for group in engine.generate([p.ids for p in prompts], greedy)]
    sequences = [p.ids + answer for p, answer in zip(prompts, answers, strict=True)]
    logits = [engine.logits(ids) for ids in sequences]
    if not is_leader():
        return
    folder = Path(config.output) / "huggingface"
    theirs = _transformers(folder, [p.ids for p in prompts], sequences, config.rollout.max_new_tokens, stops)
    largest = max(float((a - b).abs().max()) for a, b in zip(theirs["logits"], logits, strict=True))
    equal = theirs["answers"] == [list(answer) for answer in answers]
    result = {"max_abs_logit_difference": largest, "greedy_equal": equal, "questions": len(prompts)}
    replace_file(Path(config.output) / "export.json", (json.dumps(result) + "\n").encode())
    print(f"export: largest logit difference {largest:.1e}, greedy answers {'equal' if equal else 'DIFFER'}")
    if not equal or largest > TOLERANCE:
        raise SystemExit(f"{folder}: does not answer as {config.model.path} does; convert it again and compare weights")


def _transformers(
    folder: Path, prompts: list[tuple[int, ...]], sequences: list[tuple[int, ...]], limit: int, stops: tuple[int, ...]
) -> dict[str, Any]:
    """What plain transformers answers, in a process that has seen neither Megatron nor torchrun."""
    import torch

    environment = {k: v for k, v in os.environ.items() if k not in _TORCHRUN and not k.startswith("TORCHELASTIC")}
    with tempfile.TemporaryDirectory() as exchange:
        asked, answered = Path(exchange) / "asked.pt", Path(exchange) / "answered.pt"
        torch.save({"prompts": prompts, "sequences": sequences, "limit": limit, "stops": stops}, asked)
        command = [sys.executable, "-m", "recipes.transformers_answers", str(folder), str(asked), str(answered)]
        subprocess.run(command, env=environment, check=True, timeout=DEADLINE_S)
        answers: dict[str, Any] = torch.load(answered)
        return answers


if __name__ == "__main__":
    run(check, "recipes.check_export", __doc__, Stage.EVALUATE)
