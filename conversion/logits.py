"""Float32 logits of a model folder in either format, each by its own library, and how far two of them are apart.

`python -m conversion.logits FOLDER TOKENS OUT`: TOKENS is a JSON list of token id lists, OUT a folder that gets
`<i>.npy`, float32 [positions, vocabulary], for each: its last 256 positions at most. A Hugging Face folder is computed
by transformers, a Megatron checkpoint by megatron-core's GPTModel with its local layers. Each runs on the CPU in a
process of its own: the two change torch in ways that do not mix, and the memory of one is given back before the other
starts.

Where config.json scales rotary positions or speaks of a window, on or off, one sequence of all prompts is added that
goes on until 256 positions lie beyond 4,096: what was misread there is invisible in a short prompt.

Left out: models that do not fit into memory in float32, and bfloat16, whose rounding hides what is looked for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conversion import command
from conversion.checkpoint import MANIFEST_FILE, open_checkpoint, read_config
from conversion.errors import ConversionError
from conversion.families import family_for

if TYPE_CHECKING:
    import torch

DEADLINE_S = 3600
# Positions compared of a sequence; and the length of the one that reaches beyond every published window's usual 4,096.
MAX_TOKENS = 256
FAR_TOKENS = 4096 + MAX_TOKENS
TOLERANCE = 1e-4
# A process that torchrun or Slurm started must not hand its rank down: transformers would shard the model by it.
_NOT_INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


class LogitsError(ConversionError):
    """Logits could not be computed; the message holds what the library said."""


@dataclass(frozen=True)
class LogitsComparison:
    """How two models differ on the same tokens.

    Attributes:
        tokens: positions compared, over all prompts.
        max_abs_difference: largest absolute difference of a logit.
        max_kl: largest Kullback-Leibler divergence of one position's distributions, in nats.
        argmax_agreement: share of positions at which both prefer the same token.
        furthest: the largest position compared, counted from one.
        agrees: whether the difference is that of float32 rounding alone: 1e-4 in a sequence of 256 tokens, and in a
            longer one as many times that as it is longer, since so grows the rounding of a rotary angle. Positions
            interpolated by a factor of 2.5 differ by 2e-4 at 4,352 because megatron-core divides the position and
            transformers the frequency.
    """

    tokens: int
    max_abs_difference: float
    max_kl: float
    argmax_agreement: float
    furthest: int
    agrees: bool


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: a JSON object a line with `question`, `prompt` or `text`, or else plain lines.

    Raises ConversionError naming the file and line.
    """
    prompts = []
    try:
        # splitlines would divide a text at U+2028 and its like, which JSON does not escape.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path}: cannot be read ({error}); give a file of prompts, one a line") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            prompts.append(line)
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConversionError(f"{path}:{number}: not valid JSON ({error})") from error
        text = next((row[key] for key in ("question", "prompt", "text") if isinstance(row.get(key), str)), None)
        if text is None:
            raise ConversionError(f"{path}:{number}: no question, prompt or text in this row; name one of them so")
        prompts.append(text)
    if not prompts:
        raise ConversionError(f"{path}: holds no prompt; give a file with one a line")
    return prompts


