"""The embedded generator: determinism, disjoint splits, and a teacher that is ignorant as told."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import pytest

from recipes.data.calculators import CALCULATORS
from recipes.data.example import Example, read_examples
from recipes.data.facts import COLUMNS, FACTS, VALUES, WORDINGS
from recipes.data.generator import ELEMENTARY, GROUPS, PERFECT, SPLITS, Generator, Split, Teacher, fact_split
from recipes.prepare_data import TEACHER, embedded


def _words(example: Example) -> str:
    """The question as the set of its words: options left out, order and punctuation ignored."""
    return " ".join(sorted(re.findall(r"[\w./-]+", example.question.rstrip("?.").casefold())))


def _held_out(group: str) -> tuple[Split, ...]:
    return (*SPLITS[1:], "unseen") if group != "calculation" else SPLITS[1:]


def _generator(split: Split, teacher: Teacher = PERFECT) -> Generator:
    return Generator(split, teacher, TEACHER)


def test_the_same_seed_draws_the_same_rows() -> None:
    for group in GROUPS:
        first, second = ([_generator("train").draw(random.Random(7), group) for _ in range(1)] for _ in range(2))
        assert first == second


def test_files_depend_on_the_seed_and_held_out_files_do_not(tmp_path: Path) -> None:
    """Results of several seeds are only comparable on the same questions."""
    settings: dict[str, Any] = {"train": 20, "sft": 20, "heldout": 8, "calculators": "all"}
    for name, seed in (("a", 0), ("again", 0), ("b", 1)):
        embedded(tmp_path / name, seed=seed, **settings)
    for file in ("train", "sft", "validation", "test", "unseen"):
        a, again, b = ((tmp_path / name / f"{file}.jsonl").read_bytes() for name in ("a", "again", "b"))
        assert a == again, file
        assert (a == b) == (file in ("validation", "test", "unseen")), file


def test_no_training_question_has_an_unseen_wording(tmp_path: Path) -> None:
    """Of any fact: it is the wording that is out of the distribution. Files of one task have its rows alone."""
    settings: dict[str, Any] = {"seed": 0, "train": 400, "sft": 200, "heldout": 60, "calculators": "elementary"}
    embedded(tmp_path, **settings, tasks=["choice"])
    asked = {name: read_examples(tmp_path / f"{name}.jsonl") for name in ("train", "sft", "validation", "unseen")}
    assert {row.task for rows in asked.values() for row in rows} == {"choice"}

    def wordings(name: str) -> set[str]:
        keys = {row.id: FACTS[int(row.id.split("/")[1])].key.casefold() for row in asked[name]}
        return {row.question.casefold().replace(keys[row.id], "{key}") for row in asked[name]}

    assert len(wordings("unseen")) == len(COLUMNS)
    assert not wordings("unseen") & (wordings("train") | wordings("sft") | wordings("validation"))
    assert wordings("validation") <= wordings("train")
    assert {row.source for row in asked["unseen"]}.isdisjoint(row.source for row in asked["train"])
    only = embedded(tmp_path / "sums", **settings | {"train": 5, "sft": 5, "heldout": 5}, tasks=["calculation"])
    assert set(only) == {"train", "sft", "validation", "test"}
    # Of fewer tasks, what an earlier call left must not stand beside the new files.
    embedded(tmp_path, seed=0, train=2, sft=2, heldout=2, calculators="elementary", tasks=["calculation"])
    assert not (tmp_path / "unseen.jsonl").exists()
    with pytest.raises(ValueError, match="a calculation has no unseen wording"):
        _generator("unseen").draw(random.Random(0), "calculation")


@pytest.mark.parametrize("group", GROUPS)
def test_no_held_out_question_occurs_in_training(group: str) -> None:
    """A leak here would show as learning that is only recall."""
    rng = random.Random(5)
    seen = {_words(_generator("train").draw(rng, group)) for _ in range(3000)}
    for split in _held_out(group):
        for example in _generator(split).unique(random.Random(11), group, 100):
            assert _words(example) not in seen, example.question


def test_choice_and_text_hold_out_the_same_questions() -> None:
    """Else a fact's wording learned as a choice would be tested as text."""
    rng = random.Random(5)
    trained = {_words(_generator("train").draw(rng, group)) for group in ("choice", "text") for _ in range(3000)}
    for split in _held_out("choice"):
        held_out = {_words(_generator(split).draw(rng, group)) for group in ("choice", "text") for _ in range(500)}
        assert not trained & held_out


def test_every_fact_is_asked_in_every_split() -> None:
    for fact in FACTS:
        splits = [fact_split(fact, wording) for wording in range(WORDINGS)]
        assert sorted(splits) == sorted(["train"] * 3 + ["validation", "test"])


def test_the_table_of_facts() -> None:
    assert len(FACTS) >= 200
    for column in COLUMNS:
        assert len(VALUES[column.name]) >= 5, "too few values for five options"
        assert all(wording.count("{key}") == 1 for wording in (*column.wordings, column.unseen))
        assert len({*column.wordings, column.unseen}) == WORDINGS + 1
    questions = [w.format(key=f.key).casefold() for f in FACTS for w in (*f.column.wordings, f.column.unseen)]
    assert len(set(questions)) == len(questions), "one question has two answers"


