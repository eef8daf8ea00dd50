"""The planner as a user runs it: its output, its files, its errors, its sweep; and the published figures beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from recipes.planning.advice import advice
from recipes.planning.architectures import PUBLISHED, published
from recipes.planning.estimate import Assumptions, Plan
from recipes.planning.hardware import MEDIAN_ERROR_PERCENT
from recipes.planning.memory import verdict
from recipes.planning.picture import as_svg
from recipes.planning.sweep import check_layout, legal_layouts, splits, sweep
from recipes.runtime.config import ConfigError
from recipes.runtime.loading import load
from recipes.runtime.rules import Stage
from tests.conftest import REPOSITORY

NO_PATHS = ("output=''", "model.path=''")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def plan_of(*overrides: str, response_tokens: int = 1536, rollout_nodes: int = 0) -> Plan:
    config = load([*NO_PATHS, *overrides], Stage.PLAN)
    assert config.model.architecture is not None
    return Plan(config, published(config.model.architecture), Assumptions(300, response_tokens, rollout_nodes))


def run(*arguments: str, script: str = "-m recipes.plan") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *script.split(), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def test_the_70b_plan_in_words() -> None:
    done = run("experiment=grpo_70b_fp8", "cluster.price=3", "--sweep")
    assert done.returncode == 0, done.stderr
    for said in (
        "70.55 billion parameters",
        "64 x H100 SXM 80 GB: tensor 8 x pipeline 4 x data 2",
        "an estimate, nothing was measured",
        "optimizer state",
        "KV cache",
        "verdict           fits",
        "reference policy",
        "pipeline bubble",
        "at 3.00 a GPU-hour (cluster.price, set your own)",
        "The bottleneck is generation",
        "legal layouts fit",
    ):
        assert said in done.stdout


def test_json_and_files(tmp_path: Path) -> None:
    done = run("experiment=grpo_70b", f"output={tmp_path}", "--json", "--picture", str(tmp_path / "own.svg"))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures == json.loads((tmp_path / "plan.json").read_text())
    assert figures["parameters"] == 70_553_706_496
    phases = {name: parts for name, parts in figures["step_seconds"].items() if name != "total"}
    assert sum(sum(parts.values()) for parts in phases.values()) == pytest.approx(
        figures["step_seconds"]["total"], 1e-3
    )
    # 200 steps on 64 GPUs at 2.5.
    hours = 200 * figures["step_seconds"]["total"] / 3600
    assert figures["gpu_hours"] == pytest.approx(64 * hours, 1e-3)
    assert figures["cost"] == pytest.approx(2.5 * 64 * hours, 1e-3)
    assert "verdict" in (tmp_path / "plan.txt").read_text()
    assert (tmp_path / "own.svg").read_text() == (tmp_path / "plan.svg").read_text()


def test_other_gpus_change_verdict_and_time() -> None:
    """Half the memory, and links between nodes a tenth as fast."""
    usual = plan_of("experiment=grpo_70b")
    small = plan_of("experiment=grpo_70b", "cluster.memory_gb=40")
    slow = plan_of("experiment=grpo_70b", "cluster.network_gb_s=5")
    assert verdict(usual.memory, usual.gpu.memory) == "fits"
    assert verdict(small.memory, small.gpu.memory) == "does not fit"
    assert slow.seconds["training"] > 1.1 * usual.seconds["training"]
    assert slow.seconds["generation"] == usual.seconds["generation"]  # within a node
    assert plan_of("experiment=grpo_70b", "cluster.price=5").cost == pytest.approx(2 * usual.cost)
    # 8 ranks x 4.41e9 parameters x (24 + 2) bytes, of main weights and moments and of the reference policy.
    assert advice(usual)[0].startswith("The bottleneck")
    assert advice(plan_of("experiment=grpo_70b", "cluster.node_memory_gb=900"))[0].startswith("A save takes 917 GB")


def test_the_architecture_of_a_folder(tmp_path: Path) -> None:
    """A Hugging Face folder and a converted one, which has it under hf/; a path goes before a published name."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["Qwen2.5-7B"]))
    (tmp_path / "converted" / "hf").mkdir(parents=True)
    (tmp_path / "converted" / "hf" / "config.json").write_text(json.dumps(PUBLISHED["Qwen2.5-3B"]))
    plain = json.loads(run(f"model.path={tmp_path}", "model.architecture=Llama-3.1-8B", "--json").stdout)
    assert plain["parameters"] == 7_615_616_512
    converted = json.loads(run(f"model.path={tmp_path / 'converted'}", "--json").stdout)
    assert converted["parameters"] == 3_085_938_688
    assert converted["architecture"].endswith("converted/hf/config.json")
    (tmp_path / "config.json").write_text("[]")
    refused = run(f"model.path={tmp_path}")
    assert f"{tmp_path}/config.json: expected a JSON object" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give model.path=FOLDER (Hugging Face or converted), or model.architecture=NAME, one of Llama-3.1-8B"),
        (["model.path=no/such/folder"], "model.path=no/such/folder: no config.json there"),
        (["model.architecture=Llama-4"], "model.architecture=Llama-4: expected one of"),
        (["experiment=grpo_70b", "parallel.tensor=16"], "parallel.tensor=16 does not divide the model's 8 key-value"),
        (["experiment=grpo_70b", "parallel.tensr=2"], "tensr"),
        (
            ["experiment=grpo_70b", "rollout=vllm", "rollout.tensor=3"],
            "rollout.tensor=3 does not divide a node's 8 GPUs",
        ),
        (
            ["experiment=grpo_70b", "--rollout-nodes", "2"],
            "--rollout-nodes 2: the embedded sampler has no servers; set",
        ),
        (["experiment=grpo_70b", "--response-tokens", "4000"], "below the limit, rollout.max_new_tokens=3072"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    experts = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 768}
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["Qwen3-8B"] | experts))
    assert "a mixture of experts; the engine trains dense models only" in run(f"model.path={tmp_path}").stderr


