"""What a job's settings become, and which of them are refused before anything is submitted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from recipes.runtime.loading import load
from tests.slurm.cluster import REPO
from tests.slurm.plans import planned, run_script, words_after


def test_training_takes_files_settings_and_overrides(given: dict[str, object], tmp_path: Path) -> None:
    files = f"{tmp_path}/train.jsonl,{tmp_path}/more.jsonl"
    training = planned(**given | {"DATA": files}, EXTRA="trainer.steps=3 rollout.prompts=8")["recipes.grpo"]
    assert words_after("recipes.grpo", training) == [
        "experiment=grpo_70b_fp8",
        f"output={tmp_path}/run",
        f"model.path={tmp_path}/run/megatron",
        f"data.train=[{files}]",
        "reward.url=http://127.0.0.1:REWARD_PORT",
        "trainer.steps=3",
        "rollout.prompts=8",
    ]


@pytest.mark.parametrize("odd", ["lr=1e-6, it's", "ü \\'", "${x} \\${seed}", "[1] {a: b} #~\\"])
def test_what_training_is_given_is_what_was_typed(odd: str, given: dict[str, object], tmp_path: Path) -> None:
    """Names that Hydra's grammar would take apart, and an EXTRA of several lines."""
    run, data, comma = tmp_path / f"run {odd}", tmp_path / f"{odd.replace(',', '')}.jsonl", tmp_path / "a, b.jsonl"
    for file in (data, comma, tmp_path / "own.yaml"):
        file.touch()
    extra = """
        trainer.steps=3\toptimizer.betas=[0.8, 0.9]
        data.mix={choice: 2,
                  text: 1}  rollout.stop=[it's, "b, ] c", '} "']
        data.validation=[FOLDER/train.jsonl, 'FOLDER/a, b.jsonl' ]
        data.style=FOLDER/own.yaml data.shots=1 data.few_shot='FOLDER/a, b.jsonl'
    """.replace("FOLDER", str(tmp_path))
    files = f"{data},\n  '{comma}'"
    settings = words_after(
        "recipes.grpo", planned(**given | {"RUN": run, "DATA": files, "EXTRA": extra})["recipes.grpo"]
    )
    # The port is known when the server has one.
    config = load([setting.replace("REWARD_PORT", "8000") for setting in settings])
    assert (config.output, config.model.path) == (str(run), f"{run}/megatron")
    assert config.data.train == [str(data), str(comma)]
    assert config.data.validation == [str(tmp_path / "train.jsonl"), str(comma)]
    assert (config.data.style, config.data.few_shot) == (str(tmp_path / "own.yaml"), str(comma))
    assert (config.trainer.steps, list(config.optimizer.betas)) == (3, [0.8, 0.9])
    assert config.data.mix == {"choice": 2, "text": 1}
    assert config.rollout.stop == ["it's", "b, ] c", '} "']
    assert (config.parallel.processes, config.model.fp8) == (64, "blockwise")


