"""The release gate: `python -m conversion.release RUN OUT` makes a checkpoint fit to publish, or says why it is not.

OUT is a Hugging Face folder with a model card (README.md), the words that training asked in (prompt.yaml) and
SHA256SUMS. It appears only after every check has passed: the checkpoint is whole, to the last byte what was saved, and
finite; its weights came through the export bit for bit; config, tokenizer, chat template and generation config are
those of the base model, byte for byte but for the dtype; these very weights have been evaluated, on questions that no
stage of training has seen, and in the same way as the model that training began with where that was evaluated too;
every row of the training data names a licence.

Who is who is told by digests (`conversion.digests`), never by paths. What the training data were is in the checkpoint's
state, as they were read: the files may be gone.

Left out: judging whether the evaluation is good enough, which is for people, and the licence of the result, which is
for their lawyers: the card states what it was made from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from conversion import command, console, lock, megatron_to_hf
from conversion.asked import PROMPT_FILE, check_asked, prompt_yaml
from conversion.checkpoint import Checkpoint, companion_files, open_checkpoint, read_config
from conversion.digests import SHOWN, file_digest
from conversion.errors import ConversionError
from conversion.evaluation import differences, read_result
from conversion.logits import LogitsComparison, compare_logits, read_prompts
from conversion.model_card import CARD_FILE, STATED, Facts, model_card
from conversion.publishing import MARKER_FILE, build
from conversion.verify import Comparison, compare

if TYPE_CHECKING:
    import torch

SUMS_FILE = "SHA256SUMS"
_DTYPE_KEYS = ("dtype", "torch_dtype")

_DESCRIPTION = """\
Export a run's checkpoint as a Hugging Face folder with a model card and SHA-256 sums, after checking that it may be
released: weights finite and exported bit for bit, config, tokenizer and chat template as the base model has them,
these weights evaluated on questions that training has not seen, training data with licences. OUT appears only when
every check has passed."""

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
    state = _state(checkpoint)
    base = _base(checkpoint, base)
    data, files = _training_data(checkpoint.path, state["origin"])
    evaluations = _evaluations(run, checkpoint, state["origin"]["model"], files)
    with build(out, sources=[checkpoint.path, base], force=force) as folder:
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
        for own in (CARD_FILE, PROMPT_FILE, SUMS_FILE):
            _keep(folder / own)
        facts = Facts(
            name=name or out.name,
            base=base.name,
            architecture=checkpoint.manifest,
            state=state,
            config=config,
            data=data,
            evaluations=evaluations,
            digest=comparison.digests[1],
            logits=logits,
        )
        (folder / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
        if "asked" in state["origin"]:
            (folder / PROMPT_FILE).write_text(prompt_yaml(state["origin"]["asked"]["words"]), encoding="utf-8")
        _write_sums(folder)
    return Release(out, comparison, logits)


def _run_config(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ReleaseError(f"{path}: cannot be read ({error}); give the output folder of a run") from error
    if not isinstance(config, dict):
        raise ReleaseError(f"{path}: not the configuration of a run; give the output folder of a run")
    for section, key in STATED:
        values = config if section is None else config.get(section)
        if not isinstance(values, dict) or key not in values:
            name = key if section is None else f"{section}.{key}"
            raise ReleaseError(f"{path}: has no {name}, as every run's has; give the output folder of a run")
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
    """The training state: `step`, `origin` and, after GRPO, `reward`."""
    path = checkpoint.path / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReleaseError(
            f"{path}: missing; this is a converted checkpoint, not one that a run has trained"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ReleaseError(f"{path}: cannot be read ({error}); release another checkpoint with --step") from error
    if not isinstance(state, dict) or "step" not in state:
        raise ReleaseError(f"{path}: not the state of a run; release another checkpoint with --step")
    if not isinstance(state.get("origin"), dict) or "model" not in state["origin"]:
        raise ReleaseError(
            f"{path}: saved by an older release, which kept no digests of the model and the data that it was trained "
            "on; go on with the run for a step and release the checkpoint of that"
        )
    return state


def _base(checkpoint: Checkpoint, base: Path | None) -> Path:
    chosen = base or Path(checkpoint.manifest.source.path)
    if not (chosen / "config.json").is_file():
        raise ReleaseError(
            f"{chosen}: not the Hugging Face folder of the base model; name it with --base, so that config, tokenizer "
            "and chat template can be compared with it"
        )
    return chosen


def _evaluations(
    run: Path, checkpoint: Checkpoint, start: str, trained: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Results of the released weights, and of what training began with, by their names.

    Args:
        run: folder of it.
        checkpoint: to be released.
        start: digest of the model that training began with.
        trained: path of every training file by its digest.
    """
    weights = checkpoint.digest(read=True)
    results = [read_result(path) for path in sorted((run / "evaluation").glob("*.json"))]
    roles = {start: "start", weights: "released"}
    found = {r["name"]: {**r, "role": roles[r["weights"]]} for r in results if r.get("weights") in roles}
    released = [result for result in found.values() if result["role"] == "released"]
    if not released:
        raise ReleaseError(_unmeasured(run, checkpoint.path, weights, results))
    for result in released:
        _check_held_out(run, result, trained)
    for result in found.values():
        unlike = min((differences(result, other) for other in released), key=len)
        if result["role"] == "start" and unlike:
            raise ReleaseError(
                f"{run / 'evaluation'}: {result['name']} was measured otherwise than the released weights were "
                f"({'; '.join(unlike)}), so they do not belong in one table; evaluate one of them again, as the other "
                "was, or delete it"
            )
    return found


