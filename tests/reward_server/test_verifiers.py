"""Numbers, dates, durations, texts, the response's form, and lengths."""

from __future__ import annotations

import datetime
import time

import pytest

from reward_server.verifiers import date, duration, format, length, number, overlap, text


def read_number(answer: str) -> str:
    verdict = number.verify_range(answer, float("-1e308"), float("1e308"))
    return verdict.extracted or verdict.status


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *(
            ("25", "25"),
            ("25.238", "25.238"),
            (".5", "0.5"),
            ("12.", "12"),
            ("+4", "4"),
            ("-5", "-5"),
            ("\u22125.2", "-5.2"),
        ),
        *(("1,234.5", "1234.5"), ("12,345,678", "12345678"), ("1.2e3", "1200"), ("1.2E-3", "0.0012")),
        *(("1.2 x 10^3", "1200"), ("1.2\u00d710\u00b3", "1200"), ("1.2 \\times 10^{3}", "1200"), ("10^3", "1000")),
        *(
            ("10\u207b\u00b2", "0.01"),
            ("25%", "25%"),
            ("25 percent", "25%"),
            ("3/4", "0.75"),
            ("1 1/2", "1.5"),
            ("\u00bd", "0.5"),
        ),
        *(
            ("3 out of 5", "3"),
            ("5mg", "5"),
            ("$ 40", "40"),
            ("\\boxed{4}", "4"),
            ("**4** points", "4"),
            ("minus 3", "-3"),
        ),
        *(("23.4 kg/m2", "23.4"), ("23.4 kg/m\u00b2", "23.4"), ("90 mL/min/1.73 m^2", "90"), ("1.8 m2", "1.8")),
        *(("CHA2DS2-VASc score: 4", "4"), ("FIB-4 of 2.3", "2.3"), ("SpO2 is 91%", "91%"), ("about 7 points", "7")),
        # Several numbers, and a marker that makes one of them final.
        *(("BMI = 70 / 1.75^2 = 22.9", "22.9"), ("70 kg and 1.75 m, so the BMI is 22.9", "22.9"), ("5 (5.0)", "5")),
    ],
)
def test_numbers_are_read(answer: str, expected: str) -> None:
    assert read_number(answer) == expected


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        *(
            ("3-5", "no_answer"),
            ("3 to 5", "no_answer"),
            ("the score is 5 or 6", "no_answer"),
            ("3 \u00b1 1", "no_answer"),
        ),
        *(("= 5 (normal 3-6)", "no_answer"), ("120 mg, 3 times", "no_answer"), ("", "no_answer"), ("  ", "no_answer")),
        *(
            ("high", "malformed"),
            ("nan", "malformed"),
            ("inf", "malformed"),
            ("1e999", "malformed"),
            ("1/0", "malformed"),
        ),
        # Half-read numbers would be wrong numbers.
        *(
            ("1,5", "malformed"),
            ("1.2.3", "malformed"),
            ("0x1F", "malformed"),
            ("1_000", "malformed"),
            ("2^3", "malformed"),
        ),
        *(
            ("FIB-4", "malformed"),
            ("B12", "malformed"),
            ("__import__('os').getpid()", "malformed"),
            ("9" * 400, "malformed"),
        ),
    ],
)
def test_what_is_no_single_number_is_not_read(answer: str, status: str) -> None:
    assert read_number(answer) == status


def test_limits_are_inclusive_and_a_per_cent_may_be_a_share() -> None:
    def status(answer: str) -> str:
        return number.verify_range(answer, 23.75, 26.25).status

    assert [status(answer) for answer in ("23.75", "26.25", "23.74", "26.26", "25%", "2500%", "0.25")] == [
        *("correct", "correct", "incorrect", "incorrect", "correct", "correct", "incorrect"),
    ]


