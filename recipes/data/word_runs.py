"""Runs of words that texts have in common: how much of a text stands, run by run, in which of many others.

A run is 13 words one after another, as in GPT-3's measure of contamination (Brown et al. 2020, appendix C). Texts are
arrays of their words' hashes, and runs are hashes of these, so that numpy compares millions a second; two runs of one
hash that differ are not to be expected in 1e12 comparisons. Left out: gaps within a run, and words that are spelt
otherwise.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RUN = 13
# What stands in more texts than this, such as "which of the following is the most appropriate next step in the
# management of this patient", tells none of them.
COMMON = 10

Array = NDArray[np.int64]

_MOST_BITS = 26
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# A character of a script that puts no spaces between words is a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
# Accents of decomposed letters, soft hyphens, and the marks that PDF files and web pages leave within words.
_UNSEEN = re.compile("[\u0300-\u036f\u00ad\u200b-\u200f\u2060\ufeff]")
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """Letters and digits of a text, word by word, whatever their case, width and accents, and what is between them.

    HTML's character references are read as what they stand for, and characters that nobody sees as nothing.
    """
    text = html.unescape(text) if "&" in text else text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _UNSEEN.sub("", unicodedata.normalize("NFKD", text)))
    return _WORD.findall(text.casefold())


def hashed(text: Sequence[str]) -> Array:
    """A text of words as `RunIndex` takes it. Another process has other hashes."""
    return np.fromiter(map(hash, text), np.int64, len(text))


@dataclass(frozen=True)
class Shared:
    """What texts have in common with those of an index; an entry a pair of them that shares a run.

    Attributes:
        text: (pairs,) number of the text that was looked up.
        indexed: (pairs,) number of the indexed one.
        covered: (pairs,) words of the text that stand in runs of the indexed one.
        in_front: (pairs,) the same, of runs within the text's front.
        sizes, fronts: (texts,) words in runs that are not common, of each whole text and of its front.
    """

    text: Array
    indexed: Array
    covered: Array
    in_front: Array
    sizes: Array
    fronts: Array


class RunIndex:
    """Where each run of words stands in a collection of texts.

    Args:
        texts: hashed, each different from the others.
        weights: (texts,) for how many each counts where common runs are told.

    Attributes:
        sizes: (texts,) words of each text in runs that are not common.
    """

    def __init__(self, texts: Sequence[Array], weights: Sequence[int]) -> None:
        owners, starts, runs = _runs(texts)
        self._count = max(1, len(texts))
        self._runs, which = np.unique(runs, return_inverse=True)
        run, self._owners = np.divmod(np.unique(which * self._count + owners), self._count)
        self._begins = np.searchsorted(run, np.arange(len(self._runs) + 1))
        # By the first bits of a run's hash, whether any has them: most that are looked up are not known and end here.
        self._shift = np.uint64(64 - min(_MOST_BITS, (16 * len(self._runs) + 1).bit_length()))
        self._first_bits = np.zeros(2 ** (64 - int(self._shift)), bool)
        self._first_bits[self._runs >> self._shift] = True
        spread = np.bincount(run, np.asarray(weights)[self._owners], len(self._runs))
        self._common = spread > COMMON
        telling = ~self._common[which]
        self.sizes = _covered(starts[telling], owners[telling], len(texts))

    def shared(self, texts: Sequence[Array], fronts: Sequence[int]) -> Shared:
        """Which indexed texts repeat runs of these.

        Args:
            texts: hashed.
            fronts: (texts,) how many words of each are its front.
        """
        owners, starts, runs = _runs(texts)
        ends = np.cumsum([len(text) for text in texts]) - [len(text) for text in texts] + fronts
        in_front = starts + RUN <= ends[owners]
        known = np.flatnonzero(self._first_bits[runs >> self._shift])
        which = np.minimum(np.searchsorted(self._runs, runs[known]), max(0, len(self._runs) - 1))
        same = self._runs[which] == runs[known]
        known, which = known[same], which[same]
        common = self._common[which]
        telling = np.ones(len(runs), bool)
        telling[known[common]] = False
        hits, which = known[~common], which[~common]
        begins = self._begins[which]
        copies = self._begins[which + 1] - begins
        hit = np.repeat(hits, copies)
        place = np.arange(len(hit)) - np.repeat(np.cumsum(copies) - copies - begins, copies)
        pairs = owners[hit] * self._count + self._owners[place]
        # Stable, so that the runs of a pair stay in order.
        order = np.argsort(pairs, kind="stable")
        found, pair = np.unique(pairs[order], return_inverse=True)
        at, front = starts[hit[order]], in_front[hit[order]]
        return Shared(
            text=found // self._count,
            indexed=found % self._count,
            covered=_covered(at, pair, len(found)),
            in_front=_covered(at[front], pair[front], len(found)),
            sizes=_covered(starts[telling], owners[telling], len(texts)),
            fronts=_covered(starts[telling & in_front], owners[telling & in_front], len(texts)),
        )


def _runs(texts: Sequence[Array]) -> tuple[Array, Array, NDArray[np.uint64]]:
    """Of every run within a text: the number of the text, where it starts in all of them joined, and its hash."""
    hashes = np.concatenate([*texts, np.zeros(0, np.int64)]).view(np.uint64)
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    count = max(0, len(hashes) - RUN + 1)
    runs = np.zeros(count, np.uint64)
    for place in range(RUN):
        runs *= _FACTOR
        runs += hashes[place : place + count]
    starts = np.flatnonzero(owners[:count] == owners[len(owners) - count :])
    return owners[starts], starts, runs[starts]


def _covered(starts: Array, owners: Array, count: int) -> Array:
    """Words under the runs of each owner, which stand together in ascending order."""
    added = np.minimum(np.diff(starts, prepend=-RUN), RUN)
    added[np.diff(owners, prepend=-1) != 0] = RUN
    return np.bincount(owners, added, count).astype(np.int64)
