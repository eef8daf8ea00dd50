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
            "5!",
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
    if answer == "5!":  # a factorial and an exclamation look the same
        return
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


@pytest.mark.parametrize(
    "answer",
    [
        "-(5.2)",
        "(-)5.2",
        "\u2212\xa35.2",
        "-\u20ac5.2",
        "a negative value of 5.2",
        "-[5.2]",
        '-"5.2"',
        "5.2 (-)",
        "5.2 (negative)",
        "negative: 5.2",
        "negative about 5.2",
        "5.2 below baseline",
        "-(-5.2)",
        "|-5.2|",
        "- -5.2",
        "\u2212(5.2)",
        "- (5.2)",
        "-about 5.2",
        "minus: 5.2",
        "Negative (5.2)",
        "e^5.2",
        "e^{-5.2}",
        "a^2.5",
        "0xD",
        "5M2",
        "5.2\u207f",
        "5.2\u03c0",
        "5.2\u2163",
        "5.2i",
        "5.2 i",
        "5.2q",
        "m^1.5",
        "K^0.5",
        "5.2 m^2.5",
        "e^2",
        "5.2j",
        "5.2 \u03c0",
        "5.2 \u043c\u043b\u043d",
        "5.2 \u0442\u044b\u0441",
        "5.2\u0442\u044b\u0441",
        "5.2 lac",
        "5.2 permil",
        "5.2 promille",
        "5.2 Mrd",
        "5.2 Tsd",
        "5.2 milliards",
        "5.2 millones",
        "5.2 mille",
        "5.2 mil",
        "5.2 thou",
        "5.2 K",
        "5.2 k",
        "5.2 M",
        "5.2 B",
        "5.2 G",
        "5.2 T",
        "5.2 giga",
        "5.2 kilo",
        "5.2 milli",
        "5.2 tens",
        "5.2 tenths",
        "a tenth of 5.2",
        "a third of 5.2",
        "5.2 gross",
        "5.2 pair",
        "5.2 doubled",
        "5.2 tripled",
        "5.2 halved",
        "5.2 bps",
        "5.2 percentage points",
        "arcsin 5.2",
        "lg 5.2",
        "sinh 5.2",
        "cot 5.2",
        "mod 5.2",
        "5.2G",
        "5.2 per mill",
        "less than ~5.2",
        "more than roughly 5.2",
        "5.2 at least",
        "5.2 at most",
        "5.2 max",
        "5.2 minimum",
        "maximum: 5.2",
        "at least: 5.2",
        "at least = 5.2",
        "over ca. 5.2",
        ">= 5.2",
        "max. 5.2",
        "upper bound 5.2",
        "upwards of 5.2",
        "in excess of 5.2",
        "as low as 5.2",
        "5.2 is too low",
        "> = 5.2",
        "> $5.2",
        "> ~5.2",
        "> -5.2",
        "> about 5.2",
        "5.2 mg at most",
        "5.2 mg/dL maximum",
        "less than or equal to about 5.2",
        "5.2 is the maximum",
        "5.2 is a lower bound",
        "not less than 5.2",
        "x>5.2",
        "> (5.2)",
        "&gt;= 5.2",
        "at most a value of 5.2",
        "The score is 3. The maximum is 9",
        "BMI = 22.9 (normal is 18.5)",
        "5 is the answer, 6 is 7",
        "5.2 to 5.4 = 5.3",
        "60 mL/min; age is 70",
        "22.9 (reference is 25)",
        "The score is 3, risk is 5.2%",
        "5.2 g = 5200 mg",
        "5.2, 5.4 = 5.2",
        "5.4-5.6, i.e. is 5.5",
        "5 is 6",
        "The answer is 22.9 and the gap is 12",
        "BMI = 22.9, normal range is 18.5",
        "Score: 1 (age) + 2 (sex) = 3, so risk is 4",
        "3 points, so the risk is 5.2%",
        "The score is 3, so the risk is 5.2%",
        "5.2 = x = 6",
        "x^2 = 5.2",
        "2x = 5.2",
        "2 x BMI = 5.2",
        "Creatinine clearance = 60, which is 1",
        "5.2 x 10e9",
        "1 300",
        "5.2 e9",
        "BMI x 2 = 5.2",
        "5-6 = 5.2",
        "22.9 vs 25, BMI is 22.9",
        "Score 3 -> risk 5.2%",
        "3 points = 5.2%",
        "BMI of 22.9, goal is 25",
        "5.2 - reference is 3",
        "22.9 kg/m2, ideal = 25",
        "age 70, weight 80 -> 60",
        "22.9 + normal = 25",
    ],
)
def test_numbers_with_a_sign_a_bound_or_a_claim_beside_them(answer: str) -> None:
    assert number_of(answer) in ("no_answer", "malformed")


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("5.2 mg (rounded to 2 decimal places)", "5.2"),
        ("22.86 kg/m\xb2 (rounded to two decimals)", "22.86"),
        ("3 (of 9)", "3"),
        ("3 (max 9)", "3"),
        ("3 (out of 9)", "3"),
        ("66.4 mL/min/(1.73 m\xb2)", "66.4"),
        ("66.4 mL/min/1.73 m\xb2", "66.4"),
        ("22.9 kg/m**2", "22.9"),
        ("70 kg and 1.75 m, so the BMI is 22.9", "22.9"),
        ("BMI = 70 / 1.75^2 = 22.9", "22.9"),
        ("BMI = 70/1.75^2 = 22.857 \u2248 22.9", "22.9"),
        ("With 70 kg and 1.75 m, the BMI is 22.9", "22.9"),
        ("The 10-year risk is 5.2%", "5.2%"),
        ("10-year risk: 12%", "12%"),
        ("Total score = 1+1+1 = 3", "3"),
        ("1+2=3 points", "3"),
        ("3 + 0 = 3", "3"),
        ("Score: 1 (age) + 2 (sex) = 3", "3"),
        ("5.2mg/dL", "5.2"),
        ("5.2 K/uL", "5.2"),
        ("5.2K/uL", "5.2"),
        ("150 k/uL", "150"),
        ("5.2 g/L", "5.2"),
        ("5.2 m", "5.2"),
        ("70 bpm", "70"),
        ("5.2 U/L", "5.2"),
        ("37.2\xb0C", "37.2"),
        ("37.2 C", "37.2"),
        ("5.2 \u03bcg/L", "5.2"),
        ("5.2\u03bcg/L", "5.2"),
        ("5.2ug/L", "5.2"),
        ("5.2mmol/L", "5.2"),
        ("440ms", "440"),
        ("440msec", "440"),
        ("120mmHg", "120"),
        ("HEART score = 3", "3"),
        ("Free water deficit: 5.2 L", "5.2"),
        ("base deficit of 5.2", "5.2"),
        ("5.2 h", "5.2"),
        ("22.9 kg m^-2", "22.9"),
        ("80 mL min^{-1}", "80"),
        ("1.5 million", "1500000"),
        ("150k", "150000"),
        ("-5.2 mmol/L", "-5.2"),
        ("$-5.2$", "-5.2"),
        ("Base excess = -5.2", "-5.2"),
        ("> The answer is 5.2", "5.2"),
        ("> **Answer:** 5.2", "5.2"),
        ("| 5.2 |", "5.2"),
        ("0.052 = 5.2%", "5.2%"),
        ("22.9 kg/m\xb2", "22.9"),
        ("MAP = (120 + 2*80)/3 = 93.3 mmHg", "93.3"),
        ("MAP = (120 + 2 \xd7 80) / 3 \u2248 93.3", "93.3"),
        ("Anion gap = 140 - (100 + 24) = 16 mEq/L", "16"),
        ("140 - 100 - 24 = 16", "16"),
        ("QTc = 400 / sqrt(0.8) = 447 ms", "447"),
        ("eGFR = 142 \xd7 (1.2/0.9)^(-1.2) \xd7 0.9938^50 = 66.4", "66.4"),
        ("Corrected Ca = 8.0 + 0.8 * (4.0 - 2.5) = 9.2 mg/dL", "9.2"),
        ("(140 - 70) \xd7 80 / (72 \xd7 1.2) = 64.8 mL/min", "64.8"),
        ("5.2 (max 10)", "5.2"),
        ("QTc = 440 ms (prolonged)", "440"),
        ("The corrected calcium is **9.6 mg/dL**.", "9.6"),
        ("2 points: age", "2"),
        ("GCS = E3 + V4 + M5 = 12", "12"),
        ("GCS = 3 + 4 + 5 = 12", "12"),
        ("target: 5.2 mg", "5.2"),
        ("5.2 mIU/L", "5.2"),
        ("1,234.5", "1234.5"),
        ("5 days", "5"),
        ("70 y", "70"),
        ("70yo", "70"),
    ],
)
def test_numbers_with_units_remarks_and_working(answer: str, value: str) -> None:
    assert number_of(answer) == value