def test_integers_are_compared_after_rounding() -> None:
    def status(answer: str) -> str:
        return number.verify_integer(answer, 3).status

    # round(2.5) = 2 (halves to even, as in the official script), round(3.4) = 3.
    assert [status(answer) for answer in ("3", "3.4", "2.6", "2.5", "3.5", "3 out of 5", "300%")] == [
        *("correct", "correct", "correct", "incorrect", "incorrect", "correct", "incorrect"),
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *(
            ("09/03/2014", "correct"),
            ("9/3/2014", "correct"),
            ("2014-09-03", "correct"),
            ("It is 09/03/2014.", "correct"),
        ),
        *(("('09/03/2014')", "correct"), ("09/03/2014 (2014-09-03)", "correct"), ("03/09/2014", "incorrect")),
        *(("09/03/2014 or 09/04/2014", "no_answer"), ("", "no_answer")),
        *(
            ("13/45/2014", "malformed"),
            ("2014-02-30", "malformed"),
            ("September 3, 2014", "malformed"),
            ("9/3/14", "malformed"),
        ),
        *(("09/03/20145", "malformed"), ("109/03/2014", "malformed"), ("soon", "malformed")),
    ],
)
def test_dates(answer: str, expected: str) -> None:
    assert date.verify(answer, datetime.date(2014, 9, 3)).status == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *(("17 weeks, 6 days", "correct"), ("('17 weeks', '6 days')", "correct"), ("17 weeks and 6 days", "correct")),
        *(("17w6d", "correct"), ("17 wk 6 d", "correct"), ("125 days (17 weeks, 6 days)", "correct")),
        # 7 * 17 + 6 = 125 = 7 * 16 + 13
        *(
            ("125 days", "correct"),
            ("16 weeks, 13 days", "correct"),
            ("17 weeks", "incorrect"),
            ("6 days", "incorrect"),
        ),
        *(("17 weeks or 18 weeks", "no_answer"), ("", "no_answer")),
        *(
            ("17.86 weeks", "malformed"),
            ("17", "malformed"),
            ("four months", "malformed"),
            ("9" * 5000 + " days", "malformed"),
        ),
    ],
)
def test_durations(answer: str, expected: str) -> None:
    assert duration.verify(answer, 17, 6).status == expected


def test_text_matches_after_normalisation_or_by_alias() -> None:
    references = ["Crohn's disease", "regional enteritis"]
    for answer in ("Crohn's disease", "the CROHNS disease.", "crohn\u2019s  disease", "Regional enteritis"):
        assert text.verify_exact(answer, references).status == "correct"
    assert text.verify_exact("ulcerative colitis", references).status == "incorrect"
    assert text.verify_exact(" ?! ", references).status == "no_answer"
    assert text.verify_exact("Beta blocker", ["beta-blocker"]).status == "correct"
    # Articles fall away, except where nothing else is left.
    assert text.verify_exact("A", ["A"]).status == "correct"
    assert text.verify_exact("1.5 mg", ["15 mg"]).status == "incorrect"


def test_text_f1() -> None:
    # Common: acute, pancreatitis = 2; candidate 3 words, reference 2: F1 = 2 * 2 / (3 + 2) = 0.8
    assert text.token_f1(text.tokens("acute biliary pancreatitis"), text.tokens("acute pancreatitis")) == pytest.approx(
        0.8
    )
    assert text.verify_f1("acute biliary pancreatitis", ["sepsis", "acute pancreatitis"], 0.8).status == "correct"
    assert text.verify_f1("acute biliary pancreatitis", ["sepsis", "acute pancreatitis"], 0.81).status == "incorrect"


@pytest.mark.parametrize(
    ("response", "strict", "answer"),
    [
        ("<think>t</think><answer>B</answer>", True, "B"),
        ("<think>t</think>\n\n<answer> B </answer>\n", True, "B"),
        ("<think></think><answer></answer>", True, None),
        *(
            (f"<think>t</think><answer>{unseen}</answer>", True, None)
            for unseen in (" \n", "\u200b", "\u2800", "\u3164\x00")
        ),
        ("<think>t</think><answer>\u200bB</answer>", True, "\u200bB"),
        # Med-RLVR's phase 5: the reasoning moves before the tags.
        ("First, ... <think>t</think><answer>B</answer>", False, "B"),
        ("<think>t</think> so <answer>B</answer>", False, "B"),
        ("<think>t</think><answer>B</answer> Hope it helps", False, "B"),
        ("<think>t</think><answer>A</answer><answer>B</answer>", False, "B"),
        ("<think>t</think><think>u</think><answer>B</answer>", False, "B"),
        ("<think>t</think><answer>A</answer></think><answer>B</answer>", False, "B"),
        ("<think>t</think><answer>B</answer><answer>A", False, "B"),
        ("<answer>B</answer><think>t</think>", False, None),
        ("<answer>B</answer>", False, None),
        ("<think>the answer is <answer>B</answer>", False, None),
        ("<think>t</think>B", False, None),
        ("</think><think><answer>B</answer>", False, "B"),
        ("<THINK>t</THINK><ANSWER>B</ANSWER>", False, None),
        ("", False, None),
    ],
)
def test_form_of_a_response(response: str, strict: bool, answer: str | None) -> None:
    parts = format.parse(response)
    assert (parts.strict, parts.answer) == (strict, answer)


