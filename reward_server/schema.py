"""The wire of `POST /v1/score`: strict pydantic models of request and answer.

Unknown fields, wrong types (a number as a string), non-finite numbers and contradictory references are refused, with
the path of the field. Messages repeat nothing that was sent but names of fields, and those only where they look like
names.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from reward_server.reference import choice_fault, date_fault, duration_fault, number_fault, text_fault
from reward_server.verifiers.choice import MAX_OPTIONS, Match
from reward_server.verifiers.format import FormatIssue, FormatMatch
from reward_server.verifiers.length import LengthMode, LengthShape
from reward_server.verifiers.overlap import Measure

MAX_BATCH_ITEMS = 512
MAX_BODY_BYTES = 128 * 2**20

# Far above any context, and far below where a float loses digits.
MAX_TOKENS = 10**9

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

Status = Literal["correct", "incorrect", "no_answer", "malformed", "timeout", "verifier_error"]


class Strict(BaseModel):
    """Base of every wire model."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def _refuse(fault: tuple[str, str] | None) -> None:
    if fault is not None:
        field, expected = fault
        raise ValueError(f"{field}: expected {expected}")


def _date(text: str) -> str:
    _refuse(date_fault(text))
    return text


def _words(text: str) -> str:
    _refuse(text_fault(text, ()))
    return text


Letter = Annotated[str, Field(pattern=r"^[A-N]$")]
Words = Annotated[str, AfterValidator(_words)]


class ChoiceReference(Strict):
    """The right letter, and every option's text by letter."""

    answer: Letter
    options: dict[Letter, str] = Field(min_length=2, max_length=MAX_OPTIONS)

    @model_validator(mode="after")
    def _sound(self) -> ChoiceReference:
        _refuse(choice_fault(self.answer, self.options))
        return self


class NumberReference(Strict):
    """A number with inclusive limits, or with `rounding` = "integer" and no limits."""

    answer: float
    lower: float | None = None
    upper: float | None = None
    rounding: Literal["integer"] | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> NumberReference:
        if self.rounding and (self.lower is not None or self.upper is not None):
            raise ValueError('give either lower and upper, or rounding "integer", not both')
        _refuse(number_fault(self.answer, self.lower, self.upper, self.rounding))
        return self


class DateReference(Strict):
    """A calendar date as MM/DD/YYYY."""

    answer: Annotated[str, AfterValidator(_date)]


class WeeksAndDays(Strict):
    """A duration."""

    weeks: int = Field(ge=0)
    days: int = Field(ge=0)


class DurationReference(Strict):
    """A duration in weeks and days."""

    answer: WeeksAndDays

    @model_validator(mode="after")
    def _sound(self) -> DurationReference:
        _refuse(duration_fault({"weeks": self.answer.weeks, "days": self.answer.days}))
        return self


class TextReference(Strict):
    """A short text, its aliases, and the measure.

    `exact` needs no threshold; `f1` one in (0, 1]; `bleu`, `ems`, `merge` and `rouge_l` one in (0, 100]. `compat`
    scales bleu and merge as Med-U1's released code does. `continuous` has preset med_u1 pay the value of such a
    measure, where other presets go by the threshold. `judge` asks a language model, where the server has one, and needs
    the question; `judge_probability` asks it for the probability of its judgement, correct above a threshold in
    (0, 1).
    """

    answer: Words
    aliases: list[Words] = Field(default_factory=list)
    metric: Literal["exact", "f1", "bleu", "ems", "merge", "rouge_l", "judge", "judge_probability"] = "exact"
    threshold: float | None = Field(default=None, gt=0, le=100)
    compat: bool = False
    continuous: bool = False
    question: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TextReference:
        if (self.metric in ("exact", "judge")) != (self.threshold is None):
            raise ValueError('threshold goes with every metric but "exact" and "judge", and those need one')
        if self.metric in ("judge", "judge_probability") and not self.question:
            raise ValueError(f'metric "{self.metric}" needs the question')
        if self.metric == "judge_probability" and self.threshold is not None and self.threshold >= 1:
            raise ValueError('threshold of metric "judge_probability" is in (0, 1)')
        if self.metric == "f1" and self.threshold is not None and self.threshold > 1:
            raise ValueError('threshold of metric "f1" is in (0, 1]')
        if self.compat and self.metric not in ("bleu", "merge"):
            raise ValueError('compat goes with metric "bleu" or "merge"')
        if self.continuous and self.metric not in get_args(Measure):
            raise ValueError(f"continuous goes with a metric in 0 to 100: {', '.join(get_args(Measure))}")
        return self


class Length(Strict):
    """A length target and the response's own length, both in tokens; mode "none" needs neither.

    `shape` replaces the preset's own length term by L1's, by DAPO's (mode max, with its `buffer`) or by the relative
    cost of `gated`, or the same of every answer (`relative_all`); `only_correct` pays or charges length only where the
    answer is correct.
    """

    mode: LengthMode
    target: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    shape: LengthShape = "preset"
    buffer: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    only_correct: bool = False

    @model_validator(mode="after")
    def _counts(self) -> Length:
        if self.mode != "none" and (self.target is None or self.tokens is None):
            raise ValueError('target and tokens are both needed, unless mode is "none"')
        if (self.shape == "dapo") != (self.buffer is not None):
            raise ValueError('buffer goes with shape "dapo", and shape "dapo" needs one')
        if self.shape == "dapo" and self.mode != "max":
            raise ValueError('shape "dapo" is a limit: its mode is "max"')
        return self


