"""Remarks with digits or a negation of their own that leave a number as it is: names, stages, ranges, inputs, findings.

Each is told by its whole form ("(normal range 3.5-5.5)", "CKD stage 5", "using a weight of 70 kg", "no history of
stroke"), and words stand for it afterwards, so that the rest of the answer is read as if it had none.

Left out: the same amount in another unit, since a reference carries none; negations of anything that is in no list.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBER = r"[0-9]{1,5}(?:\.[0-9]{1,4})?"
# Units with digits of their own ("/m^2") have become " unit " by then.
_UNITS = r"(?:\s?(?:[a-z\u03bc%\u00b0]{1,8})(?:/[a-z\u03bc]{1,6}){0,2}(?:/? unit ?)?)?"
_YEAR = r"(?:19|20)[0-9]{2}(?![\w.,%/-]*[0-9])"
_EQUATION = (
    r"(?:CKD-EPI|MDRD|KDIGO|A[CH][CA]/A[CH][CA]|ASCVD|PREVENT|EKFC|Schwartz|Framingham|UNOS|OPTN|GLI|ESC|WHO|ADA)"
)
_FORMULA = r"(?:CKD-EPI|KDIGO|A[CH][CA]|OPTN|race|refit|revised|updated|equation|formula|version|guidelines?|criteria)"
_TIME = r"(?:years?|yrs?|months?|weeks?|days?|hours?|hrs?|minutes?)"
_COUNT = r"(?:[0-9]{1,3}|one|two|three|five|six|ten|twelve|twenty|thirty)"
_RISK = (
    r"(?:risk|mortality|survival|probability|likelihood|ascvd|cvd|chd|cardiovascular|coronary|stroke|mace|all-cause"
    r"|fracture|absolute|predicted|estimated|readmission|rate|urine|urinary|bleeding)"
)
_STATE = (
    r"(?:elevated|significant|high|low|abnormal|normal|increased|decreased|raised|reduced|prolonged"
    r"|severe|critical|obese"
    r"|overweight|underweight|diabetic|an(?:a)?emic|indicated|required|needed|necessary|recommended|warranted|fasting"
    r"|concerning|pregnant|(?:hyper|hypo)[a-z]{3,15})"
)
_NORMAL = (
    r"(?:the )?(?:(?:upper|lower) (?:limit|end)s? of )?(?:the )?(?:normal|reference|therapeutic|target|healthy)"
    r"(?: (?:range|limits?|values?|interval|levels?))?"
)
_CONDITION = (
    r"(?:(?:history|evidence|signs?|symptoms) of |points? for |(?:prior|previous|known|active|recent"
    r"|significant|other) )?"
    r"(?:chf|hf|heart failure|stroke|tia|thromboembolism|mi|cad|pad|copd|asthma|dvt|pe|vte|ckd|esrd|aki"
    r"|htn|dm|diabetes"
    r"|diabetes mellitus|hypertension|vascular disease|liver disease|renal disease|kidney disease|lung disease|cancer"
    r"|malignancy|ascites|encephalopathy|dialysis|fever|cough|confusion|bleeding|surgery|smoking"
    r"|alcohol(?: use)?|drugs"
    r"|trauma|immobili[sz]ation|edema|oedema|infection|pregnancy|transfusion|medications?|risk factors?|comorbidities"
    r"|smoker|diabetic|fasting|black|[a-z]{3,14}(?:emia|osis|itis|uria|pathy|tension|cardia|oma|pnea|rrhage|plegia))"
)
_ACTION = r"(?:correction|adjustment|treatment|intervention|anticoagulation|therapy|action|dialysis|imaging|testing)"
_INPUT_NAME = (
    r"(?:(?:actual |measured |serum |plasma |urine |patient |total |body )?(?:weight|height|age|sodium"
    r"|na\+?|potassium|k\+?|chloride"
    r"|cl-?|bicarbonate|hco3-?|creatinine|cr|scr|albumin|calcium|ca|glucose|bun|urea|hematocrit|sbp|dbp"
    r"|systolic(?: bp)?"
    r"|diastolic(?: bp)?|heart rate|hr|qt|qt interval|rr|respiratory rate|cholesterol|tc|hdl|triglycerides|tg|ast|alt"
    r"|platelets?|bilirubin|inr|insulin|pao2|fio2|paco2|ethanol|temperature))"
)
_INPUT = rf"(?:the |an? |his |her )?{_INPUT_NAME}(?:\s?(?:of|is|was|=|:))?\s{_NUMBER}{_UNITS}"
_INPUTS = rf"{_INPUT}(?:(?:,|;| and|, and) {_INPUT}){{0,8}}"


def _behind(words: str) -> Callable[[re.Match[str]], str]:
    """The replacement of a remark by `words` where a number stands in front of it, which the remark is about."""
    return lambda found: found.expand(words) if re.search(r"[0-9]", found.string[: found.start()]) else found[0]


def _patterns(
    *rows: tuple[str, str | Callable[[re.Match[str]], str]],
) -> tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]:
    return tuple((re.compile(pattern, re.IGNORECASE), words) for pattern, words in rows)


_WITH_DIGITS = _patterns(
    # Names of equations and of variables.
    (rf"\b({_EQUATION})[ ,]{{1,2}}\(?{_YEAR}\)?", r"\1"),
    (rf"\b(?<![.,/-]){_YEAR} (?={_FORMULA})", ""),
    (r"\b(MELD)[ -]3\.0(?=\s(?:score|is|of)\b|\s?(?:=|:|->))", r"\1"),
    (r"\b[a-z]{1,12}_[0-9]{1,2}(?=\s?=)", "name"),
    # Spans of time of what is asked for.
    (rf"(?<![\w.,/+-])(?<!\bto )(?<!\bor )(?<!\band ){_COUNT}[ -]{_TIME}[ -](?={_RISK}\b)", ""),
    (rf"(?<=%)\s?(?:over|in|at|within|for|after) (?:the next |the following )?{_COUNT}[ -]?{_TIME}\b", " overall"),
    (r"(?<=[0-9a-z] )at [0-9]{1,2} (?:hours?|hrs?|h|minutes?)\b(?=[\s.)]*$)", "overall"),
    # Stages, ranges of reference, limits of interpretation, inputs.
    (
        r"([(,;]\s?(?:[a-z-]{2,12} ){0,3}|\b(?:with|indicating|suggesting|to|is|i\.e\.,?) (?:[a-z-]{2,10} )?)"
        r"(?:stage|class|grade|category) (?:G?[0-5][ab]?|IV|I{1,3}|V)(?![\w+]|[.,/-]?[0-9])",
        _behind(r"\1stage"),
    ),
    (
        rf"\((?:the )?(?:normal|reference|ref\.?|nl)(?:(?: (?:range|interval|values?|limits?))?(?: is| ?=|:"
        rf"|,)?\s?(?:[<>]=?|up to)"
        rf"\s?{_NUMBER}|(?:(?: (?:range|interval|values?|limits?))(?: is| ?=|:|,)?|:)\s?{_NUMBER}\s?(?:-"
        rf"|to)\s?{_NUMBER})"
        rf"{_UNITS}\)",
        "(normal)",
    ),
    (
        r"\b(?:within|in|inside) (?:the )?(?:normal|reference|healthy|therapeutic)(?: weight)?"
        rf" (?:range|limits?|interval) \({_NUMBER}\s?(?:-|to)\s?{_NUMBER}{_UNITS}\)",
        "here",
    ),
    (rf"\([<>]=?\s?{_NUMBER}{_UNITS} (?=(?:suggests|indicates|means) )", "(it "),
    (rf"\({_INPUTS}\)", _behind("(given)")),
    (rf"\b(using|with|for|from|given|based on|since|because|at) {_INPUTS}(?=[\s.)]*$)", _behind(r"\1 it")),
    (rf"\A(?:given |with |for )?{_INPUTS}(?:\s?->|[:,;]|\.(?=\s))\s(?=[a-z][^0-9]{{0,200}}[0-9])", ""),
)
_DENIALS = _patterns(
    (
        r"\bin the (?:(?:mild|mildly|moderate|moderately|severe|severely|very"
        r"|high|low|elevated|obese"
        r"|overweight|underweight|normal|reference|therapeutic|toxic|healthy"
        r"|intermediate|risk) ){1,3}range\b",
        "here",
    ),
    (
        rf"((?:[(,;]\s?|\b(?:is|was|are|and|falls|lies|slightly|well|just|remains|not) ))"
        rf"(?:below|above|within|outside|under|over) {_NORMAL}\b",
        r"\1normal",
    ),
    (rf"([(,;]\s?(?:(?:which|it|this|and|but|that) )?(?:is |was )?)not (?:[a-z]{{3,12}}ly )?{_STATE}\b", r"\1normal"),
    (
        rf"([(,;]\s?(?:with |and |but )?)(?:no|without) {_ACTION}(?: (?:is |was )?(?:needed|required|necessary"
        rf"|indicated))?\b",
        r"\1normal",
    ),
    (
        rf"([\w(,;)]\s?(?:with |and |in |in the )?)\b(?:no |without |absence of |negative for |non-?){_CONDITION}"
        rf"(?:(?:,| or|, or| nor| and) (?:no )?{_CONDITION}){{0,8}}\b",
        r"\1here",
    ),
    (r"(-\s?[0-9][0-9.]*[^()]{0,20})\(negative\)", r"\1"),
    (r"\bnegative (?=[0-9])", "minus "),
)
_DENYING = re.compile(
    r"\b(?:no|not|non|without|absence|negative|below|above|within|outside|under|over|range)\b|\bnon", re.IGNORECASE
)
_SECOND = re.compile(r"[0-9][^0-9]+[0-9]")


def without_remarks(text: str) -> str:
    """`text` with words in place of remarks that have numbers or negations of their own."""
    if _SECOND.search(text):
        for pattern, words in _WITH_DIGITS:
            text = pattern.sub(words, text)
    if _DENYING.search(text):
        for pattern, words in _DENIALS:
            text = pattern.sub(words, text)
    return text
