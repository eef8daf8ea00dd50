import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.monitor.report_data import choose_samples, outcome_of
from recipes.monitor.rollouts import RolloutRecord, read_rollouts, write_rollouts
from recipes.monitor.run_folder import RunFolderError, rollouts_dir
from tests.monitor.synthetic_run import TASKS, rollout


def test_round_trip_keeps_every_field_and_the_order_of_steps(tmp_path: Path) -> None:
    late = [rollout(20, 0, "text", "fault"), rollout(20, 1, "choice", "malformed")]
    early = [replace(rollout(3, 0, "calculation", "correct"), response='"β-blocker"\n\x00 𝛼 </script>')]
    write_rollouts(tmp_path, 20, late)
    write_rollouts(tmp_path, 3, early)
    assert read_rollouts(tmp_path) == early + late


def test_columns_are_the_contract(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, 10, [rollout(10, 0, "choice", "correct")])
    assert path == tmp_path / "rollouts" / "step_000010.parquet"
    schema = pq.read_schema(path)
    names = "step id task prompt response answer extracted status reward components tokens group version question"
    assert schema.names == names.split()
    assert schema.field("components").type == pa.string()
    assert schema.field("reward").type == pa.float64()


def test_files_of_older_releases_are_read(tmp_path: Path) -> None:
    """As runs wrote them that knew of no versions, and kept no questions."""
    path = write_rollouts(tmp_path, 10, [rollout(10, 0, "choice", "correct")])
    pq.write_table(pq.read_table(path).drop_columns(["version", "question"]), path)
    assert [(record.version, record.question) for record in read_rollouts(tmp_path)] == [(None, None)]


def test_a_redone_step_replaces_its_file_and_leaves_no_temporary(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, [rollout(1, 0, "choice", "incorrect")])
    write_rollouts(tmp_path, 1, [rollout(1, 0, "choice", "correct")])
    assert [record.status for record in read_rollouts(tmp_path)] == ["correct"]
    assert [path.name for path in rollouts_dir(tmp_path).iterdir()] == ["step_000001.parquet"]


def test_a_file_left_half_written_by_a_kill_is_not_read(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, [rollout(1, 0, "choice", "correct")])
    (rollouts_dir(tmp_path) / ".step_000002.parquet.77.tmp").write_bytes(b"PAR1")
    assert len(read_rollouts(tmp_path)) == 1


def test_half_a_surrogate_pair_does_not_stop_the_run(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, [replace(rollout(1, 0, "text", "correct"), response="a\ud800b")])
    assert read_rollouts(tmp_path)[0].response == "a?b"


def test_no_samples_is_an_empty_list(tmp_path: Path) -> None:
    assert read_rollouts(tmp_path) == []
    write_rollouts(tmp_path, 1, [])
    assert read_rollouts(tmp_path) == []


def test_records_of_another_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another step"):
        write_rollouts(tmp_path, 2, [rollout(1, 0, "text", "correct")])


@pytest.mark.parametrize("wrong", [{"reward": math.nan}, {"components": {"answer": math.inf}}])
def test_a_record_holds_no_nan(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        replace(rollout(1, 0, "text", "correct"), **wrong)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 1, []).write_bytes(b"not parquet")
    with pytest.raises(RunFolderError, match=r"step_000001\.parquet: expected a parquet file with the columns"):
        read_rollouts(tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    rollouts_dir(tmp_path).mkdir()
    pq.write_table(pa.table({"step": [1]}), rollouts_dir(tmp_path) / "step_000001.parquet")
    with pytest.raises(RunFolderError, match=r"step_000001\.parquet"):
        read_rollouts(tmp_path)


def many(run_dir: Path, steps: range) -> list[RolloutRecord]:
    for step in steps:
        kinds = ("correct", *["incorrect"] * 6, "malformed")
        write_rollouts(run_dir, step, [rollout(step, n, task, kind) for task in TASKS for n, kind in enumerate(kinds)])
    return choose_samples(run_dir)


def test_samples_mix_steps_tasks_and_outcomes(tmp_path: Path) -> None:
    chosen = many(tmp_path, range(1, 41))
    assert len({record.id for record in chosen}) == 20
    # Ten of the forty steps, two samples each, the first and the last step among them.
    assert len({record.step for record in chosen}) == 10
    assert {1, 40} <= {record.step for record in chosen}
    # Three quarters of the rollouts are incorrect; the cards show a third of each outcome and of each task.
    for kind in (outcome_of, lambda record: record.task):
        counts = [sum(kind(record) == value for record in chosen) for value in {kind(record) for record in chosen}]
        assert len(counts) == 3
        assert min(counts) >= 5


def test_the_choice_is_the_same_every_time(tmp_path: Path) -> None:
    assert many(tmp_path, range(1, 6)) == choose_samples(tmp_path)


def test_few_rollouts_are_all_shown(tmp_path: Path) -> None:
    records = [rollout(1, n, "text", "correct") for n in range(3)]
    write_rollouts(tmp_path, 1, records)
    assert choose_samples(tmp_path) == records