class _Item(Strict):
    id: str = Field(min_length=1)
    response: str
    match: Match | None = None
    format: FormatMatch = "strict"
    length: Length | None = None


class ChoiceItem(_Item):
    """One answer to a multiple-choice question."""

    task: Literal["choice"]
    reference: ChoiceReference


class NumberItem(_Item):
    """One answer to a calculation."""

    task: Literal["number"]
    reference: NumberReference


class DateItem(_Item):
    """One answer that is a date."""

    task: Literal["date"]
    reference: DateReference


class DurationItem(_Item):
    """One answer that is a duration."""

    task: Literal["duration"]
    reference: DurationReference


class TextItem(_Item):
    """One short free-text answer."""

    task: Literal["text"]
    reference: TextReference


Item = ChoiceItem | NumberItem | DateItem | DurationItem | TextItem
TASKS = ("choice", "number", "date", "duration", "text")


class ScoreRequest(Strict):
    """A batch: one preset, items with unique ids."""

    preset: str
    items: list[Annotated[Item, Field(discriminator="task")]]


class PresetInfo(Strict):
    """Which reward definition scored a batch; `hash` changes with any verifier's version."""

    name: str
    version: str
    hash: str


class Result(Strict):
    """The score of one item.

    Attributes:
        reward: null exactly when status is timeout or verifier_error.
        extracted: the answer as it was read; null when none could be.
        components: answer (1 correct, else 0), format (1 as asked for, else 0), length (the term added to the
            reward) and, where the judge gave one, probability; empty when reward is null.
        format_issue: why the response is not of the strict form; null when it is.
        verifier: the verifier that judged, with its version.
    """

    id: str
    reward: float | None
    status: Status
    extracted: str | None
    components: dict[str, float]
    format_issue: FormatIssue | None
    verifier: str
    version: str


class ScoreResponse(Strict):
    """The answer: results in the order of the items."""

    preset: PresetInfo
    results: list[Result]


class RequestError(Exception):
    """A request that cannot be scored.

    Attributes:
        status: the HTTP status to answer with.
        fields: the paths at fault, each with a message.
        retry_after_s: seconds after which to ask again, for 429.
    """

    def __init__(
        self,
        status: int,
        message: str,
        fields: list[dict[str, str]] | None = None,
        *,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields or []
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The JSON answer."""
        return {"error": str(self), "fields": self.fields}


def parse_request(body: bytes) -> ScoreRequest:
    """Reads and checks a batch.

    Raises:
        RequestError: 413 for more than MAX_BATCH_ITEMS items; 422 with the fields at fault for anything else.
    """
    try:
        request = ScoreRequest.model_validate_json(_whole_characters(body))
    except ValidationError as error:
        # Without `input`, which would carry a response's text into the caller's log.
        details = error.errors(include_url=False, include_context=False, include_input=False)
        fields = [{"path": _path(detail["loc"]), "message": _message(detail)} for detail in details[:20]]
        first = f"{fields[0]['path'] or 'body'}: {fields[0]['message']}"
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise RequestError(422, f"the request does not fit the contract of /v1/score: {first}{more}", fields) from None
    if len(request.items) > MAX_BATCH_ITEMS:
        raise RequestError(
            413, f"a batch holds at most {MAX_BATCH_ITEMS} items, this one has {len(request.items)}: send smaller ones"
        )
    seen: dict[str, int] = {}
    for index, item in enumerate(request.items):
        first_index = seen.setdefault(item.id, index)
        if first_index != index:
            message = f"the same id as items.{first_index}.id; ids are unique within a batch"
            raise RequestError(422, f"items.{index}.id: {message}", [{"path": f"items.{index}.id", "message": message}])
    return request


def _whole_characters(body: bytes) -> bytes:
    """The body with escaped half characters (lone surrogates) replaced: cut by a model, no fault of the sender."""
    if not _SURROGATE.search(body):
        return body
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
    except (ValueError, RecursionError):
        return body  # whatever is wrong with it, the strict parser says where
    return text.encode("utf-8", "replace")


def _message(detail: ErrorDetails) -> str:
    # pydantic's own repeats the task that was sent.
    return "task: expected one of " + ", ".join(TASKS) if detail["type"] == "union_tag_invalid" else detail["msg"]


def _path(location: tuple[int | str, ...]) -> str:
    # pydantic puts the discriminator's value behind the item's index; it is no part of the JSON path.
    parts = [str(part) if isinstance(part, int) or _FIELD.fullmatch(part) else "(a name)" for part in location]
    if len(parts) > 2 and parts[0] == "items":
        del parts[2]
    return ".".join(parts)