def test_help_teaches() -> None:
    shown = run("--help").stdout
    for said in ("experiment=grpo_70b_fp8", "--sweep", "docs/plan.md", "--response-tokens", "cluster.price"):
        assert said in shown


def test_a_plan_needs_no_torch() -> None:
    """It is run on login nodes, where importing torch alone takes longer than the whole plan."""
    done = run("import sys, recipes.plan; sys.exit('torch' in sys.modules)", script="-c")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "more",
    [(), ("rollout.tensor=1",), ("rollout=vllm", "rollout.vllm.sleep=true"), ("algorithm=ppo", "rollout.tensor=1")],
)
def test_the_picture_holds_what_the_plan_says(more: tuple[str, ...]) -> None:
    plan = plan_of("experiment=grpo_70b_fp8", *more)
    picture = ElementTree.fromstring(as_svg(plan))
    space = "{http://www.w3.org/2000/svg}"
    named = [mark.text for mark in picture.iter(f"{space}title")]
    for phase, seconds in plan.seconds.items():
        assert f"{phase} {seconds:.1f} s" in named
    for name, size in plan.memory.parts.items():
        if size:
            assert f"{name} {size / 1e9:.1f} GB" in named
    # Nothing is drawn outside the picture.
    for mark in picture.iter(f"{space}rect"):
        assert float(mark.get("x", 0)) + float(mark.get("width", 0)) <= 960


def test_a_name_with_markup_in_it_stays_text() -> None:
    assert ElementTree.fromstring(as_svg(plan_of("experiment=grpo_70b", "name='<b>&'"))) is not None


@pytest.mark.parametrize(("experiment", "processes"), [("grpo_70b_fp8", 64), ("grpo_32b", 32), ("med_u1_3b", 4)])
def test_the_sweep_offers_only_legal_layouts_that_fit(experiment: str, processes: int) -> None:
    plan = plan_of(f"experiment={experiment}", f"parallel.processes={processes}")
    fitting, others = sweep(plan)
    assert fitting
    for found in fitting:
        check_layout(found.config, found.architecture)
        assert found.layout.gpus == processes
        assert plan.architecture.num_query_groups % found.layout.tensor == 0
        assert plan.architecture.num_layers % found.layout.pipeline == 0
        assert plan.config.rollout.prompts % found.layout.data == 0
        assert verdict(found.memory, found.gpu.memory) != "does not fit"
    seconds = [round(found.step_seconds, 1) for found in fitting]
    assert seconds == sorted(seconds)
    assert len(fitting) + others == len(list(legal_layouts(plan.config, plan.architecture, 8)))