def _unmeasured(run: Path, checkpoint: Path, weights: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Why none of the results is one of the released weights."""
    command = f"`python -m recipes.evaluate output={run} model.path={checkpoint} name=after data.test=[FILE]`"
    for result in results:
        if result["checkpoint"] != str(checkpoint.resolve()):
            continue
        file = run / "evaluation" / f"{result['name']}.json"
        if "weights" not in result:
            return f"{file}: made by an older release, which kept no digest of what it measured; run {command} again"
        return (
            f"{file}: measured weights of sha256 {result['weights'][:SHOWN]} at {checkpoint}, where {weights[:SHOWN]} "
            f"lie now; run {command} again"
        )
    return (
        f"{run / 'evaluation'}: no result of {checkpoint} (sha256 {weights[:SHOWN]}); a medical model is not released "
        f"unmeasured. Run {command}"
    )


def _check_held_out(run: Path, result: Mapping[str, Any], trained: Mapping[str, str]) -> None:
    file = run / "evaluation" / f"{result['name']}.json"
    for each in result["measured"]["data"]:
        if each["sha256"] in trained:
            raise ReleaseError(
                f"{file}: measured on {each['path']}, which is the training file {trained[each['sha256']]} (sha256 "
                f"{each['sha256'][:SHOWN]}); evaluate on questions that training has not seen, "
                "and delete this result"
            )
    if count := result["seen"]["questions"]:
        raise ReleaseError(
            f"{file}: {count} of its questions are in the training data too; take them out of data.test, evaluate "
            "again and delete this result"
        )


def _training_data(checkpoint: Path, origin: Mapping[str, Any]) -> tuple[Counter[tuple[str, str]], dict[str, str]]:
    """Rows of all stages of training by source and licence, and the path of every training file by its digest."""
    rows: Counter[tuple[str, str]] = Counter()
    files: dict[str, str] = {}
    state = checkpoint / "state.json"
    stage: Mapping[str, Any] | None = origin
    try:
        while stage:
            rows.update({(str(source), str(licence)): int(count) for source, licence, count in stage["rows"]})
            files |= {each["sha256"]: each["path"] for each in stage["data"]}
            if "asked" in stage:
                check_asked(stage["asked"])
            stage = stage["before"]
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"{state}: its origin is damaged ({error}); release another with --step") from error
    for (source, licence), count in rows.items():
        if not source.strip() or licence.strip().lower() in ("", "unknown"):
            raise ReleaseError(
                f"{state}: {count} training rows of source {source!r} name no license, so nobody can say what binds "
                "those who use the model; give each row its licence in the field 'license' and train on these, or "
                "export without a release by `python -m conversion.megatron_to_hf`"
            )
    if not rows:
        raise ReleaseError(f"{state}: names no training data; the card states their licences")
    return rows, files


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


def _keep(file: Path) -> None:
    """Makes room for a release's own file: the base model's README.md becomes README.base.md, and what was that before,
    of the base model's base, README.base.base.md."""
    if file.exists():
        kept = file.with_name(f"{file.stem}.base{file.suffix}")
        _keep(kept)
        file.rename(kept)


def _write_sums(folder: Path) -> None:
    """SHA256SUMS in the form that `sha256sum --check` reads."""
    lines = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER_FILE):
        lines.append(f"{file_digest(file)}  {file.relative_to(folder).as_posix()}\n")
    (folder / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a release to a (new, private) repository of the Hugging Face hub and return its address.

    Raises ReleaseError when the hub refuses or cannot be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = str(api.create_repo(repository, private=True, exist_ok=True))
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            commit_message=f"Release {folder.name}",
            ignore_patterns=MARKER_FILE,
        )
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
