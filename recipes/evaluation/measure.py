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
from recipes.data.styles import read_style
from recipes.rollout.prompts import common_target
from recipes.runtime.config import Config, EvaluationConfig, ModelConfig
from recipes.runtime.origin import STATE_FILE, data_files, read_state, training_files
from recipes.runtime.rules import asks_endpoint


def measured(config: Config, reward: Mapping[str, str]) -> dict[str, Any]:
    """All that defines an evaluation beside the weights.

    Args:
        config: of the evaluation.
        reward: the preset as the server defines it.

    Raises:
        OSError: a file of `data.test` cannot be read.
    """
    remote = asks_endpoint(config)
    sampler = "endpoint" if remote else config.rollout.sampler
    precision = config.model.precision
    return {
        "data": data_files(config.data.test),
        "reward": {**reward, "match": config.reward.match, "format": config.reward.format, **_graded(config)},
        "prompts": prompts_shown(config),
        "decoding": {
            "temperature": config.evaluation.temperature,
            "max_new_tokens": config.rollout.max_new_tokens,
            **({} if remote else {"max_length": config.model.max_length}),
            # Who rounds otherwise, as another program or precision, parts greedy answers where two tokens are all but
            # as likely.
            **({} if sampler == "embedded" else {"sampler": sampler}),
            **({} if remote or precision == ModelConfig().precision else {"precision": precision}),
            **_asked_for(config),
        },
    }


def _graded(config: Config) -> dict[str, Any]:
    """How open answers are graded, where it is not by exact matches."""
    own = config.reward
    if own.text_metric == "exact":
        return {}
    return {"text_metric": own.text_metric, "text_threshold": own.text_threshold, "text_compat": own.text_compat}


def prompts_shown(config: Config) -> dict[str, Any]:
    """What stands in the prompts beside the question; of the form and of worked examples, where it is not the default.

    A style is its words, by their digest, wherever they stand.

    Raises:
        StyleError: of the prompt's file.
        OSError: the file of worked examples cannot be read.
    """
    data = config.data
    # The plain style does not say a target that all share, so that it changes no answer of a policy.
    said = target if (target := common_target(config)) is not None and target.said else None
    found: dict[str, Any] = {"style": read_style(data.style).identity, "length_target": said and said.tokens}
    if said is not None and said.mode == "exact":
        found["length_mode"] = said.mode
    if data.template != "chat":
        found["template"] = data.template
    return found | ({"shots": data.shots, "few_shot": file_digest(Path(data.few_shot))} if data.few_shot else {})


def prompt_words(config: Config) -> dict[str, Any]:
    """The prompt itself, to be repeated without its file. Raises StyleError."""
    style = read_style(config.data.style)
    return {"style": style.name, "sha256": style.digest, "words": dict(style.words)}


def _asked_for(config: Config) -> dict[str, Any]:
    """How often and how else questions are asked, where that is not the default."""
    defaults, found = EvaluationConfig(), config.evaluation
    names = ("samples", "top_k", "top_p", "max_think_tokens", "shuffles", "short", "budgets", "budget_mode")
    other = {name: value for name in names if (value := getattr(found, name)) != getattr(defaults, name)}
    return other | ({"seed": config.seed} if found.temperature else {})


def seen_in_training(examples: Sequence[Example], checkpoint: Path | None) -> dict[str, Any]:
    """How many questions the training of a checkpoint has seen, in any stage, as `recipes.data.contamination` tells.

    Of a model behind an endpoint, no `checkpoint`, and of one that was converted, nothing is known.

    Returns:
        `questions`: how many it has seen, or all but; `contexts`: of how many others it has seen the note or abstract
        under another question; `unread`: training files that are gone or changed since, so that nothing can be said.
    """
    if checkpoint is None:
        unknown = "all, since an endpoint does not tell what trained its model"
        return {"questions": 0, "contexts": 0, "unread": [unknown]}
    seen: dict[str, set[str]] = {likeness: set() for likeness in LIKENESSES}
    unread: list[str] = []
    origin = read_state(checkpoint).get("origin")
    if origin is None:
        trained = (checkpoint / STATE_FILE).exists()
        unread.append(
            "all, since an older release trained it"
            if trained
            else "all, since a converted model does not tell what trained it"
        )
    if not (files := list(training_files(origin))):
        return {"questions": 0, "contexts": 0, "unread": unread}
    held_out = HeldOut(examples)
    for file in files:
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