def test_a_relative_path_is_that_of_the_folder_where_it_was_typed(given: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    absolute = given | {
        "TEST_DATA": tmp_path / "test.jsonl",
        "RELEASE": tmp_path / "release",
        "CONTAINER_IMAGE": tmp_path / "image",
        "EXTRA": f"data.validation=[{tmp_path}/more.jsonl] data.style={tmp_path}/prompt/own.yaml",
    }
    (tmp_path / "prompt").mkdir()
    (tmp_path / "prompt" / "own.yaml").touch()
    names = [name for name in absolute if name not in ("CONTAINER", "EXTRA", "ROLLOUT")]
    relative = {name: os.path.relpath(str(absolute[name]), tmp_path) for name in names}
    relative["EXTRA"] = "data.validation=[more.jsonl] data.style=prompt/own.yaml"
    for container in ("none", "apptainer"):
        changed = {"CONTAINER": container, "ROLLOUT": "embedded"}
        assert planned(folder=tmp_path, **relative | changed) == planned(**absolute | changed)
    (tmp_path / "run" / "checkpoints" / "step_000001").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step_000001" / "manifest.json").touch()
    checkpoint = {"CHECKPOINT": "run/checkpoints/step_000001", "CONTAINER": "none", "ROLLOUT": "embedded"}
    settings = {name: value for name, value in relative.items() if name != "MODEL"} | checkpoint
    plan = planned(REPO / "slurm" / "evaluate.sh", tmp_path, **settings)
    assert f"model.path={tmp_path}/run/checkpoints/step_000001" in plan["recipes.evaluate"]


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
    mounted = [tmp_path / "hf", tmp_path / "blobs", tmp_path / "data", REPO, tmp_path / "run", "/scratch"]
    for command in planned(**given | changed, CONTAINER_MOUNTS="/scratch:/scratch").values():
        container = [word for word in command if word.startswith(("--container", "--no-container"))]
        assert container == [
            "--container-image=registry#medatron:1",
            "--container-mounts=" + ",".join(f"{path}:{path}" for path in mounted),
            f"--container-workdir={REPO}",
            "--no-container-mount-home",
        ]
        assert words_after("--no-container-mount-home", command)[:2] == ["python3", "-m"]
    (tmp_path / "image.sif").write_text("")
    changed |= {"CONTAINER": "apptainer", "CONTAINER_IMAGE": tmp_path / "image.sif"}
    for command in planned(**given | changed, CONTAINER_MOUNTS="/scratch:/scratch").values():
        assert words_after(f"--chdir={REPO}", command)[:12] == [
            *("apptainer", "exec", "--nv", "--no-home", "--bind", ",".join(f"{path}:{path}" for path in mounted)),
            *("--pwd", str(REPO), str(tmp_path / "image.sif"), "python3", "-m", words_after("-m", command)[0]),
        ]


_VLLM: dict[str, object] = {"ROLLOUT": "vllm"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"MODEL": ""}, "MODEL is not set; set it to a Hugging Face model folder"),
        ({"MODEL": "/nowhere"}, "MODEL=/nowhere: no config.json there; expected a Hugging Face model folder"),
        ({"CHECKPOINT": "WARM", "MODEL": "", "RELEASE": "/new"}, "RELEASE is set without MODEL; set MODEL to the base"),
        ({"CHECKPOINT": "/nowhere"}, "CHECKPOINT=/nowhere: no manifest.json there; expected a checkpoint"),
        ({"DATA": ""}, "DATA is not set; set it to a JSONL file of training examples"),
        ({"DATA": "/nowhere.jsonl"}, "DATA: /nowhere.jsonl: no such file; expected a JSONL file of training examples"),
        ({"TEST_DATA": "/no.jsonl"}, "TEST_DATA: /no.jsonl: no such file; expected a JSONL file of test examples"),
        ({"VENV": "/nowhere"}, "/nowhere/bin/python3: not found; set VENV to a virtual environment"),
        ({"CONTAINER": "docker"}, "CONTAINER=docker: expected one of: pyxis apptainer none"),
        ({"CONTAINER": "pyxis"}, "CONTAINER_IMAGE is not set; set it to the image built from ./Dockerfile"),
        ({"CONTAINER": "pyxis", "CONTAINER_IMAGE": "/no.sqsh"}, "CONTAINER_IMAGE=/no.sqsh: no such file"),
        (
            {"CONTAINER": "pyxis", "CONTAINER_IMAGE": "a", "RUN": "/a,b"},
            "/a,b: a container mounts no path with a comma",
        ),
        ({"ENGINE": "nemo"}, "ENGINE=nemo: expected one of: megatron nemo_aligner"),
        ({"REQUEUE": "yes"}, "REQUEUE=yes: expected one of: requeue chain none"),
        ({"TASKS_PER_NODE": "eight"}, "TASKS_PER_NODE=eight: expected a whole number from 1 to 1024"),
        ({"TASKS_PER_NODE": "08"}, "TASKS_PER_NODE=08: expected a whole number"),
        ({"CPUS_PER_TASK": "-1"}, "CPUS_PER_TASK=-1: expected a whole number"),
        ({"REWARD_WORKERS": 0}, "REWARD_WORKERS=0: expected a whole number from 1 to 1024"),
        ({"ROLLOUT": "sglang"}, "ROLLOUT=sglang: expected one of: vllm embedded"),
        ({"ROLLOUT_NODES": 2}, "ROLLOUT_NODES=2: ROLLOUT=embedded has no servers; set ROLLOUT=vllm"),
        (_VLLM | {"ROLLOUT_NODES": 8}, "ROLLOUT_NODES=8 leaves none of the job's 8 nodes for training; ask for more"),
        (_VLLM | {"ROLLOUT_TENSOR": 3}, "ROLLOUT_TENSOR=3 does not divide the 8 GPUs of a node (TASKS_PER_NODE)"),
        (_VLLM | {"ROLLOUT_PORT": 80}, "ROLLOUT_PORT=80: expected a whole number from 1024"),
        (_VLLM | {"ROLLOUT_IMAGE": "i"}, "ROLLOUT_IMAGE=i: CONTAINER=none has no images; set MEDATRON_VLLM_PYTHON"),
        (_VLLM | {"MEDATRON_VLLM_PYTHON": "/no"}, "MEDATRON_VLLM_PYTHON=/no: not found; set it to a Python with vLLM"),
        (
            _VLLM | {"CONTAINER": "pyxis", "CONTAINER_IMAGE": "a", "ROLLOUT_IMAGE": "/no.sqsh"},
            "ROLLOUT_IMAGE=/no.sqsh: no such file",
        ),
        (_VLLM | {"EXTRA": "rollout.tensor=2"}, "EXTRA: rollout.tensor=2: set it by ROLLOUT_TENSOR, which other steps"),
        ({"EXTRA": "rollout=vllm"}, "EXTRA: rollout=vllm: set it by ROLLOUT, which other steps"),
        ({"REWARD_NODES": "yes"}, "REWARD_NODES=yes: expected one of: 0 1"),
        ({"MASTER_PORT": 99999}, "MASTER_PORT=99999: expected a whole number from 1024 to 65535"),
        ({"DRY_RUN": "yes"}, "DRY_RUN=yes: expected one of: 0 1"),
        ({"RUN": "/a\n/b"}, "RUN=$'/a\\n/b': expected one line"),
        ({"DATA": "/a.jsonl\n/b.jsonl"}, "DATA: $'/a.jsonl\\n/b.jsonl': no such file; files stand between commas"),
        ({"DATA": ", /b.jsonl"}, "DATA=, /b.jsonl: names a file without a name; is a variable of the shell unset?"),
        ({"EXTRA": "a=1\nb='c d"}, "EXTRA: b='c d: a quote is left open"),
        ({"EXTRA": "a=[1, 2 b=3"}, "EXTRA: a=[1, 2 b=3: a bracket is left open"),
        ({"EXTRA": "+output=/elsewhere"}, "EXTRA: +output=/elsewhere: set it by RUN, which other steps of the job"),
        ({"EXTRA": "model.path=/warm"}, "EXTRA: model.path=/warm: set it by MODEL or CHECKPOINT, which other steps"),
        (
            {"EXTRA": "data.style=no.yaml"},
            f"EXTRA: data.style: {REPO}/no.yaml: no such file; expected a prompt",
        ),
        ({"EXTRA": "data.few_shot=no.jsonl"}, f"EXTRA: data.few_shot: {REPO}/no.jsonl: no such file; expected a"),
        ({"EXTRA": "data.validation=[no.jsonl]"}, f"EXTRA: data.validation: {REPO}/no.jsonl: no such file; expected a"),
        ({"RELEASE": REPO}, f"RELEASE={REPO}: exists; choose another folder, or set FORCE=1 to replace it"),
        ({"CONTAINER": "pyxis", "CONTAINER_IMAGE": "no.sqsh"}, f"CONTAINER_IMAGE={REPO}/no.sqsh: no such file"),
        ({"DRY_RUN": "0"}, "not in a Slurm job; submit it with sbatch, or set DRY_RUN=1"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(
    given: dict[str, object], changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    if changed.get("CHECKPOINT") == "WARM":
        changed = changed | {"CHECKPOINT": tmp_path}
        (tmp_path / "manifest.json").touch()
    done = run_script(**{"DRY_RUN": 1} | given | changed)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"grpo_70b.sh: {message}")


def test_an_argument_is_refused(given: dict[str, object]) -> None:
    done = run_script("model.path=x", **given)
    assert done.returncode == 2
    assert "unknown argument 'model.path=x'; settings are environment variables" in done.stderr


_FITS = {
    "EXPERIMENT": "quickstart_grpo",
    "TASKS_PER_NODE": 1,
    "EXTRA": "parallel.tensor=2 rollout.prompts=8 trainer.batch=8",
}


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        ({}, 0, "nothing found that would stop the job on 4 nodes of 1 tasks"),
        (
            _VLLM | {"ROLLOUT_NODES": 2, "ROLLOUT_TENSOR": 1},
            0,
            "nothing found that would stop the job on 2 nodes of 1 tasks",
        ),
        # The tiny model has two key-value heads.
        ({"EXTRA": "parallel.tensor=4"}, 2, "parallel.tensor=4 does not divide the model's 2 key-value heads"),
        ({"EXTRA": "parallel.tensr=2"}, 2, "parallel.tensr"),
        ({"TASKS_PER_NODE": 3}, 2, "rollout.prompts=8 is not divisible by the data parallel size 6"),
        ({"DATA": "EMPTY"}, 2, "EMPTY"),
    ],
)
def test_the_check_before_submission(
    changed: dict[str, object],
    code: int,
    message: str,
    given: dict[str, object],
    tiny_model: Path,
    questions: Path,
    tmp_path: Path,
) -> None:
    settings = given | _FITS | {"MODEL": tiny_model, "DATA": questions / "train.jsonl"} | changed
    if changed.get("DATA") == "EMPTY":
        settings["DATA"] = tmp_path / "EMPTY.jsonl"
        (tmp_path / "EMPTY.jsonl").write_text('{"id": 1}\n')
    done = run_script("--check", "--nodes=4", **settings)
    assert done.returncode == code, done.stdout + done.stderr
    assert message in (done.stderr if code else done.stdout)
    assert not (tmp_path / "run").exists()


def test_a_truncated_model_is_found_before_submission(
    given: dict[str, object], tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "short")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = run_script("--check", **given | _FITS | {"MODEL": model, "DATA": questions / "train.jsonl"})
    assert done.returncode == 2
    assert str(weights) in done.stderr
