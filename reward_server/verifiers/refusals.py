"""What makes an answer unreadable, with examples that are tried in tests and printed in docs; see `carriers`.

Left out: the rules themselves, which each verifier has for its task.
"""

from __future__ import annotations

import dataclasses

from reward_server.verifiers.carriers import Task


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Something that no reading accounts for.

    Attributes:
        name: what it is.
        examples: by task, answers that hold the right one beside it.
    """

    name: str
    examples: dict[Task, tuple[str, ...]]


REFUSALS = (
    Refusal(
        "a negation",
        {
            "choice": (
                "not C",
                "C is wrong",
                "no heparin",
                "stop heparin",
                "heparin is contraindicated",
                "anything but C",
                "C. This is wrong",
            ),
            "number": ("not 5.2", "it isn't 5.2", "5.2 is wrong", "anything but 5.2", "5.2 is a mistake", "5.2 (sic)"),
            "date": ("not 09/03/2014", "hardly 09/03/2014"),
            "duration": ("not 17 weeks, 6 days", "anything but 17 weeks, 6 days"),
        },
    ),
    Refusal(
        "several answers",
        {
            "choice": (
                "A or C",
                "A, C",
                "C. A",
                "A + C",
                "ABCD",
                "all of the above",
                "C. On second thoughts, D",
                "C. The answer is d",
            ),
            "number": ("5.2 or 6", "5.2, 6", "4 to 5.2", "4-5.2", "either 5.2 or six"),
            "date": ("09/03/2014 or 09/04/2014", "09/01/2014-09/03/2014"),
            "duration": ("17 weeks, 6 days or 18 weeks", "16 to 17 weeks, 6 days"),
        },
    ),
    Refusal(
        "a label that its text contradicts",
        {
            "choice": (
                "D (Heparin)",
                "d. Heparin",
                "D -> Heparin",
                "Heparin (D)",
                "C. Warfarin",
                "D, i.e. Heparin",
                "Heparin is option A",
            )
        },
    ),
    Refusal(
        "a letter within a name",
        {"choice": ("vitamin C", "C. difficile", "hepatitis C", "C-section", "C++", "C cells")},
    ),
    Refusal(
        "an option's text within other words",
        {
            "choice": (
                "non-heparin",
                "low-dose heparin",
                "heparin-like drug",
                "allergic to heparin",
                "heparin antibodies",
                "C. Heparin antibodies",
            )
        },
    ),
    Refusal(
        "a sign",
        {
            "number": (
                "-5.2",
                "- 5.2",
                "minus 5.2",
                "neg 5.2",
                "\u2212 5.2",
                "5.2-",
                "\u00b15.2",
                "base excess - 5.2",
                "-(5.2)",
                "\u2212\u00a35.2",
                "5.2 (negative)",
                "a negative value of 5.2",
                "|-5.2|",
                "moins 5.2",
                "5.2 with the sign flipped",
            ),
            "date": ("minus 09/03/2014", "\u2212 09/03/2014"),
            "duration": ("-17 weeks, 6 days", "\u2212 17 weeks, 6 days", "negative 17 weeks, 6 days"),
        },
    ),
    Refusal(
        "an operator or a function",
        {
            "number": (
                "5.2^2",
                "5.2**2",
                "2 * 5.2",
                "sqrt(5.2)",
                "\\sqrt{5.2}",
                "log 5.2",
                "5.2!=",
                "5.2x",
                "5.2 squared",
            ),
            "duration": ("2 x 17 weeks, 6 days", "17 weeks minus 6 days"),
            "date": ("09/03/2014 + 7",),
        },
    ),
    Refusal(
        "a magnitude",
        {
            "number": (
                "5.2 million",
                "5.2k",
                "5.2M",
                "5.2e3",
                "5.2 * 10^3",
                "5.2 dozen",
                "5.2\u2030",
                "5.2 hundred",
                "5.2 K",
                "5.2 mil",
                "5.2 \u043c\u043b\u043d",
                "a tenth of 5.2",
                "5.2 doubled",
                "5.2 bps",
                "5.2 milyon",
                "5.2 tenfold",
            )
        },
    ),
    Refusal(
        "a foreign digit",
        {
            "number": (
                "5.2.1",
                "15.2",
                "5.29",
                "5.2,1",
                "5.2 7",
                "1/5.2",
                "5.2:1",
                "5.2_1",
                "5.2 and a half",
                "e^5.2",
                "5.2i",
                "5.2\u2163",
            ),
            "date": ("109/03/2014", "09/03/20141", "09/03/2014 7"),
            "duration": ("17 weeks, 6.5 days", "17 weeks, 6 days, 3 hours", "1,17 weeks, 6 days", "17 weeks, 6 days 2"),
        },
    ),
    Refusal(
        "another amount or unit",
        {
            "choice": (
                "5 mg/kg",
                "5 mg per kg",
                ".5 mg",
                "2-5 mg",
                "-5 mg",
                "1/5 mg",
                "5 mg x 2",
                "15 mg",
                "5 mg or so",
            ),
            "duration": ("1 year 17 weeks, 6 days", "1 month, 17 weeks, 6 days", "17.5 weeks, 6 days"),
        },
    ),
    Refusal(
        "a bound",
        {
            "number": (
                "> 5.2",
                "<5.2",
                "at least 5.2",
                "more than 5.2",
                "5.2 or more",
                "5.2+",
                ">= 5.2",
                "less than ~5.2",
                "5.2 at most",
                "maximum: 5.2",
                "5.2 is too low",
                "5.2 tops",
                "mehr als 5.2",
                "just shy of 5.2",
            ),
            "date": (
                "earliest 09/03/2014",
                "before 09/03/2014",
                "after 09/03/2014",
                "prior to 09/03/2014",
                "09/03/2014 onwards",
            ),
            "duration": (
                "at least 17 weeks, 6 days",
                "over 17 weeks, 6 days",
                "17 weeks, 6 days max",
                "nearly 17 weeks, 6 days",
            ),
        },
    ),
    Refusal(
        "a number of something else behind it",
        {"number": ("BMI = 22.9 (normal is 5.2)", "The score is 3. The risk is 5.2", "3 to 5 = 5.2", "3 g = 5.2 mg")},
    ),
    Refusal(
        "another day or span of time",
        {
            "date": ("a week after 09/03/2014", "eve of 09/03/2014", "09/03/2014 (Friday)", "09/03/2014 (in March)"),
            "duration": ("17 weeks, 6 days and a decade", "17 weeks, 6 days to go", "17 weeks, 6 days doubled"),
        },
    ),
    Refusal(
        "another order of day and month",
        {"date": ("UK date 09/03/2014", "09/03/2014 (European)", "09/03/2014 (dd/mm/yyyy)", "day first: 09/03/2014")},
    ),
    Refusal(
        "an unknown word that touches it",
        {
            "number": ("kaum 5.2", "5.2 ezer", "5.2 \u0442\u044b\u0441\u044f\u0447\u0438", "5.2 pi"),
            "date": ("09/03/2014 Julian", "last 09/03/2014"),
            "duration": ("in 17 weeks, 6 days", "17 weeks, 6 days early"),
        },
    ),
    Refusal(
        "working or parts that give something else",
        {"number": ("3 + 4 = 5.2", "5.2 (2 * 3)", "5.2 points: age (1), sex (1)")},
    ),
)
