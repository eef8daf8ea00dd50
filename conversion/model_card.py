"""The model card of a release: what the model was made from and by, how it measured, and what it must not do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from conversion.asked import asked_section, asked_unlike
from conversion.checkpoint import Manifest
from conversion.evaluation_scores import score_tables
from conversion.evaluation_tables import markdown_table, plain_markdown, set_columns, set_rows
from conversion.logits import LogitsComparison

CARD_FILE = "README.md"
# The settings that a card states, by section and key; None for the top.
STATED: tuple[tuple[str | None, str], ...] = (
    *((None, "seed"), ("optimizer", "learning_rate"), ("model", "precision")),
    *(("rollout", key) for key in ("prompts", "group_size", "temperature", "max_new_tokens")),
    *(("algorithm", key) for key in ("clip_low", "clip_high", "kl_coef")),
)

_ROLES = {"released": "this model", "start": "before training"}
_LIMITS = """\
This model is a research artefact. It is not a medical device, and no regulator has cleared it for any use.

- Do not use it to diagnose, to treat, to dose or to triage, and do not show its answers to patients as advice. Every
  answer needs the judgement of a qualified clinician who can check it against the sources.
- It was trained with rewards for answers that a program can verify: option letters, numbers, short texts. Nothing
  rewarded sound reasoning, honest uncertainty, safe refusal or attention to the individual case, and fluent reasoning
  before an answer is no evidence that the answer follows from it.
- Accuracy on examination questions does not carry over to patients. Questions that the training data do not resemble,
  other languages, other units and newer guidelines have not been measured unless the table above says so.
- It may repeat the biases and the errors of its base model and its data, and may have seen published test questions
  before training began.
