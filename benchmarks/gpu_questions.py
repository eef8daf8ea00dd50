"""The section `questions` of benchmarks/gpu.py: choices in the engine that only a GPU decides, timed both ways."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_cases import CASES, Bench, Case, device, engine, loss_of, micro_batch, on_gpu, random_tensor
from recipes.engines.base import Sampling
from recipes.engines.core.host_copy import HostCopy
from recipes.engines.core.kernels import Flash, PlainBlocks, attend, kernel_for
from recipes.engines.core.pieces import lay_out
from recipes.engines.core.products import float32_product
from recipes.engines.core.rotary import RotaryTable, Rotation

_SHARD = Case("Llama-3.1-70B", 8, 4)


def questions(bench: Bench) -> None:
    """Every question for itself: one that fails says so in its place."""
    for ask in (
        flash_is_right,
        deterministic_backward,
        rotary_kernel,
        weight_gradients_in_the_product,
        looks_at_ended_rows,
        repeated_keys,
        pinned_swap,
        float32_scores,
        float32_logits,
        fork_beside_pinned_memory,
    ):
        try:
            bench.report(ask.__name__, ask(bench))
        except Exception as error:
            bench.report(ask.__name__, {"error": f"{type(error).__name__}: {error}"[:600]})


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Size of the difference as a share of the size of what was wanted."""
    return round(float((found.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-30)), 6)


class _Row:
    """Two groups in one packed row: a prompt under four responses each."""

    def __init__(self, bench: Bench, heads: int, groups: int) -> None:
        width = 16 if bench.small else 128
        prompts, answers = ([8, 5], [[7, 9, 3, 1]] * 2) if bench.small else ([512, 300], [[900, 1300, 400, 1200]] * 2)
        tokens = sum(prompts) + sum(map(sum, answers))
        self.parts, self.scale = lay_out(prompts, answers, device()), width**-0.5
        self.inputs = [random_tensor(tokens, count, width, grad=True) for count in (heads, groups, groups)]
        self.kernel: Any = Flash() if on_gpu() else kernel_for(self.inputs[0])

    def run(self, inputs: list[Tensor] | None = None, kernel: Any = None) -> list[Tensor]:
        """Output and the three gradients."""
        used = inputs or self.inputs
        out = attend(used[0], used[1], used[2], self.parts, self.scale, kernel or self.kernel)
        return [out, *torch.autograd.grad(out, used, torch.ones_like(out))]


def flash_is_right(bench: Bench) -> dict[str, Any]:
    """FlashAttention of a packed row in bfloat16 against scores written out in float32: rounding, at most 1e-2."""
    row = _Row(bench, 8, 1)
    wide = [x.detach().float().requires_grad_() for x in row.inputs]
    pairs = zip(row.run(), row.run(wide, PlainBlocks()), strict=True)
    return dict(zip(("out", "query", "key", "value"), (_difference(*pair) for pair in pairs), strict=True))


def deterministic_backward(bench: Bench) -> dict[str, Any]:
    """Two equal backward passes: are they equal to the last bit, and what would it cost to have them so?"""
    row, found = _Row(bench, 8, 1), {}
    for name, wanted in (("as it is", False), ("deterministic", True)):
        torch.use_deterministic_algorithms(wanted, warn_only=True)
        try:
            equal = all(torch.equal(a, b) for a, b in zip(row.run(), row.run(), strict=True))
            found[name] = {"ms": bench.milliseconds(row.run), "equal": equal}
        finally:
            torch.use_deterministic_algorithms(False)
    return found


def repeated_keys(bench: Bench) -> dict[str, Any]:
    """Grouped queries in the kernel against keys and values repeated for it."""
    found = {}
    for heads, groups in ((8, 1), (64, 8)):
        row = _Row(bench, heads, groups)

        def repeated(row: Any = row, times: int = heads // groups) -> list[Tensor]:
            query, key, value = row.inputs
            return row.run([query, key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)])

        found[f"{heads}/{groups}"] = {
            "grouped_ms": bench.milliseconds(row.run),
            "repeated_ms": bench.milliseconds(repeated),
        }
    return found