DATES_REFUSED = [
    "minus 09/03/2014",
    "\u2212 09/03/2014",
    "twice 09/03/2014",
    "prior to 09/03/2014",
    "day following 09/03/2014",
    "09/03/2014 onwards",
    "09/03/2014 or a week later",
    "09/03/2014 or October",
    "November 09/03/2014",
    "eve of 09/03/2014",
    "since 09/03/2014",
    "till 09/03/2014",
    "by 09/03/2014",
    "09/03/2014 or tomorrow",
    "09/03/2014, give or take a week",
    "half a year later than 09/03/2014",
    "09/03/2014, half a year later",
    "09/03/2014 (in March)",
    "09/03/2014 (Friday)",
    "Friday 09/03/2014",
    "09/03/2014 next year",
    "09/03/2014 BC",
    "09/03/2014 is too late",
    "\u221a09/03/2014",
    "09/03/2014\u221e",
    "\xf709/03/2014",
    "09/03/2014\u2030",
    "\u278109/03/2014",
    "\u2781 09/03/2014",
    "09/03/2014 \u2781",
    "-09/03/2014",
    "Due date - 09/03/2014",
    "(09/03/2014)\xb2",
    ">= 09/03/2014",
    "> 09/03/2014",
    "at most 09/03/2014",
    "a week after 09/03/2014",
    "09/03/2014 (DD/MM/YYYY)",
    "09/02/2014 = 09/03/2014",
    "between now and 09/03/2014",
    "09/03/2014 plus a day",
    "the week of 09/03/2014",
    "no later than 09/03/2014",
    "09/03/2014 - 09/03/2014",
    "09/03/2014 to 09/05/2014",
    "09/05/2014; 09/03/2014",
    "LMP = 11/27/2013, EDD = 09/03/2014",
    "09/03/2014 + 1",
    "x = 09/03/2014, y = 09/04/2014",
    "-(09/03/2014)",
    "negative 09/03/2014",
    "09/03/2014 at the latest",
]
DATES_READ = [
    "09/03/2014",
    "EDD = 09/03/2014",
    "09/03/2014 (MM/DD/YYYY)",
    "~09/03/2014",
    "about 09/03/2014",
    "LMP 11/27/2013 + 280 days = 09/03/2014",
    "11/27/2013 + 280 = 09/03/2014",
    "- 09/03/2014",
    "Wednesday, 09/03/2014",
    "09/03/2014 (Wednesday)",
    "09/03/2014 (September 3, 2014)",
    "due in September: 09/03/2014",
    "09/03/2014 or 2014-09-03",
    "Due: 09/03/2014",
    "The due date is 09/03/2014.",
    "**EDD: 09/03/2014**",
    "Based on the last menstrual period, the due date is 09/03/2014",
    "09/03/2014 = 2014-09-03",
    "Answer \u2192 09/03/2014",
    "('09/03/2014')",
    "2014/09/03",
    "EDD \u2248 09/03/2014",
]
DURATIONS_REFUSED = [
    "\u2212 17 weeks, 6 days",
    "- 17 weeks, 6 days",
    "-17 weeks, 6 days",
    "negative 17 weeks, 6 days",
    "\u221a17 weeks, 6 days",
    "\xf717 weeks, 6 days",
    "17 weeks, 6 days, doubled",
    "17 weeks, 6 days squared",
    "\u278117 weeks, 6 days",
    "17 weeks, 6 days \u2781",
    "17 weeks, 6/7 days",
    "17 weeks, 6 days max",
    "17 weeks, 6 days at least",
    "minimum 17 weeks, 6 days",
    "17 weeks, 6 days minimum",
    "17 weeks, 6 days at the most",
    "17 weeks, 6 days and a decade",
    "17 weeks, 6 days and a weekend",
    "17 weeks, 6 days before term",
    "17 weeks, 6 days to go",
    "17 weeks, 6 days postpartum",
    "17 weeks, 6 days from now",
    "17 weeks, 6 days ago",
    ">= 17 weeks, 6 days",
    "> 17 weeks, 6 days",
    "\u2265 17 weeks, 6 days",
    "16 weeks = 17 weeks, 6 days",
    "17 weeks, 6 days \u221e",
    "17 weeks, 6 days\u2030",
    "half of 17 weeks, 6 days",
    "17 weeks, 6 days and a half",
    "-(17 weeks, 6 days)",
    "(17 weeks, 6 days) (-)",
    "17 weeks 6",
    "17 weeks, 6 days + 2",
    "17 weeks, 6 days or 18 weeks",
    "at least = 17 weeks, 6 days",
    "17 weeks, 6 days; 18 weeks",
    "17 weeks, 6 days is too long",
    "third of 17 weeks, 6 days",
    "17 weeks and six days",
    "17 weeks, 6 days more or less",
    "a month and 17 weeks, 6 days",
]
DURATIONS_READ = [
    "17 weeks, 6 days",
    "GA = 17 weeks, 6 days",
    "125 days = 17 weeks, 6 days",
    "125 / 7 = 17 weeks, 6 days",
    "125/7 = 17 weeks, 6 days",
    "17 week(s) and 6 day(s)",
    "17 completed weeks and 6 days",
    "17 weeks plus 6 days",
    "17+6w",
    "17+6 weeks",
    "17^{6/7} weeks",
    "~17 weeks, 6 days",
    "17 weeks (6 days)",
    "17 weeks, 6 days (125 days)",
    "17 6/7",
    "17 weeks 6/7",
    "17-6/7 weeks",
    "17w6d",
    "17\u207a\u2076",
    "17 weeks, 6 days of gestation",
    "17 weeks, 6 days (second trimester)",
    "17 weeks, 6 days after the LMP",
    "GA: 17 weeks, 6 days.",
    "GA \u2248 17 weeks, 6 days",
    "about 17 weeks, 6 days",
    "120 days + 5 days = 17 weeks, 6 days",
    "17 weeks + 6 days",
    "(17 weeks, 6 days)",
    "Answer \u2192 17 weeks, 6 days",
    "17 full weeks and 6 days",
]


