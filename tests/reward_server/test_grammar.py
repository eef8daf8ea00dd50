"""A whole answer is read or none of it: kinds of faults, and properties that a grammar has."""

from __future__ import annotations

import datetime
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from reward_server.verifiers import choice, date, duration, number, overlap
from reward_server.verifiers.base import Verdict
from reward_server.verifiers.spelling import misspelt, opposite

DRUGS = {"A": "Enoxaparin", "B": "Amoxicilin", "C": "Metoprolol", "D": "Hyperkalemia"}
DOSES = {"A": "0.5 mg", "B": "5 mg", "C": "50 mg", "D": "5-10 mg", "E": "-2", "F": "2", "G": "1/2 tablet"}


def paid(answer: str, options: dict[str, str]) -> list[str]:
    return [letter for letter in options if choice.verify(answer, letter, options).status == "correct"]


def number_of(answer: str) -> str:
    verdict = number.verify_range(answer, float("-1e308"), float("1e308"))
    return verdict.extracted or verdict.status


@pytest.mark.parametrize(
    "answer",
    [
        *("C (Enoxaparin)", "c. enoxaparin", "c) Enoxaparin", "C; Enoxaparin", "C \u2014 enoxaparin", "C=Enoxaparin"),
        *("**C** Enoxaparin", "[C] enoxaparin", "Enoxaparin [C]", "Enoxaparin: C", "C is Enoxaparin", "c enoxaparin"),
        *("The answer is c, enoxaparin", "Option C - Enoxaparin", "C. Enoxapurin", "C => Enoxaparin", "C/Enoxaparin"),
        *("C. D", "C) D", "C + D", "c & d", "C und D", "C, D", "C|D", "C -> D", "C, then D", "both C and D", "C-D"),
        *(
            "not C",
            "C is incorrect",
            "never metoprolol",
            "no metoprolol",
            "metoprolol is contraindicated",
            "stop metoprolol",
        ),
        *("avoid metoprolol", "metoprolol was ruled out", "rather Enoxaparin than metoprolol", "I can't pick C"),
        *("non-metoprolol", "metoprolol-like", "metoprololate", "metoprolol/hydrochlorothiazide", "anti-metoprolol"),
        *("allergy to metoprolol", "history of metoprolol use", "metoprolol 50 mg, 2 tablets", "D. Hypokalemia"),
        *("C. Wait, it should be D", "C. No, D", "C because D is also likely, so D", "C\nD", "C, or D", "C? D?"),
    ],
)
def test_no_option_is_paid(answer: str) -> None:
    assert paid(answer, DRUGS) == []


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *(("B. Amoxicillin", "B"), ("B) amoxicilin", "B"), ("B: Amoxycilin", "B"), ("D. Hyperkalaemia", "D")),
        *(
            ("c", "C"),
            ("(c)", "C"),
            ("C\u200b.", "C"),
            ("\u0421", "C"),
            ("Answer: C, metoprolol", "C"),
            ("C = Metoprolol", "C"),
        ),
        *(("Give metoprolol", "C"), ("Metoprolol should be started", "C"), ("It is most likely hyperkalemia.", "D")),
        *(
            ("C, because enoxaparine bleeds", "C"),
            ("Metoprolol, because it lowers the rate", "C"),
            ("metoprolol (C)", "C"),
        ),
        *(("I'd go with C.", "C"), ("**Answer:** C", "C"), ("The best next step is: C) Metoprolol", "C")),
        *(
            ("The most appropriate treatment for this patient is metoprolol", "C"),
            ("C.\n\nThis drug slows the heart.", "C"),
        ),
    ],
)
def test_one_option_is_paid(answer: str, letter: str) -> None:
    assert paid(answer, DRUGS) == [letter]


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        *((".5 mg", ["A"]), ("0.5 mg", ["A"]), ("5 mg", ["B"]), ("5mg/kg", []), ("5 mg/kg", []), ("5 mg per kg", [])),
        *(
            ("5 - 10 mg", ["D"]),
            ("5\u201310 mg", ["D"]),
            ("2.5 mg", []),
            ("5.0.5 mg", []),
            ("5 mg x 2", []),
            ("15 mg", []),
        ),
        *(
            ("-2", ["E"]),
            ("\u22122", ["E"]),
            ("2", ["F"]),
            ("+2", []),
            ("2%", []),
            ("2^2", []),
            ("1/2", []),
            ("2/3", []),
        ),
        *(
            ("2 to 5 mg", []),
            ("> 5 mg", []),
            ("5 mg or more", []),
            ("5 mg/dL", []),
            ("\u00bd tablet", ["G"]),
            ("1/2 tablet", ["G"]),
        ),
    ],
)
def test_amounts_among_options(answer: str, letters: list[str]) -> None:
    assert paid(answer, DOSES) == letters


