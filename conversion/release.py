"""The release gate: `python -m conversion.release RUN OUT` makes a checkpoint fit to publish, or says why it is not.

OUT is a Hugging Face folder with a model card (README.md) and SHA256SUMS. It appears only after every check has passed:
the checkpoint is whole; its weights came through the export bit for bit; config, tokenizer, chat template and
generation config are those of the base model, byte for byte but for the dtype; this very checkpoint has been evaluated;
every row of its training data names a licence.

Left out: judging whether the evaluation is good enough, which is for people, and the licence of the result, which is
for their lawyers: the card states what it was made from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from conversion import command, console, lock, megatron_to_hf
from conversion.checkpoint import Checkpoint, build, companion_files, open_checkpoint, read_config
from conversion.errors import ConversionError
from conversion.logits import LogitsComparison, compare_logits, read_prompts
from conversion.model_card import CARD_FILE, Facts, model_card
from conversion.verify import Comparison, compare

if TYPE_CHECKING:
    import torch

SUMS_FILE = "SHA256SUMS"
BASE_CARD_FILE = "README.base.md"
_DTYPE_KEYS = ("dtype", "torch_dtype")

_DESCRIPTION = """\
Export a run's checkpoint as a Hugging Face folder with a model card and SHA-256 sums, after checking that it may be
released: weights exported bit for bit, config, tokenizer and chat template as the base model has them, this checkpoint
evaluated, training data with licences. OUT appears only when every check has passed."""

_EPILOG = """\
examples:
  python -m conversion.release runs/med_u1 release/med-u1-7b --base Qwen2.5-7B-Instruct --prompts questions.jsonl
  python -m conversion.release runs/med_u1 release/med-u1-7b --step 400 --dtype bfloat16 --push-to-hub my-org/med-u1-7b
