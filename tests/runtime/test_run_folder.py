"""A run's folder: leftovers, resuming under other settings, and which checkpoints are kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from conversion.checkpoint import CheckpointError
from conversion.publishing import partial_path
from recipes.runtime.config import Config, ConfigError
from recipes.runtime.loading import load
from recipes.runtime.run_folder import RunFolder, last_checkpoint

ORIGIN = {"stage": "grpo", "model": "a" * 64, "data": [{"path": "/d/a.jsonl", "sha256": "b" * 64}], "before": None}
ORIGIN |= {"rows": [["s", "MIT", 1]]}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return load([f"output={tmp_path / 'run'}", "model.path=checkpoint", "data.mix={choice: 1, text: 1}"])


def _published(folder: RunFolder, *steps: int) -> None:
    for step in steps:
        folder.step_path(step).mkdir(parents=True)
        (folder.step_path(step) / "manifest.json").write_text("{}")
        (folder.step_path(step) / "state.json").write_text("{}")


def test_a_new_folder_holds_the_resolved_configuration(config: Config) -> None:
    folder = RunFolder(config.output)
    folder.prepare(config, ORIGIN)
    assert "group_size: 8" in (folder.path / "config.yaml").read_text()
    assert (folder.steps(), folder.latest()) == ([], None)


def test_what_a_killed_save_left_is_removed_and_nothing_else(config: Config) -> None:
    folder = RunFolder(config.output)
    folder.prepare(config, ORIGIN)
    _published(folder, 3)
    leftovers = [partial_path(folder.step_path(4)), folder.checkpoints / "step_000003.replaced-17"]
    for leftover in leftovers:
        (leftover / "model").mkdir(parents=True)
    (folder.checkpoints / "notes.txt").write_text("mine")
    assert folder.steps() == [3]
    folder.prepare(config, ORIGIN)
    assert not any(leftover.exists() for leftover in leftovers)
    assert (folder.checkpoints / "notes.txt").read_text() == "mine"
    assert folder.latest() == folder.step_path(3)


def test_a_save_killed_between_its_two_renames_loses_nothing(config: Config) -> None:
    """To replace a checkpoint, the old one is renamed first; killed there, the run has only that."""
    folder = RunFolder(config.output)
    folder.prepare(config, ORIGIN)
    old = folder.checkpoints / "step_000002.replaced-17"
    old.mkdir()
    (old / "state.json").write_text("{}")
    folder.prepare(config, ORIGIN)
    assert folder.steps() == [2]
    assert not old.exists()


def test_steps_are_ordered_by_number_and_strangers_ignored(config: Config) -> None:
    folder = RunFolder(config.output)
    _published(folder, 100, 9, 20)
    (folder.checkpoints / "step_99").mkdir()
    (folder.checkpoints / "best").mkdir()
    assert folder.steps() == [9, 20, 100]


@pytest.mark.parametrize(("keep", "left"), [(2, [20, 100]), (1, [100]), (5, [9, 20, 100]), (0, [100])])
def test_prune_keeps_the_last(keep: int, left: list[int], config: Config) -> None:
    """Never fewer than one: a run must not delete all that it has."""
    folder = RunFolder(config.output)
    _published(folder, 9, 20, 100)
    folder.prune(keep)
    assert folder.steps() == left
    assert not (folder.checkpoints / "best").exists()


def test_the_best_is_kept_beside_the_last(config: Config) -> None:
    """By its score, the later of equal ones; it may be old, and it must not keep others from going."""
    folder = RunFolder(config.output)
    for step, score in ((5, 0.2), (10, 0.7), (15, 0.7), (20, None), (25, 0.3)):
        _published(folder, step)
        (folder.step_path(step) / "state.json").write_text(json.dumps({"score": score}))
        folder.prune(1)
        expected = {5: [5], 10: [10], 15: [15], 20: [15, 20], 25: [15, 25]}[step]
        assert folder.steps() == expected
        assert (folder.checkpoints / "best").resolve() == folder.step_path(expected[0]).resolve()
    assert folder.latest() == folder.step_path(25)


def test_never_are_there_more_than_one_beside_the_kept(config: Config) -> None:
    """The best is one of these; and killed between making room and publishing, a run has lost nothing it needs."""
    for keep, scores in ((1, (0.1, 0.9, 0.2, 0.3, 0.95, 0.4)), (2, (0.9, 0.1, 0.2, 0.3)), (3, (None,) * 6)):
        folder = RunFolder(Path(config.output) / str(keep))
        folder.prepare(dataclasses.replace(config, output=str(folder.path)), ORIGIN)
        for step, score in enumerate(scores, 1):
            before = folder.steps()
            folder.make_room(keep, step, score)
            assert len(folder.steps()) <= keep
            copy = RunFolder(shutil.copytree(folder.path, folder.path.with_name("killed"), symlinks=True))
            copy.prepare(dataclasses.replace(config, output=str(copy.path)), ORIGIN)
            assert before[-1:] == copy.steps()[-1:]
            shutil.rmtree(copy.path)
            _published(folder, step)
            (folder.step_path(step) / "state.json").write_text(json.dumps({"score": score}))
            assert len(folder.steps()) <= keep + 1
            folder.prune(keep)
            best = max(range(step), key=lambda i: (scores[i] or 0, i)) + 1
            assert folder.steps() == sorted({*range(max(1, step - keep + 1), step + 1), best})
            assert {path.name for path in folder.checkpoints.iterdir()} - {"best"} == {
                folder.step_path(each).name for each in folder.steps()
            }


def test_what_cannot_be_pruned_ends_no_run(
    config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that a killed deletion took along or damaged, a file where a folder was, a checkpoint that stays."""
    folder = RunFolder(config.output)
    folder.prepare(config, ORIGIN)
    _published(folder, 1, 2, 3, 4, 5, 6)
    (folder.step_path(1) / "state.json").unlink()
    for step, text in ((2, '{"score": 0.'), (3, "[1]"), (4, '{"score": "much"}'), (5, '{"score": 0.5}')):
        (folder.step_path(step) / "state.json").write_text(text)
    (folder.checkpoints / "x.partial-1").write_text("a file")
    folder.prepare(config, ORIGIN)
    assert not (folder.checkpoints / "x.partial-1").exists()
    stays = folder.step_path(2).name

    def refuse(path: Path, target: Path) -> Path:
        if path.name == stays:
            raise PermissionError(1, "Operation not permitted", str(path))
        return move(path, target)

    # As `chattr +i` makes it, which takes root and a file system that has it.
    move = Path.rename
    monkeypatch.setattr(Path, "rename", refuse)
    folder.make_room(1, 7, 0.1)
    _published(folder, 7)
    folder.prune(1)
    folder.prune(1)
    assert folder.steps() == [2, 5, 7]
    said = capsys.readouterr().err
    assert [said.count(f"step_00000{step}/state.json: cannot be read (") for step in range(1, 7)] == [1, 1, 1, 1, 0, 0]
    assert said.count(f"{stays}: not deleted or replaced (Operation not permitted: ") == 1


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ("algorithm", {"clip_high": 0.28}, "algorithm.clip_high=0.2 became 0.28"),
        ("optimizer", {"learning_rate": 1e-3}, "optimizer.learning_rate=1e-06 became 0.001"),
        ("optimizer", {"betas": (0.5, 0.9)}, r"optimizer.betas=\[0.9, 0.95\] became \[0.5, 0.9\]"),
        ("rollout", {"prompts": 64}, "rollout.prompts=32 became 64"),
        ("data", {"train": ["other.jsonl"]}, r"data.train=\[\] became \['other.jsonl'\]"),
        ("data", {"mix": {"choice": 1.0}}, "data.mix.text=1.0 became None"),
        ("data", {"mix": {"choice": 1.0, "text": 1.0, "calculation": 1.0}}, "data.mix.calculation=None became 1.0"),
        ("data", {"template": "base"}, "data.template='chat' became 'base'"),
        ("reward", {"preset": "binary"}, "reward.preset='gated' became 'binary'"),
    ],
)
def test_a_resume_under_other_settings_is_refused(
    section: str, changes: dict[str, object], said: str, config: Config
) -> None:
    """It would continue one run's optimizer on another run's problem, and both curves would be wrong."""
    folder = RunFolder(config.output)
    folder.prepare(config, ORIGIN)
    _published(folder, 3)
    before = (folder.path / "config.yaml").read_text()
    changed = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})
    with pytest.raises(ConfigError, match=said) as caught:
        folder.prepare(changed, ORIGIN)
    assert str(folder.path) in str(caught.value)
    assert "choose another output folder" in str(caught.value)
    assert (folder.path / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("trainer", {"steps": 500, "save_every": 1}),
        ("parallel", {"processes": 2, "tensor": 2}),
        ("reward", {"url": "http://host:1"}),
        ("rollout", {"samples_every": 1}),
        ("rollout", {"ahead": 1}),
        ("evaluation", {"samples": 8}),
    ],
)
def test_a_resume_may_change_length_layout_address_and_age(
    section: str, changes: dict[str, object], config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """What changes the figures is said."""
    folder = RunFolder(config.output)
    folder.prepare(config, ORIGIN)
    _published(folder, 3)
    changed = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})
    folder.prepare(changed, ORIGIN)
    said = capsys.readouterr().err
    assert bool(said) == (section == "parallel" or "ahead" in changes)
    assert ("rollout.ahead=0 became 1; from here on its responses are of another age" in said) == ("ahead" in changes)


