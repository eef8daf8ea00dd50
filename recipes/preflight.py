"""What can be known before a job is submitted: `python -m recipes.preflight [STAGE] [experiment=NAME] [key=value ...]`.

Takes the settings of the run it is to check, of GRPO or, with --for, of SFT or an evaluation. It composes the
configuration with all its rules, opens the model (a Hugging Face folder or a Megatron checkpoint) without reading
weights, tries the layout on it, compares a node's host memory (`cluster.node_memory_gb`) with what a save takes of it,
and the disk under `output` with what the run will keep there, and opens the tokenizer. Then it does to every row what
the run will do: the chat template, the tokens, the comparison of `data.train` with `data.test`, and the score of one
made-up response by the reward server, the one at `reward.url` or, where that does not answer yet, one of its own. It
needs no GPU and starts no training; the first thing that cannot work ends it with exit code 2 and the fix.

Left out: what only the nodes know (GPUs, network, a shared file system); `recipes.canary` looks at those.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion import command
from conversion.architecture import MegatronArchitecture
from conversion.checkpoint import open_checkpoint
from conversion.errors import ConversionError
from conversion.hf_folder import open_model
from recipes.data.example import ExampleError
from recipes.planning.architectures import critic_architecture, parameters
from recipes.planning.estimate import Assumptions, Plan
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.loading import load
from recipes.runtime.model_rules import validate_critic, validate_model
from recipes.runtime.rules import Stage, asks_endpoint

if TYPE_CHECKING:
    from recipes.data.prompts import Form
    from recipes.rollout.prompts import Prompt

_STAGES = {"grpo": Stage.GRPO, "sft": Stage.SFT, "evaluate": Stage.EVALUATE}
# Bytes a parameter of a checkpoint: the weights, and the optimizer's float32 main weights (under bfloat16) and moments.
_CHECKPOINT_BYTES = {"float32": 4 + 8, "bfloat16": 2 + 12}


class PreflightError(RuntimeError):
    """The run cannot work as it is set; the message names the fix."""


@dataclass(frozen=True)
class Model:
    """What a run begins with, as its files describe it.

    Attributes:
        parameters: how many weights it has.
        to_convert: bytes that its conversion will write; 0 for a Megatron checkpoint.
        companions: folder of its tokenizer.
    """

    architecture: MegatronArchitecture
    parameters: int
    to_convert: int
    companions: Path


def check(config: Config, stage: str = "grpo") -> list[str]:
    """Runs every check and returns a line for each.

    Args:
        config: of the run.
        stage: one of _STAGES.

    Raises:
        PreflightError, ConfigError, ConversionError, ExampleError, DataError, RewardError, RewardClientError: at the
            first that fails.
    """
    # These bring transformers: --help and a mistake in a setting are answered without.
    from recipes.rollout.prompts import prompt_form
    from recipes.rollout.rehearsal import compare_rows, read_rows, score_rows
    from recipes.runtime.tokenizer import training_tokenizer

    if stage == "evaluate" and asks_endpoint(config):
        raise PreflightError("evaluation.endpoint.url: there is no checkpoint to look at; start the evaluation itself")
    model = _model(Path(config.model.path))
    shape = model.architecture
    validate_model(config, shape)
    if stage == "grpo" and config.algorithm.has_critic and config.critic.path:
        validate_critic(config, open_checkpoint(Path(config.critic.path)).architecture, shape)
    parallel = config.parallel
    saving = _host_memory(config, shape) if stage != "evaluate" and shape.moe is None else []
    disk = _disk(config, model)
    tokenizer = training_tokenizer(model.companions, shape.vocab_size)
    files = read_rows(config, stage, tokenizer)
    return [
        f"model: {model.parameters / 1e9:.3g} billion parameters at {config.model.path}",
        f"layout: {parallel.processes} ranks as tensor {parallel.tensor} x pipeline {parallel.pipeline} x data "
        f"{parallel.processes // parallel.tensor // parallel.pipeline}",
        *saving,
        *_tokenizer_lines(tokenizer, files[0].rows[0].prompt, prompt_form(config)),
        *(file.line() for file in files),
        *compare_rows(config, stage),
        *score_rows(config.reward, [file for file in files if not file.traces]),
        disk,
    ]


def _model(path: Path) -> Model:
    if (path / "manifest.json").is_file():
        checkpoint = open_checkpoint(path)
        return Model(checkpoint.architecture, checkpoint.manifest.parameter_count, 0, checkpoint.hf_dir)
    opened = open_model(path)
    parameters = sum(tensor.nbytes // tensor.dtype.itemsize for tensor in opened.tensors.values())
    return Model(opened.architecture, parameters, opened.nbytes, opened.path)


def _tokenizer_lines(tokenizer: Any, prompt: Prompt, form: Form) -> list[str]:
    """The tokenizer, and what is adapted to its chat template."""
    from recipes.data.prompts import STOPS, messages
    from recipes.rollout.prompts import takes_system
    from recipes.runtime.tokenizer import stop_ids

    ends = " or ".join(tokenizer.convert_ids_to_tokens([end for end in stop_ids(tokenizer) if end < len(tokenizer)]))
    ends = " or ".join((ends, *STOPS[form.template]))
    found = [f"tokenizer: {len(tokenizer)} tokens; a response ends with {ends}"]
    if form.template == "base":
        found.append("prompts: plain text, without the chat template")
    elif messages(prompt.example, form)[0]["role"] == "system" and not takes_system(tokenizer):
        found.append("chat template: no system role, so the system text goes in front of the user's")
    if prompt.opened:
        who = "prompts: open" if form.template == "base" else "chat template: opens"
        found.append(f"{who} <think>, so responses are scored with it and traces go on after it")
    return found


def _host_memory(config: Config, architecture: MegatronArchitecture) -> list[str]:
    """Compares a node's memory with what a save takes of it, as the plan counts it; nemo_aligner gathers nothing."""
    if config.engine != "megatron":
        return []
    # How long prompts and responses are plays no part in it.
    plan = Plan(config, architecture, Assumptions(prompt_tokens=1, response_tokens=1))
    gpus, needed = min(config.cluster.gpus_per_node, plan.layout.gpus), plan.node_memory
    if needed > 1e9 * config.cluster.node_memory_gb:
        raise PreflightError(
            f"cluster.node_memory_gb={config.cluster.node_memory_gb:g}: a save takes {_size(needed)} of the host "
            f"memory of a node of {gpus} GPUs (estimate); raise parallel.pipeline or parallel.tensor, or set the key "
            "to what the nodes have"
        )
    return [f"host memory: a save takes {_size(needed)} of a node of {gpus} GPUs (estimate)"]


