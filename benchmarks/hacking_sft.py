"""`recipes.sft` on whole responses, `meta.response` of a row, in place of its trace.

The product teaches no form but the one that it rewards; `benchmarks/hacking.py` wants a policy that knows another.
"""

from __future__ import annotations

from typing import Any

from recipes import sft
from recipes.engines.base import TokenSequence
from recipes.monitor.run_folder import lock_path
from recipes.rollout.prompts import Prompt
from recipes.runtime.launch import run
from recipes.runtime.rules import Stage


def response_sequence(prompt: Prompt, tokenizer: Any) -> TokenSequence:
    """The prompt with its response and an end token."""
    ids = tokenizer(prompt.example.meta["response"], add_special_tokens=False).input_ids
    return TokenSequence(ids=(*prompt.ids, *ids, tokenizer.eos_token_id), prompt_length=len(prompt.ids))


if __name__ == "__main__":
    sft.response_sequence = response_sequence
    run(sft.train, "benchmarks.hacking_sft", __doc__ or "", Stage.SFT, owns=lambda config: lock_path(config.output))