def test_the_sweep_misses_no_legal_layout() -> None:
    """Sizes by hand: Qwen2.5-3B has 2 key-value heads and 36 layers; 4 GPUs and batches of 4 prompts."""
    plan = plan_of("experiment=med_u1_3b")
    sizes = {
        (c.parallel.tensor, c.parallel.pipeline)
        for c in legal_layouts(plan.config, plan.architecture, plan.gpu.per_node)
    }
    assert sizes == {(1, 1), (1, 2), (1, 4), (2, 1), (2, 2)}


_VLLM = ("experiment=grpo_70b_fp8", "rollout=vllm", "rollout.tensor=8")
_ASLEEP = (*_VLLM, "rollout.vllm.sleep=true", "rollout.vllm.memory_share=0.4")


def test_a_70b_step_with_vllm_beats_the_published_one() -> None:
    """NeMo-RL's takes 147 s at 64 prompts x 32 responses of 398 tokens; the estimate of that one is 17 % low."""
    plan = plan_of(*_ASLEEP, "rollout.group_size=32", response_tokens=400)
    assert list(plan.phases)[:2] == ["weights to vLLM", "generation"]
    assert plan.seconds["weights to vLLM"] == pytest.approx(14.0, abs=0.05)
    assert plan.verdict == "fits"
    assert plan.gpus == 64
    assert plan.step_seconds / (1 - 0.17) < 147
    assert {said.partition(":")[0] for said in plan.rests_on.values()} == {"published", "measured"}
    assert plan.rests_on.keys() == plan.phases.keys()


def test_where_vllm_samples_says_whose_memory_it_takes() -> None:
    asleep, awake = plan_of(*_ASLEEP), plan_of(*_VLLM, "rollout.vllm.memory_share=0.4")
    always = sum(asleep.memory.always.values())
    # 0.4 of 80e9, in place of the embedded sampler's cache and logits.
    assert asleep.memory.sampling == {"vLLM": 32e9}
    assert asleep.memory.sampling_peak == always + 32e9
    assert asleep.memory.training_peak == awake.memory.training_peak - 32e9
    assert any("set rollout.vllm.sleep=true" in said for said in advice(awake))
    apart = plan_of(*_VLLM, "parallel.processes=32", rollout_nodes=4)
    assert apart.memory.sampling == {}
    assert (apart.layout.gpus, apart.gpus, apart.gpu_hours) == (32, 64, pytest.approx(64 * apart.hours))
    ahead = plan_of(*_VLLM, "parallel.processes=32", "rollout.ahead=2", "rollout.over_sample=0.5", rollout_nodes=4)
    assert ahead.seconds == apart.seconds
    [said, more] = [each for each in advice(ahead) if each.startswith("Seconds are those of rollout.")]
    handing_over, sampling = ahead.seconds["weights to vLLM"], ahead.seconds["generation"]
    least = max(handing_over + sampling, ahead.step_seconds - sampling)
    assert f"With ahead=2 servers sample while the trainer computes: {least:.0f} s a step at best" in said
    assert "rollout.over_sample=0" in more


def test_advice_on_vllms_share() -> None:
    said = " ".join(advice(plan_of(*_ASLEEP, "rollout.vllm.memory_share=0.6")))
    assert "most of it vLLM (48.0 GB): set rollout.vllm.memory_share to 0.4 at most" in said
    small = plan_of(*_ASLEEP, "rollout.tensor=4", "rollout.vllm.memory_share=0.4")
    assert small.verdict == "does not fit"
    assert any(said.startswith("A server has room for 0 tokens, less than model.max_length=") for said in advice(small))