@pytest.mark.parametrize(
    ("response", "issue", "lenient"),
    [
        ("<think>t</think><answer>B</answer>", None, True),
        ("<think>It could be", "truncated_thinking", False),
        ("<think>the answer is <answer>B</answer>", "truncated_thinking", False),
        ("<think>t</think><answer><think>no</think>B</answer>", "leaked_thinking", False),
        ("<think>t</think><think>u</think><answer>B</answer>", "leaked_thinking", False),
        ("<answer>B</answer>", "missing_thinking", False),
        ("", "missing_thinking", False),
        ("<think>t</think>B", "missing_answer", False),
        ("<think>t</think><answer>B", "missing_answer", False),
        ("<think>t</think><answer>A</answer><answer>B</answer>", "repeated_answer", False),
        ("<think><answer>A</answer>t</think><answer>B</answer>", "repeated_answer", False),
        ("First, ... <think>t</think><answer>B</answer>", "text_outside", True),
        ("<think>t</think> so <answer>B</answer>", "text_outside", True),
        ("<think>t</think><answer>B</answer> Hope it helps", "text_outside", True),
        ("t</think><answer>B</answer>", "unopened_thinking", True),
    ],
)
def test_what_is_wrong_with_a_form(response: str, issue: str | None, lenient: bool) -> None:
    parts = format.parse(response)
    assert (parts.issue, parts.lenient) == (issue, lenient)
    assert parts.strict is (issue is None)
    assert [parts.accepted(match) for match in ("strict", "lenient")] == [issue is None, lenient]


def test_length_terms_of_l1_and_dapo() -> None:
    # L1 exact: -0.0003 |300 - 600| = -0.09;  max: (clip(-0.002 (700 - 600)) + 1) / 2 = (-0.2 + 1) / 2 = 0.4
    assert length.l1_term("exact", 300, 600) == pytest.approx(-0.09)
    assert length.l1_term("max", 700, 600) == pytest.approx(0.4)
    # far below: (1 + 1) / 2 = 1; far above: (-1 + 1) / 2 = 0
    assert [length.l1_term("max", tokens, 2000) for tokens in (0, 9000)] == [1.0, 0.0]
    assert length.l1_term("none", 9000, 1) == 0.0
    # DAPO, longest 25 and buffer 5: free up to 20; (20 - 22) / 5 = -0.4; (20 - 25) / 5 = -1; -1 beyond
    assert [length.dapo_term(tokens, 25, 5) for tokens in (10, 20, 22, 25, 30)] == [0.0, 0.0, -0.4, -1.0, -1.0]


def test_overlap_by_hand() -> None:
    reference = overlap.vqa_words("The acute pulmonary embolism")
    assert reference == ["acute", "pulmonary", "embolism"]
    candidate = overlap.vqa_words("a pulmonary embolism, two-sided")
    assert candidate == ["pulmonary", "embolism", "2", "sided"]
    # EMS: 2 of the reference's words are among the 4 of the candidate
    assert overlap.ems(candidate, reference) == pytest.approx(50.0)
    # BLEU-1: 2/4; BLEU-2: "pulmonary embolism" of 3 pairs, 1/3; BLEU-3: none of 2, smoothed 0.1/2; no brevity penalty
    expected = 100 * (2 / 4 + 1 / 3 + 0.1 / 2) / 3
    assert overlap.bleu(candidate, reference) == pytest.approx(expected)
    assert overlap.merge(candidate, reference) == pytest.approx(0.5 * 50 + 0.5 * expected)
    # The released code adds 0..100 to 0..1: 25 + 0.147 instead of 25 + 14.7.
    assert overlap.merge(candidate, reference, compat=True) == pytest.approx(0.5 * 50 + 0.5 * expected / 100)
    # ROUGE-L: "pulmonary embolism" in common; "the" counts and "two-sided" is two words: P = 2/5, R = 2/4
    rouge = overlap.rouge_l("a pulmonary embolism, two-sided", "The acute pulmonary embolism")
    assert rouge == pytest.approx(100 * 2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4))


