"""What stands beside a number, a date or a duration: what changes it is refused, what does not is passed over."""

from __future__ import annotations

import datetime
import time

import pytest

from reward_server.verifiers import date, duration, number

NUMBERS_REFUSED = [
    *("5.2 mg BID", "5.2 mg q8h", "5.2 (QID)", "5.2 mg Q2H", "5.2 q 8 h", "5.2 mg e3", "5.2 (mult2)"),
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
    ("22.86 kg/m\xb2, which falls in the normal range (18.5\u201324.9).", "22.86"),
    ("22.86 kg/m\xb2, within the normal range (18.5\u201324.9 kg/m\xb2)", "22.86"),
    ("BMI: 22.86 kg/m\xb2 (normal: 18.5\u201324.9 kg/m\xb2)", "22.86"),
    ("| BMI | 22.9 kg/m\xb2 |", "22.9"),
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
# Beside a number that stays paid without them: words of any language that turn, scale, bound or take it back.
NUMBERS_REFUSED += [
    *("0,052", "00,052", "0,052 mg", "0,052.0", "000,052", "0,001,234", "01,234", "001,234", "0,5", "0,123,456"),
    *("anything but 5.2", "hardly 5.2", "far from 5.2", "the opposite of 5.2", "cant be 5.2", "5.2 is a mistake"),
    *("5.2 retracted", "all but 3", "5.2 negated", "5.2 with the sign flipped", "5.2 (sic)", "5.2 (just kidding)"),
    *("nope 5.2", "5.2 is nonsense", "5.2 is off", "apart from 5.2", "a loss of 5.2", "5.2 (decrease)", "bar 5.2"),
    *("moins 5.2", "menos 5.2", "negativ 5.2", "\u043c\u0438\u043d\u0443\u0441 5.2", "\ub9c8\uc774\ub108\uc2a4 5.2"),
    *("nicht 5.2", "pas 5.2", "ikke 5.2", "kaum 5.2", "\u043d\u0435 5.2", "bukan 5.2", "mitad de 5.2", "halb 5.2"),
    *("5.2 milyon", "5.2 quadrillion", "5.2 tenfold", "5.2 millionths", "5.2 hundert", "5.2 ezer", "5.2 juta"),
    *(
        "5.2 \u0442\u044b\u0441\u044f\u0447\u0438",
        "5.2 orders of magnitude",
        "5.2 zeros",
        "5.2 th",
        "5.2 III",
        "5.2 pi",
    ),
    *("capped at 5.2", "5.2 tops", "just shy of 5.2", "5.2 at best", "mehr als 5.2", "al menos 5.2", "hasta 5.2"),
    *(
        "\\> 5.2",
        "5.2, possibly higher",
        "5.2 and beyond",
        "min 5.2",
        "\u00fcber 5.2",
        "the cutoff is 5.2",
        "north of 5.2",
    ),
    *("normal is 5.2", "5.2 and then some", "5.2 and change", "5.2 fewer", "5.2 higher", "5.2 more", "\u20145.2"),
    *("3 points deducted", "lost 3 points", "3 points each", "3 points short", "3 more points", "missing 3 points"),
    *("3 criteria not met", "fails 3 criteria", "3 out of", "out of 3", "5.2 subtracted", "increase of 5.2"),
    # Negations that may deny the number, and remarks that hold another.
    *(
        "5.2 (not)",
        "5.2 (no)",
        "5.2 (not it)",
        "no way 5.2",
        "5.2 (not correct)",
        "5.2, not final",
        "-5.2 (not negative)",
    ),
    *(
        "negative -5.2",
        "5.2 (normal is 6)",
        "= 5.2 (normal 3-6)",
        "5.2 (stage 5 or 6)",
        "0.052 (5.3%)",
        "0.052 or 5.3%",
    ),
    *("5.2% in 10 years or 6", "5.2 (weight 7) 8", "x_1 = 5.2, x_2 = 6", "5.2 in 10 years", "MELD 3.0 is"),
    *("5.2 in the wrong range", "5.2, in the impossible range", "5.2 below the normal range", "(stage 4) or 5.2"),
    # Working that says otherwise.
    *("3 + 4 = 5.2", "3*4 = 5.2", "1/0 = 5.2", "22.86 (70 / 1.75)", "5.2 (2 * 3)", "5.2 = 2 * 3", "1 + 1 = 5.2"),
    *("4 (1 + 2) = 5.2", "5.2 (5.23)", "70 / 1.75^2 = 12"),
]
NUMBERS_READ += [
    *(("negative 5.2", "-5.2"), ("-5.2 (negative)", "-5.2"), ("Base excess is negative 5.2", "-5.2")),
    *(("The BMI is 70/1.75^2 = 22.86.", "22.86"), ("22.86 kg/m\xb2 (70 / 1.75\xb2)", "22.86")),
    *(("Weight: 70 kg, height: 1.75 m \u2192 BMI = 22.86", "22.86"), ("22.86 (= 70 / 1.75^2)", "22.86")),
    *(("BMI = weight / height\xb2 = 70 / 1.75\xb2 = 22.86", "22.86"), ("22.86 = 70/1.75^2", "22.86")),
    *(("BMI = 70/1.75^2\n= 22.86", "22.86"), ("22.86 using a weight of 70 kg", "22.86")),
    *(("5.2 (normal range 3.5-5.5)", "5.2"), ("5.2 (normal < 6)", "5.2"), ("5.2 (normal: 3.5\u20135.5)", "5.2")),
    *(("0.052 (5.2%)", "5.2%"), ("5.2% (0.052)", "5.2%"), ("0.052 or 5.2%", "5.2%"), ("0.052, i.e. 5.2%", "5.2%")),
    *(("5.2 mL/min/1.73 m\xb2 (CKD stage 5)", "5.2"), ("5.2 (Stage 3b CKD)", "5.2"), ("5.2 (class 3 obesity)", "5.2")),
    *(("eGFR (CKD-EPI 2021) = 5.2", "5.2"), ("MELD 3.0 = 13", "13"), ("x_1 = 5.2", "5.2")),
    *(("The eGFR by the 2021 CKD-EPI equation is 5.2", "5.2"), ("5.2% over 10 years", "5.2%")),
    *(
        ("10 year risk is 5.2%", "5.2%"),
        ("ten-year risk of 5.2%", "5.2%"),
        ("5.2 mg/24 h", "5.2"),
        ("5.2 g/100 mL", "5.2"),
    ),
    *(("The anion gap is 5.2 mEq/L, which is not elevated.", "5.2"), ("5.2 mg/dL (no correction needed)", "5.2")),
    *(("The calcium is 5.2 mg/dL, which is below the normal range.", "5.2"), ("5.2 (non-fasting)", "5.2")),
    *(
        ("5.2, no history of stroke", "5.2"),
        ("5.2 mL/min (without dialysis)", "5.2"),
        ("5.2 (no CHF or stroke)", "5.2"),
    ),
    *(("5.2 (1 d.p.)", "5.2"), ("5.2 \xb5mol/L", "5.2"), ("Cockcroft-Gault CrCl: 5.2", "5.2"), ("5.2 MME/day", "5.2")),
    *(("Absolute neutrophil count: 5.2", "5.2"), ("The patient needs 5.2 units of insulin", "5.2")),
    *(("5.2 is the corrected calcium", "5.2"), ("HOMA-IR is 5.2, suggesting insulin resistance", "5.2")),
]
SCORES_READ = [
    *("3 points: hypertension (1), diabetes (1), female sex (1)", "3 (1+1+1)", "+1 (age) +1 (sex) +1 (HTN) = 3"),
    *("Age \u226575 (2) + HTN (1) = 3", "3 points (1 for age, 2 for sex)", "3 (age = 1, hypertension = 2)"),
    *("Hypertension: 1, diabetes: 1, female: 1. Total: 3", "Age 65-74 (+1), female (+1), hypertension (+1) = 3"),
    *("Age (1), sex (1), HTN (1) \u2192 3", "- Age 65-74: 1\n- Female: 1\n- HTN: 1\nTotal: 3", "3 = 1 + 2"),
    *(
        "3 points (no CHF, no stroke)",
        "CHA2DS2-VASc is 3 (1 point for HTN, 2 points for stroke)",
        "3: fever (2), exudate (2), age (-1)",
    ),
]
SCORES_REFUSED = [
    *("3 points: hypertension (1), diabetes (1)", "3 (1+1)", "3 (1, 2)", "3: 1, 2", "3, 1, 2", "1, 2 = 3", "3 (1-2)"),
    *("3 (age 1, sex 2) or 4", "(1) or (2) = 3", "3 (1 for age, 2 for sex), wrong", "3 points (1 age, 2 lost)"),
    *("3: not age (1), sex (2)", "Age (1) + HTN (1) = 3", "3 (1 + 2) + 1", "\u22653 (1 for age, 2 for sex)", "3 (1 2)"),
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
DATES_REFUSED += [
    *(
        "earliest 09/03/2014",
        "09/03/2014 and beyond",
        "09/03/2014 pushed back",
        "09/03/2014 (UK format)",
        "last 09/03/2014",
    ),
    *("anything but 09/03/2014", "hardly 09/03/2014", "09/03/2014 ff.", "09/03/2014 Julian", "II 09/03/2014"),
    *("09/03/2014 rescheduled", "09/03/2014 yearly", "09/03/2014 (jeudi)", "deadline 09/03/2014", "Thu, 09/03/2014"),
    *("05/29/2019 = 09/03/2014", "LMP + 3 days = 09/03/2014", "09/03/2014 (280 days after 11/28/2013)"),
    *("LMP: 11/27/2013; EDD: 09/03/2014", "09/03/2014 (28 days)"),
]
DATES_READ += [
    *("Thus, the estimated due date is **09/03/2014**.", "LMP + 280 days = 09/03/2014", "EDD \u2013 09/03/2014"),
    *(
        "LMP (11/27/2013) + 280 days = 09/03/2014",
        "09/03/2014 (assuming a 28-day cycle)",
        "LMP 11/27/2013 \u2192 09/03/2014",
    ),
    *("Adding 280 days to the LMP gives 09/03/2014.", "09/03/2014 (LMP + 280 days)", "09/03/2014 (280 days after LMP)"),
    *("Based on the LMP of 11/27/2013, the due date is 09/03/2014.", "09 / 03 / 2014", "Wed 09/03/2014"),
    *("09/03/2014 because the LMP was 11/27/2013", "The due date, adjusted for the 30-day cycle, is 09/03/2014."),
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
    "The patient is currently 17 weeks and 6 days pregnant.",
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
DURATIONS_REFUSED += [
    *(
        "17 weeks, 6 days and then some",
        "17 weeks, 6 days to term",
        "anything but 17 weeks, 6 days",
        "in 17 weeks, 6 days",
    ),
    *("nearly 17 weeks, 6 days", "17 weeks, 6 days early", "17 weeks, 6 days each", "another 17 weeks, 6 days"),
    *("17.8 weeks (17 weeks, 6 days)", "17.86 weeks", "17 weeks, 6 days (17.9 months)"),
    *("From 01/01/2020 to 05/06/2020: 17 weeks, 6 days", "17 weeks, 6 days (01/01/2020)", '{"weeks": 17, "hours": 6}'),
    *("125 days, or 18 weeks", "17 weeks, 6 days after birth", "17 weeks, 6 days at best", "per 17 weeks, 6 days"),
]
DURATIONS_READ += [
    *('{"weeks": 17, "days": 6}', "Weeks: 17, Days: 6", "125 days, or 17 weeks and 6 days", "17 weeks/6 days"),
    *("17 weeks, 6 days (LMP 01/01/2020)", "17.86 weeks (17 weeks 6 days)", "17 weeks 6 days \u2248 17.9 weeks"),
    *("From 01/01/2020 to 05/05/2020: 17 weeks, 6 days", "17 weeks, 6 days as of 05/05/2020", "17 weeks (and 6 days)"),
    *("LMP 01/01/2020, 17 weeks 6 days", "She is 17 weeks and 6 days pregnant.", "17 complete weeks and 6 days"),
]


@pytest.mark.parametrize("answer", NUMBERS_REFUSED)
def test_numbers_with_a_sign_a_bound_or_a_claim_beside_them(answer: str) -> None:
    assert number.verify_range(answer, -1e308, 1e308).status in ("no_answer", "malformed")


@pytest.mark.parametrize(("answer", "value"), NUMBERS_READ)
def test_numbers_with_units_remarks_and_working(answer: str, value: str) -> None:
    assert number.verify_range(answer, -1e308, 1e308).extracted == value


@pytest.mark.parametrize(("answer", "read"), [(a, False) for a in SCORES_REFUSED] + [(a, True) for a in SCORES_READ])
def test_parts_of_a_score(answer: str, read: bool) -> None:
    verdict = number.verify_integer(answer, 3)
    assert verdict.extracted == ("3" if read else None)


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
    "unit",
    [
        *("17+6 ", "09/03/2014 ", "1 = ", "1=", "is ", "-(", "1 (of ", "at most ", "less than ", "A", "a ", "1^", "(("),
        *("1 (x) + ", "age 1, ", "no stroke or ", "weight 70, ", "LMP 01/01/2020 ", "1 total ", "all 1 but ", "\u03bc"),
    ],
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