@pytest.mark.parametrize(("answer", "read"), [(a, False) for a in DATES_REFUSED] + [(a, True) for a in DATES_READ])
def test_what_stands_beside_a_date(answer: str, read: bool) -> None:
    verdict = date.verify(answer, datetime.date(2014, 9, 3))
    assert verdict.extracted == ("09/03/2014" if read else None)


@pytest.mark.parametrize(
    ("answer", "read"), [(a, False) for a in DURATIONS_REFUSED] + [(a, True) for a in DURATIONS_READ]
)
def test_what_stands_beside_a_duration(answer: str, read: bool) -> None:
    verdict = duration.verify(answer, 17, 6)
    assert verdict.extracted == ("17 weeks, 6 days" if read else None)


@pytest.mark.parametrize(
    "unit", ["17+6 ", "09/03/2014 ", "1 = ", "1=", "is ", "-(", "1 (of ", "at most ", "less than "]
)
def test_many_amounts_take_bounded_time(unit: str) -> None:
    text = ("C. " + unit * 2_000)[:2_000]
    for verify in (
        lambda: duration.verify(text, 17, 6),
        lambda: date.verify(text, datetime.date(2014, 9, 3)),
        lambda: number.verify_range(text, 1, 2),
    ):
        times = []
        for _ in range(3):
            started = time.process_time()
            assert verify().status != "correct"
            times.append(time.process_time() - started)
        # Milliseconds are measured; the bound leaves room for a machine half as fast.
        assert min(times) < 0.03


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
