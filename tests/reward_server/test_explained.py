"""Choices with an explanation, in another way of writing, or with another option's words under their label."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from reward_server.verifiers import choice, text

DRUGS = {"A": "Aspirin", "B": "Clopidogrel", "C": "Heparin", "D": "Warfarin"}
LUNG = {
    "A": "Pulmonary embolism",
    "B": "Pneumonia",
    "C": "Acute coronary syndrome",
    "D": "Aortic dissection",
    "E": "Pericarditis",
}
YES = {"A": "yes", "B": "no", "C": "maybe"}
FLOW = {"A": "\u2191 preload, \u2193 afterload", "B": "\u2193 preload, \u2191 afterload", "C": "no change", "D": "both"}
LISTS = {
    "A": "Aspirin, clopidogrel, and heparin",
    "B": "Aspirin and heparin",
    "C": "Aspirin",
    "D": "A reduction in diastolic filling time",
}
NAMES = {
    "A": "\u03b2-blocker",
    "B": "Na\u207a channel blockade",
    "C": "Decreased CO\u2082",
    "D": "Hodgkin lymphoma",
    "E": "Sj\u00f6gren syndrome",
}
GENES = {"A": "AA", "B": "Aa", "C": "aa"}
VALVES = {"A": "Aortic stenosis", "B": "Mitral stenosis", "C": "Tricuspid stenosis", "D": "Mitral regurgitation"}
SENTENCES = {
    "A": "It is indicative of a cerebellar lesion",
    "B": "It is worse at rest",
    "C": "Superior mesenteric artery",
    "D": "Inferior mesenteric artery",
    "E": "No treatment",
}


def paid(answer: str, options: Mapping[str, str]) -> str:
    """The letters for which an answer is paid."""
    return "".join(gold for gold in options if choice.verify(answer, gold, options).status == "correct")


@pytest.mark.parametrize(
    ("answer", "letter", "options"),
    [
        ("A. Pulmonary embolism. Sudden onset dyspnea after surgery suggests PE.", "A", LUNG),
        ("A. Pulmonary embolism \u2014 classic presentation after a long-haul flight.", "A", LUNG),
        ("A. Pulmonary embolism, which explains the hypoxia.", "A", LUNG),
        ("A. Pulmonary embolism\n\n- Sudden dyspnea\n- Tachycardia", "A", LUNG),
        ("A) Pulmonary embolism - dyspnea began after surgery.", "A", LUNG),
        ("A (Pulmonary embolism): the onset was sudden.", "A", LUNG),
        ("A. Pulmonary embolism. Pneumonia is less likely because there is no fever.", "A", LUNG),
        ("A. Pulmonary embolism. The patient does not have a fever.", "A", LUNG),
        ("A. Pulmonary embolism. In contrast to pneumonia, there is no fever.", "A", LUNG),
        ("A. The other options are incorrect because they do not explain hypoxia.", "A", LUNG),
        ("A. Pulmonary embolism. Options B, C, D and E are incorrect.", "A", LUNG),
        ("Pulmonary embolism. Sudden onset after surgery is typical.", "A", LUNG),
        ("A. Pulmonary embolism (PE)", "A", LUNG),
        ("Pulmonary embolism (PE)", "A", LUNG),
        ("No, there was no significant difference.", "B", YES),
        ("Yes, the results were significant.", "A", YES),
        ("Maybe. Further research is needed.", "C", YES),
        ("B. No, there is no association.", "B", YES),
        ("A. Increased preload and decreased afterload", "", FLOW),
        ("A. \u2191preload, \u2193afterload", "A", FLOW),
        (r"B. $\downarrow$ preload, $\uparrow$ afterload", "B", FLOW),
        ("A. Aspirin, clopidogrel and heparin", "A", LISTS),
        ("A. Aspirin, clopidogrel & heparin", "A", LISTS),
        ("B. Aspirin + heparin", "B", LISTS),
        ("D. reduction in diastolic filling time", "D", LISTS),
        ("A reduction in diastolic filling time", "D", LISTS),
        ("A. beta-blocker", "A", NAMES),
        (r"A. $\beta$-blocker", "A", NAMES),
        ("B. Na+ channel blockade", "B", NAMES),
        ("C. Decreased $CO_2$", "C", NAMES),
        ("D. Hodgkin's lymphoma", "D", NAMES),
        ("E. Sjogren syndrome", "E", NAMES),
        ("B. Aa", "B", GENES),
        ("C", "C", GENES),
        ("**E. No treatment**\n\nThe condition is self-limited and no treatment is required.", "E", SENTENCES),
        ("A. It is indicative of a cerebellar lesion. The tremor grows with movement.", "A", SENTENCES),
        ("{'answer': 'C'}", "C", DRUGS),
        ('```json\n{"answer": "C"}\n```', "C", DRUGS),
        ("Selected option: C", "C", DRUGS),
        ("C<end_of_turn>", "C", DRUGS),
    ],
)
def test_read(answer: str, letter: str, options: Mapping[str, str]) -> None:
    assert paid(answer, options) in ({letter} if letter else {"", "A"})


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        # Another option's words under this label: its own, some of them, in another order, or a synonym's.
        ("A: It is worse at rest", SENTENCES),
        ("C. the Inferior mesenteric artery", SENTENCES),
        ("A. It is indicative of a cerebellar lesion or It is worse at rest", SENTENCES),
        ("B) Mitral valve regurgitation", VALVES),
        ("A) stenosis of the mitral valve", VALVES),
        ("B) increased preload and decreased afterload", FLOW),
        ("B: both increased", FLOW),
        ("A. Aspirin", LISTS),
        ("A) heparin and aspirin", LISTS),
        ("B) aspirin, heparin and clopidogrel", LISTS),
        # Yes and no that contradict their label.
        ("B. The answer to the question is yes", YES),
        ("B. This shows yes.", YES),
        ("A. There was no difference, so no.", YES),
        ("A because the result was no", YES),
        ("B) yes it does", YES),
        ("Yes, no.", YES),
        # Capitals.
        ("A. aa", GENES),
        ("B. AA", GENES),
        ("C. AA", GENES),
        # What takes the answer back.
        ("C. The opposite is true.", DRUGS),
        ("C. This is the worst choice.", DRUGS),
        ("C. It is ruled out.", DRUGS),
        ("C. This drug is contraindicated.", DRUGS),
        ("C. It is inferior to warfarin.", DRUGS),
        ("C because warfarin is not inferior", DRUGS),
        ("C because warfarin is never wrong", DRUGS),
        ("C. Heparin is wrong", DRUGS),
        ("C. Heparin (not recommended)", DRUGS),
        ("C. Heparin. Not indicated here.", DRUGS),
        ("C. Heparin, and warfarin", DRUGS),
        ("C. Heparin. The answer is D.", DRUGS),
        ("Heparin. No, warfarin.", DRUGS),
        ("A. Pulmonary embolism. Options A and B are incorrect.", LUNG),
        ("A. Pulmonary embolism (PN)", LUNG),
    ],
)
def test_never_paid(answer: str, options: Mapping[str, str]) -> None:
    assert paid(answer, options) == ""


@pytest.mark.parametrize(
    ("reference", "answer", "correct"),
    [
        ("\u2191 TSH, \u2193 T4", "\u2193 TSH, \u2191 T4", False),
        ("\u2191 TSH, \u2193 T4", "increased TSH, decreased T4", True),
        ("O+", "O-", False),
        ("HBsAg+", "HBsAg-", False),
        ("CD4+ T cells", "CD4- T cells", False),
        ("Gram + cocci", "Gram - cocci", False),
        ("Na+", "Na\u207a", True),
        ("25", "-25", False),
        ("25", ".25", False),
        ("25", "25 %", False),
        ("25%", "25 percent", True),
        ("5 mg", "<5 mg", False),
        ("5 mg", "\u22125 mg", False),
        ("p < 0.05", "p > 0.05", False),
        ("-70 mV", "+70 mV", False),
        ("120/80", "120-80", False),
        ("10^3", "10-3", False),
        ("1,000 mg", "1000 mg", True),
        ("Pulmonary embolism", "~~pulmonary embolism~~", False),
        ("Pulmonary embolism", "\u274c pulmonary embolism", False),
        ("Pulmonary embolism", "\u2260 pulmonary embolism", False),
        ("Pulmonary embolism", "<!-- pulmonary embolism -->", False),
        ("Pulmonary embolism", "**Pulmonary embolism.**", True),
        ("\u03b2-thalassemia", "beta thalassemia", True),
        ("\u03b2-thalassemia", r"$\beta$-thalassemia", True),
        ("CO2", "$CO_2$", True),
        ("CO2", "CO\u2082", True),
        ("M\u00e9ni\u00e8re disease", "Meniere disease", True),
        ("hepatitis A", "hepatitis", False),
        ("blood type A", "blood type", False),
        ("vitamin A", "vitamin the", False),
        ("hepatitis A", "Hepatitis A.", True),
        ("a cat", "the cat", True),
    ],
)
def test_exact_text_keeps_what_changes_a_meaning(reference: str, answer: str, correct: bool) -> None:
    assert (text.verify_exact(answer, [reference]).status == "correct") is correct
