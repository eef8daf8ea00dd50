"""Ways of writing one option's text, and what is none: charges, units, hyphens, lists, abbreviations, rejections."""

from __future__ import annotations

import pytest

from reward_server.verifiers import choice

DRUGS = {"A": "Aspirin", "B": "Clopidogrel", "C": "Heparin", "D": "Warfarin"}
GASES = {"A": "Increased CO2", "B": "Decreased CO2", "C": "Increased HCO3-", "D": "Decreased HCO3-"}
IONS = {"A": "Ca2+ channel blockade", "B": "Na+ channel blockade", "C": "K+ channel blockade"}
GREEK = {"A": "ACE inhibitor", "B": "Angiotensin receptor blocker", "C": "\u03b2-blocker", "D": "\u03b11-antagonist"}
ALL = {"A": "Radiation", "B": "Chemotherapy", "C": "Surgery", "D": "All of the above", "E": "None of the above"}
STATEMENTS = {"A": "1 and 2 only", "B": "1 and 3 only", "C": "2 and 3 only", "D": "1, 2 and 3"}
DOSES = {"A": "5 mg", "B": "10 mg", "C": "15 mg"}
BLOOD = {"A": "A positive", "B": "A negative", "C": "O positive", "D": "O negative"}
LOADS = {"A": "\u2191 preload, \u2193 afterload", "B": "\u2193 preload, \u2191 afterload"}
CHEST = {"A": "Pulmonary embolism", "B": "Pneumonia", "C": "Acute coronary syndrome", "D": "Pericarditis"}
CILIA = {"A": "Abnormal CFTR protein", "B": "Due to mutations in dynein, the cilia fail to clear the mucus"}
BONES = {"A": "The lacrimal bone", "B": "The frontal bone", "E": "The temporal bone"}
STUDY = {"A": "yes", "B": "no", "C": "maybe"}
STAGES = {"A": "<10 years", "B": "2-5 years", "C": "Stage III", "D": "Stage II"}
ONLY = {"A": "Heparin", "B": "Heparin only", "C": "T-cell count", "D": "T cell count"}


def paid(answer: str, options: dict[str, str]) -> list[str]:
    return [letter for letter in options if choice.verify(answer, letter, options).status == "correct"]


