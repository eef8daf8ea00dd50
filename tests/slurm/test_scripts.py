"""What slurm/grpo_70b.sh says without a cluster: its help, its plan, and what it refuses."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.runtime.config import load
from tests.slurm.cluster import REPO, SCRIPT, environment


def _run(*arguments: str, cwd: Path | None = None, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *arguments], cwd=cwd, env=environment(settings), capture_output=True, text=True, timeout=30
    )


@pytest.fixture
def given(tmp_path: Path) -> dict[str, object]:
    """Settings that pass the checks of input."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    for name in ("train.jsonl", "more.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("")
    return {
        "MODEL": tmp_path / "hf",
        "DATA": tmp_path / "train.jsonl",
        "RUN": tmp_path / "run",
        "CONTAINER": "none",
        "VENV": sys.prefix,
    }


def _plan(**settings: object) -> list[list[str]]:
    """The srun command lines of a dry run, as a shell would read them."""
    done = _run(DRY_RUN=1, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("srun ")]


def _after(word: str, command: list[str]) -> list[str]:
    return command[command.index(word) + 1 :]


def test_help_names_every_setting_of_the_block_at_the_top() -> None:
    done = _run("--help")
    settings = [line.split("=")[0] for line in SCRIPT.read_text().splitlines() if "=${" in line and line[0].isupper()]
    assert done.returncode == 0
    assert len(settings) > 10
    assert [name for name in settings if f"  {name} " not in done.stdout] == []
    assert "SBATCH" not in done.stdout


def test_a_dry_run_prints_every_step_in_order_and_writes_nothing(given: dict[str, object], tmp_path: Path) -> None:
    plan = _plan(**given, TEST_DATA=tmp_path / "test.jsonl")
    modules = [command[command.index("-m") + 1] for command in plan]
    assert modules == ["conversion.hf_to_megatron", "reward_server", "recipes.grpo", "recipes.evaluate"]
    assert not (tmp_path / "run").exists()


def test_training_gets_one_task_a_gpu_on_eight_nodes(given: dict[str, object]) -> None:
    conversion, server, training = _plan(**given)
    assert {"--nodes=8", "--ntasks=64", "--ntasks-per-node=8", "--kill-on-bad-exit=1", "--overlap"} <= set(training)
    for alone in (conversion, server):
        assert {"--nodes=1", "--ntasks=1", "--nodelist=HEAD_NODE", "--gpus-per-node=0", "--overlap"} <= set(alone)


def test_training_takes_files_settings_and_overrides(given: dict[str, object], tmp_path: Path) -> None:
    files = f"{tmp_path}/train.jsonl,{tmp_path}/more.jsonl"
    training = _plan(**given | {"DATA": files}, EXTRA="trainer.steps=3 rollout.prompts=8")[2]
    assert _after("recipes.grpo", training) == [
        "experiment=grpo_70b",
        f"output={tmp_path}/run",
        "reward.url=http://127.0.0.1:REWARD_PORT",
        f"model.path={tmp_path}/run/megatron",
        f"data.train=[{files}]",
        "trainer.steps=3",
        "rollout.prompts=8",
    ]


def test_what_training_is_given_is_a_valid_configuration(given: dict[str, object], tmp_path: Path) -> None:
    # A path that Hydra's grammar would take apart, unquoted.
    run = tmp_path / "run lr=1e-6, it's"
    config = load(_after("recipes.grpo", _plan(**given | {"RUN": run})[2]))
    assert config.output == str(run)
    assert config.data.train == [str(tmp_path / "train.jsonl")]
    assert (config.parallel.processes, config.model.fp8) == (64, "blockwise")


def test_a_converted_model_is_not_converted_again(given: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "run" / "megatron").mkdir(parents=True)
    (tmp_path / "run" / "megatron" / "manifest.json").write_text("{}")
    assert "conversion.hf_to_megatron" not in _plan(**given)[0]


