"""Every `python -m` of the project: --help without what takes seconds to import, mistakes in one sentence."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from conversion import lock
from recipes.quickstart import BASE, Quickstart
from recipes.runtime import launch
from tests.conftest import REPOSITORY

HEAVY = {"torch", "transformers", "megatron", "nemo", "datasets", "pandas", "sklearn", "scipy"}
_HELP = """
import contextlib, io, json, runpy, sys
sys.argv[1:] = ["--help"]
shown = io.TextIOWrapper(io.BytesIO(), write_through=True)
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
    runpy.run_module(sys.argv[0], run_name="__main__")
print(json.dumps([shown.buffer.getvalue().decode(), sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def _entry_points() -> list[str]:
    """Modules with a `__main__` part, found as a stranger would."""
    found = []
    for room in ("recipes", "conversion", "reward_server"):
        for file in (REPOSITORY / room).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if any(isinstance(n, ast.If) and "__main__" in ast.unparse(n.test) for n in tree.body):
                name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
                found.append(name.removesuffix(".__main__"))
    # Not commands: processes that a worker of the server and a server of rollouts start, and metrics for a test.
    return sorted(set(found) - {"reward_server.scorer", "reward_server.metrics", "recipes.sampling.vllm.api"})


def _run(module: str, *arguments: str, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": "/nowhere", "MEDATRON_DEVICE": "cpu"}
        | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_all_commands_are_known_here() -> None:
    """A command that this list has and the README or docs have not would be a surprise; so would be the reverse."""
    training = {f"recipes.{n}" for n in ("grpo", "sft", "evaluate", "canary", "check_export", "information_gain")}
    others = {f"recipes.{name}" for name in ("plan", "preflight", "prepare_data", "pretrain_tiny", "quickstart")}
    others |= {"recipes.medcalc", "recipes.warmup_needed"}
    inner = {"recipes.transformers_answers", "recipes.monitor.report", "recipes.runtime.versions", "reward_server"}
    others |= {"recipes.reasoning", "recipes.evaluation.context_scores", "recipes.compare", "recipes.evaluation.page"}
    inner |= {"reward_server.verifiers.tables", "recipes.sampling.vllm.serve", "recipes.sampling.vllm.arguments"}
    conversion = {f"conversion.{n}" for n in ("hf_to_megatron", "megatron_to_hf", "verify", "logits", "release")}
    assert set(_entry_points()) == training | others | inner | conversion


@pytest.mark.parametrize("module", _entry_points())
def test_help_imports_nothing_heavy(module: str) -> None:
    """Speed itself is not asserted; importing torch and transformers is what takes seconds."""
    name = "reward_server.__main__" if module == "reward_server" else module
    program = _HELP.replace("sys.argv[0]", repr(name))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    shown, modules = json.loads(done.stdout)
    assert f"usage: python -m {module}" in shown
    assert not HEAVY & set(modules), done.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "code", "said"),
    [
        ("recipes.grpo", [], 1, "configuration: model.path is not set; give it as model.path=VALUE"),
        ("recipes.grpo", ["output=", "model.path=m"], 1, "configuration: output= is empty; is a variable of the shell"),
        ("recipes.sft", ["output=o", "model.path=m", "trainer.stesp=1"], 1, "did you mean trainer.steps?"),
        ("recipes.evaluate", ["output=o", "model.path=m", "name=a/b"], 1, "configuration: name=a/b: expected a name"),
        (
            "recipes.canary",
            ["output=o", "model.path=m", "parallel.tensor=0"],
            1,
            "parallel.tensor=0: expected at least",
        ),
        (
            "recipes.plan",
            ["experiment=grpo_70b", "trainer.steps=-4"],
            1,
            "configuration: trainer.steps=-4: expected at",
        ),
        ("recipes.plan", ["experiment=grpo_70b", "cluster.price=nan"], 1, "cluster.price=nan: expected at least 0"),
        ("recipes.plan", ["--prompt-tokens", "abc"], 2, "abc: expected a whole number, at least 1"),
        (
            "recipes.plan",
            ["experiment=grpo_70b", "output=/dev/null/x"],
            1,
            "/dev/null/x: Not a directory; a file stands",
        ),
        ("recipes.preflight", ["output=o", "model.path=m", "reward.url=foo"], 2, "preflight: reward.url=foo: expected"),
        (
            "recipes.preflight",
            ["--for", "sft", "output=o", "model.path=m", "reward.url=foo"],
            2,
            "preflight: m/config.json",
        ),
        (
            "recipes.prepare_data",
            ["embedded", ""],
            2,
            "expected a path, got nothing; is a variable of the shell unset?",
        ),
        (
            "recipes.prepare_data",
            ["embedded", "/dev/null/x", "--train", "1"],
            1,
            "prepare_data: /dev/null/x/train.jsonl: cannot be written (Not a dir",
        ),
        ("recipes.prepare_data", ["medqa", "none.json", "out.jsonl"], 1, "prepare_data: none.json: no such file"),
        ("recipes.compare", ["nowhere", "out"], 1, "comparison: nowhere: expected the NAME.json or NAME.jsonl of an"),
        ("recipes.evaluation.page", ["nowhere.json"], 1, "page: nowhere.json: cannot be read"),
        ("recipes.monitor.report", ["nowhere"], 2, "report: nowhere is no folder"),
        ("recipes.quickstart", ["--output", ""], 2, "expected a path, got nothing"),
        ("recipes.quickstart", ["--output", "/dev/null/x"], 1, "/dev/null/x: Not a directory"),
        ("conversion.hf_to_megatron", ["nowhere", "out"], 1, "error: nowhere/config.json: no such file"),
        ("conversion.megatron_to_hf", ["", "out"], 2, "argument SRC: expected a path, got nothing"),
        ("conversion.verify", ["nowhere", "out"], 1, "error: nowhere/config.json: no such file"),
        ("conversion.release", ["nowhere", "out"], 1, "error: nowhere/config.yaml: cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(module: str, arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    done = _run(module, *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    # argparse puts its usage before the sentence.
    assert done.stderr.count("\n") == 1 or done.stderr.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("found", [{"RANK": "1"}, {"WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x"}])
def test_what_a_shell_has_left_of_a_launcher_is_refused(found: dict[str, str], tmp_path: Path) -> None:
    """It would wait for ranks that nobody starts."""
    done = _run("recipes.grpo", "output=o", "model.path=m", cwd=tmp_path, **found)
    said = ", ".join(f"{name}={value}" for name, value in found.items())
    assert done.returncode == 1
    assert done.stderr.startswith(f"{said} in the environment: expected both or none")
    assert done.stderr.endswith("without one unset them\n")
    assert list(tmp_path.iterdir()) == []


def test_a_quickstart_deletes_nothing_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a finished one, nor what anybody works at, even if asked."""
    monkeypatch.setattr(lock, "_BEAT_S", 0.2)
    run, kept = tmp_path / "run", tmp_path / "run" / "checkpoints" / "kept"
    kept.mkdir(parents=True)
    (run / "quickstart.json").write_text("{}")
    (run / "summary.json").write_text("{}")
    done = _run("recipes.quickstart", "--output", str(run))
    assert (done.returncode, done.stderr) == (
        1,
        f"{run}: holds a finished quickstart; choose another --output, or delete it with --force\n",
    )
    for busy in ("quickstart.lock", "run.lock", "sft/run.lock", "evaluation/before.lock"):
        with lock.held(run / busy):
            done = _run("recipes.quickstart", "--output", str(run), "--force")
        assert done.returncode == 1
        assert f"quickstart: {(run / busy).parent}: in use by process {os.getpid()} on " in done.stderr
        assert "Traceback" not in done.stderr
    assert kept.is_dir()
    assert (run / "summary.json").is_file()


# A machine with one GPU, as torch would describe it.
_ONE_GPU = """
import runpy, sys, torch
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
torch.cuda.set_device = lambda number: sys.exit(f"GPU {number} is taken")
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ({}, "recipes.sft: parallel.processes=2: 2 ranks on this machine need a GPU each, and torch sees 1; start"),
        (
            {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            "recipes.sft, rank 0: the launcher: 2 ranks on this machine need a GPU each, and torch sees 1; start",
        ),
    ],
)
def test_more_ranks_than_gpus_are_refused_with_the_way_out(launcher: dict[str, str], said: str, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": "/nowhere", "OMP_NUM_THREADS": "1"}
    settings = ["output=o", "model.path=nowhere", "data.train=[none]", "parallel.processes=2", "parallel.tensor=2"]
    done = subprocess.run(
        [sys.executable, "-c", _ONE_GPU, "recipes.sft", *settings],
        cwd=tmp_path,
        env=environment | launcher,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert said in last
    assert "set MEDATRON_DEVICE=cpu" in last
    assert "Traceback" not in done.stderr


def test_the_quickstart_leaves_gpus_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDATRON_DEVICE", raising=False)
    quickstart = Quickstart(tmp_path, seed=0, base=BASE, overrides=[])
    quickstart._stage("device", "timeit", "-n1", "-r1", "import os; assert os.environ['MEDATRON_DEVICE'] == 'cpu'")


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_NTASKS_PER_NODE": "4"}, [8, 8]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2),4"}, [8, 8, 4]),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,1(x2)"}, [2, 1, 1]),
        ({"SLURM_NTASKS_PER_NODE": "4"}, [4, 4]),
        ({}, [None, None]),
    ],
)
def test_a_rank_under_srun_knows_how_many_its_node_has(counts: dict[str, str], sizes: list[int | None]) -> None:
    """NeMo's trainer asks for so many GPUs a node; srun sets no LOCAL_WORLD_SIZE."""
    srun = {"SLURM_PROCID": "9", "SLURM_NTASKS": "20", "SLURM_LOCALID": "1", "MASTER_ADDR": "a"}
    for node, size in enumerate(sizes):
        with mock.patch.dict(os.environ, {**srun, **counts, "SLURM_NODEID": str(node)}, clear=True):
            launch._adopt_slurm()
            assert os.environ.get("LOCAL_WORLD_SIZE") == (str(size) if size else None)
            assert (os.environ["RANK"], os.environ["LOCAL_RANK"]) == ("9", "1")
