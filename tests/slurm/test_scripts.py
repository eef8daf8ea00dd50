"""What the job scripts say without a cluster: their help and their plan."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import REPO, SCRIPT, SCRIPTS, environment
from tests.slurm.plans import config_of, planned, run_script, steps, words_after

_LIBRARY = REPO / "slurm" / "lib" / "job.sh"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_names_every_setting(script: Path) -> None:
    done = run_script("--help", script=script)
    lines = [*script.read_text().splitlines(), *_LIBRARY.read_text().splitlines()]
    settings = [line.split("=")[0] for line in lines if "=${" in line and line[0].isupper()]
    assert done.returncode == 0
    assert len(settings) > 14
    assert [name for name in settings if f"  {name} " not in done.stdout] == []
    assert "SBATCH --" not in done.stdout
    assert f"slurm/{script.name}" in done.stdout


def test_a_dry_run_prints_every_step_in_order_and_writes_nothing(given: dict[str, object], tmp_path: Path) -> None:
    plan = planned(**given, TEST_DATA=tmp_path / "test.jsonl", RELEASE=tmp_path / "release")
    assert list(plan) == [
        *("recipes.preflight", "recipes.canary", "conversion.hf_to_megatron", "reward_server", "recipes.grpo"),
        *("recipes.evaluate", "conversion.release"),
    ]
    assert not (tmp_path / "run").exists()


def test_the_other_scripts_steps(given: dict[str, object], tmp_path: Path) -> None:
    data, folder = {"TEST_DATA": tmp_path / "test.jsonl"}, REPO / "slurm"
    looks = ["recipes.preflight", "recipes.canary"]
    sft = planned(folder / "sft.sh", **given | data)
    assert list(sft) == [*looks, "conversion.hf_to_megatron", "recipes.sft", "reward_server", "recipes.evaluate"]
    before = planned(folder / "evaluate.sh", **given | data | {"NAME": "before"})
    assert list(before) == [*looks, "conversion.hf_to_megatron", "reward_server", "recipes.evaluate"]
    assert {f"model.path={tmp_path}/run/megatron", "name=before"} <= set(before["recipes.evaluate"])
    after = planned(folder / "evaluate.sh", **{k: v for k, v in given.items() if k != "MODEL"} | data)
    assert list(after) == [*looks, "reward_server", "recipes.evaluate"]
    assert f"model.path={tmp_path}/run/checkpoints/LAST_STEP" in after["recipes.evaluate"]
    release = planned(folder / "release.sh", **given | {"RELEASE": tmp_path / "out"})
    assert words_after("conversion.release", release["conversion.release"]) == [
        *(f"{tmp_path}/run", f"{tmp_path}/out", "--base", f"{tmp_path}/hf")
    ]
    for source, module in ((tmp_path / "hf", "hf_to_megatron"), (tmp_path / "megatron", "megatron_to_hf")):
        source.mkdir(exist_ok=True)
        if module == "megatron_to_hf":
            (source / "manifest.json").write_text("{}")
        convert = planned(folder / "convert.sh", **given | {"SRC": source, "DST": tmp_path / "made"})
        assert words_after(f"conversion.{module}", convert[f"conversion.{module}"]) == [str(source), f"{tmp_path}/made"]


def test_training_gets_one_task_a_gpu_on_eight_nodes(given: dict[str, object]) -> None:
    plan = planned(**given)
    for wide in (plan["recipes.grpo"], plan["recipes.canary"]):
        assert {"--nodes=8", "--ntasks=64", "--ntasks-per-node=8", "--kill-on-bad-exit=1", "--overlap"} <= set(wide)
    for alone in (plan["conversion.hf_to_megatron"], plan["reward_server"], plan["recipes.preflight"]):
        assert {"--nodes=1", "--ntasks=1", "--nodelist=HEAD_NODE", "--gpus-per-node=0", "--overlap"} <= set(alone)


def test_a_reward_node_is_the_second_component(given: dict[str, object]) -> None:
    plan = planned(**given, REWARD_NODES=1)
    assert {"--het-group=1", "--nodes=1", "--ntasks=1"} <= set(plan["reward_server"])
    assert words_after("--host", plan["reward_server"])[0] == "::"
    assert "reward.url=http://REWARD_NODE:REWARD_PORT" in plan["recipes.grpo"]
    assert not any(word.startswith("--het-group") for word in plan["recipes.grpo"])


_SERVE = "recipes.sampling.vllm.serve"


def test_vllm_runs_on_the_trainers_gpus(given: dict[str, object], tmp_path: Path) -> None:
    """By default; on one node it listens on loopback alone."""
    plan = planned(**{name: value for name, value in given.items() if name != "ROLLOUT"})
    first = ["recipes.preflight", "recipes.canary", "vllm", "conversion.hf_to_megatron", "reward_server"]
    assert list(plan) == [*first, "recipes.sampling.vllm.arguments", _SERVE, "recipes.grpo"]
    assert {"--relative=0", "--nodes=8", "--ntasks=8", "--ntasks-per-node=1", "--overlap"} <= set(plan[_SERVE])
    replica = words_after("bash", plan[_SERVE])
    assert replica[:4] == [f"{REPO}/slurm/lib/replica.sh", "8", "ROLLOUT_PORT", "5"]
    assert words_after(_SERVE, replica)[:4] == [f"{tmp_path}/hf", "--host", "0.0.0.0", "ROLLOUT_ARGUMENTS"]
    config = config_of(plan["recipes.grpo"])
    assert (config.rollout.sampler, config.rollout.tensor) == ("vllm", 8)
    assert (config.rollout.vllm.sleep, config.rollout.vllm.memory_share) == (True, 0.4)
    assert config.rollout.vllm.urls == [f"http://ROLLOUT_NODE_{node}:8001" for node in range(8)]

    (tmp_path / "python3").symlink_to(sys.executable)
    data = given | {"ROLLOUT": "vllm", "TEST_DATA": tmp_path / "test.jsonl"}
    relative = planned(folder=tmp_path, **data, MEDATRON_VLLM_PYTHON="./python3", REWARD_NODES=1)
    assert words_after("5", relative[_SERVE])[0] == f"{tmp_path}/python3"
    for script in ("grpo_7b.sh", "evaluate.sh"):
        alone = planned(REPO / "slurm" / script, **data, EXTRA="rollout.vllm.memory_share=0.5")
        assert {"--nodes=1", "--ntasks=8", "--ntasks-per-node=8"} <= set(alone[_SERVE])
        assert words_after("--host", alone[_SERVE])[0] == "127.0.0.1"
        config = config_of(alone["recipes.evaluate"])
        assert (config.rollout.vllm.urls, config.rollout.vllm.memory_share) == (["http://127.0.0.1:8001"] * 8, 0.5)


def test_vllm_may_have_nodes_and_an_image_of_its_own(given: dict[str, object], tmp_path: Path) -> None:
    changed = {"ROLLOUT": "vllm", "ROLLOUT_NODES": 4, "ROLLOUT_TENSOR": 4, "CONTAINER": "pyxis"}
    images = {"CONTAINER_IMAGE": "registry#medatron:1", "ROLLOUT_IMAGE": "registry#rollout:1"}
    plan = planned(**given | changed | images)
    assert {"--relative=0", "--nodes=4", "--ntasks=32"} <= set(plan["recipes.grpo"])
    assert {"--relative=4", "--nodes=4", "--ntasks=8", "--ntasks-per-node=2"} <= set(plan[_SERVE])
    assert {"--relative=4", "--nodes=4", "--ntasks=4"} <= set(plan["vllm"])
    servers = {name for name, words in plan.items() if "--container-image=registry#rollout:1" in words}
    assert servers == {"vllm", _SERVE}
    mounts = [next(word for word in words if word.startswith("--container-mounts=")) for words in plan.values()]
    assert len(set(mounts)) == 1
    vllm = config_of(plan["recipes.grpo"]).rollout.vllm
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
    plan = planned(**given, ENGINE="nemo_aligner")
    assert plan["conversion.hf_to_megatron"][-4:] == [f"{tmp_path}/run/model.nemo", "--reuse", "--layout", "nemo"]
    assert {"engine=nemo_aligner", f"model.path={tmp_path}/run/model.nemo"} <= set(plan["recipes.grpo"])


def test_a_converted_model_is_not_converted_again(given: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "run" / "megatron").mkdir(parents=True)
    (tmp_path / "run" / "megatron" / "manifest.json").write_text("{}")
    plan = planned(**given)
    # Which looks whether it was made of this MODEL, or is being made by another job.
    words = words_after("conversion.hf_to_megatron", plan["conversion.hf_to_megatron"])
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
        plan = planned(REPO / "slurm" / f"{name}.sh", tmp_path, **given | changed | more)
        assert "conversion.hf_to_megatron" not in plan
        assert all(f"model.path={warm}" in plan[each] for each in ("recipes.preflight", "recipes.canary", module))
        run = tmp_path / "run" / ("ppo" if name == "medrlvr_3b" else "")
        assert f"model.path={run}/checkpoints/LAST_STEP" in plan["recipes.evaluate"]
    assert words_after(f"{tmp_path}/out", plan["conversion.release"]) == ["--base", f"{tmp_path}/hf"]


def test_med_rlvr_trains_baselines_and_policies_and_compares_them(given: dict[str, object], tmp_path: Path) -> None:
    """Each from the base, in a run of its own, and SFT before the servers of vLLM take the GPUs' memory."""
    changed = {"TRACES": tmp_path / "more.jsonl", "TEST_DATA": tmp_path / "test.jsonl", "RELEASE": tmp_path / "out"}
    script, run = REPO / "slurm" / "medrlvr_3b.sh", tmp_path / "run"
    commands = steps(script, **given | changed | {"ROLLOUT": "vllm"})
    modules = [(words_after("-m", words)[0], words) for words in commands if "-m" in words]
    trained = [(module, words) for module, words in modules if module in ("recipes.sft", "recipes.grpo")]
    assert [(module, words_after("-m", words)[1]) for module, words in trained] == [
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
    names = [module for module, _ in modules]
    assert names.index(_SERVE) > max(number for number, name in enumerate(names) if name == "recipes.sft")
    evaluated = [words for module, words in modules if module == "recipes.evaluate"]
    assert [next(w for w in words if w.startswith("model.path")) for words in evaluated] == [
        f"model.path={run}/megatron",
        *(f"model.path={run}/{method}/checkpoints/LAST_STEP" for method in methods),
    ]
    compared, released = modules[-2:]
    results = [f"{run}/{name}/evaluation/{name}.json" for name in ("base", *methods)]
    assert words_after("recipes.compare", compared[1]) == [*results, "--out", f"{run}/comparison"]
    assert words_after("conversion.release", released[1])[:2] == [f"{run}/ppo", f"{tmp_path}/out"]
    for methods_said, message in (
        ("dpo", "METHODS=dpo: expected one of: sft_answer sft_worked grpo ppo"),
        ("ppo ppo", "METHODS=ppo ppo: names ppo twice"),
        (" ", "METHODS names none"),
        ("sft_worked", "TRACES is not set; set it to a JSONL file of training examples with a meta.trace"),
    ):
        refused = run_script(script=script, DRY_RUN=1, METHODS=methods_said, **given)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith(f"medrlvr_3b.sh: {message}")


def test_med_u1_trains_from_published_files_by_one_command(given: dict[str, object], tmp_path: Path) -> None:
    """Prepared before anything looks at the data, once for all lives; evaluated in and out of distribution."""
    script, source, run = REPO / "slurm" / "grpo_7b.sh", tmp_path / "published, ü", tmp_path / "run, 1"
    source.mkdir()
    settings = {k: v for k, v in given.items() if k != "DATA"} | {"SOURCE": "published, ü", "RUN": run}
    plan = planned(script, tmp_path, **settings)
    assert list(plan)[:3] == ["recipes.prepare_data", "recipes.preflight", "recipes.canary"]
    words = ["med-u1-run", str(source), f"{run}/data", "--reuse"]
    assert words_after("recipes.prepare_data", plan["recipes.prepare_data"]) == words
    made = [f"{run}/data/{name}.jsonl" for name in ("train", "in_distribution", "out_of_distribution")]
    for module in ("recipes.canary", "recipes.grpo", "recipes.evaluate"):
        data = config_of(plan[module]).data
        assert [*data.train, *data.test] == made
    own = planned(script, tmp_path, **settings, TEST_DATA="test.jsonl", EXPERIMENT="med_u1_3b")["recipes.evaluate"]
    assert config_of(own).data.test == [f"{tmp_path}/test.jsonl"]
    container = {"CONTAINER": "pyxis", "CONTAINER_IMAGE": "registry#medatron:1"}
    for changed, said in (
        ({"DATA": tmp_path / "train.jsonl"}, "SOURCE and DATA are both set"),
        ({"SOURCE": "/nowhere"}, "SOURCE=/nowhere: no such folder; expected one with the published files"),
        ({"RUN": source / "run"}, f"RUN={source}/run: lies in SOURCE={source}; set RUN to another folder"),
        ({"RUN": f"{run}'"}, f"{run}'/data/train.jsonl: a comma and a quote or backslash in one name; rename it"),
        (container, "published, ü: a container mounts no path with a comma or colon; rename it"),
    ):
        refused = run_script(script=script, folder=tmp_path, DRY_RUN=1, **settings | changed)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert said in refused.stderr
    # What the folder lacks is found before submission, and nothing is written. Empty, these are as not set.
    checked = run_script("--check", script=script, folder=tmp_path, DATA="", TEST_DATA="", TMPDIR=tmp_path, **settings)
    assert checked.returncode == 2
    assert "calculations to train on: train_medcalc.parquet or train_data*.csv or " in checked.stderr
    assert checked.stderr.endswith(f"grpo_7b.sh: SOURCE={source}: cannot be prepared; the reason is above\n")
    assert not run.exists()
    assert not list(tmp_path.glob("tmp.*"))


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