def test_a_container_sees_all_that_the_settings_name(given: dict[str, object], tmp_path: Path) -> None:
    # A model in Hugging Face's cache is a folder of links into another one.
    (tmp_path / "blobs").mkdir()
    (tmp_path / "hf" / "config.json").rename(tmp_path / "blobs" / "1")
    (tmp_path / "hf" / "config.json").symlink_to(tmp_path / "blobs" / "1")
    (tmp_path / "data").mkdir()
    (tmp_path / "train.jsonl").rename(tmp_path / "data" / "train.jsonl")
    changed = {
        "CONTAINER": "pyxis",
        "CONTAINER_IMAGE": "registry#medatron:1",
        "DATA": tmp_path / "data" / "train.jsonl",
    }
    for command in _plan(**given | changed, CONTAINER_MOUNTS="/scratch:/scratch"):
        mounted = [tmp_path / "hf", tmp_path / "blobs", REPO, tmp_path / "run", tmp_path / "data", "/scratch"]
        container = [word for word in command if word.startswith(("--container", "--no-container"))]
        assert container == [
            "--container-image=registry#medatron:1",
            "--container-mounts=" + ",".join(f"{path}:{path}" for path in mounted),
            f"--container-workdir={REPO}",
            "--no-container-mount-home",
        ]
        assert _after("--no-container-mount-home", command)[:2] == ["python3", "-m"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"MODEL": ""}, "MODEL is not set; set it to a Hugging Face model folder"),
        ({"MODEL": "/nowhere"}, "MODEL=/nowhere: no config.json there; expected a Hugging Face model folder"),
        ({"DATA": ""}, "DATA is not set; set it to a JSONL file of training examples"),
        ({"DATA": "/nowhere.jsonl"}, "DATA: /nowhere.jsonl: no such file; expected a JSONL file of training examples"),
        ({"TEST_DATA": "/no.jsonl"}, "TEST_DATA: /no.jsonl: no such file; expected a JSONL file of test examples"),
        ({"VENV": "/nowhere"}, "/nowhere/bin/python3: not found; set VENV to a virtual environment"),
        ({"CONTAINER": "docker"}, "CONTAINER=docker: expected pyxis or none"),
        ({"CONTAINER": "pyxis"}, "CONTAINER_IMAGE is not set; set it to the image built from ./Dockerfile"),
        ({"CONTAINER": "pyxis", "CONTAINER_IMAGE": "/no.sqsh"}, "CONTAINER_IMAGE=/no.sqsh: no such file"),
        ({"CONTAINER": "pyxis", "CONTAINER_IMAGE": "a", "RUN": "/a,b"}, "/a,b: pyxis mounts no path with a comma"),
        ({"DRY_RUN": "0"}, "not in a Slurm job; submit it with sbatch, or set DRY_RUN=1"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(
    given: dict[str, object], changed: dict[str, object], message: str
) -> None:
    done = _run(**{"DRY_RUN": 1} | given | changed)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"grpo_70b.sh: {message}")


def test_an_argument_is_refused() -> None:
    done = _run("model.path=x")
    assert done.returncode == 2
    assert "unknown argument 'model.path=x'; settings are environment variables" in done.stderr


def test_a_copy_finds_the_repository_by_the_place_of_submission(given: dict[str, object], tmp_path: Path) -> None:
    # As slurmd does it: the script is run from the spool folder.
    copy = shutil.copy(SCRIPT, tmp_path / "slurm_script")
    lost = subprocess.run([copy], env=environment({}), capture_output=True, text=True)
    assert lost.returncode == 2
    assert "is not the repository; submit from its root, or set REPO to it" in lost.stderr
    settings = environment(given | {"DRY_RUN": 1, "SLURM_SUBMIT_DIR": REPO})
    assert subprocess.run([copy], env=settings, capture_output=True).returncode == 0


@pytest.mark.parametrize("command", [["shellcheck", "-x"], ["shfmt", "-i", "2", "-d"]], ids=lambda c: c[0])
def test_scripts_are_clean(command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    scripts = sorted(str(path.relative_to(REPO)) for top in ("slurm", "tests") for path in (REPO / top).rglob("*.sh"))
    assert len(scripts) >= 3
    done = subprocess.run([*command, *scripts], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
