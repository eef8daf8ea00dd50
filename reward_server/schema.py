"""The wire of `POST /v1/score`: strict pydantic models of request and answer.

Unknown fields, wrong types (a number as a string), non-finite numbers and contradictory references are refused, with
the path of the field. Messages never repeat a question or a response.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from reward_server.verifiers.choice import MAX_OPTIONS, Match
from reward_server.verifiers.date import parse_gold
from reward_server.verifiers.length import LengthMode
from reward_server.verifiers.text import tokens

MAX_BATCH_ITEMS = 512
MAX_BODY_BYTES = 128 * 2**20

Status = Literal["correct", "incorrect", "no_answer", "malformed", "timeout", "verifier_error"]


class Strict(BaseModel):
    """Base of every wire model."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def _date(text: str) -> str:
    parse_gold(text)
    return text


def _words(text: str) -> str:
    if not tokens(text):
        raise ValueError("expected a text with at least one letter or digit")
    return text


Letter = Annotated[str, Field(pattern=r"^[A-N]$")]
Words = Annotated[str, AfterValidator(_words)]


class ChoiceReference(Strict):
    """The right letter, and every option's text by letter."""

    answer: Letter
    options: dict[Letter, str] = Field(min_length=2, max_length=MAX_OPTIONS)

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> ChoiceReference:
        if self.answer not in self.options:
            raise ValueError("answer is not among the letters of options")
        return self


class NumberReference(Strict):
    """A number with inclusive limits, or with `rounding` = "integer" and no limits."""

    answer: float
    lower: float | None = None
    upper: float | None = None
    rounding: Literal["integer"] | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> NumberReference:
        if self.rounding:
            if self.lower is not None or self.upper is not None:
                raise ValueError('give either lower and upper, or rounding "integer", not both')
            if not self.answer.is_integer():
                raise ValueError('with rounding "integer", answer must be a whole number')
        elif self.lower is None or self.upper is None:
            raise ValueError('lower and upper are both needed, unless rounding is "integer"')
        elif self.lower > self.upper:
            raise ValueError("lower is above upper")
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


class TextReference(Strict):
    """A short text, its aliases, and the measure: `exact`, or `f1` with a threshold in (0, 1]."""

    answer: Words
    aliases: list[Words] = Field(default_factory=list)
    metric: Literal["exact", "f1"] = "exact"
    threshold: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _threshold_of_f1(self) -> TextReference:
        if (self.metric == "f1") != (self.threshold is not None):
            raise ValueError('threshold goes with metric "f1", and metric "f1" needs a threshold')
        return self


class Length(Strict):
    """A length target and the response's own length, both in tokens; mode "none" needs neither."""

    mode: LengthMode
    target: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _counts(self) -> Length:
        if self.mode != "none" and (self.target is None or self.tokens is None):
            raise ValueError('target and tokens are both needed, unless mode is "none"')
        return self


class _Item(Strict):
    id: str = Field(min_length=1)
    response: str
    match: Match | None = None
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
        components: answer (1 correct, else 0), format (1 strict, else 0) and length (the term added to the reward);
            empty when reward is null.
        verifier: the verifier that judged, with its version.
    """

    id: str
    reward: float | None
    status: Status
    extracted: str | None
    components: dict[str, float]
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
    """

    def __init__(self, status: int, message: str, fields: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields or []

    def body(self) -> dict[str, Any]:
        """The JSON answer."""
        return {"error": str(self), "fields": self.fields}


def parse_request(body: bytes) -> ScoreRequest:
    """Reads and checks a batch.

    Raises:
        RequestError: 413 for more than MAX_BATCH_ITEMS items; 422 with the fields at fault for anything else.
    """
    try:
        request = ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        # Without `input`, which would carry a response's text into the caller's log.
        details = error.errors(include_url=False, include_context=False, include_input=False)
        fields = [{"path": _path(detail["loc"]), "message": detail["msg"]} for detail in details[:20]]
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


def _path(location: tuple[int | str, ...]) -> str:
    # pydantic puts the discriminator's value behind the item's index; it is no part of the JSON path.
    parts = [str(part) for part in location]
    if len(parts) > 2 and parts[0] == "items":
        del parts[2]
    return ".".join(parts)