def test_options_are_distinct_and_hold_the_answer_once() -> None:
    rng = random.Random(3)
    generator = _generator("train", TEACHER)
    letters: dict[str, int] = {}
    for _ in range(2000):
        example = generator.draw(rng, "choice")
        assert example.options is not None
        folded = [text.casefold() for text in example.options.values()]
        assert len(set(folded)) == len(folded) in (4, 5)
        assert list(example.options) == list("ABCDE")[: len(folded)]
        fact = FACTS[int(example.id.split("/")[1])]
        assert isinstance(example.answer, str)
        assert example.options[example.answer] == fact.value
        assert example.meta["trace"]["answer"] in example.options
        letters[example.answer] = letters.get(example.answer, 0) + 1
    # E exists in half of the questions: .1 of the answers; A to D get (1 - .1) / 4 = .225 each.
    assert letters["E"] / 2000 == pytest.approx(0.1, abs=0.03)
    assert all(letters[letter] / 2000 == pytest.approx(0.225, abs=0.04) for letter in "ABCD")


@pytest.mark.parametrize("knows", [0.0, 0.4, 1.0])
def test_the_teacher_knows_its_share(knows: float) -> None:
    """What GRPO can gain is set by this share."""
    teacher = Teacher(knows=knows)
    known = [len(teacher.candidates(fact)) == 1 for fact in FACTS]
    # Standard deviation of a share of n facts: sqrt(.4 * .6 / n) = .03 for n = 260; four of them.
    assert sum(known) / len(known) == pytest.approx(knows, abs=0.12)
    for fact, knows_it in zip(FACTS, known, strict=True):
        candidates = teacher.candidates(fact)
        assert candidates[0] == fact.value
        assert len(set(candidates)) == (1 if knows_it else 3)
    for name in ELEMENTARY:
        variants = teacher.variants(CALCULATORS[name])
        assert variants in ((0,), tuple(range(CALCULATORS[name].variants)))


def test_a_torn_teacher_is_right_as_often_as_it_guesses() -> None:
    """One of three candidates, all alike: a third of the traces are right."""
    rng, ignorant = random.Random(0), Teacher(knows=0.0)
    generator = _generator("train", ignorant)
    drawn = [generator.draw(rng, "choice") for _ in range(1500)]
    right = sum(e.meta["trace"]["answer"] == e.answer for e in drawn) / len(drawn)
    assert right == pytest.approx(1 / 3, abs=0.05)  # four standard deviations of sqrt(.33 * .67 / 1500) = .012


def test_a_wordy_teacher_leaves_out_first_steps_or_counts_down_what_it_says_again() -> None:
    teacher, steps = dataclasses.replace(TEACHER, wordiness=3), ["2+1=3", "3*4=12", "12-2=10"]
    said = {teacher.thought(steps, "10", random.Random(seed)) for seed in range(100)}
    assert said == {
        *("12-2=10", "3*4=12, 12-2=10", "2+1=3, 3*4=12, 12-2=10"),
        *(f"2+1=3, 3*4=12, 12-2=10, {more}" for more in ("1: 10", "2: 10, 1: 10", "3: 10, 2: 10, 1: 10")),
    }
    for group in GROUPS:
        wordy = [_generator("train", teacher).draw(random.Random(seed), group) for seed in range(50)]
        thoughts = [
            example.meta["trace"]["think"].rpartition(": ")[2] for example in wordy if "1: " in str(example.meta)
        ]
        results = [example.meta["trace"]["answer"] for example in wordy if "1: " in str(example.meta)]
        assert len(thoughts) > 20
        assert all(answer in thought for answer, thought in zip(results, thoughts, strict=True))


@pytest.mark.parametrize("group", GROUPS)
def test_labels_never_come_from_the_teacher(group: str) -> None:
    by_question: dict[str, set[str]] = {}
    rng = random.Random(1)
    for knows in (0.0, 1.0):
        generator = _generator("train", Teacher(knows=knows))
        for _ in range(1500):
            example = generator.draw(rng, group)
            label = example.gold() if group != "choice" else (example.options or {})[str(example.answer)]
            by_question.setdefault(example.question, set()).add(label)
    assert all(len(labels) == 1 for labels in by_question.values())
    if group != "calculation":
        facts = {w.format(key=f.key).casefold(): f.value for f in FACTS for w in f.column.wordings}
        assert all(facts[question.casefold()] in labels for question, labels in by_question.items())


def test_held_out_rows_are_different_questions() -> None:
    for group in GROUPS:
        for split in _held_out(group):
            rows = _generator(split).unique(random.Random(0), group, 60)
            assert len({e.id for e in rows}) == 60
            assert len({e.question for e in rows}) == 60


def test_asking_for_more_questions_than_exist_says_how_many_there_are() -> None:
    """Each fact has one test wording, so there are as many text questions as facts."""
    with pytest.raises(ValueError, match=rf"test/text: only {len(FACTS)} different questions exist, 9999 were asked"):
        _generator("test").unique(random.Random(0), "text", 9999)


def test_files_read_back_whole(embedded_data: Path) -> None:
    for name in ("train", "sft", "validation", "test", "unseen"):
        rows = read_examples(embedded_data / f"{name}.jsonl")
        assert {e.group for e in rows} == set(GROUPS if name != "unseen" else ("choice", "text"))
        assert all(set(e.meta["trace"]) == {"think", "answer"} for e in rows)