def test_spelling() -> None:
    # amoxicillin: one letter more; metoprolol/metropolol: two exchanged
    assert [misspelt("amoxicillin", "amoxicilin"), misspelt("metropolol", "metoprolol")] == [1, 2]
    assert misspelt("heparin", "warfarin") is None
    assert misspelt("5 mg heparin", "6 mg heparin") is None
    pairs = [("hypokalemia", "hyperkalemia"), ("symptomatic", "asymptomatic"), ("intracellular", "intercellular")]
    pairs += [
        ("adduction", "abduction"),
        ("sulfate", "sulfite"),
        ("complete", "incomplete"),
        ("hypertension", "hypotension"),
    ]
    assert all(opposite(*pair) and misspelt(*pair) is None for pair in pairs)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        *(("- 5.2", "-5.2"), ("\u2212 5.2 mmol/L", "-5.2"), ("neg. 5.2", "-5.2"), ("(-5.2)", "-5.2"), ("+ 5.2", "5.2")),
        *(("$-\\frac{3}{4}$", "-0.75"), ("2\\frac{1}{2}", "2.5"), ("3\u00bd", "3.5"), ("1 and 1/2", "1.5")),
        *(("10**3", "1000"), ("1.2\u00b710^3", "1200"), ("1.2 x 10**-3", "0.0012"), ("2 * 10<sup>3</sup>", "2000")),
        *(("10 to the power of 3", "1000"), ("1.2 \\cdot 10^{4}", "12000"), ("5e+3", "5000")),
        *(
            ("1.5 million", "1500000"),
            ("150k", "150000"),
            ("3 thousand", "3000"),
            ("25 per cent", "25%"),
            ("25 pct", "25%"),
        ),
        *(("13 out of 15", "13"), ("13 of 15 points", "13"), ("4/9 points", "4"), ("HEART score 4/10", "4")),
        *(
            ("80 mL min^{-1}", "80"),
            ("5 cmH2O", "5"),
            ("12 dyn\u00b7s\u00b7cm\u207b\u2075", "12"),
            ("36.6 \u00b0C", "36.6"),
        ),
        *(
            ("5 (five)", "5"),
            ("12 - low risk", "12"),
            ("GCS 15 (E4V5M6)", "15"),
            ("\u2248 7", "7"),
            ("70/1.75^2 -> 22.9", "22.9"),
        ),
    ],
)
def test_numbers_in_full(answer: str, value: str) -> None:
    assert number_of(answer) == value


@pytest.mark.parametrize(
    "answer",
    [
        *("base excess - 5.2", "5.2-", "--5.2", "\u00b15", "3-5", "-3 - -5", "BE-5.2", "5 -", "minus -5"),
        *("4 10/3", "1/2/3", "5/0", "\\frac{1}{x}", "\\binom{5}{2}", "120/80 mmHg", "16/15 points", "1-1/2"),
        *(
            "2^3",
            "2**3",
            "sqrt 16",
            "\\sqrt{16}",
            "ln(5)",
            "5 squared",
            "5x",
            "2 x 5",
            "5 * 3",
            "5 + 3",
            "5 plus 3",
        ),
        *(
            "2 dozen",
            "5M",
            "5 lakh",
            "1.5\u4e07",
            "5 bn",
            "5\u2030",
            "5 per mille",
            "5 ppm",
            "5 and a half",
            "two hundred 5",
        ),
        *(
            "5 or 6",
            "5 or six",
            "five or 6",
            "between 5 and 6",
            "5 to 6",
            "5, 6",
            "5; 6",
            "5 vs 6",
            "5:1",
            "5 in 6 to 7",
        ),
        *("> 5", "\u2265 5", "at least 5", "up to 5", "no more than 5", "5 or more", "5+", "5 and above", "under 5"),
        *(
            "not 5",
            "cannot be 5",
            "5 is wrong",
            "it isn't 5",
            "5 != 6",
            "5_0",
            "5^",
            "0b101",
            "5to6",
            "5 or6",
            "x5",
            "5th",
        ),
    ],
)
def test_numbers_that_leave_something_unread(answer: str) -> None:
    assert number_of(answer) in ("no_answer", "malformed")