def test_the_sweep_divides_the_nodes_between_sampling_and_training() -> None:
    plan = plan_of(*_VLLM, "parallel.processes=32", response_tokens=400, rollout_nodes=4)
    fitting, _ = sweep(plan)
    best = splits(fitting)
    assert {found.gpus for found in fitting} == {64}
    for found in best:
        assert found.servers is not None
        nodes = found.assumptions.rollout_nodes
        assert found.layout.gpus == 64 - 8 * nodes
        assert (found.servers.colocated, found.servers.sleeps, found.servers.gpus) == (
            not nodes,
            not nodes,
            8 * nodes or 64,
        )
        same = [each.step_seconds for each in fitting if each.assumptions.rollout_nodes == nodes]
        assert round(found.step_seconds, 1) == round(min(same), 1)
    assert {found.assumptions.rollout_nodes for found in best} >= {0, 4}
    shown = run(*_ASLEEP, "--response-tokens", "400", "--sweep")
    assert shown.returncode == 0, shown.stderr
    for said in (
        "8 servers of 8 GPUs on the same GPUs, asleep while these train",
        "Recommended, as settings of slurm/*.sh: ROLLOUT_NODES=0 ROLLOUT_TENSOR=8 EXTRA=rollout.vllm.memory_share=",
        "generation         published: NeMo-RL",
    ):
        assert said in shown.stdout
    apart = json.loads(run(*_VLLM, "parallel.processes=32", "--rollout-nodes", "4", "--json").stdout)
    assert (apart["servers"]["gpus"], apart["servers"]["colocated"]) == (32, False)
    assert apart["rests_on"]["scoring"].startswith("measured")


def test_phases_follow_the_algorithm() -> None:
    phases = ["generation", "scoring", "log-probabilities", "reference policy", "training"]
    assert list(plan_of("experiment=grpo_70b").phases) == phases
    phases.remove("log-probabilities")
    assert list(plan_of("experiment=grpo_70b", "algorithm.importance=none").phases) == phases
    assert "reference policy" not in plan_of("experiment=grpo_70b", "algorithm.kl_coef=0").phases
    once, twice = (plan_of("experiment=grpo_70b", f"algorithm.epochs={n}").seconds["training"] for n in (1, 2))
    assert twice == pytest.approx(2 * once)


def test_advice_names_what_is_short() -> None:
    said = " ".join(advice(plan_of("experiment=grpo_70b", "rollout.group_size=64")))
    assert "Memory is short while sampling, most of it KV cache" in said
    assert "lower rollout.prompts, rollout.group_size or rollout.max_new_tokens" in said
    stages = advice(plan_of("experiment=grpo_70b", "parallel.tensor=2", "parallel.pipeline=16", "rollout.prompts=8"))
    assert any(line.startswith("Stages of the pipeline idle for") for line in stages)


def test_more_stages_than_layers_divide_into_are_refused() -> None:
    with pytest.raises(ConfigError):
        check_layout(
            load([*NO_PATHS, "experiment=grpo_70b", "parallel.pipeline=64"], Stage.PLAN), published("Llama-3.1-70B")
        )


# --- published figures --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared() -> tuple[str, dict[str, float | int | list[str]]]:
    """What benchmarks/plan.py prints: the table, and its last line."""
    done = run(script="benchmarks/plan.py")
    assert done.returncode == 0, done.stderr
    table, _, last = done.stdout.rstrip("\n").rpartition("\n")
    return table.strip("\n"), json.loads(last)


def test_the_documents_table_is_what_the_code_gives(compared: tuple[str, dict[str, object]]) -> None:
    document = (REPOSITORY / "docs" / "plan.md").read_text()
    written = document.partition("benchmarks/plan.py --write -->\n")[2].partition("\n<!-- end of table -->")[0]
    assert written.strip("\n") == compared[0], "run python benchmarks/plan.py --write"


def test_the_error_is_what_plans_say_of_themselves(compared: tuple[str, dict[str, float]]) -> None:
    summary = compared[1]
    assert summary["median_error_percent"] <= 25
    assert MEDIAN_ERROR_PERCENT - 5 < summary["median_time_error_percent"] <= MEDIAN_ERROR_PERCENT


def test_the_published_steps_with_vllm_are_as_near_as_plans_say(compared: tuple[str, dict[str, object]]) -> None:
    rows = [line for line in compared[0].splitlines() if "NeMo-RL v0.3 blog, table" in line and "| GRPO" in line]
    assert len(rows) == 2
    assert max(abs(int(line.split("|")[-2].strip().rstrip("%"))) for line in rows) == 17


def test_fitted_rows_are_few_and_fit(compared: tuple[str, dict[str, list[str]]]) -> None:
    table, summary = compared
    assert 0 < len(summary["fitted_rows"]) <= 3
    for line in table.splitlines():
        if "(fits `" in line:
            assert abs(int(line.split("|")[-2].strip().rstrip("%"))) <= 2
