"""The sections of benchmarks/gpu.py that need no model: the machine's ceilings, attention, the vocabulary's loss."""

from __future__ import annotations

import random
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_cases import CASES, Bench, Case, device, engine, free, on_gpu, random_tensor
from recipes.engines.base import TokenSequence
from recipes.engines.core.batching import divide, fill, pack
from recipes.engines.core.vocabulary import token_logprobs

# Of the 70B shard: inner side, outer side of QKV, projection, gate with up, down.
_SHARD_PRODUCTS = {"qkv": (8192, 1280), "proj": (1024, 8192), "fc1": (8192, 7168), "fc2": (3584, 8192)}


def ceilings(bench: Bench) -> None:
    """What the card itself reaches: products, copies, launches."""
    side, tokens = (256, 128) if bench.small else (8192, 8192)
    bench.report("bf16_tflops", _product(bench, side, side, side))
    bench.report("fp8_tflops", _fp8_product(bench, side, side, side))
    count = 2**20 if bench.small else 2**31
    one, two = (torch.empty(count, dtype=torch.uint8, device=device()) for _ in range(2))
    bench.report("copy_gb_s", round(2 * count / bench.milliseconds(lambda: one.copy_(two)) / 1e6, 1))
    for kind, pinned in (("pinned", True), ("pageable", False)):
        host = torch.empty(count // 2, dtype=torch.uint8, pin_memory=pinned and on_gpu())
        for way, act in (
            ("to_host", lambda host=host: host.copy_(one[: len(host)])),
            ("to_device", lambda host=host: one[: len(host)].copy_(host)),
        ):
            rate = len(host) / bench.milliseconds(act, repeats=3) / 1e6
            bench.report(f"{kind}_{way}_gb_s", round(rate, 2))
    small = torch.zeros(8, device=device())
    bench.report("launch_us", round(1e3 * bench.milliseconds(lambda: small.add_(1), inner=200), 2))
    shrink = 32 if bench.small else 1
    for name, (inner, outer) in _SHARD_PRODUCTS.items():
        inner, outer = inner // shrink, outer // shrink
        bench.report(f"bf16_tflops_70B/8_{name}", _product(bench, tokens, inner, outer))
        bench.report(f"fp8_tflops_70B/8_{name}", _fp8_product(bench, tokens, inner, outer))


def _product(bench: Bench, rows: int, inner: int, columns: int) -> float:
    one, two = random_tensor(rows, inner), random_tensor(columns, inner)
    spent = bench.milliseconds(lambda: one @ two.t(), inner=1 if bench.small else 10)
    return round(2 * rows * inner * columns / spent / 1e9, 3)


def _fp8_product(bench: Bench, rows: int, inner: int, columns: int) -> float:
    one, two = (random_tensor(side, inner).to(torch.float8_e4m3fn) for side in (rows, columns))
    scale = torch.ones((), device=device())

    def act() -> Tensor:
        return torch._scaled_mm(one, two.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)

    return round(2 * rows * inner * columns / bench.milliseconds(act, inner=1 if bench.small else 10) / 1e9, 3)


# --- attention --------------------------------------------------------------------------------------------------------


def _groups(bench: Bench) -> list[TokenSequence]:
    """64 groups of 16: prompts of 512 tokens, responses of 400 to 3,000."""
    rng, scale = random.Random(0), 64 if bench.small else 1
    found = []
    for group in range(2 if bench.small else 64):
        prompt = tuple(rng.randrange(1000) + 1000 * group for _ in range(512 // scale))
        found += [TokenSequence((*prompt, *([7] * (rng.randint(400, 3000) // scale))), len(prompt)) for _ in range(16)]
    return found


def _share_layout(sequences: list[TokenSequence], shares: list[Any], length: int) -> tuple[Tensor, Tensor, float]:
    """Of each packed token its group and its response (0: the prompt, -1: nobody's), and the pairs that attend."""
    group, branch, pairs, cursor, number = torch.zeros(length), torch.full((length,), -1.0), 0.0, 0, 0
    for root, share in enumerate(shares):
        prompt = sequences[share.members[0]].prompt_length
        group[cursor : cursor + prompt], branch[cursor : cursor + prompt] = root, 0
        cursor, pairs = cursor + prompt, pairs + prompt * (prompt + 1) / 2
        for index in share.members:
            own, number = sequences[index].response_length - 1, number + 1
            group[cursor : cursor + own], branch[cursor : cursor + own] = root, number
            cursor, pairs = cursor + own, pairs + own * prompt + own * (own + 1) / 2
    return group.long(), branch.long(), pairs


def attention(bench: Bench) -> None:
    """Core attention of packed groups alone: ours, FlexAttention with the same mask, and every sequence for itself."""
    case = CASES["70B/8"]
    sequences, limit = _groups(bench), 256 if bench.small else 8192
    shares = divide(sequences, tokens=limit)
    bins = fill([share.cost for share in shares], range(len(shares)), tokens=limit)
    rng = random.Random(1)
    chosen = rng.sample(bins, 1 if bench.small else 6)
    bench.report("micro_batches", {"all": len(bins), "timed": len(chosen)})
    with engine(bench, Case(case.model, case.tensor, 1)) as found:
        module, architecture = found.sampler.attentions[0], found.architecture
        sizes = (architecture.num_attention_heads, architecture.num_query_groups, architecture.kv_channels)
        # Compiling takes seconds each time.
        for name, run, count in (("ours", _ours, 6), ("padded_sdpa", _padded, 6), ("flex", _flex, 3)):
            rows = []
            for bin_ in chosen[:count]:
                mine = [shares[i] for i in bin_]
                rows.append(run(bench, module, sequences, mine, limit, sizes))
                bench.report(name, _summed(rows, sizes))
            free()


def _summed(rows: list[dict[str, float]], sizes: tuple[int, int, int]) -> dict[str, float]:
    total = {key: sum(row[key] for row in rows) for key in ("forward_ms", "forward_backward_ms", "pairs")}
    work = 4 * sizes[0] * sizes[2] * total["pairs"]
    both = total["forward_backward_ms"]
    return {
        "micro_batches": len(rows),
        "first_ms": round(sum(row["first_ms"] for row in rows) / len(rows), 3),
        "forward_ms": round(total["forward_ms"] / len(rows), 4),
        "forward_backward_ms": round(both / len(rows), 4) if both else 0.0,
        "forward_tflops": round(work / total["forward_ms"] / 1e9, 3),
        "tflops": round(3.5 * work / both / 1e9, 3) if both else 0.0,
    }


def _timed(bench: Bench, inputs: list[Tensor], act: Any, pairs: float, *, backward: bool = True) -> dict[str, float]:
    grad = torch.ones_like(act())

    def both() -> None:
        torch.autograd.grad(act(), inputs, grad)

    with torch.no_grad():
        forward = bench.milliseconds(act, repeats=3)
    return {"forward_ms": forward, "forward_backward_ms": bench.milliseconds(both, repeats=3) if backward else 0.0} | {
        "pairs": pairs
    }


def _ours(bench: Bench, module: Any, sequences: Any, shares: Any, limit: int, sizes: Any) -> dict[str, float]:
    heads, groups, width = sizes
    packing = pack(sequences, shares, length=limit, where=device()).packing
    # Positions are another section's.
    packing.rotation = lambda x: x
    inputs = [random_tensor(limit, 1, count, width, grad=True) for count in (heads, groups, groups)]

    def act() -> Tensor:
        return module(*inputs, None, packed_seq_params=packing)

    pairs = _share_layout(sequences, shares, limit)[2]
    return {"first_ms": _first(act), **_timed(bench, inputs, act, pairs)}


def _flex(bench: Bench, _: Any, sequences: Any, shares: Any, limit: int, sizes: Any) -> dict[str, float]:
    heads, groups, width = sizes
    root, branch, pairs = _share_layout(sequences, shares, limit)
    root, branch = root.to(device()), branch.to(device())

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = (root[query] == root[key]) & ((branch[query] == branch[key]) | (branch[key] == 0))
        return (query == key) | (same & (branch[query] >= 0) & (query >= key))

    inputs = [random_tensor(1, count, limit, width, grad=on_gpu()) for count in (heads, groups, groups)]
    run = torch.compile(flex_attention, dynamic=False) if on_gpu() else flex_attention
    mask = create_block_mask(sees, None, None, limit, limit, device=device())

    def act() -> Tensor:
        return run(*inputs, block_mask=mask, enable_gqa=True)

    # FlexAttention has no backward pass on a CPU.
    found = {"first_ms": _first(act), **_timed(bench, inputs, act, pairs, backward=on_gpu())}

    def masked() -> Any:
        return create_block_mask(sees, None, None, limit, limit, device=device())

    bench.report("flex_mask_ms", bench.milliseconds(masked, repeats=3))
    return found


def _padded(bench: Bench, _: Any, sequences: Any, shares: Any, limit: int, sizes: Any) -> dict[str, float]:
    heads, groups, width = sizes
    rows = [sequences[index] for share in shares for index in share.members]
    longest = max(len(row.ids) for row in rows)
    inputs = [random_tensor(len(rows), count, longest, width, grad=True) for count in (heads, groups, groups)]

    def act() -> Tensor:
        return scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)

    return {"first_ms": _first(act), **_timed(bench, inputs, act, _share_layout(sequences, shares, limit)[2])}


def _first(act: Any) -> float:
    """Milliseconds of a first call, compilation and plans included."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


def new_shapes(bench: Bench) -> None:
    """Causal attention on twenty shapes that it has not met, with cuDNN's kernels allowed and without."""
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    for cudnn in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        first, second = [], []
        for number in range(2 if bench.small else 20):
            rows, columns = 3 + number, (16 if bench.small else 700) + 37 * number + int(cudnn)
            query, key, value = (random_tensor(rows, heads, columns, 128, grad=True) for heads in (8, 1, 1))

            def act(inputs: Any = (query, key, value)) -> None:
                out = scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)
                torch.autograd.grad(out, inputs, torch.ones_like(out))

            first.append(_first(act))
            second.append(_first(act))
        means = {"first_ms": sum(first) / len(first), "second_ms": sum(second) / len(second)}
        bench.report("with_cudnn" if cudnn else "without", {key: round(value, 3) for key, value in means.items()})
    torch.backends.cuda.enable_cudnn_sdp(allowed)


# --- vocabulary -------------------------------------------------------------------------------------------------------


def vocabulary(bench: Bench) -> None:
    """The chunked loss on 8,192 tokens and 128,256 entries, whole and a rank's eighth, and torch's with all logits."""
    tokens, entries, hidden = (64, 512, 32) if bench.small else (8192, 128256, 8192)
    group = dist.group.WORLD
    for name, width in (("whole", entries), ("eighth", entries // 8)):
        states, weight = random_tensor(tokens, hidden, grad=True), random_tensor(width, hidden, grad=True)
        targets = torch.randint(0, width, (tokens,), device=device())

        def chunked(inputs: Any = (states, weight), targets: Tensor = targets, width: int = width) -> None:
            values = token_logprobs(*inputs, targets, temperature=1.0, valid=width, group=group)
            torch.autograd.grad(values[0].sum(), inputs)

        def plain(inputs: Any = (states, weight), targets: Tensor = targets) -> None:
            logits = (inputs[0] @ inputs[1].t()).float()
            torch.autograd.grad(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), inputs)

        for kind, act in (("chunked", chunked), ("plain", plain)):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            spent = bench.milliseconds(act, repeats=3)
            bench.report(
                f"{name}_{kind}",
                {
                    "ms": spent,
                    "tflops": round(6 * tokens * width * hidden / spent / 1e9, 3),
                    "peak_gb": round((torch.cuda.max_memory_allocated() - before) / 1e9, 3),
                },
            )
        del states, weight, chunked, plain
        free()
