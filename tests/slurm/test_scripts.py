"""What the job scripts say without a cluster: their help, their plan, what they check and what they refuse."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.runtime.config import Config
from recipes.runtime.loading import load
from tests.slurm.cluster import REPO, SCRIPT, SCRIPTS, environment

_LIBRARY = REPO / "slurm" / "lib" / "job.sh"


def _run(
    *arguments: str, script: Path = SCRIPT, folder: Path = REPO, **settings: object
) -> subprocess.CompletedProcess[str]:
    command = [str(script), *arguments]
    return subprocess.run(command, cwd=folder, env=environment(settings), capture_output=True, text=True, timeout=300)


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
        "ROLLOUT": "embedded",
    }


def _plan(script: Path = SCRIPT, folder: Path = REPO, **settings: object) -> dict[str, list[str]]:
    """The srun command lines of a dry run, as a shell would read them, by the module that each starts."""
    done = _run(script=script, folder=folder, DRY_RUN=1, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    commands = [_words(line) for line in done.stdout.splitlines() if line.startswith("srun ")]
    return {command[command.index("-m") + 1] if "-m" in command else "vllm": command for command in commands}


def _words(line: str) -> list[str]:
    if "$'" not in line:  # which shlex does not know, and bash does
        return shlex.split(line)
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], env=environment({}), capture_output=True, check=True
    )
    return read.stdout.decode().split("\0")[:-1]


def _after(word: str, command: list[str]) -> list[str]:
    return command[command.index(word) + 1 :]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_names_every_setting(script: Path) -> None:
    done = _run("--help", script=script)
    lines = [*script.read_text().splitlines(), *_LIBRARY.read_text().splitlines()]
    settings = [line.split("=")[0] for line in lines if "=${" in line and line[0].isupper()]
    assert done.returncode == 0
    assert len(settings) > 14
    assert [name for name in settings if f"  {name} " not in done.stdout] == []
    assert "SBATCH --" not in done.stdout
    assert f"slurm/{script.name}" in done.stdout


def test_a_dry_run_prints_every_step_in_order_and_writes_nothing(given: dict[str, object], tmp_path: Path) -> None:
    plan = _plan(**given, TEST_DATA=tmp_path / "test.jsonl", RELEASE=tmp_path / "release")
    assert list(plan) == [
        *("recipes.preflight", "recipes.canary", "conversion.hf_to_megatron", "reward_server", "recipes.grpo"),
        *("recipes.evaluate", "conversion.release"),
    ]
    assert not (tmp_path / "run").exists()


def test_the_other_scripts_steps(given: dict[str, object], tmp_path: Path) -> None:
    data, folder = {"TEST_DATA": tmp_path / "test.jsonl"}, REPO / "slurm"
    looks = ["recipes.preflight", "recipes.canary"]
    sft = _plan(folder / "sft.sh", **given | data)
    assert list(sft) == [*looks, "conversion.hf_to_megatron", "recipes.sft", "reward_server", "recipes.evaluate"]
    before = _plan(folder / "evaluate.sh", **given | data | {"NAME": "before"})
    assert list(before) == [*looks, "conversion.hf_to_megatron", "reward_server", "recipes.evaluate"]
    assert {f"model.path={tmp_path}/run/megatron", "name=before"} <= set(before["recipes.evaluate"])
    after = _plan(folder / "evaluate.sh", **{k: v for k, v in given.items() if k != "MODEL"} | data)
    assert list(after) == [*looks, "reward_server", "recipes.evaluate"]
    assert f"model.path={tmp_path}/run/checkpoints/LAST_STEP" in after["recipes.evaluate"]
    release = _plan(folder / "release.sh", **given | {"RELEASE": tmp_path / "out"})
    assert _after("conversion.release", release["conversion.release"]) == [
        *(f"{tmp_path}/run", f"{tmp_path}/out", "--base", f"{tmp_path}/hf")
    ]
    for source, module in ((tmp_path / "hf", "hf_to_megatron"), (tmp_path / "megatron", "megatron_to_hf")):
        source.mkdir(exist_ok=True)
        if module == "megatron_to_hf":
            (source / "manifest.json").write_text("{}")
        convert = _plan(folder / "convert.sh", **given | {"SRC": source, "DST": tmp_path / "made"})
        assert _after(f"conversion.{module}", convert[f"conversion.{module}"]) == [str(source), f"{tmp_path}/made"]


def test_training_gets_one_task_a_gpu_on_eight_nodes(given: dict[str, object]) -> None:
    plan = _plan(**given)
    for wide in (plan["recipes.grpo"], plan["recipes.canary"]):
        assert {"--nodes=8", "--ntasks=64", "--ntasks-per-node=8", "--kill-on-bad-exit=1", "--overlap"} <= set(wide)
    for alone in (plan["conversion.hf_to_megatron"], plan["reward_server"], plan["recipes.preflight"]):
        assert {"--nodes=1", "--ntasks=1", "--nodelist=HEAD_NODE", "--gpus-per-node=0", "--overlap"} <= set(alone)


def test_a_reward_node_is_the_second_component(given: dict[str, object]) -> None:
    plan = _plan(**given, REWARD_NODES=1)
    assert {"--het-group=1", "--nodes=1", "--ntasks=1"} <= set(plan["reward_server"])
    assert _after("--host", plan["reward_server"])[0] == "::"
    assert "reward.url=http://REWARD_NODE:REWARD_PORT" in plan["recipes.grpo"]
    assert not any(word.startswith("--het-group") for word in plan["recipes.grpo"])


_SERVE = "recipes.sampling.vllm.serve"


def test_vllm_runs_on_the_trainers_gpus(given: dict[str, object], tmp_path: Path) -> None:
    """By default; on one node it listens on loopback alone."""
    plan = _plan(**{name: value for name, value in given.items() if name != "ROLLOUT"})
    steps = ["recipes.preflight", "recipes.canary", "vllm", "conversion.hf_to_megatron", "reward_server"]
    assert list(plan) == [*steps, "recipes.sampling.vllm.arguments", _SERVE, "recipes.grpo"]
    assert {"--relative=0", "--nodes=8", "--ntasks=8", "--ntasks-per-node=1", "--overlap"} <= set(plan[_SERVE])
    replica = _after("bash", plan[_SERVE])
    assert replica[:4] == [f"{REPO}/slurm/lib/replica.sh", "8", "ROLLOUT_PORT", "5"]
    assert _after(_SERVE, replica)[:4] == [f"{tmp_path}/hf", "--host", "0.0.0.0", "ROLLOUT_ARGUMENTS"]
    config = _config(plan["recipes.grpo"])
    assert (config.rollout.sampler, config.rollout.tensor) == ("vllm", 8)
    assert (config.rollout.vllm.sleep, config.rollout.vllm.memory_share) == (True, 0.4)
    assert config.rollout.vllm.urls == [f"http://ROLLOUT_NODE_{node}:8001" for node in range(8)]

    (tmp_path / "python3").symlink_to(sys.executable)
    data = given | {"ROLLOUT": "vllm", "TEST_DATA": tmp_path / "test.jsonl"}
    relative = _plan(folder=tmp_path, **data, MEDATRON_VLLM_PYTHON="./python3", REWARD_NODES=1)
    assert _after("5", relative[_SERVE])[0] == f"{tmp_path}/python3"
    for script in ("grpo_7b.sh", "evaluate.sh"):
        alone = _plan(REPO / "slurm" / script, **data, EXTRA="rollout.vllm.memory_share=0.5")
        assert {"--nodes=1", "--ntasks=8", "--ntasks-per-node=8"} <= set(alone[_SERVE])
        assert _after("--host", alone[_SERVE])[0] == "127.0.0.1"
        config = _config(alone["recipes.evaluate"])
        assert (config.rollout.vllm.urls, config.rollout.vllm.memory_share) == (["http://127.0.0.1:8001"] * 8, 0.5)


def _config(command: list[str]) -> Config:
    """What a step is told, with ports for those that are known when the job runs."""
    settings = [word for word in command[command.index("-m") + 2 :] if not word.startswith("name=")]
    return load([word.replace("REWARD_PORT", "8000").replace("ROLLOUT_PORT", "8001") for word in settings])


def test_vllm_may_have_nodes_and_an_image_of_its_own(given: dict[str, object], tmp_path: Path) -> None:
    changed = {"ROLLOUT": "vllm", "ROLLOUT_NODES": 4, "ROLLOUT_TENSOR": 4, "CONTAINER": "pyxis"}
    images = {"CONTAINER_IMAGE": "registry#medatron:1", "ROLLOUT_IMAGE": "registry#rollout:1"}
    plan = _plan(**given | changed | images)
    assert {"--relative=0", "--nodes=4", "--ntasks=32"} <= set(plan["recipes.grpo"])
    assert {"--relative=4", "--nodes=4", "--ntasks=8", "--ntasks-per-node=2"} <= set(plan[_SERVE])
    assert {"--relative=4", "--nodes=4", "--ntasks=4"} <= set(plan["vllm"])
    servers = {name for name, words in plan.items() if "--container-image=registry#rollout:1" in words}
    assert servers == {"vllm", _SERVE}
    mounts = [next(word for word in words if word.startswith("--container-mounts=")) for words in plan.values()]
    assert len(set(mounts)) == 1
    vllm = _config(plan["recipes.grpo"]).rollout.vllm
    assert vllm.urls == [f"http://ROLLOUT_NODE_{node}:8001" for node in range(4) for _ in range(2)]
    assert (vllm.sleep, vllm.transfer, vllm.folder) == (False, "auto", f"{tmp_path}/run/logs/JOB_ID/weights")


def test_servers_are_started_with_what_the_run_is_told(tmp_path: Path, given: dict[str, object]) -> None:
    made = tmp_path / "arguments"
    settings = ["experiment=grpo_70b", "rollout=vllm", "rollout.tensor=4", f"model.path={tmp_path}/hf", "output=o"]
    settings += [f"data.test=[{given['DATA']}]", "rollout.vllm.memory_share=0.5"]
    for more, words in (
        (
            ["model.max_length=8192"],
            "--precision bfloat16 --max-length 8192 --tensor 4 --memory-share 0.5 --logprobs processed",
        ),
        (["rollout.vllm.sleep=true", "rollout.top_p=0.9"], "--memory-share 0.5 --logprobs raw --sleep"),
        (["model.precision=float32"], "--logprobs processed --eager"),
    ):
        command = [sys.executable, "-m", "recipes.sampling.vllm.arguments", str(made), *settings, *more]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert words in " ".join(made.read_text().splitlines())


def test_a_replica_takes_its_gpus_and_port_and_is_started_again(tmp_path: Path) -> None:
    """What it started beside itself ends with it: that would keep the GPUs' memory, and here the pipe that is read."""
    server = tmp_path / "server"
    server.write_text('echo "gpus $CUDA_VISIBLE_DEVICES ${PYTORCH_CUDA_ALLOC_CONF-unset} $*"\nsleep 600 &\nexit 3\n')
    environ = environment({"SLURM_LOCALID": 1, "CUDA_VISIBLE_DEVICES": "0,1,4,5", "PYTORCH_CUDA_ALLOC_CONF": "x"})
    command = ["bash", str(REPO / "slurm" / "lib" / "replica.sh"), "2", "8000", "1", "bash", str(server), "--host", "h"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    first, said, second = done.stdout.splitlines()
    assert first == second == "gpus 4,5 unset --host h --port 8001"
    assert said.endswith(":8001 stopped with exit code 3; starting it again (1 of 1)")


def test_the_second_engine_begins_with_its_own_form(given: dict[str, object], tmp_path: Path) -> None:
    plan = _plan(**given, ENGINE="nemo_aligner")
    assert plan["conversion.hf_to_megatron"][-4:] == [f"{tmp_path}/run/model.nemo", "--reuse", "--layout", "nemo"]
    assert {"engine=nemo_aligner", f"model.path={tmp_path}/run/model.nemo"} <= set(plan["recipes.grpo"])


def test_training_takes_files_settings_and_overrides(given: dict[str, object], tmp_path: Path) -> None:
    files = f"{tmp_path}/train.jsonl,{tmp_path}/more.jsonl"
    training = _plan(**given | {"DATA": files}, EXTRA="trainer.steps=3 rollout.prompts=8")["recipes.grpo"]
    assert _after("recipes.grpo", training) == [
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
    settings = _after("recipes.grpo", _plan(**given | {"RUN": run, "DATA": files, "EXTRA": extra})["recipes.grpo"])
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
        assert _plan(folder=tmp_path, **relative | changed) == _plan(**absolute | changed)
    (tmp_path / "run" / "checkpoints" / "step_000001").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step_000001" / "manifest.json").touch()
    checkpoint = {"CHECKPOINT": "run/checkpoints/step_000001", "CONTAINER": "none", "ROLLOUT": "embedded"}
    settings = {name: value for name, value in relative.items() if name != "MODEL"} | checkpoint
    plan = _plan(REPO / "slurm" / "evaluate.sh", tmp_path, **settings)
    assert f"model.path={tmp_path}/run/checkpoints/step_000001" in plan["recipes.evaluate"]


def test_a_converted_model_is_not_converted_again(given: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "run" / "megatron").mkdir(parents=True)
    (tmp_path / "run" / "megatron" / "manifest.json").write_text("{}")
    plan = _plan(**given)
    # Which looks whether it was made of this MODEL, or is being made by another job.
    words = _after("conversion.hf_to_megatron", plan["conversion.hf_to_megatron"])
    assert words == [f"{tmp_path}/hf", f"{tmp_path}/run/megatron", "--reuse"]
    assert f"model.path={tmp_path}/run/megatron" in plan["recipes.preflight"]


@pytest.mark.parametrize(("name", "module"), [("medrlvr_3b", "recipes.grpo"), ("sft", "recipes.sft")])
def test_training_begins_with_a_checkpoint(name: str, module: str, given: dict[str, object], tmp_path: Path) -> None:
    """Such as that of SFT; typed from the folder where it lies, and MODEL is there for the release alone."""
    warm = tmp_path / "sft" / "step_000004"
    warm.mkdir(parents=True)
    (warm / "manifest.json").write_text("{}")
    changed = {"CHECKPOINT": "sft/step_000004", "TEST_DATA": "test.jsonl"}
    for more in ({"MODEL": ""}, {"RELEASE": "out"}):
        plan = _plan(REPO / "slurm" / f"{name}.sh", tmp_path, **given | changed | more)
        assert "conversion.hf_to_megatron" not in plan
        assert all(f"model.path={warm}" in plan[each] for each in ("recipes.preflight", "recipes.canary", module))
        run = tmp_path / "run" / ("ppo" if name == "medrlvr_3b" else "")
        assert f"model.path={run}/checkpoints/LAST_STEP" in plan["recipes.evaluate"]
    assert _after(f"{tmp_path}/out", plan["conversion.release"]) == ["--base", f"{tmp_path}/hf"]


def test_med_rlvr_trains_baselines_and_policies_and_compares_them(given: dict[str, object], tmp_path: Path) -> None:
    """Each from the base, in a run of its own, and SFT before the servers of vLLM take the GPUs' memory."""
    changed = {"TRACES": tmp_path / "more.jsonl", "TEST_DATA": tmp_path / "test.jsonl", "RELEASE": tmp_path / "out"}
    script, run = REPO / "slurm" / "medrlvr_3b.sh", tmp_path / "run"
    done = _run(script=script, DRY_RUN=1, **given | changed | {"ROLLOUT": "vllm"})
    assert (done.returncode, done.stderr) == (0, "")
    commands = [_words(line) for line in done.stdout.splitlines() if line.startswith("srun ")]
    steps = [(_after("-m", words)[0], words) for words in commands if "-m" in words]
    trained = [(module, words) for module, words in steps if module in ("recipes.sft", "recipes.grpo")]
    assert [(module, _after("-m", words)[1]) for module, words in trained] == [
        *[("recipes.sft", "experiment=med_rlvr_3b_sft")] * 2,
        *(("recipes.grpo", "experiment=med_rlvr_3b_grpo"), ("recipes.grpo", "experiment=med_rlvr_3b")),
    ]
    methods = ["sft_answer", "sft_worked", "grpo", "ppo"]
    for method, (_, words) in zip(methods, trained, strict=True):
        rows = "more" if method == "sft_worked" else "train"
        assert {f"output={run}/{method}", f"model.path={run}/megatron", f"data.train=[{tmp_path}/{rows}.jsonl]"} <= set(
            words
        )
    assert [word for _, words in trained for word in words if word.startswith("data.teach")] == [
        *("data.teach=answer", "data.teach=worked")
    ]
    names = [module for module, _ in steps]
    assert names.index(_SERVE) > max(number for number, name in enumerate(names) if name == "recipes.sft")
    evaluated = [words for module, words in steps if module == "recipes.evaluate"]
    assert [next(w for w in words if w.startswith("model.path")) for words in evaluated] == [
        f"model.path={run}/megatron",
        *(f"model.path={run}/{method}/checkpoints/LAST_STEP" for method in methods),
    ]
    compared, released = steps[-2:]
    results = [f"{run}/{name}/evaluation/{name}.json" for name in ("base", *methods)]
    assert _after("recipes.compare", compared[1]) == [*results, "--out", f"{run}/comparison"]
    assert _after("conversion.release", released[1])[:2] == [f"{run}/ppo", f"{tmp_path}/out"]
    for methods_said, message in (
        ("dpo", "METHODS=dpo: expected one of: sft_answer sft_worked grpo ppo"),
        ("ppo ppo", "METHODS=ppo ppo: names ppo twice"),
        (" ", "METHODS names none"),
        ("sft_worked", "TRACES is not set; set it to a JSONL file of training examples with a meta.trace"),
    ):
        refused = _run(script=script, DRY_RUN=1, METHODS=methods_said, **given)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith(f"medrlvr_3b.sh: {message}")


def test_med_u1_trains_from_published_files_by_one_command(given: dict[str, object], tmp_path: Path) -> None:
    """Prepared before anything looks at the data, once for all lives; evaluated in and out of distribution."""
    script, source, run = REPO / "slurm" / "grpo_7b.sh", tmp_path / "published, ü", tmp_path / "run, 1"
    source.mkdir()
    settings = {k: v for k, v in given.items() if k != "DATA"} | {"SOURCE": "published, ü", "RUN": run}
    plan = _plan(script, tmp_path, **settings)
    assert list(plan)[:3] == ["recipes.prepare_data", "recipes.preflight", "recipes.canary"]
    words = ["med-u1-run", str(source), f"{run}/data", "--reuse"]
    assert _after("recipes.prepare_data", plan["recipes.prepare_data"]) == words
    made = [f"{run}/data/{name}.jsonl" for name in ("train", "in_distribution", "out_of_distribution")]
    for module in ("recipes.canary", "recipes.grpo", "recipes.evaluate"):
        data = _config(plan[module]).data
        assert [*data.train, *data.test] == made
    own = _plan(script, tmp_path, **settings, TEST_DATA="test.jsonl", EXPERIMENT="med_u1_3b")["recipes.evaluate"]
    assert _config(own).data.test == [f"{tmp_path}/test.jsonl"]
    container = {"CONTAINER": "pyxis", "CONTAINER_IMAGE": "registry#medatron:1"}
    for changed, said in (
        ({"DATA": tmp_path / "train.jsonl"}, "SOURCE and DATA are both set"),
        ({"SOURCE": "/nowhere"}, "SOURCE=/nowhere: no such folder; expected one with the published files"),
        ({"RUN": source / "run"}, f"RUN={source}/run: lies in SOURCE={source}; set RUN to another folder"),
        ({"RUN": f"{run}'"}, f"{run}'/data/train.jsonl: a comma and a quote or backslash in one name; rename it"),
        (container, "published, ü: a container mounts no path with a comma or colon; rename it"),
    ):
        refused = _run(script=script, folder=tmp_path, DRY_RUN=1, **settings | changed)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert said in refused.stderr
    # What the folder lacks is found before submission, and nothing is written. Empty, these are as not set.
    checked = _run("--check", script=script, folder=tmp_path, DATA="", TEST_DATA="", TMPDIR=tmp_path, **settings)
    assert checked.returncode == 2
    assert "calculations to train on: train_medcalc.parquet or train_data*.csv or " in checked.stderr
    assert checked.stderr.endswith(f"grpo_7b.sh: SOURCE={source}: cannot be prepared; the reason is above\n")
    assert not run.exists()
    assert not list(tmp_path.glob("tmp.*"))


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
    for command in _plan(**given | changed, CONTAINER_MOUNTS="/scratch:/scratch").values():
        container = [word for word in command if word.startswith(("--container", "--no-container"))]
        assert container == [
            "--container-image=registry#medatron:1",
            "--container-mounts=" + ",".join(f"{path}:{path}" for path in mounted),
            f"--container-workdir={REPO}",
            "--no-container-mount-home",
        ]
        assert _after("--no-container-mount-home", command)[:2] == ["python3", "-m"]
    (tmp_path / "image.sif").write_text("")
    changed |= {"CONTAINER": "apptainer", "CONTAINER_IMAGE": tmp_path / "image.sif"}
    for command in _plan(**given | changed, CONTAINER_MOUNTS="/scratch:/scratch").values():
        assert _after(f"--chdir={REPO}", command)[:12] == [
            *("apptainer", "exec", "--nv", "--no-home", "--bind", ",".join(f"{path}:{path}" for path in mounted)),
            *("--pwd", str(REPO), str(tmp_path / "image.sif"), "python3", "-m", _after("-m", command)[0]),
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
    done = _run(**{"DRY_RUN": 1} | given | changed)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"grpo_70b.sh: {message}")


def test_an_argument_is_refused(given: dict[str, object]) -> None:
    done = _run("model.path=x", **given)
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
    done = _run("--check", "--nodes=4", **settings)
    assert done.returncode == code, done.stdout + done.stderr
    assert message in (done.stderr if code else done.stdout)
    assert not (tmp_path / "run").exists()


def test_a_truncated_model_is_found_before_submission(
    given: dict[str, object], tiny_model: Path, questions: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "short")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = _run("--check", **given | _FITS | {"MODEL": model, "DATA": questions / "train.jsonl"})
    assert done.returncode == 2
    assert str(weights) in done.stderr


@pytest.mark.parametrize("command", [["shellcheck", "-x"], ["shfmt", "-i", "2", "-d"]], ids=lambda c: c[0])
def test_scripts_are_clean(command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    scripts = sorted(str(path.relative_to(REPO)) for top in ("slurm", "tests") for path in (REPO / top).rglob("*.sh"))
    assert len(scripts) >= 3
    done = subprocess.run([*command, *scripts], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