def compare_logits(a: Path, b: Path, prompts: Sequence[str]) -> LogitsComparison:
    """Compare the logits of two folders at every position of the prompts, tokenised by the tokenizer of `a`.

    Of each prompt the first 256 tokens count, and where `HfConfig.far_positions_differ` also 256 positions beyond 4,096
    of all prompts in one. The vocabulary is that of config.json, without padding.

    Raises LogitsError when a library cannot load or compute a side, ConversionError for its config.json.
    """
    import numpy as np
    import torch

    sequences = _tokenise(a, prompts)
    if not sequences:
        raise LogitsError(f"{a}: its tokenizer makes no token of any prompt; give others, or repair the tokenizer")
    if any(_far_positions_differ(folder) for folder in (a, b)):
        joined = [token for sequence in sequences for token in sequence]
        sequences.append((joined * (FAR_TOKENS // len(joined) + 1))[:FAR_TOKENS])
    largest, divergence, agreed, count, agrees = 0.0, 0.0, 0, 0, True
    with _logits(a, sequences) as left, _logits(b, sequences) as right:
        for i, ids in enumerate(sequences):
            x, y = (torch.from_numpy(np.load(folder / f"{i}.npy")) for folder in (left, right))
            if x.shape != y.shape:
                raise LogitsError(f"logits of shape {tuple(x.shape)} from {a} and {tuple(y.shape)} from {b}")
            p, q = x.double().log_softmax(-1), y.double().log_softmax(-1)
            difference = float((x - y).abs().max())
            agrees &= difference <= TOLERANCE * max(1.0, len(ids) / MAX_TOKENS)
            largest = max(largest, difference)
            divergence = max(divergence, float((p.exp() * (p - q)).sum(-1).max()))
            agreed += int((x.argmax(-1) == y.argmax(-1)).sum())
            count += len(x)
    return LogitsComparison(count, largest, divergence, agreed / count, max(map(len, sequences)), agrees)


def _hf_files(folder: Path) -> Path:
    """Where config.json and tokenizer are."""
    return open_checkpoint(folder).hf_dir if (folder / MANIFEST_FILE).exists() else folder


def _far_positions_differ(folder: Path) -> bool:
    config = read_config(_hf_files(folder))
    return family_for(config).read(config).far_positions_differ


def _tokenise(folder: Path, prompts: Sequence[str]) -> list[list[int]]:
    from transformers import AutoTokenizer

    source = _hf_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except Exception as error:  # transformers raises nearly anything for a folder it cannot read
        raise LogitsError(f"{source}: its tokenizer does not load ({error})") from error
    encoded: list[list[int]] = tokenizer(list(prompts)).input_ids
    return [ids[:MAX_TOKENS] for ids in encoded if ids]


@contextmanager
def _logits(folder: Path, sequences: list[list[int]]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="logits-") as scratch:
        tokens, out = Path(scratch) / "tokens.json", Path(scratch) / "out"
        tokens.write_text(json.dumps(sequences))
        out.mkdir()
        environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED and not k.startswith("SLURM_")}
        environment |= {"MEDATRON_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "conversion.logits", str(folder), str(tokens), str(out)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise LogitsError(f"{folder}: its logits took more than {DEADLINE_S} s; compare fewer prompts") from None
        if done.returncode:
            raise LogitsError(f"{folder}: its logits could not be computed: {_end(done.stderr)}")
        yield out


def _end(text: str) -> str:
    """The last lines of a traceback, the one that names the error among them."""
    return "\n".join(text.strip().splitlines()[-12:])


def _transformers_logits(folder: Path, sequences: list[list[int]]) -> Iterator[torch.Tensor]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    for ids in sequences:
        yield model(torch.tensor([ids]), logits_to_keep=MAX_TOKENS).logits[0]


def _megatron_logits(folder: Path, sequences: list[list[int]]) -> Iterator[torch.Tensor]:
    import torch

    from conversion import megatron_cpu

    megatron_cpu.install()
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer.transformer_config import TransformerConfig

    from conversion import megatron_model, unpickling

    checkpoint = open_checkpoint(folder)
    architecture = checkpoint.architecture
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(0)
    config = TransformerConfig(
        **megatron_model.transformer_arguments(architecture),
        **megatron_model.NO_FUSION,
        use_cpu_initialization=True,
        perform_initialization=False,
    )
    model = GPTModel(
        **megatron_model.gpt_arguments(architecture, tensor_parallel=1),
        config=config,
        transformer_layer_spec=megatron_model.local_layer_spec(architecture),
        max_sequence_length=FAR_TOKENS,
    ).eval()
    model.load_state_dict(unpickling.load(model.sharded_state_dict(), checkpoint.model_dir), strict=False)
    for ids in sequences:
        length = len(ids)
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)[None, None]
        logits: torch.Tensor = model(torch.tensor([ids]), torch.arange(length)[None], mask)
        yield logits[0, -MAX_TOKENS:, : architecture.vocab_size]


def main() -> None:
    """Writes the logits of one folder; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m conversion.logits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("folder", "tokens", "out"):
        parser.add_argument(name, metavar=name.upper(), type=command.path_argument)
    args = parser.parse_args()
    import numpy as np
    import torch

    sequences = json.loads(args.tokens.read_text())
    if (args.folder / MANIFEST_FILE).exists():
        results = _megatron_logits(args.folder, sequences)
    else:
        read_config(args.folder)
        results = _transformers_logits(args.folder, sequences)
    with torch.no_grad():
        for i, logits in enumerate(results):
            np.save(args.out / f"{i}.npy", logits.float().numpy())


if __name__ == "__main__":
    sys.exit(command.run(main))
