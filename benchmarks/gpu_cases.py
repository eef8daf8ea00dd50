"""What sections of benchmarks/gpu.py share: shapes, a micro-batch, engines with random weights, clock and profile."""

from __future__ import annotations

import gc
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion import megatron_cpu

megatron_cpu.install()

import torch  # noqa: E402
from torch.autograd import DeviceType  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from conversion.checkpoint import HF_DIR, MANIFEST_FILE, MODEL_DIR, FileRecord, Manifest, Source  # noqa: E402
from conversion.families import family_for  # noqa: E402
from recipes.engines.base import TokenBatch, TokenSequence  # noqa: E402
from recipes.engines.core import state  # noqa: E402
from recipes.engines.megatron.engine import MegatronEngine  # noqa: E402
from recipes.planning.architectures import PUBLISHED, layer_matrices  # noqa: E402
from recipes.rl.losses import Loss, Objective, policy_loss  # noqa: E402
from recipes.runtime.loading import load  # noqa: E402
from recipes.runtime.platform import device, on_gpu  # noqa: E402

_QWEN = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32768, "tie_word_embeddings": True}
_SMALL = {
    name: dict(
        zip(
            ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
            sizes,
            strict=True,
        )
    )
    | {"model_type": "qwen2", "vocab_size": 151936, **_QWEN}
    for name, sizes in {"Qwen2.5-0.5B": (896, 24, 14, 2, 4864), "Qwen2.5-1.5B": (1536, 28, 12, 2, 8960)}.items()
}
_MODELS = {**_SMALL, **PUBLISHED}


@dataclass(frozen=True)
class Case:
    """A model whole, or `layers` layers of one rank of a layout with tensor parallel size `tensor`."""

    model: str
    tensor: int = 1
    layers: int | None = None

    def config(self, *, small: bool) -> dict[str, Any]:
        """As a Hugging Face config.json; `small` keeps the form and none of the size."""
        whole = _MODELS[self.model]
        heads, hidden = whole["num_attention_heads"], whole["hidden_size"]
        found = {**whole, "head_dim": whole.get("head_dim", hidden // heads)}
        for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
            found[key] = whole[key] // self.tensor
        found["num_hidden_layers"] = self.layers or whole["num_hidden_layers"]
        if small:
            groups = found["num_key_value_heads"]
            found |= {"hidden_size": 64, "head_dim": 16, "num_hidden_layers": 2, "intermediate_size": 96}
            found |= {"vocab_size": 1024, "num_attention_heads": groups * 2}
        return found


# Models whole, and shards of four layers at tensor 8, which 7B's 28 heads do not divide by: its layout has 4.
CASES = {
    "70B/8": Case("Llama-3.1-70B", 8, 4),
    "3B": Case("Qwen2.5-3B"),
    "32B/8": Case("Qwen2.5-32B", 8, 4),
    "7B/4": Case("Qwen2.5-7B", 4, 4),
    "1.5B": Case("Qwen2.5-1.5B"),
    "0.5B": Case("Qwen2.5-0.5B"),
}
# A prompt and its responses: with the last token of each left out, 8192 in all.
_PROMPT, _RESPONSES = 512, (401, 701, 1001, 1301, 1601, 2681)


class Bench:
    """Where a section reports to, and whether it is to be small.

    Attributes:
        small: tiny shapes and single repetitions, for a walk on a CPU.
        folder: for profiles and checkpoints.
    """

    def __init__(self, folder: Path, *, small: bool) -> None:
        self.folder, self.small = folder, small
        self._section = ""
        self._log = (folder / "events.jsonl").open("a")

    def event(self, kind: str, section: str, **more: Any) -> None:
        """Writes down what happened; the parent process reads it even if this one does not live to the end."""
        self._section = section
        self._log.write(json.dumps({"event": kind, "section": section, **more}) + "\n")
        self._log.flush()

    def report(self, name: str, value: Any) -> None:
        """One figure or table of the section under way."""
        self.event("figure", self._section, name=name, value=value)

    def milliseconds(self, act: Callable[[], Any], *, repeats: int = 5, inner: int = 1) -> float:
        """Median time of a call that leaves its work on the device, after two calls that warm up."""
        for _ in range(1 if self.small else 2):
            act()
        found = []
        for _ in range(1 if self.small else repeats):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(inner):
                act()
            torch.cuda.synchronize()
            found.append((time.perf_counter() - began) / inner)
        return round(1e3 * statistics.median(found), 4)

    def profiled(self, act: Callable[[], Any], name: str) -> dict[str, Any]:
        """Milliseconds and number of a call's kernels by kind; the dearest of them go to `profile-NAME.txt`."""
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu() else [])]
        with profile(activities=activities) as recorded:
            act()
            torch.cuda.synchronize()
        order = "self_cuda_time_total" if on_gpu() else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=90)
        (self.folder / f"profile-{name.replace('/', '-').replace(' ', '-')}.txt").write_text(table)
        wanted = DeviceType.CUDA if on_gpu() else DeviceType.CPU
        found: dict[str, Any] = {}
        for event in recorded.events():
            # Ranges that somebody named lie over the kernels.
            if event.device_type != wanted or event.is_user_annotation:
                continue
            spent = event.time_range.elapsed_us() if on_gpu() else event.self_cpu_time_total
            row = found.setdefault(_kind(event.name), {"ms": 0.0, "kernels": 0})
            row["ms"], row["kernels"] = round(row["ms"] + spent / 1e3, 4), row["kernels"] + 1
        return found