def test_scores_under_integer_rounding() -> None:
    statuses = [
        number.verify_integer(text, 13).status for text in ("13/15", "GCS 13/15", "13 / 15", "13 of 15", "39/3")
    ]
    assert statuses == ["correct"] * 4 + ["malformed"]
    assert number.verify_integer("4/9 points", 0).status == "incorrect"


@pytest.mark.parametrize(
    ("answer", "days"),
    [
        *(
            ("36+6", 258),
            ("36 + 6", 258),
            ("36+6 weeks", 258),
            ("36 6/7", 258),
            ("36 6/7 weeks", 258),
            ("36-6/7 weeks", 258),
        ),
        *(
            ("36w6d", 258),
            ("36w 6d", 258),
            ("36\u207a\u2076", 258),
            ("36^{+6}", 258),
            ("36 weeks 6/7", 258),
            ("36+6/40", 258),
        ),
        *(("36 and 6/7 weeks", 258), ("36wk6d", 258), ("36 weeks + 6 days", 258), ("GA: 36 weeks and 6 days.", 258)),
        *(("258 days", 258), ("36 weeks, 6 days (258 days)", 258), ("36 weeks", 252), ("('36 weeks', '6 days')", 258)),
        *(
            ("36 6/7 days", None),
            ("36.6/7 weeks", None),
            ("36:6 weeks", None),
            ("36,6 weeks", None),
            ("36.86 weeks", None),
        ),
        *(
            ("1 month 36 weeks", None),
            ("36 weeks 6", None),
            ("36 weeks and six days", None),
            ("36 weeks or 37 weeks", None),
        ),
        *(
            ("36-37 weeks", None),
            ("36 weeks minus 1 day", None),
            ("over 36 weeks", None),
            ("36+ weeks", None),
            ("36+7", None),
        ),
        *(
            ("36 and a half weeks", None),
            ("not 36 weeks", None),
            ("1,036 weeks", None),
            ("36 weeks 6 days 5 hours", None),
        ),
        *(("a fortnight and 36 weeks", None), ("36/40/6 weeks", None), ("6/7 weeks", None), ("36 weeks x 2", None)),
    ],
)
def test_durations_in_full(answer: str, days: int | None) -> None:
    verdict = duration.verify(answer, (days or 0) // 7, (days or 0) % 7)
    assert verdict.status == ("correct" if days else verdict.status)
    if days is None:
        assert verdict.extracted is None


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        *(
            ("- 09/03/2014", True),
            ("**09/03/2014**", True),
            ("09/03/2014 (September 3, 2014)", True),
            ("Due: 2014-09-03", True),
        ),
        *(("Wednesday, 09/03/2014", True), ("09/03/2014 or 2014-09-03", True), ("\uff10\uff19/03/2014", True)),
        *(
            ("not 09/03/2014", False),
            ("before 09/03/2014", False),
            ("09/03/2014 or later", False),
            ("09/03/2014 +/- 2", False),
        ),
        *(("09/03/2014 (September 4, 2014)", False), ("9/3/14", False), ("09/03/2014-09/04/2014", False)),
        *(("09/03/2014, week 2", False), ("two days after 09/03/2014", False), ("09/03/2014 10:30", False)),
        *(("09.03.2014", False), ("-09/03/2014", False), ("1 09/03/2014", False), ("09/03/2014T00:00", False)),
    ],
)
def test_dates_in_full(answer: str, read: bool) -> None:
    assert (date.verify(answer, datetime.date(2014, 9, 3)).status == "correct") is read


