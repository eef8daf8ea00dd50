"""Greedy answers and logits of a Hugging Face folder by plain transformers, for `recipes.check_export`.

`python -m recipes.transformers_answers FOLDER ASKED ANSWERED`: ASKED is a torch file with `prompts` and `sequences`
(token ids), `limit` and `stops`; ANSWERED gets `answers` (token ids of each prompt's greedy answer) and `logits`
(float32, [tokens, vocabulary] of each sequence). Imports nothing of Megatron, which changes torch on CPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conversion import command


def answer(folder: Path, asked: Path, answered: Path) -> None:
    """Reads `asked`, writes `answered`."""
    import torch
    from transformers import AutoModelForCausalLM

    request = torch.load(asked)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    stops = list(request["stops"])
    answers = []
    for prompt in request["prompts"]:
        generated = model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=request["limit"],
            eos_token_id=stops,
            pad_token_id=stops[0],
        )
        answers.append(generated[0, len(prompt) :].tolist())
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0].clone() for ids in request["sequences"]]
    torch.save({"answers": answers, "logits": logits}, answered)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.transformers_answers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("folder", "asked", "answered"):
        parser.add_argument(name, metavar=name.upper(), type=command.path_argument)
    args = parser.parse_args()
    answer(args.folder, args.asked, args.answered)


if __name__ == "__main__":
    sys.exit(command.run(main))