--push-to-hub takes the token from HF_TOKEN or `hf auth login`, and creates a private repository."""


class ReleaseError(ConversionError):
    """The gate stays shut; the message says which check failed and what to do."""


@dataclass(frozen=True)
class Release:
    """What was released: its folder and what the checks found."""

    path: Path
    comparison: Comparison
    logits: LogitsComparison | None


def release(
    run: Path,
    out: Path,
    *,
    step: int | None = None,
    base: Path | None = None,
    name: str | None = None,
    dtype: torch.dtype | None = None,
    prompts: Path | None = None,
    force: bool = False,
    progress: console.Progress = console.no_progress,
) -> Release:
    """Export, check and describe one checkpoint of a run.

    Args:
        run: folder of a GRPO or SFT run, with config.yaml, checkpoints/ and evaluation/.
        out: folder to create; its parent must exist.
        step: of the checkpoint; the last when None.
        base: Hugging Face folder of the base model; where the conversion read it when None.
        name: the released model's name in its card; the name of `out` when None.
        dtype: of the released weights; the checkpoint's own when None.
        prompts: when given, logits of checkpoint and export are compared on these, too.
        force: replace `out` if it exists.
        progress: told the bytes of export and verification.

    Raises:
        ReleaseError: a check failed; nothing was written.
        LockedError: the run goes on.
        ConversionError: a file is damaged or missing, as the other commands say.
    """
    # Of a run that goes on, checkpoints and evaluations come and go.
    lock.check_free(run / lock.RUN_LOCK)
    config = _run_config(run)
    checkpoint = open_checkpoint(_checkpoint_path(run, step))
    base = _base(checkpoint, base)
    evaluations = _evaluations(run, checkpoint.path, config)
    data = _data(config)
    with build(out, source=checkpoint.path, force=force) as folder:
        exported = megatron_to_hf.convert(checkpoint.path, folder / "export", dtype=dtype, progress=progress)
        for file in list(exported.iterdir()):
            file.rename(folder / file.name)
        exported.rmdir()
        _refuse(_drift(base, folder), f"differs from the base model {base}")
        comparison = compare(checkpoint.path, folder, dtype=dtype, progress=progress)
        _refuse(comparison.differences, f"differs from the checkpoint {checkpoint.path}")
        logits = None if prompts is None else compare_logits(checkpoint.path, folder, read_prompts(prompts))
        if logits is not None and not logits.agrees:
            raise ReleaseError(
                f"{checkpoint.path}: its logits and the export's differ by {logits.max_abs_difference:.1e}; keep both "
                "and report it, the weights are the same"
            )
        if (folder / CARD_FILE).exists():
            (folder / CARD_FILE).rename(folder / BASE_CARD_FILE)
        facts = Facts(
            name=name or out.name,
            base=base.name,
            architecture=checkpoint.manifest,
            state=_state(checkpoint),
            config=config,
            data=data,
            evaluations=evaluations,
            digest=comparison.digests[1],
            logits=logits,
        )
        (folder / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
        _write_sums(folder)
    return Release(out, comparison, logits)


def _run_config(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ReleaseError(f"{path}: cannot be read ({error}); give the output folder of a run") from error
    if not isinstance(config, dict) or "model" not in config:
        raise ReleaseError(f"{path}: not the configuration of a run; give the output folder of a run")
    return config


def _checkpoint_path(run: Path, step: int | None) -> Path:
    folder = run / "checkpoints"
    found = sorted(path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdigit())
    if step is not None:
        found = [path for path in found if int(path.name.removeprefix("step_")) == step]
    if not found:
        which = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise ReleaseError(f"{folder}: holds no {which}; train first, or choose another --step")
    return found[-1]


def _state(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.path / "state.json"
    if not path.is_file():
        raise ReleaseError(f"{path}: missing; this is a converted checkpoint, not one that a run has trained")
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return state


def _base(checkpoint: Checkpoint, base: Path | None) -> Path:
    chosen = base or Path(checkpoint.manifest.source.path)
    if not (chosen / "config.json").is_file():
        raise ReleaseError(
            f"{chosen}: not the Hugging Face folder of the base model; name it with --base, so that config, tokenizer "
            "and chat template can be compared with it"
        )
    return chosen


def _evaluations(run: Path, checkpoint: Path, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Results of the released checkpoint, and of what training began with, by their names."""
    wanted = {str(checkpoint.resolve()): "released", str(Path(config["model"]["path"]).resolve()): "start"}
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((run / "evaluation").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        role = wanted.get(result.get("checkpoint", ""))
        if role is not None:
            found[result["name"]] = {**result, "role": role}
    if not any(result["role"] == "released" for result in found.values()):
        raise ReleaseError(
            f"{run / 'evaluation'}: no result of {checkpoint}; a medical model is not released unmeasured. Run "
            f"`python -m recipes.evaluate output={run} model.path={checkpoint} name=after data.test=[FILE]`"
        )
    return found


def _data(config: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """Rows of the training files by source and licence."""
    rows: Counter[tuple[str, str]] = Counter()
    for name in config["data"]["train"]:
        try:
            lines = Path(name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ReleaseError(
                f"{name}: cannot be read ({error}); the card states the training data's licences"
            ) from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                row = json.loads(line)
                if not row.get("license") or not row.get("source"):
                    raise ReleaseError(f"{name}:{number}: a row without source or license; add them before a release")
                rows[row["source"], row["license"]] += 1
    if not rows:
        raise ReleaseError("config.yaml: data.train names no training data; the card states their licences")
    return rows


def _drift(base: Path, folder: Path) -> list[str]:
    """Every difference of the files around the weights from the base model's."""
    theirs, ours = ({n: path / n for n in companion_files(path) if n != CARD_FILE} for path in (base, folder))
    found = [f"{name}: missing" for name in theirs if name not in ours]
    found += [f"{name}: not in the base model" for name in ours if name not in theirs]
    for name in sorted(theirs.keys() & ours.keys()):
        if name == "config.json":
            before, after = ({k: v for k, v in read_config(p).items() if k not in _DTYPE_KEYS} for p in (base, folder))
            keys = [key for key in before | after if before.get(key) != after.get(key)]
            found += [f"config.json: {key} is {after.get(key)!r}, was {before.get(key)!r}" for key in keys]
        elif theirs[name].read_bytes() != ours[name].read_bytes():
            found.append(f"{name}: changed")
    return found


def _refuse(differences: list[str] | tuple[str, ...], what: str) -> None:
    if differences:
        raise ReleaseError(f"the export {what}: " + "; ".join(differences[:10]))


def _write_sums(folder: Path) -> None:
    """SHA256SUMS in the form that `sha256sum --check` reads."""
    lines = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        lines.append(f"{digest}  {file.relative_to(folder).as_posix()}\n")
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a release to a (new, private) repository of the Hugging Face hub and return its address.

    Raises ReleaseError when the hub refuses or cannot be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = str(api.create_repo(repository, private=True, exist_ok=True))
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message=f"Release {folder.name}")
    except Exception as error:  # the library raises its own, its HTTP library's and the system's errors
        raise ReleaseError(
            f"{repository}: not uploaded ({type(error).__name__}: {error}); {folder} is complete, try again with "
            f"`hf upload {repository} {folder}`"
        ) from error
    return address


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = console.parser("release", _DESCRIPTION, _EPILOG)
    parser.add_argument("run", metavar="RUN", type=command.path_argument, help="output folder of a GRPO or SFT run")
    parser.add_argument("out", metavar="OUT", type=command.path_argument, help="folder to create")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the last)")
    parser.add_argument(
        "--base", type=command.path_argument, metavar="FOLDER", help="Hugging Face folder of the base model"
    )
    parser.add_argument("--name", help="the model's name in its card (default: the name of OUT)")
    parser.add_argument("--dtype", choices=console.DTYPES, help="dtype of the released weights (default: as trained)")
    parser.add_argument(
        "--prompts", type=command.path_argument, metavar="FILE", help="also compare logits on these prompts"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--push-to-hub", metavar="REPOSITORY", help="upload the release, such as my-org/med-u1-7b")
    arguments = parser.parse_args(argv)
    return _command(arguments)


def _command(arguments: argparse.Namespace) -> int:
    done = release(
        arguments.run,
        arguments.out,
        step=arguments.step,
        base=arguments.base,
        name=arguments.name,
        dtype=console.dtype(arguments.dtype),
        prompts=arguments.prompts,
        force=arguments.force,
        progress=console.progress_bar,
    )
    print(
        f"{done.path}: released; {done.comparison.tensor_count} tensors verified, sha256 {done.comparison.digests[1]}"
    )
    if arguments.push_to_hub:
        print(f"uploaded to {push_to_hub(done.path, arguments.push_to_hub)}")
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, interrupted="interrupted: nothing was changed"))
