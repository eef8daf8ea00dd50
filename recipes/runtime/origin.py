"""What a run is made of, by content: its model and its training files, each with a digest, in every checkpoint's state.

    {"stage": "grpo", "model": "sha256", "data": [{"path": "/data/train.jsonl", "sha256": "..."}],
     "rows": [["MedQA", "MIT", 10178]], "prompt": its words' name or digest (`recipes.data.styles`),
     "asked": how questions were put (`conversion.asked`),
     "before": the origin of the checkpoint that it started from, or null}

A resume compares digests, so a link or another spelling of a file is the same file, and another file under the old name
is not. `rows` counts rows by source and licence as they were read, for the model card; and through `before` a release
knows the data of every stage.

Older releases kept no `prompt`, and no `asked`. Left out: rows that were too long, which count as training data all
the same.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conversion.checkpoint import CheckpointError, open_checkpoint
from conversion.digests import SHOWN, file_digest
from conversion.evaluation import shown
from recipes.data.example import Example
from recipes.data.styles import read_style
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.rules import Stage

STATE_FILE = "state.json"
_KEYS = {"stage", "model", "data", "rows", "before"}
_LATER = {"prompt", "asked"}
_TITLES = {"sft": "SFT", "grpo": "GRPO"}


def run_origin(config: Config, stage: Stage, examples: Sequence[Example], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The origin of a run that trains on `examples`, the rows of `data.train`; notes rows that no release may have.

    `asked` is how it puts its questions, which a release tells and a resume does not compare but by `prompt`.

    Raises:
        CheckpointError: `model.path` is no whole checkpoint.
        StyleError: of the prompt's file.
        OSError: a data file cannot be read.
    """
    model = open_checkpoint(config.model.path)
    rows = Counter((example.source, example.license) for example in examples)
    bare = sum(count for (_, licence), count in rows.items() if licence.strip().lower() in ("", "unknown"))
    if bare:
        # Said while the rows can still be mended: other files are another run.
        print(
            f"note: {bare} of {len(examples)} training rows have no licence in their field 'license'; "
            "conversion.release will refuse what is trained on them",
            file=sys.stderr,
        )
    return {
        "stage": stage.name.lower(),
        "model": model.digest(read=False),
        # A model has read the worked examples too.
        "data": data_files([*config.data.train, *filter(None, [config.data.few_shot])]),
        "rows": [[source, licence, count] for (source, licence), count in sorted(rows.items())],
        "prompt": read_style(config.data.style).identity,
        "asked": dict(asked),
        "before": read_state(model.path).get("origin"),
    }


def data_files(paths: Sequence[str]) -> list[dict[str, str]]:
    """Each file's absolute path and digest. Raises OSError."""
    return [{"path": str(Path(path).absolute()), "sha256": file_digest(Path(path))} for path in paths]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The loop's state in a checkpoint; empty for a converted one.

    Raises:
        CheckpointError: it is damaged.
    """
    path = checkpoint / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); resume from an earlier checkpoint") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a JSON object; resume from an earlier checkpoint")
    origin = state.get("origin", {})
    if not isinstance(origin, dict) or (origin and origin.keys() - _LATER != _KEYS):
        raise CheckpointError(f"{path}: its origin is damaged; resume from an earlier checkpoint")
    return state


def check_same_origin(run: Path, state: Mapping[str, Any], now: Mapping[str, Any], config: Config) -> None:
    """Refuses to go on from a checkpoint's `state` with another stage, model or data.

    Raises:
        ConfigError: naming the run, what it was and what it would be.
    """
    saved = state.get("origin")
    # Older releases kept no origin; of their states those of GRPO alone had a reward.
    stage = saved["stage"] if saved else "grpo" if "reward" in state else "sft" if "order" in state else now["stage"]
    if stage != now["stage"]:
        raise ConfigError(
            f"{run}: holds checkpoints of {_TITLES[stage]}; give {_TITLES[now['stage']]} an output folder of its own, "
            "and start it from one of them with model.path=CHECKPOINT"
        )
    if not saved:
        return
    if saved["model"] != now["model"]:
        raise ConfigError(
            f"{run}: was started from a model of sha256 {saved['model'][:SHOWN]}, and model.path={config.model.path} "
            f"holds {now['model'][:SHOWN]}; give the model that it was started from, or choose another output folder"
        )
    if "prompt" in saved and saved["prompt"] != now["prompt"]:
        raise ConfigError(
            f"{run}: was asked in the words of the prompt {shown(saved['prompt'])}, and data.style={config.data.style} "
            f"holds {shown(now['prompt'])}; give the prompt that it was started with, or choose another output folder"
        )
    before, after = (
        [f"{Path(file['path']).name} (sha256 {file['sha256'][:SHOWN]})" for file in origin["data"]]
        for origin in (saved, now)
    )
    if [file["sha256"] for file in saved["data"]] != [file["sha256"] for file in now["data"]]:
        raise ConfigError(
            f"{run}: was trained on {', '.join(before)}, and data.train now names {', '.join(after)}; give the files "
            "that it was trained on, in their order, or choose another output folder"
        )


def training_files(origin: Mapping[str, Any] | None) -> Iterator[Mapping[str, str]]:
    """The training files of a run and of every stage before it."""
    while origin:
        yield from origin["data"]
        origin = origin["before"]
