"""The questions of an evaluation, and which of them a training row is like; `recipes.data.contamination` says how.

Options are no part of what is compared, since sets share them ("yes, no, maybe"); they and the answers tell apart what
is short: a choice of fewer than 13 words ("Which is true?") is the same only with the same answer or two options in
common, and what shares fewer than 26 words in runs is alike only so. Where both rows have a context, one has to
have the other's: MedCalc-Bench asks the same of every note. A question of 26 words that is no calculation is the same
beside other passages too, if answered alike. What stands in more than ten texts of the evaluation says nothing.

A change in the middle leaves fewer than 26 words no run. So rows of 8 to 25 words are compared without each of their
words in turn too: two that are then the same differ in one. One word may also be all that tells two questions apart
("which class is furosemide?", "... bumetanide?"). So both must have the right answer and all but one of the options in
common, calculations all their numbers, and a row whose word is another, or that has no options, 13 words.

Left out: paraphrases and translations; what a trace quotes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from recipes.data.contamination import LIKENESSES, Likeness, Match
from recipes.data.example import Example
from recipes.data.word_runs import COMMON, RUN, Array, RunIndex, hashed, words_of

# Where Llama 2's report calls a sample dirty (Touvron et al. 2023, A.6).
_SHARE = 0.8
# Words of rows that are compared but for one word, and how many have to be there where less tells them.
_SHORT, _ENOUGH = range(8, 2 * RUN), RUN
_BATCH_WORDS = 2**18


@dataclass(frozen=True)
class _Row:
    """A row in words: keys of what is compared whole, and hashes of what is compared in runs.

    Attributes:
        context: None for none.
        front: how many of the words are the context's.
    """

    example: Example
    whole: bytes
    context: bytes | None
    question: bytes
    words: Array
    front: int


class HeldOut:
    """The questions of an evaluation, in memory, to which training rows are compared one by one."""

    def __init__(self, questions: Iterable[Example]) -> None:
        self._questions: list[Example] = []
        self._whole: dict[bytes, list[int]] = {}
        # Contexts and questions by number, each text once; what uses each, and what each question consists of.
        self._texts: dict[bytes, int] = {}
        self._users: list[list[int]] = []
        # By the hash of a short question's words, and of all of them but one.
        self._but_one: dict[int, list[int]] = {}
        self._parts: list[tuple[int | None, int]] = []
        words: list[Array] = []
        for number, row in enumerate(map(_row, questions)):
            self._questions.append(row.example)
            self._whole.setdefault(row.whole, []).append(number)
            for but_one in _but_one_word(row.words):
                self._but_one.setdefault(but_one, []).append(number)
            for key, text in ((row.context, row.words[: row.front]), (row.question, row.words[row.front :])):
                if key is not None and key not in self._texts:
                    self._texts[key] = len(words)
                    words.append(text)
                    self._users.append([])
            context = None if row.context is None else self._texts[row.context]
            self._parts.append((context, self._texts[row.question]))
            for part in {part for part in self._parts[-1] if part is not None}:
                self._users[part].append(number)
        # What is asked about many notes is as common as if it stood in each.
        self._index = RunIndex(words, [len({self._parts[user][0] for user in users}) for users in self._users])

    def matches(self, rows: Iterable[Example]) -> Iterator[tuple[Example, list[Match]]]:
        """Each row, in order, with the questions that it is like, the gravest likeness first."""
        batch: list[_Row] = []
        words = 0
        for row in map(_row, rows):
            batch.append(row)
            words += len(row.words)
            if words >= _BATCH_WORDS:
                yield from self._matches(batch)
                batch, words = [], 0
        yield from self._matches(batch)

    def _matches(self, batch: Sequence[_Row]) -> Iterator[tuple[Example, list[Match]]]:
        for row, kinds in zip(batch, self._alike(batch), strict=True):
            for number in self._whole.get(row.whole, ()):
                question = self._questions[number]
                same = (row.example.context, row.example.question) == (question.context, question.question)
                # Rows without a word, such as "?", have the same words.
                if (same or len(row.words)) and (len(row.words) >= RUN or not _another_choice(row.example, question)):
                    kinds[number] = "exact" if same else "normalised"
            for number in self._one_word_off(row):
                kinds.setdefault(number, "one-word")
            ranked = sorted((LIKENESSES.index(kind), number) for number, kind in kinds.items())
            yield row.example, [Match(LIKENESSES[kind], self._questions[number]) for kind, number in ranked]

    def _one_word_off(self, row: _Row) -> list[int]:
        """The questions that a short row is but for a word."""
        found: set[int] = set()
        for key in _but_one_word(row.words):
            users = self._but_one.get(key, ())
            found.update(users if len(users) <= COMMON else ())
        return [number for number in found if _one_item(row.example, self._questions[number])]

    def _alike(self, batch: Sequence[_Row]) -> list[dict[int, Likeness]]:
        """By row, the numbers of the questions whose context or runs it shares, and how."""
        shared = self._index.shared([row.words for row in batch], [row.front for row in batch])
        # Of the two texts of a question, one holds half of the words that make a row like it.
        near = shared.covered >= _SHARE / 2 * self._index.sizes[shared.indexed]
        near |= shared.covered >= _SHARE / 2 * shared.sizes[shared.text]
        # Or all but one of a row's own two texts is in it.
        behind, rest = shared.covered - shared.in_front, shared.sizes - shared.fronts
        near |= (shared.in_front > 0) & (shared.in_front >= _SHARE * shared.fronts[shared.text])
        near |= (behind > 0) & (behind >= _SHARE * rest[shared.text])
        covered: list[dict[int, tuple[int, int]]] = [{} for _ in batch]
        columns = (shared.text, shared.indexed, shared.covered, shared.in_front)
        for row, text, words, in_front in zip(*(column.tolist() for column in columns), strict=True):
            covered[row][text] = (words, in_front)
        found: list[dict[int, Likeness]] = [dict.fromkeys(self._with_context(row), "context") for row in batch]
        for row, text in zip(shared.text[near].tolist(), shared.indexed[near].tolist(), strict=True):
            sizes = (int(shared.sizes[row]), int(shared.fronts[row]))
            for number in self._users[text]:
                if number not in found[row] and (kind := self._likeness(batch[row], number, covered[row], sizes)):
                    found[row][number] = kind
        return found

    def _with_context(self, row: _Row) -> list[int]:
        """The questions about a row's context, where that is long enough to tell it."""
        text = self._texts.get(row.context) if row.context and row.front >= RUN else None
        return [] if text is None else [user for user in self._users[text] if self._parts[user][0] == text]

    def _likeness(
        self, row: _Row, number: int, covered: Mapping[int, tuple[int, int]], sizes: tuple[int, int]
    ) -> Likeness | None:
        """How a row is like a question by the runs that both have.

        Args:
            row: of training.
            number: of the question.
            covered: the row's words, and those of its context, in runs of each text.
            sizes: the row's words, and those of its context, in runs that say something.
        """
        context, question = self._parts[number]
        alike = _answered_alike(row.example, self._questions[number])
        if row.context is not None and context is not None:
            front, behind = sizes[1], sizes[0] - sizes[1]
            (in_context, front_in_context), (in_question, front_in_question) = (
                covered.get(text, (0, 0)) for text in (context, question)
            )
            if self._near(front_in_context, front, context):
                return "13-gram" if self._texts.get(row.question) == question else "context"
            # What one has for its context the other asks, or both ask the same beside other passages.
            crossed = self._near(in_context - front_in_context, behind, context)
            crossed |= self._near(front_in_question, front, question)
            asked = in_question - front_in_question
            told = asked >= 2 * RUN and alike and row.example.group != "calculation"
            return "13-gram" if crossed or (told and self._near(asked, behind, question)) else None
        texts = [text for text in (context, question) if text is not None]
        words = sum(covered.get(text, (0, 0))[0] for text in texts)
        if words < _SHARE * min(sizes[0], sum(self._index.sizes[text] for text in texts)):
            return None
        return "13-gram" if words >= 2 * RUN or alike else None

    def _near(self, words: int, size: int, text: int) -> bool:
        """Whether so many of a part's words in runs of a text make the shorter of the two a part of the other."""
        return 0 < words >= _SHARE * min(size, self._index.sizes[text])


