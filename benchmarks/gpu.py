"""What one GPU does with this code: the card's own ceilings, training steps, attention, sampling, saves and loads.

    python benchmarks/gpu.py [--output runs/gpu] [--seconds 270] [--sections train sampler]
    python benchmarks/gpu.py --dry-run            every section on a CPU at tiny shapes; its figures mean nothing
    python benchmarks/gpu.py --table gpu.json     lines of docs/gpu_results.md from an earlier result; measures nothing

Sections run one after another in a process of their own, the most important first, each with a time limit; one that
fails, hangs or kills the process costs the others nothing. OUTPUT/gpu.json is written anew after every figure and holds
what there is when it is cut off; beside it lie `profile-*.txt`, the dearest kernels of what was traced, and
`worker.log`. The same object is the last line of the output; the exit code is 1 where one was not done:

    date, card, torch, cuda, transformer_engine, revision, command, dry_run, seconds
    sections          by name: `seconds` it took, its figures, and `problem` where it was not done:
      ceilings        `bf16_tflops`, `fp8_tflops` of products of side 8192, and at the products of a 70B shard;
                      `copy_gb_s` read and written on the card; `pinned_` and `pageable_` copies `_to_host_gb_s`,
                      `_to_device_gb_s`; `launch_us` of one small kernel from Python
      train           by shape and precision: an optimizer step on one packed micro-batch of 8,192 tokens, a prompt of
                      512 under six responses. Shapes: models whole, and four layers of a tensor parallel shard (70B/8
                      is Llama-3.1-70B at tensor 8; 7B's heads divide by 4 alone). `step_ms`, `forward_ms` without
                      gradient, `optimizer_ms`; `tflops` of the step without the optimizer and `step_tflops` of all of
                      it, recomputation not counted; `share` of the measured bfloat16 ceiling that `tflops` is;
                      `product_tflop`, `attention_tflop` of one step; `peak_gb` of torch beside `planned_gb`;
                      `outside_torch_gb`; `kernels`, their `ms` and number by kind
      sampler         by shape and rows: `token_ms`, `layer_token_ms`, and kernels a layer and token. There are no CUDA
                      graphs of a decoding step to compare with
      questions       choices in the engine, each timed both ways: gpu_questions.py says which
      attention       70B/8's heads on micro-batches of 64 groups of 16 (prompts of 512, responses of 400 to 3,000
                      tokens): `ours`, `flex` (FlexAttention, compiled, the same mask; `flex_mask_ms` for making that),
                      `padded_sdpa` (every sequence for itself). Milliseconds a micro-batch; `tflops` of the pairs that
                      must be computed
      host            `swap` of policy and reference weights, `save` beside training
      new_shapes      first and second call of attention on shapes not met before, with cuDNN's kernels and without
      vocabulary      the loss over 128,256 entries in chunks, and torch's with all logits: ms, TFLOP/s, peak
      loading         seconds to convert and to load a 0.5B model
    planner           what was measured of the constants of recipes/planning and configs/cluster, by file and name
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Where a section is written and how many seconds it may take from its own start; the order is that of importance.
SECTIONS = {
    "ceilings": ("gpu_kernels", 25),
    "train": ("gpu_engine", 110),
    "sampler": ("gpu_engine", 45),
    "questions": ("gpu_questions", 45),
    "attention": ("gpu_kernels", 50),
    "host": ("gpu_engine", 30),
    "new_shapes": ("gpu_kernels", 15),
    "vocabulary": ("gpu_kernels", 20),
    "loading": ("gpu_engine", 30),
}
# From the start of a process to its first section: torch, megatron-core and Transformer Engine.
START_S = 90
# Dense peaks of the data sheets; configs/cluster/h100.yaml has the H100's.
PEAKS = {"H100": (989.4, 1978.9, 3350), "H200": (989.4, 1978.9, 4800)}
PEAK_NAMES = ("bf16_tflops", "fp8_tflops", "hbm_gb_s")


# --- the process that measures ----------------------------------------------------------------------------------------


def measure(folder: Path, sections: list[str], *, small: bool) -> None:
    """Runs the sections in this process and reports to `folder`."""
    import faulthandler
    import traceback

    from benchmarks.gpu_cases import Bench, settings, torch
    from recipes.runtime.launch import init_process_group

    faulthandler.register(signal.SIGTERM, chain=True)
    torch.manual_seed(0)
    bench = Bench(folder, small=small)
    init_process_group(settings(bench, folder))
    for name in sections:
        bench.event("begin", name)
        began = time.monotonic()
        problem = {}
        try:
            getattr(importlib.import_module(f"benchmarks.{SECTIONS[name][0]}"), name)(bench)
        except Exception as error:
            traceback.print_exc()
            problem = {"problem": f"{type(error).__name__}: {error}"[:600]}
        bench.event("end", name, seconds=round(time.monotonic() - began, 1), **problem)
    torch.distributed.destroy_process_group()


# --- the process that watches -----------------------------------------------------------------------------------------


class Watch:
    """Starts the measuring process, reads what it reports, and starts it again behind a section that failed."""

    def __init__(self, folder: Path, result: dict[str, Any], *, small: bool) -> None:
        self.folder, self.result, self.small = folder, result, small
        self.sections: dict[str, dict[str, Any]] = result["sections"]
        self._read = 0
        # Of the process under way: its section, when that began, how long it may take, and what is done.
        self._current, self._began, self._limit, self._done = "", 0.0, START_S, set[str]()

    def run(self, names: list[str], end: float) -> None:
        """All sections, until the clock says `end`."""
        left = list(names)
        while left and time.monotonic() < end:
            left = self._process(left, end)
        for name in left:
            self.sections.setdefault(name, {"problem": "no time was left"})
        self.write()

    @property
    def faults(self) -> list[str]:
        """Sections that were not done, and rows with an error in their place."""
        rows = [f"{name}: {key}" for name, section in self.sections.items() for key in section if _error(section[key])]
        return [name for name, section in self.sections.items() if "problem" in section] + rows

    def _process(self, left: list[str], end: float) -> list[str]:
        """One process over what is left; returns what it did not come to."""
        command = [sys.executable, "-m", "benchmarks.gpu", "--output", str(self.folder), "--measure", *left]
        command += ["--dry-run"] if self.small else []
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=_environment(self.small), stdout=log, stderr=log, start_new_session=True
            )
        self._current, self._began, self._limit, self._done = "", time.monotonic(), START_S, set()
        try:
            while True:
                ended = process.poll() is not None
                for event in self._events():
                    self._take(event)
                    self.write()
                if ended:
                    said = f"the process ended with {process.returncode}: {self._said()}"
                    # One that does not come to its first section never will.
                    for name in [self._current] if self._current or self._done else left:
                        self._lost(name, said)
                    break
                if time.monotonic() > min(self._began + self._limit, end):
                    behind = next((name for name in left if name not in self._done), "")
                    self._lost(self._current or behind, f"not done after {time.monotonic() - self._began:.0f} s")
                    break
                time.sleep(0.2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.write()
        return [name for name in left if name not in self._done and "problem" not in self.sections.get(name, {})]

    def _take(self, event: dict[str, Any]) -> None:
        name = self._current = event["section"]
        row = self.sections.setdefault(name, {})
        if event["event"] == "begin":
            self._began, self._limit = time.monotonic(), SECTIONS[name][1]
            print(f"{name} ...", flush=True)
        elif event["event"] == "figure":
            row[event["name"]] = event["value"]
            if said := _error(event["value"]):
                print(f"{name}: {event['name']}: {said}", flush=True)
        else:
            self._done.add(name)
            row |= {key: event[key] for key in ("seconds", "problem") if key in event}
            self._began, self._limit, self._current = time.monotonic(), START_S, ""
            print(f"{name}: {row['seconds']} s {row.get('problem', '')}".rstrip(), flush=True)

    def _lost(self, name: str, problem: str) -> None:
        if name and name not in self._done:
            self.sections.setdefault(name, {})["problem"] = problem
            print(f"{name}: {problem}", flush=True)

    def _events(self) -> list[dict[str, Any]]:
        file = self.folder / "events.jsonl"
        if not file.exists():
            return []
        with file.open() as log:
            log.seek(self._read)
            text = log.read()
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _said(self) -> str:
        lines = (self.folder / "worker.log").read_text(errors="replace").splitlines()
        return lines[-1][:300] if lines else "nothing"

    def write(self) -> None:
        derive(self.result)
        temporary = self.folder / "gpu.json.partial"
        temporary.write_text(json.dumps(self.result, indent=1))
        temporary.replace(self.folder / "gpu.json")


def _environment(small: bool) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if small:
        return found | {"MEDATRON_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    # As slurm/lib/job.sh sets them.
    found |= {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "NVTE_FP8_BLOCK_SCALING_FP32_SCALES": "1"}
    return found | {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def _error(value: Any) -> str:
    return value.get("error", "") if isinstance(value, dict) else ""


def derive(result: dict[str, Any]) -> None:
    """Adds to the figures what follows from them: shares of the ceiling, and the planner's constants."""
    sections = result["sections"]
    ceilings = sections.get("ceilings", {})
    for row in sections.get("train", {}).values():
        if isinstance(row, dict) and "tflops" in row and "bf16_tflops" in ceilings:
            row["share"] = round(row["tflops"] / ceilings["bf16_tflops"], 4)
    result["planner"] = planner(sections, result["card"])