def _kind(kernel: str) -> str:
    """Attention first: its kernels' names tell of the templates for matrix products that they are made of."""
    name = kernel.lower()
    if any(word in name for word in ("flash", "fmha", "attention", "sdpa", "flex")):
        return "attention"
    if any(word in name for word in ("gemm", "nvjet", "xmma", "cutlass", "aten::mm", "aten::bmm", "aten::addmm")):
        return "products"
    return "copies" if "memcpy" in name or "memset" in name else "other"


def checkpoint(bench: Bench, case: Case) -> Path:
    """A checkpoint folder without a weight in it."""
    config = case.config(small=bench.small)
    folder = bench.folder / "checkpoints" / case.model / f"{case.tensor}-{case.layers}"
    if (folder / MANIFEST_FILE).exists():
        return folder
    (folder / HF_DIR).mkdir(parents=True)
    (folder / MODEL_DIR).mkdir()
    (folder / HF_DIR / "config.json").write_text(json.dumps(config))
    files = {f"{HF_DIR}/config.json": FileRecord((folder / HF_DIR / "config.json").stat().st_size)}
    manifest = Manifest(family_for(config).name, "bfloat16", 0, 0, Source("random", "bfloat16", {}), files)
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return folder


@torch.no_grad()
def _draw_weights(module: Any, _: Any) -> None:
    """In place of `state.load_weights`: what training starts from, drawn where it is to lie."""
    for name, parameter in module.named_parameters():
        if "norm" in name:
            parameter.fill_(1.0)
        elif parameter.dim() == 1:
            parameter.zero_()
        else:
            parameter.normal_(std=0.02)


def settings(bench: Bench, path: Path, *more: str) -> Any:
    """The configuration of a run of one rank in bfloat16."""
    limit = 256 if bench.small else 8192
    lengths = [f"model.max_length={limit}", f"parallel.micro_batch_tokens={limit}", "rollout.max_new_tokens=128"]
    return load([f"output={bench.folder}", f"model.path={path}", "model.precision=bfloat16", *lengths, *more])


@contextmanager
def engine(bench: Bench, case: Case, *more: str) -> Iterator[MegatronEngine]:
    """The engine on random weights; its memory is free again afterwards."""
    read = state.load_weights
    state.load_weights = _draw_weights
    try:
        found = MegatronEngine(settings(bench, checkpoint(bench, case), "algorithm.kl_coef=0.0", *more))
    finally:
        state.load_weights = read
    try:
        yield found
    finally:
        for held in ("sampler", "passes", "stage", "optimizer", "model", "module", "reference"):
            setattr(found, held, None)
        free()


def free() -> None:
    """Gives back what nobody holds; engines hold themselves in circles."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def micro_batch(bench: Bench, vocabulary: int) -> TokenBatch:
    """A group that fills one micro-batch of 8,192 tokens (128 when small)."""
    rng, scale = random.Random(0), 64 if bench.small else 1
    prompt = tuple(rng.randrange(vocabulary) for _ in range(_PROMPT // scale))
    sequences = []
    for number, length in enumerate(_RESPONSES):
        count = max(2, length // scale)
        response = tuple(rng.randrange(vocabulary) for _ in range(count))
        sequences.append(
            TokenSequence(
                (*prompt, *response),
                len(prompt),
                advantages=(1.0 - number / 3,) * count,
                old_logprobs=(-11.0,) * count,
            )
        )
    return TokenBatch(tuple(sequences))


def loss_of(batch: TokenBatch) -> Loss:
    """GRPO's."""
    return policy_loss(Objective(), tokens=batch.response_tokens, sequences=len(batch.sequences))


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one pass forward over a batch that is one group: what must be, nothing twice."""

    products: float
    attention: float
    output: float
    tokens: int

    @property
    def training(self) -> float:
        """Forward and backward: matrix products two times again, attention 2.5 times (arXiv 2307.08691)."""
        return 3 * (self.products + self.output) + 3.5 * self.attention


def work(architecture: Any, batch: TokenBatch) -> Work:
    """Of the layers' products, attention, and the products with the output matrix at response tokens alone."""
    prompt = batch.sequences[0].prompt_length
    own = [sequence.response_length - 1 for sequence in batch.sequences]
    tokens = prompt + sum(own)
    pairs = prompt * (prompt + 1) / 2 + sum(count * prompt + count * (count + 1) / 2 for count in own)
    layers = architecture.num_layers
    return Work(
        products=2.0 * layers * layer_matrices(architecture) * tokens,
        attention=4.0 * layers * architecture.dimension("query") * pairs,
        output=2.0 * architecture.vocab_size * architecture.hidden_size * batch.response_tokens,
        tokens=tokens,
    )


def random_tensor(*shape: int, grad: bool = False) -> torch.Tensor:
    """Normal numbers in bfloat16 on the device."""
    return torch.randn(*shape, device=device(), dtype=torch.bfloat16).requires_grad_(grad)
