"""Questions with passages in front of them: what is found, what is drawn, what is made false, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from recipes.data.context import CONDITIONS, REFUSAL
from recipes.data.example import Example, ExampleError, read_examples, write_examples
from recipes.data.sources import FileSource
from recipes.prepare_data import convert, main

DRUGS = {
    "warfarin": "vitamin K epoxide reductase",
    "aspirin": "cyclooxygenase",
    "allopurinol": "xanthine oxidase",
    "captopril": "angiotensin converting enzyme",
    "simvastatin": "HMG CoA reductase",
    "methotrexate": "dihydrofolate reductase",
}


def _question(drug: str, **more: Any) -> Example:
    others = [target for target in DRUGS.values() if target != DRUGS[drug]][:3]
    options = dict(zip("ABCD", [*others[:2], DRUGS[drug], *others[2:]], strict=True))
    return Example(f"q/{drug}", "s", "choice", f"What does {drug} inhibit in a patient?", "C", options=options, **more)


def _passage(drug: str) -> dict[str, Any]:
    asked = [{"question": f"What is {drug}?", "answer": "a drug"}]
    text = f"{drug.title()} inhibits {DRUGS[drug].title()}, as all the books say."
    return {"id": f"p/{drug}", "title": drug.title(), "text": text, "sub_questions": asked}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    questions, corpus = tmp_path / "questions.jsonl", tmp_path / "corpus.jsonl"
    write_examples(questions, [_question(drug) for drug in DRUGS])
    passages = [_passage(drug) for drug in DRUGS] + [{"id": "p/none", "contents": "The sky is blue over the sea."}]
    corpus.write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    return questions, corpus


def _prepared(files: tuple[Path, Path], *settings: Any) -> tuple[list[Example], dict[str, list[Any]]]:
    out = files[0].with_name("out.jsonl")
    names = ("condition", "passages", "share", "seed")
    given = {"share": 0.5, "seed": 0} | dict(zip(names, settings, strict=False))
    manifest = convert("context", FileSource(files[0]), out, corpus=files[1], **given)
    examples = read_examples(out)
    assert len(examples) == manifest["rows"]
    return examples, {reason["reason"]: [reason["rows"], reason["first"]] for reason in manifest["left_out"]}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_what_is_shown_is_what_the_condition_is_named_after(files: tuple[Path, Path], condition: str) -> None:
    examples, left_out = _prepared(files, condition, 1 if condition == "relevant" else 2)
    assert left_out == {}
    for example, drug in zip(examples, DRUGS, strict=True):
        about, context = example.meta["context"], example.context or ""
        kinds = {passage["id"]: passage["kind"] for passage in about["passages"]}
        assert (example.id, about["of"], about["gold"]) == (f"q/{drug}/{condition}", f"q/{drug}", "C")
        assert about["refusal"] == "E"
        assert (example.options or {})["E"].endswith(f"({REFUSAL})")
        assert context.startswith("Passage 1: ")
        assert context.count("Passage ") == len(kinds)
        assert example.answer == ("E" if condition == "insufficient" else "C")
        own, others = kinds.get(f"p/{drug}"), {kind for name, kind in kinds.items() if name != f"p/{drug}"}
        right = DRUGS[drug].casefold() in context.casefold()
        expected = {
            "relevant": ("relevant", set(), True),
            "mixed": ("relevant", {"unrelated"}, True),
            "insufficient": (None, {"unrelated"}, False),
            "false": ("false", set(), False),
        }
        assert (own, others, right) == expected[condition]
        if condition == "false":
            wrong = (example.options or {})[about["wrong"]]
            assert f"{drug.title()} inhibits {wrong}, as" in context
        # Of what is unrelated nothing is asked.
        asked = [pair["question"] for pair in about.get("asked", [])]
        assert asked == ([] if condition == "insufficient" else [f"What is {drug}?"])


def test_the_draw_depends_on_seed_and_question_alone(files: tuple[Path, Path]) -> None:
    whole, _ = _prepared(files, "insufficient", 2)
    assert _prepared(files, "insufficient", 2)[0] == whole
    assert _prepared(files, "insufficient", 2, 0.5, 1)[0] != whole
    write_examples(files[0], [_question(drug) for drug in reversed(DRUGS)])
    assert _prepared(files, "insufficient", 2)[0] == whole[::-1]


def test_solved_cases_are_passages_and_the_question_itself_is_none(files: tuple[Path, Path]) -> None:
    """A case with the question's own words would hand its answer over, whatever its options and case."""
    trace = {"trace": {"think": "It blocks the platelets.", "answer": "C"}}
    own = _question("aspirin", context="A man of 70.")
    shouted = {"question": own.question.upper(), "context": "A  MAN of 70"}
    cases = [
        Example("same", "s", "choice", answer="C", options=own.options, **shouted),
        Example("other", "s", "choice", "What does aspirin do to platelets?", "C", options=own.options, meta=trace),
    ]
    write_examples(files[0], [own])
    write_examples(files[1], cases)
    [example], _ = _prepared(files, "relevant", 2)
    assert [passage["id"] for passage in example.meta["context"]["passages"]] == ["other"]
    assert (example.context or "").startswith("A man of 70.\n\nPassage 1: Case: What does aspirin do")
    assert (example.context or "").endswith("Reasoning: It blocks the platelets.\nAnswer: C: cyclooxygenase")
    [example], _ = _prepared(files, "false", 1)
    # Its reasoning would contradict the answer that it is given.
    assert "platelets." not in (example.context or "")
    assert "Answer: C" not in (example.context or "")