def _disk(config: Config, model: Model) -> str:
    """Compares free space with the checkpoints kept, the best beside them and the one being written."""
    output = Path(config.output).absolute()
    place = next(folder for folder in (output, *output.parents) if folder.is_dir())
    held = sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) if output.is_dir() else 0
    critic = critic_architecture(config, model.architecture)
    trained = model.parameters + (parameters(critic, critic=True) if critic else 0)
    each = trained * _CHECKPOINT_BYTES[config.model.precision]
    needed = max(0, model.to_convert + (max(1, config.trainer.keep) + 2) * each - held)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise PreflightError(
            f"{place}: {_size(free)} free, and the run will need {_size(needed)} there (checkpoints of {_size(each)}); "
            "set output (RUN) to a larger file system, free some space, or lower trainer.keep"
        )
    return f"disk: {_size(free)} free at {place}, {_size(needed)} needed"


def _size(count: float) -> str:
    """Bytes in a unit that leaves at most four digits before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 9999:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.0f} TB"


def main() -> int:
    """The command line; returns the exit code, 2 when something would stop the run."""
    told = (PreflightError, ConfigError, ConversionError, ExampleError)
    return command.run(_command, name="preflight", errors=told, status=2)


def _command() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.preflight", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the run, or GROUP=NAME")
    parser.add_argument(
        "--for", dest="stage", choices=_STAGES, default="grpo", help="what the run is (default: %(default)s)"
    )
    args = parser.parse_intermixed_args()
    config = load(args.overrides, _STAGES[args.stage])
    # Imported late, like what `check` imports.
    from recipes.rollout.prompts import DataError
    from recipes.rollout.scoring import RewardError
    from reward_server.client import RewardClientError
    from reward_server.process import RewardServerStartError

    try:
        for line in check(config, args.stage):
            print(f"ok  {line}")
    except (DataError, RewardError, RewardClientError, RewardServerStartError) as error:
        raise PreflightError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
