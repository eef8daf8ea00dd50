"""What an evaluation measures, by content, and whether training has seen its questions.

The content of the result: `conversion.evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conversion.digests import file_digest
from recipes.data.contamination import LIKENESSES
from recipes.data.example import Example, iterate_examples
from recipes.data.held_out import HeldOut
from recipes.runtime.config import Config
from recipes.runtime.origin import STATE_FILE, data_files, read_state, training_files


def measured(config: Config, reward: Mapping[str, str]) -> dict[str, Any]:
    """All that defines an evaluation beside the weights.

    Args:
        config: of the evaluation.
        reward: the preset as the server defines it.

    Raises:
        OSError: a file of `data.test` cannot be read.
    """
    return {
        "data": data_files(config.data.test),
        "reward": {**reward, "match": config.reward.match, "format": config.reward.format},
        "prompts": {"style": config.data.style, "length_target": config.reward.length_target},
        "decoding": {
            "temperature": 0.0,
            "max_new_tokens": config.rollout.max_new_tokens,
            "max_length": config.model.max_length,
            # Another program rounds otherwise, and greedy answers part where two tokens are all but as likely.
            **({} if config.rollout.sampler == "embedded" else {"sampler": config.rollout.sampler}),
        },
    }


def seen_in_training(examples: Sequence[Example], checkpoint: Path) -> dict[str, Any]:
    """How many questions the training of a checkpoint has seen, in any stage, as `recipes.data.contamination` tells.

    Returns:
        `questions`: how many it has seen, or all but; `contexts`: of how many others it has seen the note or abstract
        under another question; `unread`: training files that are gone or changed since, so that nothing can be said.
    """
    held_out = HeldOut(examples)
    seen: dict[str, set[str]] = {likeness: set() for likeness in LIKENESSES}
    unread: list[str] = []
    origin = read_state(checkpoint).get("origin")
    if origin is None and (checkpoint / STATE_FILE).exists():
        unread.append("all, since an older release trained it")
    for file in training_files(origin):
        path = Path(file["path"])
        if not path.is_file() or file_digest(path) != file["sha256"]:
            unread.append(file["path"])
            continue
        for _, matches in held_out.matches(iterate_examples(path)):
            for match in matches:
                seen[match.likeness].add(match.question.id)
    contexts = seen.pop("context")
    questions = set().union(*seen.values())
    return {"questions": len(questions), "contexts": len(contexts - questions), "unread": unread}
