"""The whole method on two CPU cores in minutes: `python -m recipes.quickstart` (or `make quickstart`).

Generates data, converts the tiny base model to Megatron, warms it up by SFT, trains it with GRPO at tensor parallel
size 2 against a real reward server, measures held-out accuracy before and after, converts the result back to Hugging
Face and checks it, and writes a report. Every stage is an ordinary entry point that also runs alone; its command is
printed as it starts. Nothing here knows more than the command line does.

It computes on the CPU, also where there are GPUs; MEDATRON_DEVICE=cuda in the environment takes two of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from conversion import command, lock
from conversion.errors import ConversionError
from recipes.monitor.console import OutputConsole
from recipes.monitor.run_folder import RunFolderError, evaluation_path, replace_file, summary_path
from recipes.runtime.overrides import as_text, quoted
from reward_server.client import RewardServerUnavailable

BASE = Path(__file__).parent / "data" / "tiny_base"
STAGE_DEADLINE_S = 900
_MARK, _LOCK = "quickstart.json", "quickstart.lock"
# How long a stage may take to end after Ctrl-C: to hear it from the terminal, and then to stop its ranks.
_SAME_CTRL_C_S, _END_S = 1.0, 40.0


class Quickstart:
    """The stages, in order; each leaves its files under `output`."""

    def __init__(self, output: Path, *, seed: int, base: Path, overrides: list[str], force: bool = False) -> None:
        self.output = output
        self.force = force
        self.seed = seed
        self.base = base
        self.overrides = overrides
        self.console = OutputConsole()
        self.start = time.monotonic()
        # Seconds of the control, which a newcomer's quickstart does not run.
        self.aside = 0.0

    def run(self, *, sft_control: bool) -> dict[str, object]:
        """Everything from data to report; returns the summary that it wrote.

        Raises:
            SystemExit: a stage failed, and its own message stands above; or `output` holds what is not to be deleted.
            LockedError: another process works in `output`.
        """
        if self.output.exists() and not any((self.output / name).is_file() for name in (_MARK, _LOCK)):
            raise SystemExit(f"{self.output}: exists and is no quickstart's; choose another --output")
        with lock.held(self.output / _LOCK):
            self._clear()
            return self._run(sft_control)

    def _run(self, sft_control: bool) -> dict[str, object]:
        # These take seconds to import: --help does without.
        from recipes.monitor.report import write_report
        from recipes.runtime.run_folder import last_checkpoint
        from reward_server.process import RewardServerProcess

        data, megatron, sft = self.output / "data", self.output / "base", self.output / "sft"
        self._stage("data", "recipes.prepare_data", "embedded", str(data), "--seed", str(self.seed))
        self._stage("Hugging Face to Megatron", "conversion.hf_to_megatron", str(self.base), str(megatron))
        self._train("SFT warm start", "recipes.sft", "quickstart_sft", sft, megatron, [data / "sft.jsonl"])
        warm = last_checkpoint(sft)
        with RewardServerProcess(log_path=self.output / "reward_server.log") as server:
            self.console.print(f"[dim]reward server at {server.url}")
            self._evaluate("before", warm, server.url)
            files = [data / "train.jsonl"]
            self._train("GRPO", "recipes.grpo", "quickstart_grpo", self.output, warm, files, server.url)
            final = last_checkpoint(self.output)
            self._evaluate("after", final, server.url)
            if sft_control:
                self.aside += self._control(warm, data / "sft.jsonl", server.url)
        exported = self.output / "huggingface"
        self._stage("Megatron to Hugging Face", "conversion.megatron_to_hf", str(final), str(exported))
        self._stage(
            "check of the export",
            "recipes.check_export",
            "experiment=quickstart_base",
            f"output={as_text(self.output)}",
            f"model.path={as_text(final)}",
            f"data.test={_file_list(data / 'validation.jsonl')}",
        )
        summary = self._summary()
        replace_file(summary_path(self.output), (json.dumps(summary, indent=1) + "\n").encode())
        report = write_report(self.output)
        self.console.print(f"[bold green]done in {summary['seconds']:.0f} s[/]; the report is {report}")
        return summary

    def _clear(self) -> None:
        """Deletes what an earlier quickstart left, unless it is finished or somebody works there."""
        if summary_path(self.output).is_file() and not self.force:
            raise SystemExit(
                f"{self.output}: holds a finished quickstart; choose another --output, or delete it with --force"
            )
        for other in self.output.rglob("*.lock"):
            if other.name != _LOCK:
                lock.check_free(other)
        for path in self.output.iterdir():
            if path.name not in (_LOCK, _MARK):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (self.output / _MARK).write_text(json.dumps({"seed": self.seed, "base": str(self.base)}) + "\n")

    def _stage(self, title: str, module: str, *arguments: str) -> None:
        began = time.monotonic()
        self.console.rule(f"[bold]{title}")
        shown = shlex.join(["python", "-m", module, *arguments])
        self.console.print(shown, style="dim", soft_wrap=True, highlight=False, markup=False)
        # A thread a process: two ranks on two cores leave no core for a second thread each. Many a machine has one GPU,
        # and two ranks need two.
        environment = {"OMP_NUM_THREADS": "1", "MEDATRON_DEVICE": "cpu", **os.environ}
        with subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment) as stage:
            try:
                code = stage.wait(STAGE_DEADLINE_S)
            except subprocess.TimeoutExpired:
                stage.kill()
                raise SystemExit(f"{title}: not done after {STAGE_DEADLINE_S} s; stopped") from None
            except KeyboardInterrupt:
                code = _interrupted(stage)
                if code != command.INTERRUPTED:
                    raise
        if code in (command.INTERRUPTED, command.NO_READER):
            raise SystemExit(code)
        if code:
            raise SystemExit(f"{title}: failed with exit code {code}; its message stands above")
        self.console.print(f"[dim]{title}: {time.monotonic() - began:.1f} s")

    def _train(
        self,
        title: str,
        module: str,
        experiment: str,
        output: Path,
        model: Path,
        files: list[Path],
        url: str | None = None,
        *extra: str,
    ) -> None:
        arguments = [
            f"experiment={experiment}",
            f"output={as_text(output)}",
            f"model.path={as_text(model)}",
            f"seed={self.seed}",
        ]
        arguments.append(f"data.train={_file_list(*files)}")
        if url:
            arguments.append(f"reward.url={url}")
        self._stage(title, module, *arguments, *self.overrides, *extra)

    def _evaluate(self, name: str, model: Path, url: str) -> None:
        self._stage(
            f"held-out accuracy, {name.replace('_', ' ')}",
            "recipes.evaluate",
            "experiment=quickstart_base",
            f"name={name}",
            f"output={as_text(self.output)}",
            f"model.path={as_text(model)}",
            f"data.test={_file_list(self.output / 'data' / 'test.jsonl')}",
            f"reward.url={url}",
        )

    def _control(self, warm: Path, traces: Path, url: str) -> float:
        """As many seconds of further SFT as GRPO took, from the same warm start: what the time alone is worth.

        Returns:
            the seconds that it all took.
        """
        began = time.monotonic()
        from recipes.runtime.run_folder import last_checkpoint

        lines = (self.output / "metrics.jsonl").read_text().splitlines()
        seconds = json.loads(lines[-1])["seconds"]
        folder = self.output / "sft_control"
        limits = (f"trainer.max_seconds={seconds:.0f}", "trainer.steps=100000")
        self._train("SFT control", "recipes.sft", "quickstart_sft", folder, warm, [traces], None, *limits)
        self._evaluate("sft_control", last_checkpoint(folder), url)
        return time.monotonic() - began

    def _summary(self) -> dict[str, object]:
        accuracy = {}
        for name in ("before", "after"):
            result = json.loads(evaluation_path(self.output, name).read_text())
            accuracy[name] = {group: task["accuracy"] for group, task in result["tasks"].items()}
            accuracy[name]["mean"] = result["mean"]
        export = json.loads((self.output / "export.json").read_text())
        return {
            "seconds": round(time.monotonic() - self.start - self.aside, 1),
            "accuracy": accuracy,
            "export": {key: export[key] for key in ("max_abs_logit_difference", "greedy_equal")},
        }


def _file_list(*files: Path) -> str:
    """Files as a list of settings; quoted where a comma would end a name."""
    return f"[{','.join(quoted(as_text(file)) if ',' in str(file) else as_text(file) for file in files)}]"


def _interrupted(stage: subprocess.Popen[bytes]) -> int:
    """The exit code of a stage after Ctrl-C, which a terminal sends to it as well; at INTERRUPTED it has told."""
    try:
        return stage.wait(_SAME_CTRL_C_S)
    except subprocess.TimeoutExpired:
        stage.send_signal(signal.SIGINT)
    try:
        return stage.wait(_END_S)
    except subprocess.TimeoutExpired:
        stage.kill()
        return stage.wait()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.quickstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=command.path_argument, default=Path("runs/quickstart"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of training data and sampling (default: %(default)s)")
    parser.add_argument("--base", type=command.path_argument, default=BASE, help="Hugging Face folder to start from")
    parser.add_argument("--sft-control", action="store_true", help="also measure equally long further SFT (minutes)")
    parser.add_argument("--force", action="store_true", help="delete a finished quickstart that stands there")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for both training stages")
    args = parser.parse_args()
    quickstart = Quickstart(args.output, seed=args.seed, base=args.base, overrides=args.overrides, force=args.force)
    quickstart.run(sft_control=args.sft_control)


if __name__ == "__main__":
    told = (ConversionError, RewardServerUnavailable, RunFolderError)
    sys.exit(command.run(main, name="quickstart", errors=told))