- Do not give it data by which a patient can be identified, unless your own rules allow it where it runs."""


@dataclass(frozen=True)
class Facts:
    """All that the card states.

    Attributes:
        name: of the released model.
        base: name of the base model.
        architecture: manifest of the released checkpoint.
        state: the run's state at this checkpoint, with `step`, `origin` and, after GRPO, `reward`.
        config: the run's resolved configuration.
        data: training rows by (source, licence).
        evaluations: results by name, each with `role` released or start.
        digest: of all released weights.
        logits: how checkpoint and release compare, where that was asked for.
    """

    name: str
    base: str
    architecture: Manifest
    state: Mapping[str, Any]
    config: Mapping[str, Any]
    data: Counter[tuple[str, str]]
    evaluations: Mapping[str, Mapping[str, Any]]
    digest: str
    logits: LogitsComparison | None


def model_card(facts: Facts) -> str:
    """The card in Markdown, with the metadata block that the Hugging Face hub reads."""
    reward, origin = facts.state.get("reward"), facts.state["origin"]
    algorithm = "PPO" if reward and facts.config["algorithm"].get("advantage") == "gae" else "GRPO"
    method = f"{algorithm} with verifiable rewards" if reward else "supervised fine-tuning"
    metadata = {
        "base_model": facts.base,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        "tags": ["medical", "megatron", *(["reinforcement-learning", algorithm.lower()] if reward else ["sft"])],
    }
    sections = (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
        f"# {facts.name}",
        f"{facts.base} ({facts.architecture.family}, {facts.architecture.parameter_count:,} parameters), trained by "
        f"{method} on medical questions with Medatron. **Not for clinical use**: see the limits below.",
        _training(facts, reward),
        *filter(None, [asked_section(origin)]),
        _data(facts.data),
        _evaluation(facts.evaluations, origin),
        f"## Limits of use in medicine\n\n{_LIMITS}",
        _verification(facts),
    )
    return "\n\n".join(sections) + "\n"


def _training(facts: Facts, reward: Mapping[str, str] | None) -> str:
    config = facts.config
    rows = [
        ("base model", facts.base),
        ("steps", facts.state["step"]),
        ("learning rate", config["optimizer"]["learning_rate"]),
        ("precision", config["model"]["precision"]),
        ("seed", config["seed"]),
    ]
    if reward:
        rollout, algorithm = config["rollout"], config["algorithm"]
        rows += [
            ("prompts a step", rollout["prompts"]),
            ("group size", rollout["group_size"]),
            ("temperature", rollout["temperature"]),
            ("longest response", f"{rollout['max_new_tokens']} tokens"),
            ("clip range", f"{algorithm['clip_low']} / {algorithm['clip_high']}"),
            ("KL coefficient", algorithm["kl_coef"]),
            ("reward preset", f"{reward['name']}, version {reward['version']}, sha256 `{reward['hash']}`"),
        ]
    return "## Training\n\n" + markdown_table(("setting", "value"), rows)


def _data(data: Counter[tuple[str, str]]) -> str:
    rows = [(source, licence, f"{count:,}") for (source, licence), count in sorted(data.items())]
    return (
        "## Training data and their licences\n\n"
        + markdown_table(("source", "licence", "rows"), rows)
        + "\n\nThe licences of the base model and of these data bind whoever uses this model; the base "
        "model's files are beside this card."
    )


def _evaluation(evaluations: Mapping[str, Mapping[str, Any]], origin: Mapping[str, Any]) -> str:
    rows = []
    for name, result in sorted(evaluations.items(), key=lambda pair: pair[1]["role"], reverse=True):
        model = _ROLES[result["role"]]
        for task, found in result["tasks"].items():
            accuracy = f"{found['accuracy']:.1%} ± {found['stderr']:.1%}"
            rows.append((name, model, task, found["questions"], accuracy, f"{found['format_error_share']:.1%}"))
        rows.append((name, model, "mean", "", f"{result['mean']:.1%} ± {result['stderr']:.1%}", ""))
    columns = ("evaluation", "model", "task", "questions", "accuracy ± standard error", "unreadable answers")
    about = "\n".join(f"- {name}: {_covered(result, origin)}" for name, result in sorted(evaluations.items()))
    parts = ["## Evaluation", "Answers to held-out questions, graded by rules.", markdown_table(columns, rows)]
    for name, result in sorted(evaluations.items()):
        if sets := set_rows(result):
            parts += [f"By set, {name} ({_ROLES[result['role']]}):", markdown_table(set_columns(result), sets)]
        for table in score_tables(result.get("scores", {})):
            title = plain_markdown(f"{table.heading}, {name} ({_ROLES[result['role']]}):")
            parts += [title, markdown_table(table.head, table.rows), plain_markdown(table.about)]
    return "\n\n".join([*parts, about])


def _covered(result: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """What a result was measured on, how it asked, where it is known how training did, and what it leaves out."""
    measured, seen = result["measured"], result["seen"]
    files = ", ".join(f"{PurePath(file['path']).name} (SHA-256 `{file['sha256']}`)" for file in measured["data"])
    compared = "no question of them is in the training data"
    if seen["unread"]:
        compared = "not all training files were there to be compared with their questions"
    elif seen["questions"]:
        compared = f"{seen['questions']} of their questions are in the training data"
    if notes := seen.get("contexts"):  # results of older releases do not tell
        compared += f", which asks otherwise about the notes of {notes}"
    return (
        f"{_answers(result)}; {files}; {compared}; {_asked(result, origin)}"
        f"{result['dropped']} questions too long and left out, "
        f"{result['unscored']} answers without a score; preset {measured['reward']['name']}, "
        f"SHA-256 `{measured['reward']['hash']}`"
    )


def _asked(result: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    unlike = asked_unlike(result, origin)
    if unlike is None:
        return ""
    return f"asked otherwise than training: {', '.join(unlike)}; " if unlike else "asked as training asked; "


def _answers(result: Mapping[str, Any]) -> str:
    """How questions were answered."""
    temperature = result["measured"]["decoding"].get("temperature", 0.0)
    if not temperature:
        return "greedy answers"
    asked = sum(task["questions"] for task in result["tasks"].values())
    answers = sum(task.get("answers", task["questions"]) for task in result["tasks"].values())
    return f"{answers / asked:.3g} answers a question at temperature {temperature}, accuracy over all of them"


def _verification(facts: Facts) -> str:
    text = (
        "## Verification\n\n"
        f"All {facts.architecture.tensor_count} tensors of this folder equal those of the Megatron checkpoint that was "
        f"trained and evaluated (combined SHA-256 `{facts.digest}`). config.json (less its dtype), tokenizer, chat "
        "template and generation config are the base model's. `sha256sum --check SHA256SUMS` checks every file."
    )
    if facts.logits is not None:
        text += (
            f" On {facts.logits.tokens:,} positions the float32 logits of transformers and Megatron differ by at most "
            f"{facts.logits.max_abs_difference:.1e}, with the same first choice at "
            f"{facts.logits.argmax_agreement:.2%} of them."
        )
    return text