def test_a_false_passage_never_says_what_is_right(files: tuple[Path, Path]) -> None:
    """Options that hold one another, that speak of others, and a case whose wrong option is right here."""
    overlapping = {"A": "retrograde", "B": "antegrade", "C": "antegrade and retrograde", "D": "none of them"}
    transport = Example("t", "s", "choice", "Which way is axonal transport?", "C", options=overlapping)
    write_examples(files[0], [transport, _question("aspirin")])
    case = Example("c", "s", "choice", "Aspirin or what?", "A", options={"A": "no", "B": DRUGS["aspirin"], "C": "yes"})
    rows = ['{"text": "Axonal transport is antegrade and retrograde."}', case.to_json()]
    files[1].write_text("".join(row + "\n" for row in rows))
    [example], left_out = _prepared(files, "false", 1)
    assert left_out == {"no passage found for it can be made false": [1, "'t'"]}
    assert (example.context or "").endswith("Answer: C: yes")


@pytest.mark.parametrize(("answer", "named"), [("tPA", "tPA"), ("T4", "t4"), ("Beta-blockers", "a beta blocker")])
def test_no_passage_names_the_answer_where_none_is_to_suffice(
    answer: str, named: str, files: tuple[Path, Path]
) -> None:
    """However short it is, and in the plural or not: with it the passage would suffice, and the gold be wrong."""
    options = {"A": answer, "B": "heparin"}
    write_examples(files[0], [Example("q", "s", "choice", "What helps in stroke?", "A", options=options)])
    telling = [{"id": f"t{number}", "text": f"For kidneys {number} give {named}."} for number in range(20)]
    files[1].write_text("".join(json.dumps(row) + "\n" for row in [{"id": "p", "text": "The liver is red."}, *telling]))
    [example], _ = _prepared(files, "insufficient", 1)
    assert [passage["id"] for passage in example.meta["context"]["passages"]] == ["p"]


def test_edits_of_the_corpus_come_before_ours_and_words_can_refuse(files: tuple[Path, Path]) -> None:
    text = Example("t", "s", "text", "What does aspirin inhibit?", "cyclooxygenase", aliases=("COX",))
    write_examples(files[0], [text, Example("n", "s", "number", "Of aspirin, how many?", 5.0, lower=5.0, upper=5.0)])
    edited = {**_passage("aspirin"), "false": "Aspirin inhibits nothing."}
    files[1].write_text("".join(json.dumps(p) + "\n" for p in (edited, _passage("warfarin"))))
    [example, number], _ = _prepared(files, "false", 1)
    assert (example.context, example.answer) == ("Passage 1: Aspirin inhibits nothing.", "cyclooxygenase")
    assert "refusal" not in number.meta["context"]
    [example], left_out = _prepared(files, "insufficient", 1)
    assert (example.answer, example.context) == (REFUSAL, "Passage 1: " + _passage("warfarin")["text"])
    assert left_out == {"a number cannot be answered with words": [1, "'n'"]}


@pytest.mark.parametrize(
    ("corpus", "settings", "said"),
    [
        ('{"id": "a"}', ("relevant", 1), "corpus.jsonl, row 1: field 'text': expected a passage's text"),
        ('{"text": "x", "id": "a"}\n{"text": "y", "id": "a"}', ("relevant", 1), "row 2: field 'id': 'a' occurs twice"),
        (
            '{"text": "x", "sub_questions": ["y"]}',
            ("relevant", 1),
            'expected a list of {"question": text, "answer": text}',
        ),
        ('{"text": "the of"}', ("relevant", 1), "the corpus holds no words but stop words"),
        ('{"text": "x", "task": "choice"}', ("relevant", 1), "field 'id' is missing"),
        ("", ("relevant", 1), "holds no passages"),
        ('{"text": "word"}', ("insufficient", 3), "(6 left out: fewer passages are unrelated to it than are wanted)"),
        ('{"text": "x"}', ("mixed", 1), "mixed needs two passages and less than 1"),
        ('{"text": "x"}', ("false", 3, 1.5), "--share 1.5 of 3 passages: expected more than 0"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    files: tuple[Path, Path], corpus: str, settings: tuple[Any, ...], said: str
) -> None:
    files[1].write_text(corpus)
    with pytest.raises(ExampleError) as refused:
        _prepared(files, *settings)
    assert said in str(refused.value)
    assert not files[0].with_name("out.jsonl").exists()


def test_the_command_says_what_it_left_out(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = files[0].with_name("out.jsonl")
    write_examples(files[0], [_question("aspirin"), Example("z", "s", "text", "Zebra?", "zebra")])
    arguments = ["context", str(files[0]), str(out), "--corpus", str(files[1]), "--passages", "1"]
    with mock.patch.object(sys, "argv", ["prepare_data", *arguments]):
        main()
    said = "left out 1 rows: no passage of the corpus has a word in common with it (the first: 'z')"
    assert capsys.readouterr().out.startswith(f"{out}: 1 rows\n{said}\n")
    again = ["prepare_data", "context", str(out), *arguments[1:2], *arguments[3:]]
    with mock.patch.object(sys, "argv", again), pytest.raises(ExampleError, match="'q/aspirin/relevant' has passages"):
        main()
    onto_corpus = ["prepare_data", *arguments[:2], str(files[1]), *arguments[3:]]
    with mock.patch.object(sys, "argv", onto_corpus), pytest.raises(ExampleError, match="is a file that is read"):
        main()
