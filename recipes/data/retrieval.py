"""Passages of a local corpus, found by BM25 (bm25s: Lucene's variant, k1 1.5, b 0.75, English stop words, no stems).

A corpus is a table in any container that `read_rows` takes, of passages or of solved cases:

- a passage has `contents`, `content` or `text`, and may have `id`, `title`, `false` (the same passage edited so that it
  states something wrong, as MedRGB publishes it) and `sub_questions`, a list of {"question", "answer"} that it answers
  (MedRGB's, too). MedRAG's corpora are of this form;
- a solved case is an Example: its question and options, its trace's reasoning where it has one, and its answer.

Corpus and index lie in memory. Left out: dense retrieval, and corpora beyond a machine's memory, such as all of PubMed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.data.choices import is_missing
from recipes.data.errors import ExampleError
from recipes.data.example import Example, example_from_row
from recipes.data.tables import Row, read_rows

_TEXTS = ("contents", "content", "text")


@dataclass(frozen=True)
class Passage:
    """One passage.

    Attributes:
        id: unique in its corpus.
        text: what a model is shown, the title in front.
        false: the same with something wrong in it; None where the corpus has none.
        questions: sub-questions that it answers, as (question, answer).
        case: the solved case that the text tells.
    """

    id: str
    text: str
    false: str | None = None
    questions: tuple[tuple[str, str], ...] = ()
    case: Example | None = None


def read_corpus(path: Path) -> list[Passage]:
    """All passages of a corpus.

    Raises:
        ExampleError, FileNotFoundError: naming file and row.
    """
    found: dict[str, Passage] = {}
    for row in read_rows(path):
        passage = _case(row) if "task" in row.values else _passage(row)
        if passage.id in found:
            raise ExampleError(
                f"{row.where}: field 'id': {passage.id!r} occurs twice; a corpus names each passage once"
            )
        found[passage.id] = passage
    if not found:
        raise ExampleError(f"{path}: holds no passages")
    return list(found.values())


def _case(row: Row) -> Passage:
    case = example_from_row(row.values, row.where)
    return Passage(case.id, case_text(case, case.gold()), case=case)


def case_text(case: Example, answer: str) -> str:
    """A solved case as a passage, with an answer that may be another than its own."""
    lines = [f"Case: {case.context}\n{case.question}" if case.context else f"Case: {case.question}"]
    lines += [f"{letter}: {text}" for letter, text in (case.options or {}).items()]
    # The reasoning leads to the right answer alone.
    if "trace" in case.meta and answer == case.gold():
        lines.append(f"Reasoning: {case.meta['trace']['think'].strip()}")
    named = f"{answer}: {case.options[answer]}" if case.options else answer
    return "\n".join([*lines, f"Answer: {named}"])


def _passage(row: Row) -> Passage:
    name = next((name for name in _TEXTS if not is_missing(row.values.get(name))), None)
    if name is None:
        raise row.wrong("text", f"a passage's text, as one of {', '.join(_TEXTS)}", row.values.get("text"))
    title = _text(row, "title", default="")
    return Passage(
        _text(row, "id", default=str(row.number)),
        _titled(title, _text(row, name)),
        _titled(title, _text(row, "false")) if not is_missing(row.values.get("false")) else None,
        tuple(_questions(row)),
    )


def _titled(title: str, text: str) -> str:
    # MedRAG's `contents` begin with the title already.
    return f"{title}. {text}" if title and not text.startswith(title) else text


def _text(row: Row, name: str, default: str | None = None) -> str:
    value = row.values.get(name)
    if is_missing(value) and default is not None:
        return default
    if not isinstance(value, str | int):
        raise row.wrong(name, "a text", value)
    return " ".join(str(value).split())


def _questions(row: Row) -> Iterator[tuple[str, str]]:
    value: Any = row.values.get("sub_questions")
    if is_missing(value):
        return
    if not isinstance(value, list):
        raise row.wrong("sub_questions", 'a list of {"question": text, "answer": text}', value)
    for part in value:
        texts = [part.get(key) if isinstance(part, dict) else None for key in ("question", "answer")]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise row.wrong("sub_questions", 'a list of {"question": text, "answer": text}', part)
        yield str(texts[0]), str(texts[1])


class Index:
    """A corpus by its words.

    Raises:
        ExampleError: it has none.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        import bm25s

        self.passages = passages
        self._bm25s = bm25s
        self._scorer = bm25s.BM25()
        tokens = bm25s.tokenize([passage.text for passage in passages], stopwords="en", show_progress=False)
        if not any(tokens.ids):
            raise ExampleError("the corpus holds no words but stop words; expected passages to search")
        self._scorer.index(tokens, show_progress=False)

    def find(self, query: str, most: int) -> list[int]:
        """Places of the passages that fit a query best, the best first, ties as in the corpus.

        At most so many, and none that has no word in common with it.
        """
        words = self._bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)[0]
        if not words:
            return []
        scores = self._scorer.get_scores(words)
        best = (-scores).argsort(kind="stable")[:most]
        return [int(place) for place in best if scores[place] > 0]