def rotary_kernel(bench: Bench) -> dict[str, Any]:
    """What the engine turns queries by (Transformer Engine's kernel where it is) against three operations of torch."""
    found = {}
    with engine(bench, Case(_SHARD.model, _SHARD.tensor, 1)) as made:
        inner, width = made.stage.model.rotary_pos_emb, made.architecture.kv_channels
        length = made.config.model.max_length
        angles = inner.get_emb(length).detach()[:, 0, 0].float()
        sines = angles.sin()
        sines[:, : width // 2].neg_()
        tables = {"cosines": angles.cos().bfloat16(), "sines": sines.bfloat16()}
        for name, shape in (("training", (length, 1, 64)), ("decoding", (1, 512, 8))):
            x = random_tensor(*shape, width)
            positions = torch.arange(shape[0] * shape[1], device=device()).view(shape[0], shape[1]) % length
            ours = RotaryTable(inner, length, torch.bfloat16).at(positions)
            plain = Rotation(**{key: table[positions][:, :, None] for key, table in tables.items()})
            found[name] = {
                "ours_ms": bench.milliseconds(lambda ours=ours, x=x: ours(x), inner=10),
                "plain_ms": bench.milliseconds(lambda plain=plain, x=x: plain(x), inner=10),
                "difference": _difference(ours(x), plain(x)),
            }
    return found


def float32_scores(bench: Bench) -> dict[str, Any]:
    """Scores of decoding with float32 results, against bfloat16 results converted."""
    rows, filled = (4, 16) if bench.small else (512, 2000)
    query, keys = random_tensor(rows, 1, 8, 128), random_tensor(rows, 1, filled, 128)
    return _both_products(bench, query, keys.transpose(-1, -2))


def float32_logits(bench: Bench) -> dict[str, Any]:
    """The same for a chunk of logits at a rank's eighth of 128,256 entries."""
    rows, inner, entries = (16, 32, 64) if bench.small else (8192, 8192, 16032)
    return _both_products(bench, random_tensor(rows, inner), random_tensor(entries, inner).t())


def _both_products(bench: Bench, one: Tensor, two: Tensor) -> dict[str, Any]:
    return {
        "float32_ms": bench.milliseconds(lambda: float32_product(one, two), inner=3),
        "converted_ms": bench.milliseconds(lambda: (one @ two).float(), inner=3),
        "difference": _difference((one @ two).float(), float32_product(one, two)),
    }


def looks_at_ended_rows(bench: Bench) -> dict[str, Any]:
    """Whether rows have ended, asked every eighth token and every token: milliseconds a layer and token."""
    found: dict[str, Any] = {}
    short, long = (2, 6) if bench.small else (8, 56)
    with engine(bench, _SHARD) as made:
        prompts = [[5 + number] * (8 if bench.small else 256) for number in range(2 if bench.small else 8)]
        ids = []
        for every in (8, 1):
            made.sampler.look_every = every

            def sample(tokens: int, made: Any = made) -> Any:
                return made.generate(prompts, Sampling(8, 1.0, tokens, (3,)))

            spent = [bench.milliseconds(lambda tokens=tokens: sample(tokens), repeats=3) for tokens in (long, short)]
            found[f"every {every}"] = round((spent[0] - spent[1]) / (long - short) / made.architecture.num_layers, 5)
            ids.append([[c.ids for c in group] for group in sample(long)])
        found["equal"] = ids[0] == ids[1]
    return found


def pinned_swap(bench: Bench) -> dict[str, Any]:
    """Weights that change places with their copy in pinned and in pageable host memory: GB/s of both ways together."""
    count, size = (2, 2**10) if bench.small else (16, 2**26)
    tensors, found = [random_tensor(size) for _ in range(count)], {}
    for name, pin in (("pinned", True), ("pageable", False)):
        copy = HostCopy(tensors, pin=pin and on_gpu())
        spent = bench.milliseconds(lambda copy=copy: copy.swap(tensors), repeats=3)
        found[f"{name}_gb_s"] = round(2 * 2 * count * size / spent / 1e6, 3)
    return found


def fork_beside_pinned_memory(bench: Bench) -> dict[str, Any]:
    """Whether a fork, as saves make them, copies a reference policy in pinned memory: seconds, and bytes of its own."""
    count, size = (2, 2**10) if bench.small else (16, 2**28)
    found: dict[str, Any] = {}
    for name, pin in (("pinned", True), ("pageable", False)):
        held = HostCopy([random_tensor(size) for _ in range(count)], pin=pin and on_gpu())
        reader, writer = os.pipe()
        began = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os.write(writer, str(_private_bytes()).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        spent = time.perf_counter() - began
        found[name] = {"s": round(spent, 4), "private_gb": round(int(os.read(reader, 32)) / 1e9, 3)}
        os.close(reader)
        os.close(writer)
        del held
    return found


def _private_bytes() -> int:
    """Bytes that this process shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


def weight_gradients_in_the_product(bench: Bench) -> dict[str, Any]:
    """Transformer Engine adding weight gradients up in the product, as built, and writing them out first."""
    found: dict[str, Any] = {}
    with engine(bench, CASES["70B/8"]) as made:
        batch = micro_batch(bench, made.architecture.vocab_size)
        loss = loss_of(batch)

        def step() -> dict[str, float]:
            # At a rate of 0 both start from the same weights.
            return made.train_step(batch, loss, learning_rate=0.0, reference=False)

        parts = [part for part in made.module.modules() if hasattr(part, "fuse_wgrad_accumulation")]
        found["modules"] = len(parts)
        for name, fused in (("as built", None), ("written out", False)):
            for part in parts if fused is not None else ():
                part.fuse_wgrad_accumulation = fused
            found[name] = {"step_ms": bench.milliseconds(step, repeats=3), "grad_norm": step()["grad_norm"]}
    return found
