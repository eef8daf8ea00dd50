"""Time and memory of the conversion in both directions, against copying the same bytes.

    python benchmarks/conversion.py [--sizes 0.5b 3b] [--folder runs/conversion]

For each size a random-weight model of the Qwen2.5 shape is written in bfloat16 as a sharded Hugging Face folder. Then
each direction is timed in turn with `cp` and `sync` of its source, as commands from start to exit and with a `sync` at
the end of each; the source's pages are dropped from the page cache before every timed command. Needs four times the
size of the model on disk (24 GB for 3b).

The last line is one JSON object: `ratio_to_cp` (the worse direction's seconds over those of cp and sync, largest size),
`peak_rss_gib` (largest resident memory of a conversion, largest size; it is one process), `sizes` (per size: `gib` of
weights, and per direction `seconds`, `cp_seconds`, `ratio`, `peak_rss_gib`), and where there are several sizes `growth`
(largest over smallest: of `bytes`, `seconds` and `peak_rss`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

GIB = 2**30
SHAPES = {
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16},
}
COMMON = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}


class Row(TypedDict):
    """What was measured of one size: GiB of weights, and the figures of each direction."""

    size: str
    gib: float
    to_megatron: dict[str, float]
    to_hf: dict[str, float]


def make_model(folder: Path, size: str) -> None:
    """A Hugging Face folder of random weights, written tensor by tensor."""
    # This file has the name of the package that it measures, and its folder comes first.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import torch

    from conversion.families import family_for
    from conversion.hf_folder import plan_shards, write_index
    from conversion.safetensors_io import SafetensorsWriter

    config = {**COMMON, **SHAPES[size]}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(sys.path[0]) / "recipes" / "data" / "tiny_base" / name, folder)
    family = family_for(config)
    entries = list(family.entries(family.megatron_architecture(config)))
    shards = plan_shards(entries, torch.bfloat16, 5 * 1000**3)
    for shard in shards:
        with SafetensorsWriter(folder / shard.file, shard.shapes, torch.bfloat16) as writer:
            for name, shape in shard.shapes.items():
                writer.add(name, torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.05, 0.05))
    write_index(folder, shards, torch.bfloat16)
    os.sync()


def drop_from_cache(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def timed(command: list[str], source: Path) -> tuple[float, float]:
    """Seconds of a command and the sync after it, and the command's peak resident memory in GiB."""
    os.sync()
    drop_from_cache(source)
    began = time.perf_counter()
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    os.sync()
    seconds = time.perf_counter() - began
    if status:
        sys.exit(f"{' '.join(command)}: failed; run it by hand to see why")
    return seconds, usage.ru_maxrss * 1024 / GIB


def direction(module: str, source: Path, target: Path) -> dict[str, float]:
    copy = target.with_name("copy")
    cp_seconds, _ = timed(["cp", "-r", str(source), str(copy)], source)
    shutil.rmtree(copy)
    seconds, peak = timed([sys.executable, "-m", f"conversion.{module}", str(source), str(target)], source)
    result = {"seconds": seconds, "cp_seconds": cp_seconds, "ratio": seconds / cp_seconds, "peak_rss_gib": peak}
    print(module, {key: round(value, 2) for key, value in result.items()}, flush=True)
    return result


def measure(folder: Path, size: str) -> Row:
    source, megatron, back = folder / "huggingface", folder / "megatron", folder / "back"
    # In a process of its own: the kernel counts what this one holds when it starts a command as the command's.
    subprocess.run([sys.executable, __file__, "--make", str(source), "--sizes", size], check=True)
    gib = sum(file.stat().st_size for file in source.iterdir()) / GIB
    print(f"{size}: {gib:.2f} GiB", flush=True)
    there = direction("hf_to_megatron", source, megatron)
    return {"size": size, "gib": gib, "to_megatron": there, "to_hf": direction("megatron_to_hf", megatron, back)}


def worst(row: Row, key: str) -> float:
    return max(row["to_megatron"][key], row["to_hf"][key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["0.5b", "3b"])
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="only write the model of the first size here")
    parser.add_argument("--folder", type=Path, default=Path("runs/conversion"), help="scratch, deleted afterwards")
    args = parser.parse_args()
    if args.make:
        make_model(args.make, args.sizes[0])
        return
    rows = []
    for size in args.sizes:
        try:
            rows.append(measure(args.folder / size, size))
        finally:
            shutil.rmtree(args.folder / size, ignore_errors=True)
    result: dict[str, object] = {
        "ratio_to_cp": round(worst(rows[-1], "ratio"), 2),
        "peak_rss_gib": round(worst(rows[-1], "peak_rss_gib"), 2),
        "sizes": rows,
    }
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        result["growth"] = {
            "bytes": round(last["gib"] / first["gib"], 2),
            "seconds": round(worst(last, "seconds") / worst(first, "seconds"), 2),
            "peak_rss": round(worst(last, "peak_rss_gib") / worst(first, "peak_rss_gib"), 2),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