def test_overlap_of_equal_and_of_unrelated_texts() -> None:
    for name in ("bleu", "ems", "merge", "rouge_l"):
        same = overlap.measure(name, "Deep vein thrombosis of the leg", ["deep vein thrombosis of the leg."])
        assert same == pytest.approx(100.0), name
        assert overlap.measure(name, "nothing alike", ["deep vein thrombosis"]) < 10, name
        assert overlap.measure(name, "...", ["deep vein thrombosis"]) == 0.0, name
    # The released scale: BLEU alone never comes near a threshold of 45.
    assert overlap.measure("bleu", "a b c d", ["a b c d"], compat=True) <= 1.0
    assert overlap.measure("ems", "thrombosis", ["lung", "deep vein thrombosis"]) == pytest.approx(100.0)


def test_overlap_verdicts_need_more_than_the_threshold() -> None:
    assert text.verify_overlap("pulmonary embolism", ["acute pulmonary embolism"], "ems", 45).status == "correct"
    assert text.verify_overlap("pulmonary embolism", ["acute pulmonary embolism"], "ems", 100).status == "incorrect"
    assert text.verify_overlap("", ["x"], "ems", 45).status == "no_answer"
    assert text.verify_overlap("word " * 513, ["word"], "rouge_l", 45).status == "malformed"


def test_length_terms() -> None:
    # exact: 1 - |300 - 600| / 1500 = 0.8;  1 - 4000 / 1500 = -1.67, clipped to -1
    assert length.med_u1_term("exact", 300, 600) == pytest.approx(0.8)
    assert length.med_u1_term("exact", 4600, 600) == -1.0
    # max: -(700 - 600) / 500 = -0.2;  -(350 - 600) / 500 = 0.5;  -(0 - 600) / 500 = 1.2, clipped to 1
    assert length.med_u1_term("max", 700, 600) == pytest.approx(-0.2)
    assert length.med_u1_term("max", 350, 600) == pytest.approx(0.5)
    assert length.med_u1_term("max", 0, 600) == 1.0
    assert length.med_u1_term("none", 5000, 600) == 0.0
    # excess: (150 - 100) / 100 = 0.5; shorter costs nothing in max; |60 - 100| / 100 = 0.4 in exact
    assert length.excess("max", 150, 100) == pytest.approx(0.5)
    assert length.excess("max", 60, 100) == 0.0
    assert length.excess("exact", 60, 100) == pytest.approx(0.4)
    assert length.excess("max", 900, 100) == 1.0
    # relative: -0.2 * |60 - 100| / 100 = -0.08
    assert length.relative_cost("exact", 60, 100) == pytest.approx(-0.08)
    assert [length.relative_cost("max", tokens, 100) for tokens in (60, 900)] == [0.0, -0.2]


def test_words_and_marks_that_an_answer_has_more_or_less() -> None:
    # "pulmonary embolism." is two words and a mark, "PE" a word: 1 to the first, 2 to the second
    assert length.token_gap("pulmonary embolism.", ["pulmonary embolism", "PE"]) == 1
    assert length.token_gap("PE", ["pulmonary embolism"]) == 1
    assert length.token_gap("17 weeks, 6 days", ["17 weeks, 6 days"]) == 0
    assert length.token_gap("23.5", ["23"]) == 2
    assert length.token_gap("anything", []) == 0


@pytest.mark.parametrize(
    "unit", ["1", "1,111", "1 ", "1/", "1 out of ", "-", "10^", "1w,", "1 weeks ", "1/1/", "x 10 ^ ", " "]
)
def test_long_answers_take_bounded_time(unit: str) -> None:
    started = time.perf_counter()
    for size in (20_000, 100_000):
        answer = (unit * size)[:size]
        number.verify_range(answer, 0, 1)
        date.verify(answer, datetime.date(2014, 9, 3))
        duration.verify(answer, 1, 1)
        text.verify_f1(answer, ["one two"], 0.5)
        format.parse("<think>" * 1000 + answer + "</answer>" * 1000)
    assert time.perf_counter() - started < 5
