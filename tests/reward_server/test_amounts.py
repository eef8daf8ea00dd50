"""What stands beside a number, a date or a duration: what changes it is refused, what does not is passed over."""

from __future__ import annotations

import datetime
import time

import pytest

from reward_server.verifiers import date, duration, number

NUMBERS_REFUSED = [
    *("-(5.2)", "(-)5.2", "\u2212\xa35.2", "-\u20ac5.2", "a negative value of 5.2", "-[5.2]", '-"5.2"', "5.2 (-)"),
    *("5.2 (negative)", "negative: 5.2", "negative about 5.2", "5.2 below baseline", "-(-5.2)", "|-5.2|", "- -5.2"),
    *("\u2212(5.2)", "- (5.2)", "-about 5.2", "minus: 5.2", "Negative (5.2)", "e^5.2", "e^{-5.2}", "a^2.5", "0xD"),
    *("5M2", "5.2\u207f", "5.2\u03c0", "5.2\u2163", "5.2i", "5.2 i", "5.2q", "m^1.5", "K^0.5", "5.2 m^2.5", "e^2"),
    *("5.2j", "5.2 \u03c0", "5.2 \u043c\u043b\u043d", "5.2 \u0442\u044b\u0441", "5.2\u0442\u044b\u0441", "5.2 lac"),
    *("5.2 permil", "5.2 promille", "5.2 Mrd", "5.2 Tsd", "5.2 milliards", "5.2 millones", "5.2 mille", "5.2 mil"),
    *("5.2 thou", "5.2 K", "5.2 k", "5.2 M", "5.2 B", "5.2 G", "5.2 T", "5.2 giga", "5.2 kilo", "5.2 milli"),
    *("5.2 tens", "5.2 tenths", "a tenth of 5.2", "a third of 5.2", "5.2 gross", "5.2 pair", "5.2 doubled"),
    *("5.2 tripled", "5.2 halved", "5.2 bps", "5.2 percentage points", "arcsin 5.2", "lg 5.2", "sinh 5.2", "cot 5.2"),
    *("mod 5.2", "5.2G", "5.2 per mill", "less than ~5.2", "more than roughly 5.2", "5.2 at least", "5.2 at most"),
    *("5.2 max", "5.2 minimum", "maximum: 5.2", "at least: 5.2", "at least = 5.2", "over ca. 5.2", ">= 5.2"),
    *("max. 5.2", "upper bound 5.2", "upwards of 5.2", "in excess of 5.2", "as low as 5.2", "5.2 is too low"),
    *("> = 5.2", "> $5.2", "> ~5.2", "> -5.2", "> about 5.2", "5.2 mg at most", "5.2 mg/dL maximum"),
    *("less than or equal to about 5.2", "5.2 is the maximum", "5.2 is a lower bound", "not less than 5.2", "x>5.2"),
    *("> (5.2)", "&gt;= 5.2", "at most a value of 5.2", "The score is 3. The maximum is 9"),
    *("BMI = 22.9 (normal is 18.5)", "5 is the answer, 6 is 7", "5.2 to 5.4 = 5.3", "60 mL/min; age is 70"),
    *("22.9 (reference is 25)", "The score is 3, risk is 5.2%", "5.2 g = 5200 mg", "5.2, 5.4 = 5.2"),
    *("5.4-5.6, i.e. is 5.5", "5 is 6", "The answer is 22.9 and the gap is 12", "BMI = 22.9, normal range is 18.5"),
    *("Score: 1 (age) + 2 (sex) = 3, so risk is 4", "3 points, so the risk is 5.2%"),
    *("The score is 3, so the risk is 5.2%", "5.2 = x = 6", "x^2 = 5.2", "2x = 5.2", "2 x BMI = 5.2"),
    *("Creatinine clearance = 60, which is 1", "5.2 x 10e9", "1 300", "5.2 e9", "BMI x 2 = 5.2", "5-6 = 5.2"),
    *("22.9 vs 25, BMI is 22.9", "Score 3 -> risk 5.2%", "3 points = 5.2%", "BMI of 22.9, goal is 25"),
    *("5.2 - reference is 3", "22.9 kg/m2, ideal = 25", "age 70, weight 80 -> 60", "22.9 + normal = 25"),
]
NUMBERS_READ = [
    *(("Ca\u00b2\u207a = 9.6 mg/dL", "9.6"), ("Corrected Ca2+: 9.6", "9.6")),
    *(("5.2 mg (rounded to 2 decimal places)", "5.2"), ("22.86 kg/m\xb2 (rounded to two decimals)", "22.86")),
    *(("3 (of 9)", "3"), ("3 (max 9)", "3"), ("3 (out of 9)", "3"), ("66.4 mL/min/(1.73 m\xb2)", "66.4")),
    *(("66.4 mL/min/1.73 m\xb2", "66.4"), ("22.9 kg/m**2", "22.9"), ("70 kg and 1.75 m, so the BMI is 22.9", "22.9")),
    *(("BMI = 70 / 1.75^2 = 22.9", "22.9"), ("BMI = 70/1.75^2 = 22.857 \u2248 22.9", "22.9")),
    *(("With 70 kg and 1.75 m, the BMI is 22.9", "22.9"), ("The 10-year risk is 5.2%", "5.2%")),
    *(("10-year risk: 12%", "12%"), ("Total score = 1+1+1 = 3", "3"), ("1+2=3 points", "3"), ("3 + 0 = 3", "3")),
    *(("Score: 1 (age) + 2 (sex) = 3", "3"), ("5.2mg/dL", "5.2"), ("5.2 K/uL", "5.2"), ("5.2K/uL", "5.2")),
    *(("150 k/uL", "150"), ("5.2 g/L", "5.2"), ("5.2 m", "5.2"), ("70 bpm", "70"), ("5.2 U/L", "5.2")),
    *(("37.2\xb0C", "37.2"), ("37.2 C", "37.2"), ("5.2 \u03bcg/L", "5.2"), ("5.2\u03bcg/L", "5.2")),
    *(("5.2ug/L", "5.2"), ("5.2mmol/L", "5.2"), ("440ms", "440"), ("440msec", "440"), ("120mmHg", "120")),
    *(("HEART score = 3", "3"), ("Free water deficit: 5.2 L", "5.2"), ("base deficit of 5.2", "5.2")),
    *(("5.2 h", "5.2"), ("22.9 kg m^-2", "22.9"), ("80 mL min^{-1}", "80"), ("1.5 million", "1500000")),
    *(("150k", "150000"), ("-5.2 mmol/L", "-5.2"), ("$-5.2$", "-5.2"), ("Base excess = -5.2", "-5.2")),
    *(("> The answer is 5.2", "5.2"), ("> **Answer:** 5.2", "5.2"), ("| 5.2 |", "5.2"), ("0.052 = 5.2%", "5.2%")),
    *(("22.9 kg/m\xb2", "22.9"), ("MAP = (120 + 2*80)/3 = 93.3 mmHg", "93.3")),
    *(("MAP = (120 + 2 \xd7 80) / 3 \u2248 93.3", "93.3"), ("Anion gap = 140 - (100 + 24) = 16 mEq/L", "16")),
    *(("140 - 100 - 24 = 16", "16"), ("QTc = 400 / sqrt(0.8) = 447 ms", "447")),
    ("eGFR = 142 \xd7 (1.2/0.9)^(-1.2) \xd7 0.9938^50 = 66.4", "66.4"),
    ("Corrected Ca = 8.0 + 0.8 * (4.0 - 2.5) = 9.2 mg/dL", "9.2"),
    *(("(140 - 70) \xd7 80 / (72 \xd7 1.2) = 64.8 mL/min", "64.8"), ("5.2 (max 10)", "5.2")),
    *(("QTc = 440 ms (prolonged)", "440"), ("The corrected calcium is **9.6 mg/dL**.", "9.6")),
    *(("2 points: age", "2"), ("GCS = E3 + V4 + M5 = 12", "12"), ("GCS = 3 + 4 + 5 = 12", "12")),
    *(("target: 5.2 mg", "5.2"), ("5.2 mIU/L", "5.2"), ("1,234.5", "1234.5"), ("5 days", "5"), ("70 y", "70")),
    ("70yo", "70"),
]
DATES_REFUSED = [
    *("minus 09/03/2014", "\u2212 09/03/2014", "twice 09/03/2014", "prior to 09/03/2014", "day following 09/03/2014"),
    *("09/03/2014 onwards", "09/03/2014 or a week later", "09/03/2014 or October", "November 09/03/2014"),
    *("eve of 09/03/2014", "since 09/03/2014", "till 09/03/2014", "by 09/03/2014", "09/03/2014 or tomorrow"),
    *("09/03/2014, give or take a week", "half a year later than 09/03/2014", "09/03/2014, half a year later"),
    *("09/03/2014 (in March)", "09/03/2014 (Friday)", "Friday 09/03/2014", "09/03/2014 next year", "09/03/2014 BC"),
    *("09/03/2014 is too late", "\u221a09/03/2014", "09/03/2014\u221e", "\xf709/03/2014", "09/03/2014\u2030"),
    *("\u278109/03/2014", "\u2781 09/03/2014", "09/03/2014 \u2781", "-09/03/2014", "Due date - 09/03/2014"),
    *("(09/03/2014)\xb2", ">= 09/03/2014", "> 09/03/2014", "at most 09/03/2014", "a week after 09/03/2014"),
    *("09/03/2014 (DD/MM/YYYY)", "09/02/2014 = 09/03/2014", "between now and 09/03/2014", "09/03/2014 plus a day"),
    *("the week of 09/03/2014", "no later than 09/03/2014", "09/03/2014 - 09/03/2014", "09/03/2014 to 09/05/2014"),
    *("09/05/2014; 09/03/2014", "LMP = 11/27/2013, EDD = 09/03/2014", "09/03/2014 + 1"),
    *("x = 09/03/2014, y = 09/04/2014", "-(09/03/2014)", "negative 09/03/2014", "09/03/2014 at the latest"),
]
DATES_READ = [
    *("09/03/2014", "EDD = 09/03/2014", "09/03/2014 (MM/DD/YYYY)", "~09/03/2014", "about 09/03/2014"),
    *("LMP 11/27/2013 + 280 days = 09/03/2014", "11/27/2013 + 280 = 09/03/2014", "- 09/03/2014"),
    *("Wednesday, 09/03/2014", "09/03/2014 (Wednesday)", "09/03/2014 (September 3, 2014)"),
    *("due in September: 09/03/2014", "09/03/2014 or 2014-09-03", "Due: 09/03/2014", "The due date is 09/03/2014."),
    *("**EDD: 09/03/2014**", "Based on the last menstrual period, the due date is 09/03/2014"),
    *("09/03/2014 = 2014-09-03", "Answer \u2192 09/03/2014", "('09/03/2014')", "2014/09/03", "EDD \u2248 09/03/2014"),
]
DURATIONS_REFUSED = [
    *("\u2212 17 weeks, 6 days", "- 17 weeks, 6 days", "-17 weeks, 6 days", "negative 17 weeks, 6 days"),
    *("\u221a17 weeks, 6 days", "\xf717 weeks, 6 days", "17 weeks, 6 days, doubled", "17 weeks, 6 days squared"),
    *("\u278117 weeks, 6 days", "17 weeks, 6 days \u2781", "17 weeks, 6/7 days", "17 weeks, 6 days max"),
    *("17 weeks, 6 days at least", "minimum 17 weeks, 6 days", "17 weeks, 6 days minimum"),
    *("17 weeks, 6 days at the most", "17 weeks, 6 days and a decade", "17 weeks, 6 days and a weekend"),
    *("17 weeks, 6 days before term", "17 weeks, 6 days to go", "17 weeks, 6 days postpartum"),
    *("17 weeks, 6 days from now", "17 weeks, 6 days ago", ">= 17 weeks, 6 days", "> 17 weeks, 6 days"),
    *("\u2265 17 weeks, 6 days", "16 weeks = 17 weeks, 6 days", "17 weeks, 6 days \u221e", "17 weeks, 6 days\u2030"),
    *("half of 17 weeks, 6 days", "17 weeks, 6 days and a half", "-(17 weeks, 6 days)", "(17 weeks, 6 days) (-)"),
    *("17 weeks 6", "17 weeks, 6 days + 2", "17 weeks, 6 days or 18 weeks", "at least = 17 weeks, 6 days"),
    *("17 weeks, 6 days; 18 weeks", "17 weeks, 6 days is too long", "third of 17 weeks, 6 days"),
    *("17 weeks and six days", "17 weeks, 6 days more or less", "a month and 17 weeks, 6 days"),
]
DURATIONS_READ = [
    "17 weeks, 6 days or 125 days",
    *("17 weeks, 6 days", "GA = 17 weeks, 6 days", "125 days = 17 weeks, 6 days", "125 / 7 = 17 weeks, 6 days"),
    *("125/7 = 17 weeks, 6 days", "17 week(s) and 6 day(s)", "17 completed weeks and 6 days", "17 weeks plus 6 days"),
    *("17+6w", "17+6 weeks", "17^{6/7} weeks", "~17 weeks, 6 days", "17 weeks (6 days)"),
    *("17 weeks, 6 days (125 days)", "17 6/7", "17 weeks 6/7", "17-6/7 weeks", "17w6d", "17\u207a\u2076"),
    *("17 weeks, 6 days of gestation", "17 weeks, 6 days (second trimester)", "17 weeks, 6 days after the LMP"),
    *("GA: 17 weeks, 6 days.", "GA \u2248 17 weeks, 6 days", "about 17 weeks, 6 days"),
    *("120 days + 5 days = 17 weeks, 6 days", "17 weeks + 6 days", "(17 weeks, 6 days)"),
    *("Answer \u2192 17 weeks, 6 days", "17 full weeks and 6 days"),
]


@pytest.mark.parametrize("answer", NUMBERS_REFUSED)
def test_numbers_with_a_sign_a_bound_or_a_claim_beside_them(answer: str) -> None:
    assert number.verify_range(answer, -1e308, 1e308).status in ("no_answer", "malformed")


@pytest.mark.parametrize(("answer", "value"), NUMBERS_READ)
def test_numbers_with_units_remarks_and_working(answer: str, value: str) -> None:
    assert number.verify_range(answer, -1e308, 1e308).extracted == value


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
