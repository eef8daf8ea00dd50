import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.monitor.profiler import StepProfiler


def work() -> None:
    weights = torch.randn(64, 64, requires_grad=True)
    (torch.randn(8, 64) @ weights).relu().sum().backward()


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "profile").iterdir())


def train(run_dir: Path, steps: range | tuple[int, int], last: int, rank: int = 0, initial_step: int = 0) -> None:
    with StepProfiler(run_dir, steps, rank, initial_step=initial_step) as profiler:
        for _ in range(initial_step, last):
            work()
            profiler.step()


@pytest.mark.parametrize("steps", [range(2, 4), (2, 2)])
def test_exactly_the_asked_steps_are_recorded(tmp_path: Path, steps: range | tuple[int, int]) -> None:
    train(tmp_path, steps, last=5, rank=3)
    expected = [f"step_00000{step}.rank_3.{ending}" for step in (2, 3) for ending in ("json.gz", "txt")]
    assert names(tmp_path) == expected


def test_a_trace_holds_the_operators_of_its_own_step_alone(tmp_path: Path) -> None:
    with StepProfiler(tmp_path, range(1, 3)) as profiler:
        work()
        profiler.step()
        torch.linspace(0, 1, 8).cumsum(0)
        profiler.step()
    operators = {}
    for step in (1, 2):
        trace = json.loads(gzip.decompress((tmp_path / f"profile/step_00000{step}.rank_0.json.gz").read_bytes()))
        operators[step] = {event["name"] for event in trace["traceEvents"] if event.get("cat") == "cpu_op"}
    assert "aten::mm" in operators[1]
    assert "aten::cumsum" not in operators[1]
    assert "aten::cumsum" in operators[2]
    assert "aten::mm" not in operators[2]


def test_the_table_is_in_order_of_self_time_and_has_30_rows_at_most(tmp_path: Path) -> None:
    with StepProfiler(tmp_path, (1, 1)) as profiler:
        work()
        values = torch.rand(4, 4)
        for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "abs", "neg", "floor", "ceil", "round", "sign", "erf"):
            getattr(values, name)()
            getattr(values, name + "_")()
        profiler.step()
    table = (tmp_path / "profile/step_000001.rank_0.txt").read_text()
    header = next(line for line in table.splitlines() if "Self CPU" in line)
    # Cells are set apart by two blanks or more.
    shares = [
        float(line.split("%")[0].split()[-1]) for line in table.splitlines() if "aten::" in line or "Backward" in line
    ]
    assert "Name" in header
    assert "aten::" in table
    assert 10 < len(shares) <= 30
    assert shares == sorted(shares, reverse=True)


def test_a_resumed_run_counts_on_from_its_step(tmp_path: Path) -> None:
    train(tmp_path, range(2, 12), last=12, initial_step=9)
    assert [name for name in names(tmp_path) if name.endswith("txt")] == [
        "step_000010.rank_0.txt",
        "step_000011.rank_0.txt",
    ]


def test_an_unfinished_step_leaves_no_files_and_torch_can_profile_again(tmp_path: Path) -> None:
    def fail_in_the_second_step() -> None:
        with StepProfiler(tmp_path, range(1, 9)) as profiler:
            work()
            profiler.step()
            work()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail_in_the_second_step()
    assert names(tmp_path) == ["step_000001.rank_0.json.gz", "step_000001.rank_0.txt"]
    train(tmp_path, (2, 1), last=2)
    assert len(names(tmp_path)) == 4


def test_without_steps_nothing_is_written_and_torch_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from recipes.monitor.profiler import StepProfiler\n"
        "with StepProfiler(sys.argv[1], range(0)) as profiler:\n"
        "    profiler.step()\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [range(0, 2), (0, 1), (1, -1)])
def test_impossible_steps_are_refused(tmp_path: Path, steps: range | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="profiled steps"):
        StepProfiler(tmp_path, steps)
