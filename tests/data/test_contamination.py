"""Which training rows are questions of an evaluation: what must be found, and what only looks like it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recipes import prepare_data
from recipes.data.contamination import LIKENESSES, check_training
from recipes.data.errors import ExampleError
from recipes.data.example import Example, read_examples, write_examples
from recipes.data.held_out import HeldOut
from recipes.data.readers import READERS
from recipes.data.sources import FileSource
from tests.conftest import shared_data

CASE = (
    "A 35-year-old woman comes to the physician because of a 3-day history of fever and pain when she passes urine. "
    "She has had two such episodes since she moved to the coast. Her temperature is 38.2°C (100.8°F), pulse is 96/min, "
    "and blood pressure is 118/74 mm Hg. There is tenderness over the left flank; the rest of the examination shows "
    "nothing unusual. Which of the following is the most appropriate next step in the management of this patient?"
)
SENTENCES = CASE.split(". ")
OTHER = (
    "A 61-year-old man is brought in by his neighbour, who found him confused in the garden and smelling of solvents. "
    "He answers to his name only. Which of the following is the most appropriate next step in the management of this "
    "patient?"
)
NOTE = "The patient is a 62-year-old man of 81 kg and 174 cm whose serum creatinine is 1.4 mg/dL today."
ASKED = (
    "What is the patient's Creatinine Clearance using the Cockroft-Gault Equation in terms of mL/min? You should use "
    "the patient's adjusted body weight in kg instead of the patient's actual body weight if the patient is overweight "
    "or obese based on their BMI."
)
SHORT = "Which of these organisms is the most common cause of newborn meningitis worldwide?"
SUM = "A man of 81 kg and 174 cm has which body mass index in kg per square metre?"
PASSAGE = " ".join(f"word{number}" for number in range(60))


def _with_own_words(number: int, words: int = 20) -> str:
    return " ".join(f"own{number}word{place}" for place in range(words))


def _text(question: str, context: str | None = None, answer: str = "x") -> Example:
    return Example("q", "s", "text", question, answer, context=context)


def _choice(question: str, *options: str, right: str = "A", context: str | None = None) -> Example:
    letters = dict(zip("ABCDE", options, strict=False))
    return Example("q", "s", "choice", question, right, context=context, options=letters)


def _number(question: str, answer: float, context: str | None = None) -> Example:
    return Example("q", "s", "number", question, answer, context=context, lower=answer, upper=answer)


# Training row, question of the evaluation, likeness.
PAIRS: dict[str, tuple[Example, Example, str | None]] = {
    "the same": (_text(CASE), _text(CASE), "exact"),
    "the same with other options": (_choice(CASE, "a", "b"), _choice(CASE, "c", "d"), "exact"),
    "in other letters": (_text(CASE.upper()), _text(CASE), "normalised"),
    "in other punctuation": (
        _text(CASE.replace(",", " ;").replace("-", "–").replace("°", " ")),
        _text(CASE),
        "normalised",
    ),
    "in wide letters": (_text("Ｗｈｉｃｈ vitamin?"), _text("Which vitamin?"), "normalised"),
    "without accents": (_text("What eases Ménière's disease?"), _text("What eases Meniere's disease?"), "normalised"),
    "with marks that nobody sees": (
        _text(CASE.replace("fever", "fe\u00adver").replace("coast", "co\u200bast").replace("passes", "pas\u2060ses")),
        _text(CASE),
        "normalised",
    ),
    "with character references": (
        _text(CASE.replace("35-", "35&#45;").replace(" and ", "&nbsp;and&#32;")),
        _text(CASE),
        "normalised",
    ),
    "with a context split off": (_text(SENTENCES[-1], ". ".join(SENTENCES[:-1])), _text(CASE), "normalised"),
    "with a word changed": (_text(CASE.replace("coast", "mountains")), _text(CASE), "13-gram"),
    "with its last sentence gone": (_text(". ".join(SENTENCES[:-1])), _text(CASE), "13-gram"),
    "within a longer text": (_text(f"{PASSAGE}. {CASE} {PASSAGE}"), _text(CASE), "13-gram"),
    "as a note of the evaluation": (_text(CASE), _number(ASKED, 40.0, context=CASE), "13-gram"),
    "with the same last sentence": (_text(OTHER), _text(CASE), None),
    "with half of it": (_text(f"{' '.join(CASE.split()[:40])} {PASSAGE}"), _text(CASE), None),
    "short, answered otherwise": (_choice("Which is true?", "a", "b"), _choice("Which is true?", "c", "d"), None),
    "short, one option in common": (
        _choice("Which is true?", "a", "b"),
        _choice("Which is true?", "c", "B."),
        None,
    ),
    "short, answered alike": (
        _choice("Which is true?", "Zinc", "b"),
        _choice("Which is true?", "c", "zinc.", right="B"),
        "exact",
    ),
    "short, of the same options": (
        _choice("Which is true?", "a", "b", "c"),
        _choice("Which is true", "b", "a", "d", right="C"),
        "normalised",
    ),
    "short, as text": (_text("Which vitamin?", answer="C"), _text("which  vitamin", answer="ascorbate"), "normalised"),
    "short, a word in the middle changed": (
        _choice(SHORT.replace("newborn", "infant"), "a", "b", "c", "d"),
        _choice(SHORT, "d", "c", "b", "a", right="D"),
        "one-word",
    ),
    "short, a word left out and an option changed": (
        _choice(SHORT.replace(" most", ""), "a", "b", "c", "d"),
        _choice(SHORT, "a", "b", "c", "e"),
        "one-word",
    ),
    "short, the word that tells them apart": (
        _choice(SHORT.replace("meningitis", "pneumonia"), "a", "b", "c", "d"),
        _choice(SHORT, "a", "b", "c", "d", right="B"),
        None,
    ),
    "short, with half of the options": (
        _choice(SHORT.replace("newborn", "infant"), "a", "b", "c", "d"),
        _choice(SHORT, "a", "b", "e", "f"),
        None,
    ),
    "short, two words changed": (
        _choice(SHORT.replace("newborn", "infant").replace("most", "very"), "a", "b", "c", "d"),
        _choice(SHORT, "a", "b", "c", "d"),
        None,
    ),
    "too short for another word": (
        _choice("A patient takes furosemide. Which drug class is this?", "a", "b", "c", "d"),
        _choice("A patient takes bumetanide. Which drug class is this?", "a", "b", "c", "d"),
        None,
    ),
    "too short for a word left out": (_choice("Which vitamin?", "a", "b"), _choice("Which?", "a", "b"), None),
    "short, a word put in": (
        _choice("A patient takes oral furosemide. Which drug class is this?", "a", "b", "c", "d"),
        _choice("A patient takes furosemide. Which drug class is this?", "a", "b", "c", "d"),
        "one-word",
    ),
    "short, a text of few words": (_text(SHORT[15:].replace(" most", "")), _text(SHORT[15:]), None),
    "short, a text": (_text(SHORT.replace("newborn", "infant")), _text(SHORT), "one-word"),
    "short, another number": (_number(SUM.replace("174", "175"), 26.8), _number(SUM, 26.8), None),
    "short, a word beside its numbers": (_number(SUM.replace("has", "shows"), 26.8), _number(SUM, 26.8), "one-word"),
    "beside other passages": (
        _choice(CASE, "a", "b", context=PASSAGE),
        _choice(CASE, "c", "a", right="B", context=_with_own_words(3, 90)),
        "13-gram",
    ),
    "beside other passages, answered otherwise": (
        _choice(CASE, "a", "b", context=PASSAGE),
        _choice(CASE, "c", "d", context=_with_own_words(3, 90)),
        None,
    ),
    "a note asked about beside passages": (_text(CASE, PASSAGE), _number(ASKED, 60.0, CASE), "13-gram"),
    "a question asked about as a note": (_number(ASKED, 60.0, CASE), _text(CASE, PASSAGE), "13-gram"),
    "without words": (_text("?!"), _text("..."), None),
    "one more item": (
        _number("FeverPAIN for no cough or coryza, attended within 3 days, fever in 24 hours?", 3),
        _number("FeverPAIN for no cough or coryza, attended within 3 days, fever in 24 hours, purulence?", 4),
        None,
    ),
    "one more remark": (
        _text("Which of the following defines the pressure in the vascular system in the absence of flow?"),
        _text(
            "Which of the following defines the pressure in the vascular system in the absence of flow? (Asked twice)"
        ),
        "13-gram",
    ),
    "the same calculation of another note": (_number(ASKED, 50.0, NOTE[:40]), _number(ASKED, 60.0, NOTE), None),
    "another calculation of the note": (_number("What is the BMI?", 26.8, NOTE), _number(ASKED, 60.0, NOTE), "context"),
    "another calculation of almost the note": (
        _number("What is the BMI?", 26.8, f"{PASSAGE}. {CASE}"),
        _number(ASKED, 60.0, f"{PASSAGE}! {CASE.replace('coast', 'sea')}"),
        "context",
    ),
    "the calculation of almost the note": (
        _number(ASKED, 61.0, CASE.replace("coast", "sea")),
        _number(ASKED, 60.0, CASE),
        "13-gram",
    ),
    "another question to a short context": (_text("Why?", "Not given."), _text("Who?", "Not given."), None),
    "another choice of yes and no": (
        _choice("Does zinc help in colds of children?", "yes", "no", context=PASSAGE),
        _choice("Does zinc help in colds of children?", "yes", "no", context=CASE),
        None,
    ),
    "without spaces": (
        _text("患者男性三十五岁因发热三天入院查体"),
        _text("患者，男性，三十五岁，因发热三天入院。"),
        "13-gram",
    ),
}


def _likeness(row: Example, questions: Sequence[Example]) -> str | None:
    [(same, matches)] = HeldOut(questions).matches([row])
    assert same is row
    return matches[0].likeness if matches else None


@pytest.mark.parametrize("pair", PAIRS)
def test_a_row_is_like_a_question(pair: str) -> None:
    row, question, likeness = PAIRS[pair]
    assert _likeness(row, [question]) == likeness
    assert _likeness(row, [_text(_with_own_words(1)), question, _text(_with_own_words(2))]) == likeness
    assert _likeness(row, [_text("A question of a few words?")]) is None
    assert _likeness(row, []) is None


def test_what_many_questions_have_in_common_tells_none_of_them() -> None:
    """An instruction before every question; without it, a row is compared by the rest."""
    common = f"{PASSAGE} {_with_own_words(98, 40)}"
    questions = [_text(f"{common} {_with_own_words(number)}") for number in range(11)]
    assert _likeness(_text(f"{common} {_with_own_words(99)}"), questions) is None
    assert _likeness(_text(f"{common} {_with_own_words(99)}"), questions[:10]) == "13-gram"
    assert _likeness(_text(f"{common} {_with_own_words(3)} and so on"), questions) == "13-gram"
    # One question about many notes is asked many times; many questions about one note are one note.
    asked = [_number(ASKED, 1.0, _with_own_words(number, 9)) for number in range(11)]
    assert _likeness(_text(f"{_with_own_words(99, 9)} {ASKED}"), asked) is None
    about = [_text(f"What is {number}?", PASSAGE) for number in range(40)]
    [(_, matches)] = HeldOut(about).matches([_text("Who?", PASSAGE)])
    assert [(match.likeness, match.question.question) for match in matches] == [
        ("context", f"What is {number}?") for number in range(40)
    ]


def test_rows_come_in_order_whatever_their_number() -> None:
    """More than one batch, with rows of no, few and many words; each with the gravest likeness first."""
    questions = [_text(_with_own_words(number, 300)) for number in range(0, 1500, 100)]
    questions.append(_text(_with_own_words(0, 300).upper()))
    rows = [_text(_with_own_words(number, 300) if number % 3 else f"Why {number}?") for number in range(1500)]
    found = list(HeldOut(questions).matches([_text("?!"), *rows]))
    assert [row for row, _ in found[1:]] == rows
    likenesses = {
        number - 1: [match.likeness for match in matches] for number, (_, matches) in enumerate(found) if matches
    }
    assert likenesses == {number: ["exact"] for number in range(0, 1500, 100) if number % 3}
    [(_, matches)] = HeldOut(questions).matches([questions[0]])
    assert [match.likeness for match in matches] == ["exact", "normalised"]


def test_what_many_short_questions_are_but_for_a_word_says_nothing() -> None:
    """A template that is filled in, such as of a made-up set, tells none of them."""
    filled = [_choice(SHORT.replace("newborn", f"own{n}"), "a", "b") for n in range(11)]
    row = _choice(SHORT, "a", "b")
    assert _likeness(row, filled[:10]) == "one-word"
    assert _likeness(row, filled) is None


def _published(kind: str, name: str, ids: str) -> list[Example]:
    return [row for row in READERS[kind].rows(FileSource(shared_data(name)), ids) if isinstance(row, Example)]


@pytest.mark.parametrize(
    ("train", "test", "found", "questions"),
    [
        # The same questions, with the case as context; two of them were edited.
        (("medqa", "medqa_dev/medqa_full_dev.json"), ("mediq", "mediq/all_dev_good.jsonl"), {None: 0}, 1272),
        (("medqa", "medqa_dev/medqa_full_dev.json"), ("medqa", "mirage/medqa/phrases_no_exclude_test.jsonl"), {}, 0),
        # 7 pairs of note and question, and 57 other questions about notes: 64 notes in all.
        (
            ("medcalc", "medcalc_bench/train_subset_valid_split.csv"),
            ("medcalc", "medcalc_bench/test_data_v1.0_5523b77.csv"),
            {"exact": 7, "context": 57},
            74,
        ),
    ],
)
def test_published_sets(train: tuple[str, str], test: tuple[str, str], found: dict[Any, int], questions: int) -> None:
    held_out = HeldOut(_published(*test, "test"))
    likenesses: Counter[str] = Counter()
    alike: set[str] = set()
    for _, matches in held_out.matches(_published(*train, "train")):
        likenesses.update(match.likeness for match in matches[:1])
        alike |= {match.question.id for match in matches}
    assert len(alike) == questions
    if None in found:
        assert (likenesses.total(), likenesses["13-gram"], likenesses["context"]) == (1272, 2, 0)
    else:
        assert likenesses == found


def _named(identity: str, row: Example) -> Example:
    return Example(**{**vars(row), "id": identity})


def test_training_on_questions_of_the_test_is_refused_or_named() -> None:
    training = [
        _named("a", _text(CASE)),
        _named("b", _text(CASE.upper())),
        _named("c", _text(OTHER)),
        _named("d", _number("What is the BMI?", 26.8, NOTE)),
    ]
    test = [_named("1", _text(CASE)), _named("2", _number(ASKED, 60.0, NOTE))]
    with pytest.raises(ExampleError) as refused:
        check_training(training, test, ["normalised"])
    assert str(refused.value).startswith(
        "data.train: 2 rows are questions of data.test, or all but: exact 1 (the first: 'a', as '1'), context 1 (the "
        "first: 'd', as '2'); take them out with "
    )
    assert str(refused.value).endswith("data.allow_contamination=[normalised,exact,context]")
    assert check_training(training, test, LIKENESSES) == (
        "data.allow_contamination lets 3 rows that are in data.test pass: exact 1 (the first: 'a', as '1'), normalised "
        "1 (the first: 'b', as '1'), context 1 (the first: 'd', as '2')"
    )
    assert check_training(training[2:3], test, []) is None


def test_prepared_rows_are_held_against_files_to_evaluate_on(tmp_path: Path) -> None:
    """Ids may be the same in several of these."""
    source, out = tmp_path / "train.jsonl", tmp_path / "out.jsonl"
    write_examples(source, [_named("a", _text(CASE)), _named("b", _text(OTHER)), _named("c", _text("Who?", PASSAGE))])
    against = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    write_examples(against[0], [_named("q", _text(CASE))])
    write_examples(against[1], [_named("q", _text("Why?", PASSAGE))])
    manifest = prepare_data.convert(
        "examples", FileSource(source), out, against=against, allow_contamination=["context"]
    )
    assert [row.id for row in read_examples(out)] == ["b", "c"]
    assert manifest == json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert manifest["rows"] == 2
    assert manifest["left_out"] == [{"reason": "like a held-out question: exact", "rows": 1, "first": "'a', as 'q'"}]
    assert manifest["let_through"] == [{"likeness": "context", "rows": 1, "first": "'c', as 'q'"}]
    assert [file["path"] for file in manifest["options"]["against"]] == [str(file) for file in against]
    assert manifest["options"]["allow_contamination"] == ["context"]
    with pytest.raises(ExampleError, match=r"one\.jsonl: is a file of --against; name another file to write"):
        prepare_data.convert("examples", FileSource(source), against[0], against=against)
    with pytest.raises(ExampleError, match=r"holds no rows to write \(1 left out: like a held-out question: exact\)"):
        prepare_data.convert("examples", FileSource(against[0]), out, against=against[:1])