def planner(sections: dict[str, dict[str, Any]], card: str) -> dict[str, dict[str, Any]]:
    """The constants that estimates use, as measured, under the file and name that they have there."""
    name = next((name for name in PEAKS if name in card), "H100")
    bf16, _, hbm = PEAKS[name]
    constants: dict[str, Any] = {}
    cluster: dict[str, Any] = dict(zip(PEAK_NAMES, PEAKS[name], strict=True))
    shard = sections.get("train", {}).get("70B/8 bfloat16", {})
    kernels = shard.get("kernels", {})
    if "products" in kernels:
        rate = shard["product_tflop"] / kernels["products"]["ms"] * 1e3
        constants["MATMUL_SHARE"] = round(rate / bf16, 4)
        constants["OVERHEAD_BYTES"] = shard["outside_torch_gb"] * 1e9
        fp8 = sections["train"].get("70B/8 blockwise", {}).get("kernels", {})
        if "other" in fp8 and "other" in kernels:
            constants["FP8_ELEMENTS"] = round(fp8["other"]["ms"] / kernels["other"]["ms"], 3)
    if "copy_gb_s" in sections.get("ceilings", {}):
        constants["HBM_SHARE"] = round(sections["ceilings"]["copy_gb_s"] / hbm, 4)
    if ours := sections.get("attention", {}).get("ours"):
        constants["OURS.attention"] = round(ours["tflops"] / bf16, 4)
    if row := sections.get("sampler", {}).get("70B/8 64 rows"):
        constants["EAGER_LAYER_S"] = row["layer_token_ms"] / 1e3
    if swap := sections.get("host", {}).get("swap"):
        cluster["host_gb_s"] = swap["gb_s"]
    return {"recipes/planning/hardware.py": constants, "configs/cluster/h100.yaml": {"name": card, **cluster}}