FOREIGN = st.sampled_from(
    [
        "7",
        "0",
        " 7",
        "-",
        "- ",
        "+",
        "not ",
        "no ",
        " or 8",
        "^2",
        "**2",
        "/3",
        "x",
        " x 2",
        "%%",
        "\u00b1",
        "> ",
        "k",
        " million",
    ]
)
BEFORE = st.sampled_from(["A ", "(A) ", "not ", "non-", "no ", "A. ", "D) ", "D ", "+", "stop ", "anti"])
BEHIND = st.sampled_from([" A", " (A)", " or A", " no", " not", "/D", ", D", "+", "-like", "; not D", " 5 mg", " + A"])


@settings(max_examples=400, deadline=None)
@given(st.decimals(-9999, 9999, places=2), FOREIGN, st.sampled_from(["before", "behind"]))
def test_a_foreign_mark_on_a_number_never_pays(value: float, foreign: str, place: str) -> None:
    right = str(value)
    answer = foreign + right if place == "before" else right + foreign
    # A zero adds nothing to a zero or behind decimals, and a plus in front says what stands there without it.
    if float(value) == 0 or foreign == "0" or (foreign == "+" and place == "before"):
        return
    low, high = float(value) - 1e-9, float(value) + 1e-9
    assert number.verify_range(answer, low, high).status != "correct", answer


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(DRUGS)), st.sampled_from(["{l}", "({l})", "{l}. {t}", "{t}"]), BEFORE, BEHIND, st.booleans()
)
def test_a_foreign_mark_on_a_choice_never_pays(letter: str, form: str, before: str, behind: str, first: bool) -> None:
    right = form.format(l=letter, t=DRUGS[letter])
    answer = before + right if first else right + behind
    # The right label once more says nothing else.
    if letter in (before if first else behind):
        return
    assert letter not in paid(answer, DRUGS), answer


PIECES = st.sampled_from(
    [
        *(
            "A",
            "B.",
            "(C)",
            "D)",
            "c",
            "Enoxaparin",
            "metoprolol",
            "Amoxicilin",
            "hyperkalemia",
            " is ",
            " or ",
            "not ",
            ", ",
        ),
        *("because ", ". This ", "the answer is ", "\n", " - ", "->", "5", "mg", "**", "\\boxed{", "}", "and ", "no "),
    ]
)


@settings(max_examples=600, deadline=None)
@given(st.lists(PIECES, max_size=7).map("".join))
def test_an_answer_has_one_reading(answer: str) -> None:
    assert len(paid(answer, DRUGS)) <= 1
    extracted = {choice.verify(answer, letter, DRUGS).extracted for letter in DRUGS}
    assert len(extracted) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abcde"), max_size=40), st.lists(st.sampled_from("abcde"), max_size=40))
def test_rouge_l_is_rouge_scores(candidate: list[str], reference: list[str]) -> None:
    ours = overlap.rouge_l(" ".join(candidate), " ".join(reference))
    theirs = RougeScorer(["rougeL"]).score(" ".join(reference), " ".join(candidate))["rougeL"].fmeasure
    assert ours == pytest.approx(100 * theirs)


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "\\",
            "$",
            "<b>",
            "*a ",
            "_a_",
            "{",
            "}{",
            "^{",
            "\\frac{1}{",
            "> ",
            "| ",
            "``` ",
            "&lt;",
            "\u00bd",
            "\ufdfa",
        ),
        *(
            "C. ",
            "the answer is ",
            "C because ",
            "heparin ",
            "a-",
            "1 ",
            "5-",
            "1+6 ",
            "36 6/7 ",
            "09/03/2014 ",
            "a1",
            "(1",
        ),
    ],
)
def test_adversarial_texts_take_bounded_time(unit: str) -> None:
    # Patterns that backtrack took 3 s for some of these; the bound is far above what is measured (milliseconds).
    started = time.process_time()
    for size in (1_900, 20_000, 100_000):
        text = (unit * size)[:size]
        verdicts: list[Verdict] = [choice.verify(text, "C", DRUGS), number.verify_range(text, 0, 1)]
        verdicts += [date.verify(text, datetime.date(2014, 9, 3)), duration.verify(text, 1, 1)]
        assert all(verdict.status for verdict in verdicts)
    assert time.process_time() - started < 2