def _row(example: Example) -> _Row:
    context, question = words_of(example.context or ""), words_of(example.question)
    return _Row(
        example,
        _key([*context, *question]),
        _key(context) if context else None,
        _key(question),
        hashed([*context, *question]),
        len(context),
    )


def _but_one_word(words: Array) -> set[int]:
    """Hashes of a short row's words, and of them without each in turn; none of a longer or shorter row."""
    if len(words) not in _SHORT:
        return set()
    own = tuple(words.tolist())
    return {hash(own), *(hash(own[:place] + own[place + 1 :]) for place in range(len(own)))}


def _one_item(a: Example, b: Example) -> bool:
    """Whether two rows that differ in a word are one question, by their answers, options and numbers."""
    if a.group != b.group or _plain(_right(a)) != _plain(_right(b)):
        return False
    words = [words_of(f"{row.context or ''} {row.question}") for row in (a, b)]
    exchanged = len(words[0]) == len(words[1])
    if len(words[0]) < _ENOUGH and (exchanged or a.group != "choice"):
        return False
    if a.group == "calculation":
        numbers = [sorted(word for word in own if not word.isalpha()) for own in words]
        return numbers[0] == numbers[1]
    options = [{_plain(text) for text in (row.options or {}).values()} for row in (a, b)]
    return len(options[0] & options[1]) >= max(map(len, options)) - 1


def _key(words: Sequence[str]) -> bytes:
    return hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()


def _another_choice(a: Example, b: Example) -> bool:
    """Whether two rows of the same words ask to choose among other things."""
    return bool(a.options and b.options) and not _answered_alike(a, b)


def _answered_alike(a: Example, b: Example) -> bool:
    """Whether two rows have the right answer or two options in common, whatever their letters."""
    options = [{_plain(text) for text in (row.options or {}).values()} for row in (a, b)]
    return _plain(_right(a)) == _plain(_right(b)) or len(options[0] & options[1]) >= 2


def _right(example: Example) -> str:
    return (example.options or {}).get(example.gold(), example.gold())


def _plain(text: str) -> str:
    return " ".join(words_of(text))