@pytest.mark.parametrize("text", ["", "model: {path: m", "- a list", "model: 3", "nonsense: 1"])
def test_a_damaged_configuration_is_named(text: str, config: Config) -> None:
    folder = RunFolder(config.output)
    folder.prepare(config, ORIGIN)
    _published(folder, 3)
    (folder.path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config.yaml in the run's folder is not the configuration of a run \("):
        folder.prepare(config, ORIGIN)


def test_without_a_checkpoint_settings_are_free(config: Config) -> None:
    """A run that failed before its first save is simply begun again."""
    folder = RunFolder(config.output)
    folder.prepare(config, ORIGIN)
    folder.prepare(dataclasses.replace(config, seed=7), ORIGIN)
    assert "seed: 7" in (folder.path / "config.yaml").read_text()


def test_the_last_checkpoint_is_checked(config: Config, tiny_checkpoint: Path) -> None:
    folder = RunFolder(config.output)
    with pytest.raises(CheckpointError, match="checkpoints: holds no checkpoint"):
        last_checkpoint(folder.path)
    folder.prepare(config, ORIGIN)
    shutil.copytree(tiny_checkpoint, folder.step_path(1))
    shutil.copytree(tiny_checkpoint, folder.step_path(2))
    assert last_checkpoint(folder.path) == folder.step_path(2)
    weights = next((folder.step_path(2) / "model").glob("*.distcp"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{weights}: .* truncated"):
        last_checkpoint(folder.path)


def test_a_resume_is_asked_in_the_same_words(config: Config) -> None:
    """A prompt file may have moved, and may not have changed; of an older release's states the name alone is known."""
    folder = RunFolder(config.output)
    begun = dataclasses.replace(config, data=dataclasses.replace(config.data, style="a.yaml"))
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, style="b.yaml"))
    folder.prepare(begun, {**ORIGIN, "prompt": "e" * 64})
    _published(folder, 3)
    state = folder.step_path(3) / "state.json"
    state.write_text(json.dumps({"order": {}, "origin": {**ORIGIN, "prompt": "e" * 64}}))
    folder.prepare(moved, {**ORIGIN, "prompt": "e" * 64})
    said = (
        "asked in the words of the prompt eeeeeeeeeeee, and data.style=b.yaml holds ffffffffffff; give the prompt that"
    )
    with pytest.raises(ConfigError, match=said):
        folder.prepare(moved, {**ORIGIN, "prompt": "f" * 64})
    with pytest.raises(ConfigError, match=r"data\.style=b\.yaml holds plain"):
        folder.prepare(moved, {**ORIGIN, "prompt": "plain"})
    state.write_text(json.dumps({"order": {}, "origin": ORIGIN}))
    folder.prepare(moved, {**ORIGIN, "prompt": "f" * 64})
    with pytest.raises(
        ConfigError, match=r"holds a run with other settings \(data\.style='b\.yaml' became 'a\.yaml'\)"
    ):
        folder.prepare(begun, {**ORIGIN, "prompt": "f" * 64})


def test_a_resume_is_of_the_same_model_and_data_by_content(config: Config) -> None:
    """Under the old paths may lie other files, and the old files under other paths."""
    folder = RunFolder(config.output)
    folder.prepare(config, ORIGIN)
    _published(folder, 3)
    (folder.step_path(3) / "state.json").write_text(json.dumps({"order": {}, "origin": ORIGIN}))
    moved = dataclasses.replace(config, model=dataclasses.replace(config.model, path="other/spelling"))
    moved = dataclasses.replace(moved, data=dataclasses.replace(config.data, train=["link.jsonl"]))
    folder.prepare(moved, {**ORIGIN, "data": [{"path": "/d/link.jsonl", "sha256": "b" * 64}]})
    written = (folder.path / "config.yaml").read_text()
    assert "other/spelling" in written
    for change, said in (
        ({"model": "c" * 64}, "started from a model of sha256 aaaaaaaaaaaa, and model.path=checkpoint holds cccccc"),
        (
            {"data": [{"path": "/d/a.jsonl", "sha256": "d" * 64}]},
            r"a.jsonl \(sha256 bbbbbbbbbbbb\).*sha256 dddddddddddd",
        ),
        ({"data": ORIGIN["data"] * 2}, "data.train now names a.jsonl .*, a.jsonl"),
        ({"stage": "sft"}, "holds checkpoints of GRPO; give SFT an output folder of its own"),
    ):
        with pytest.raises(ConfigError, match=said):
            folder.prepare(config, {**ORIGIN, **change})
    assert (folder.path / "config.yaml").read_text() == written
    # Of an older release's states, those of GRPO alone had a reward.
    for saved, now in (({"reward": {}, "order": {}}, "sft"), ({"order": {}}, "grpo")):
        (folder.step_path(3) / "state.json").write_text(json.dumps(saved))
        with pytest.raises(ConfigError, match="an output folder of its own"):
            folder.prepare(moved, {**ORIGIN, "stage": now})
    (folder.step_path(3) / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"state.json: not valid JSON"):
        folder.prepare(moved, ORIGIN)


def test_checkpoints_without_a_configuration_are_not_gone_on_with(config: Config) -> None:
    folder = RunFolder(config.output)
    _published(folder, 3)
    with pytest.raises(ConfigError, match=r"config.yaml: missing, though the run has checkpoints; restore it"):
        folder.prepare(config, ORIGIN)