def table(result: dict[str, Any]) -> list[str]:
    """Lines of the table in docs/gpu_results.md."""
    found = {f"ceilings: {name}": value for name, value in result["sections"].get("ceilings", {}).items()}
    for name, row in result["sections"].get("train", {}).items():
        if isinstance(row, dict) and "tflops" in row:
            found[f"train step, {name}"] = (
                f"{row['step_ms']:.1f} ms, {row['tflops']:.0f} TFLOP/s ({row.get('share', 0):.0%} of the bf16 "
                f"ceiling), {row['peak_gb']:.1f} GB (plan: {row['planned_gb']:.1f})"
            )
    for section, rows in result["sections"].items():
        if section not in ("ceilings", "train"):
            found |= {f"{section}: {name}": value for name, value in rows.items()}
    found |= {f"for {file}": values for file, values in result["planner"].items()}
    place = f"| {result['date']} | {result['card']} | "
    return [
        f"{place}{name} | {_words(value)} | `{result['command']}` |"
        for name, value in found.items()
        if name.split(": ")[-1] != "seconds"
    ]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    return str(value)


def surroundings(*, small: bool) -> dict[str, Any]:
    """What the figures belong to."""
    import torch

    def version(name: str) -> str | None:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
        return None

    if not small and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; --dry-run walks all sections on the CPU, at tiny shapes")
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    stamp = ROOT / "REVISION"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "card": "CPU" if small else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformer_engine": version("transformer-engine"),
        "revision": revision.stdout.strip() or (stamp.read_text().strip() if stamp.is_file() else "unknown"),
        "command": shlex.join(["python", *sys.argv]),
        "dry_run": small,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--seconds", type=float, default=270, help="for all sections (default: %(default)s)")
    parser.add_argument("--sections", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--table", type=Path, metavar="GPU_JSON")
    parser.add_argument("--measure", nargs="*", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure is not None:
        measure(chosen.output, chosen.measure, small=chosen.dry_run)
        return 0
    if chosen.table is not None:
        print("\n".join(table(json.loads(chosen.table.read_text()))))
        return 0
    began = time.monotonic()
    shutil.rmtree(chosen.output, ignore_errors=True)
    chosen.output.mkdir(parents=True)
    result: dict[str, Any] = {**surroundings(small=chosen.dry_run), "sections": {}}
    watch = Watch(chosen.output.resolve(), result, small=chosen.dry_run)
    watch.run([name for name in SECTIONS if name in chosen.sections], began + chosen.seconds)
    for heavy in ("checkpoints", "saved", "hf", "megatron"):
        shutil.rmtree(chosen.output / heavy, ignore_errors=True)
    result["seconds"] = round(time.monotonic() - began, 1)
    watch.write()
    print(json.dumps(result))
    return int(bool(watch.faults))


if __name__ == "__main__":
    sys.exit(main())
