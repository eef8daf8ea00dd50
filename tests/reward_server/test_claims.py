"""What measures of shared words do not see, and what stays right beside it."""

from __future__ import annotations

import pytest

from reward_server.verifiers import text

SHORT = ["pulmonary embolism", "PE"]
MEASURES = ("bleu", "ems", "merge", "rouge_l")


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "acute pulmonary embolism",
            "Pulmonary embolism (PE)",
            "Diagnosis: pulmonary embolism",
            "The pulmonary embolism.",
        ),
        *(
            "pulmonary embolism, acute",
            "pulmonary embolism, left",
            '{"answer": "pulmonary embolism"}',
            "**Pulmonary embolism**",
        ),
        *(
            "- pulmonary embolism",
            "pulmonary embolism/PE",
            "Answer \u2192 pulmonary embolism",
            "pulmonary embolism [1]",
        ),
    ],
)
def test_one_name_is_graded_by_its_measure(answer: str) -> None:
    assert text.verify_overlap(answer, SHORT, "ems", 45).status == "correct"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("E. coli", "Escherichia coli"),
        ("Acute ST-elevation myocardial infarction (STEMI)", "ST-elevation myocardial infarction"),
        ("Diabetes mellitus, type 2", "Type 2 diabetes mellitus"),
        ("Inhibition of H+/K+ ATPase", "H+/K+ ATPase inhibition"),
        ("amoxicillin + clavulanate", "Amoxicillin-clavulanate"),
        ("Increased intracranial pressure (ICP)", "increased intracranial pressure"),
        ("heparin 5000 units, IV", "IV heparin"),
    ],
)
def test_abbreviations_amounts_and_orders_of_words_are_no_names_of_their_own(answer: str, reference: str) -> None:
    assert text.verify_overlap(answer, [reference], "rouge_l", 30).status == "correct"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("no pulmonary embolism", "incorrect"),
        ("pulmonary embolism is excluded", "incorrect"),
        ("pulmonary embolism isn't it", "incorrect"),
        ("zero pulmonary embolism", "incorrect"),
        ("pulmonary embolism or pneumonia", "no_answer"),
        ("pulmonary embolism, pneumonia", "no_answer"),
        ("pneumonia; pulmonary embolism", "no_answer"),
        ("pulmonary embolism and pneumonia", "no_answer"),
        ("pulmonary edema, pulmonary embolism", "no_answer"),
        ("pneumonia, due to pulmonary embolism", "no_answer"),
        ("1. pulmonary embolism 2. sepsis", "no_answer"),
        ("~~pulmonary embolism~~", "no_answer"),
        ("pulmonary embolism \u00b7 pneumonia", "no_answer"),
        ("**pulmonary embolism** **pneumonia**", "no_answer"),
        ("pulmonary embolism maybe pneumonia", "no_answer"),
    ],
)
def test_a_denial_or_a_list_is_never_paid(answer: str, status: str) -> None:
    for measure in MEASURES:
        assert text.verify_overlap(answer, SHORT, measure, 1).status == status  # type: ignore[arg-type]  # its name
    assert text.verify_f1(answer, SHORT, 0.1).status == status


def test_what_a_reference_says_an_answer_may_say_and_long_ones_are_left_to_the_measure() -> None:
    for said in ("sepsis without shock", "anxiety or depression", "nausea, vomiting and fever", "non-Hodgkin lymphoma"):
        assert text.verify_f1(said, [said], 1.0).status == "correct", said
        assert text.verify_overlap(said, [said], "merge", 99).status == "correct", said
    long = "The patient has a pulmonary embolism that blocks an artery of the lung and strains the right ventricle"
    assert text.verify_overlap(f"{long}, not a pneumonia", [long], "rouge_l", 45).status == "correct"


def test_as_released_nothing_but_the_measure_counts() -> None:
    # EMS 100 * 2 / 3 = 66.7: 33.3 of the merge, above 30; with BLEU from 0 to 1 beside it
    assert text.verify_overlap("no pulmonary embolism", SHORT, "merge", 30, compat=True).status == "correct"