@pytest.mark.parametrize(
    ("answer", "letter", "options"),
    [
        *((f"D. Decreased {written}", "D", GASES) for written in ("HCO3\u207b", "HCO\u2083\u207b", "$HCO_3^-$")),
        *((f"D. Decreased {written}", "D", GASES) for written in ("$\\ce{HCO3-}$", "$\\text{HCO}_3^-$")),
        ("B. Decreased CO<sub>2</sub>", "B", GASES),
        ("A. Ca<sup>2+</sup> channel blockade", "A", IONS),
        ("A. Ca++ channel blockade", "A", IONS),
        ("B. Na<sup>+</sup> channel blockade", "B", IONS),
        ("Beta blocker", "C", GREEK),
        ("C. \u00df-blocker", "C", GREEK),
        ("D. \u03b1-1 antagonist", "D", GREEK),
        ("D. Alpha-1 antagonist", "D", GREEK),
        ("All the above", "D", ALL),
        ("D. All of these", "D", ALL),
        ("D. all of them", "D", ALL),
        ("E. None of these", "E", ALL),
        ("D. All of the above. Radiation, chemotherapy and surgery are all used.", "D", ALL),
        ("1 and 3", "B", STATEMENTS),
        ("B) Only 1 and 3", "B", STATEMENTS),
        ("B. Statements 1 and 3", "B", STATEMENTS),
        ("10 milligrams", "B", DOSES),
        ("B. 10.0 mg", "B", DOSES),
        ("D. O-negative", "D", BLOOD),
        ("D. O Rh-negative", "D", BLOOD),
        ("Type O negative", "D", BLOOD),
        ("\u2193 preload and \u2191 afterload", "B", LOADS),
        ("A. PE", "A", CHEST),
        ("C (ACS)", "C", CHEST),
        ("A. Acute pulmonary embolism", "A", CHEST),
        ("A. Pulmonary embolism. It is not pneumonia because there is no fever.", "A", CHEST),
        ("A. Pulmonary embolism. Pneumonia would cause fever, and pericarditis would cause a rub.", "A", CHEST),
        ("A. Pulmonary embolism. The absence of fever argues against pneumonia.", "A", CHEST),
        ('{"answer": "C", "explanation": "It acts fast."}', "C", DRUGS),
        ('{"answer_choice": "C"}', "C", DRUGS),
        ("After considering all the options, I choose C.", "C", DRUGS),
        ("Based on the above, C.", "C", DRUGS),
        ("Given the findings, C is correct.", "C", DRUGS),
        ("The correct answer is **I. *TP53***.", "I", {"H": "*APC*", "I": "*TP53*"}),
        ("A best explains the findings.", "A", CHEST),
        ("Pulmonary embolism best explains the findings", "A", CHEST),
        ("A appears correct.", "A", CHEST),
        ("Option A is most consistent with the presentation.", "A", CHEST),
        ("The symptoms suggest pulmonary embolism.", "A", CHEST),
        ("A is correct; B is wrong because there is no fever.", "A", CHEST),
        ("The answer is A. Options B, C and D are incorrect.", "A", CHEST),
        ("The answer is A. B, C, and D are not consistent with this presentation.", "A", CHEST),
        ("A. None of the other options fit.", "A", CHEST),
        ("A. Pulmonary embolism. Pneumonia (B) would present with fever.", "A", CHEST),
        ("A. Pulmonary embolism. Pneumonia is incorrect because it does not cause hypoxia.", "A", CHEST),
        ("A. Pulmonary embolism. There are no signs of pneumonia, and pericarditis is unlikely.", "A", CHEST),
        ("A. Pulmonary embolism is more likely than pneumonia.", "A", CHEST),
        ("A. Pulmonary embolism. None of the other options fit.", "A", CHEST),
        ("C. Heparin. It acts faster than warfarin.", "C", DRUGS),
        ("C. Heparin. Heparin does not cross the placenta.", "C", DRUGS),
        ("C. Heparin. It is not metabolised by the kidney.", "C", DRUGS),
        ("A (PE).", "A", CHEST),
        ("All are correct.", "D", ALL),
        ('{"answer": "C", "explanation": "This is the best option."}', "C", DRUGS),
        ("D. O neg", "D", BLOOD),
        ("C. Stage 3", "C", STAGES),
        ("A. less than 10 years", "A", STAGES),
        ("B. 2 to 5 years", "B", STAGES),
        ("No, it is not.", "B", STUDY),
        ("No, this is not supported by the data.", "B", STUDY),
        ("B. No, it is not effective.", "B", STUDY),
        ("No - there was no difference.", "B", STUDY),
        ("Answer: A\nConfidence: 95%", "A", CHEST),
        ("A. Pulmonary embolism [1]", "A", CHEST),
        ("Among the options listed, C is the best.", "C", DRUGS),
        ("I'm fairly confident that the answer is C.", "C", DRUGS),
        ("This means the answer is C.", "C", DRUGS),
        ("Final answer\n\nC. Heparin", "C", DRUGS),
        ("Heparin only", "B", ONLY),
        ("Heparin", "A", ONLY),
        ("T-cell count", "C", ONLY),
        ("T cell count", "D", ONLY),
    ],
)
def test_read(answer: str, letter: str, options: dict[str, str]) -> None:
    assert paid(answer, options) == [letter]


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        ("Heparin would have been correct", DRUGS),
        ("She should have been given heparin", DRUGS),
        ("The patient should have received heparin", DRUGS),
        ("C. It is a mistake.", DRUGS),
        ("C. This would be a mistake.", DRUGS),
        ("C. This is just a guess.", DRUGS),
        ("C. This choice must never be made.", DRUGS),
        ("C. The right one is Coumadin.", DRUGS),
        ('{"answer": "C", "explanation": "The answer is D."}', DRUGS),
        ("C. Increased HCO3\u207b and decreased HCO3\u207b", GASES),
        ("D. Decreased HCO3+", GASES),
        ("A. Ca3+ channel blockade", IONS),
        ("C. \u03b1-blocker", GREEK),
        ("D. \u03b1-2 antagonist", GREEK),
        ("B. 1, 2 and 3 only", STATEMENTS),
        ("B. Only 1", STATEMENTS),
        ("B. 1.0 mg", DOSES),
        ("B. 10 micrograms", DOSES),
        ("D. O Rh-positive", BLOOD),
        ("B. MI", CHEST),
        ("A. AD", CHEST),
        ("A. Acute pericarditis", CHEST),
        ("A. Not acute pulmonary embolism", CHEST),
        ("A. Pulmonary embolism. Pneumonia is not unlikely.", CHEST),
        ("A. Pulmonary embolism. It is not pulmonary embolism.", CHEST),
        ("A. Due to mutations in dynein, the cilia fail to clear mucus", CILIA),
        ("E. The acrimal bone", BONES),
        ("C because D works", DRUGS),
        ("C. Heparin. However, A fits better.", DRUGS),
        ("C. Heparin. D should be chosen.", DRUGS),
        ("C. Heparin. D gets my vote.", DRUGS),
        ("C. D is not wrong.", DRUGS),
        ("C. D is wrong, but so is C.", DRUGS),
        ("Given that A is right, the answer is C.", DRUGS),
        ("Given not C, C.", DRUGS),
        ("C: forget this letter", DRUGS),
        ("C) typo, ignore it", DRUGS),
        ("C explains none of the findings.", DRUGS),
        ("C fits poorly.", DRUGS),
        ("C. Confidence: 0%", DRUGS),
        ("C. It cannot be anything but warfarin.", DRUGS),
        ("No, it is.", STUDY),
        ("B. No, it does.", STUDY),
        ("Yes; it does not.", STUDY),
        ("C. Heparin. It is not indicated.", DRUGS),
        ("C. Heparin. Heparin does not work.", DRUGS),
        ("A. Pulmonary embolism. Pneumonia would cause exactly this, and it is not unlikely.", CHEST),
        ("C because option D fits best", DRUGS),
        ("C. It is less effective than warfarin", DRUGS),
        ("C. It works less well than warfarin.", DRUGS),
        ("C. It cannot match warfarin", DRUGS),
        ("A. Pulmonary embolism. Pneumonia (C) would present with fever.", CHEST),
        ("A. A, B and C are incorrect.", CHEST),
        ("A best explains B", CHEST),
        ("C\nConfidence: 95% D", DRUGS),
        ("C [D]", DRUGS),
        ("Among the options, C and D", DRUGS),
    ],
)
def test_never_paid(answer: str, options: dict[str, str]) -> None:
    assert paid(answer, options) == []
