"""Multiple choice: which option letter does an answer commit to?

`strict` is Med-U1's rule: the answer is the letter. `lenient` reads the whole answer, carriers and all (`carriers`):

    answer := lead-in* (label [option's own text] | option's text [label]) tail* [reason]

It gives a letter only when exactly one option is meant and nothing beside it is unaccounted for. A label whose text is
another option's commits to nothing; one whose text is its own option's, misspelt by a letter or two, is that label. An
option's text counts as a whole phrase among words that say nothing, never within a compound, a range, a ratio, a dose
by weight or under a negation. A letter that belongs to a word ("E. coli", "vitamin C", "type A", "stage II") is none.

Left out: paraphrases of an option. Rules cannot tell one from its neighbour; the answer's letter can.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from typing import Literal

from reward_server.verifiers.base import MALFORMED, MAX_SHORT_CHARS, NO_ANSWER, Verdict, judged
from reward_server.verifiers.carriers import (
    ALTERNATIVE,
    COUNTED,
    NEGATION,
    REASON,
    SUFFIXES,
    TAILS,
    is_filler,
    lead_length,
    number_words,
)
from reward_server.verifiers.phrases import (
    COMMON_WORDS,
    alike,
    begins,
    behind_phrase,
    canonical,
    compared,
    content_words,
    differ_by_case,
    normal,
    phrases,
    same,
)
from reward_server.verifiers.plain import clean, readable
from reward_server.verifiers.reasons import LETTERED, denies, labels, named, split_reason, strays, takes_back
from reward_server.verifiers.spelling import misspelt

VERSION = "5"
MAX_OPTIONS = 14  # A to N

Match = Literal["strict", "lenient"]

_BARE = re.compile(r"[\s(\[\"'.:]*([A-Za-z])[\s)\]\"'.,:;!]*")
# A label is strong where its punctuation makes it one. "E. coli" and "A patient" have a weak one's form.
_LABEL = re.compile(
    r"(?P<open>[(\[]\s?)?(?P<letter>[A-Za-z])(?(open)\s?[)\]])"
    r"(?P<mark>\s?(?:[)\]:=\u2014]|->|-(?=\s)|\.?\n|[\"'],\s?(?=[\"']))(?:[.:,](?![0-9])|\s|-(?=\s))*|\s?[.,;](?![0-9])\s?|\s|(?(open)"
    r"|(?!)))"
    r"(?P<rest>.+)",
    re.DOTALL,
)
_LABELLED_BEFORE = re.compile(r"\b(?:option|choice|letter)[:\s]*$", re.IGNORECASE)
_WEAK_MARK = re.compile(r"\s?[.,;]?\s?")
# "C-Heparin": no label by itself, since "C-section" is none.
_HYPHENATED = re.compile(r"([A-Za-z])-(.+)", re.DOTALL)
_CONNECTIVE = re.compile(r"(?:which is|i\.?e\.?,?|that is,?|namely)\s", re.IGNORECASE)
_BRACKETED = re.compile(r"(?:(?<!\w)(\w{1,20}))?\s?[(\[]\s?(?:option\s|choice\s)?([A-Za-z])\s?[)\]]", re.IGNORECASE)
# A label behind the option's text.
_LABEL_BEHIND = re.compile(
    r"[\s,;:.\u2014-]*(?i:(?:i\.e\.,?|that is,?|which is|so)\s)?(?i:(?:option|choice|answer|letter)\s)?"
    r"[(\[]?\s?([A-Z])\s?[)\]]?(?=[\s.,;:!]*$)"
)
_GLOSS = re.compile(r"\s?[(\[]\s?([A-Z][A-Za-z]{0,7})\s?[)\]]")
_SENTENCE = re.compile(r"[.;\n](?=\s|$)")
# What an explanation begins with behind an option's text; not a word that the text would go on with.
_EXPLAINED = re.compile(
    r"\s?\)?\s?(?:[.;:!]\s|\.?\n|\s?\u2014\s?|\s?-\s|\s?->|\s?\((?=\w+\s)"
    r"|,\s(?:which|who|whose|where|given|as|with|due|based|because|since|so|this|it|that|most|more)\s"
    r"|\s(?:is|are|was|best|most|because|since|explains?|accounts?|fits|causes?|would)\s)",
    re.IGNORECASE,
)
# Behind yes, no or maybe; and "it does", which has to agree with it.
_CLAUSE = re.compile(r"\s?[,;:.\u2014-]\s+\S|\n")
_SHORT_FORM = re.compile(
    r"\W*(?:it|this|that|they|there|he|she)\s(?:is|are|was|were|does|do|did|has|have|can|will|would|should)"
    r"(?:n't|\snot)?\W*$",
    re.IGNORECASE,
)
_NOT = re.compile(r"\W*not\b", re.IGNORECASE)
_DENIAL = re.compile(r"n't\b|\snot\b", re.IGNORECASE)
_SENTENCE_BEHIND = re.compile(r"\s?(?:[.;:!]\s|\.?\n|\s?\u2014\s|,\s|-\s)|\s?\([A-Z]")
# What should have been done was not, and may not be what is to be done.
_COUNTERFACTUAL = re.compile(r"\b(?:should|would|could|might)\shave\s(?:been|had|given|\w+ed)\b", re.IGNORECASE)
# In front of a label's own option they make it more precise.
_PRECISE = re.compile(
    r"(?:(?:acute|subacute|chronic|mild|moderate|severe|massive|primary|secondary|recurrent|congenital|idiopathic"
    r"|bilateral|unilateral|classic|classical|typical|early|oral|intravenous|iv|topical|systemic)\s)+$",
    re.IGNORECASE,
)
_ABOUT_A_LABEL = re.compile(
    r"\b(?:letter|options?|choices?|answers?|ones?|distractor|decoy|typo|error|erroneous|mistake|ignore|forget|crossed|struck"
    r"|deleted|poor|bad|first|second|third|fourth|fifth|last|runner|penultimate|previous|preceding|following|next)\b"
)
_ABBREVIATION = re.compile(r"[(\[]?\s?([A-Z][A-Za-z]{1,7})\s?[)\]]?")
_CONNECTORS = frozenset({"and", "or", "to", "both", "either", "all", "e", "y", "und", "et", "o"})
_SYMBOL = re.compile(r"[^\w\s.,;:!?()\[\]\"'\u2014&-]|[0-9_]")


def verify(answer: str, gold: str, options: Mapping[str, str], match: Match = "lenient") -> Verdict:
    """Judges a multiple-choice answer.

    Args:
        answer: the text of the answer block.
        gold: the right letter, a key of `options`.
        options: letter (A to N) to option text, at most 14.
        match: strict takes the letter alone; lenient as the module says.
    """
    text = answer.strip() if match == "strict" else readable(answer, MAX_SHORT_CHARS)
    if not text:
        return MALFORMED if text is None else NO_ANSWER
    if match == "strict":
        return judged(text == gold, text) if text in options else MALFORMED
    as_written, by_case, texts = _prepared(tuple(options.items()))
    read = _told_by_case(text, texts) if by_case else _read(text if as_written else canonical(text), texts)
    return judged(read == gold, read) if isinstance(read, str) else read


@functools.lru_cache(maxsize=4096)
def _prepared(options: tuple[tuple[str, str], ...]) -> tuple[bool, bool, dict[str, str]]:
    """The options of a question, which many answers are compared with.

    Returns:
        whether answers are compared as they are written, since another way of writing would make two options one;
        whether capitals part two options, which then are given as they are written; and the text of each letter.
    """
    cased = {letter: clean(option) for letter, option in options}
    if differ_by_case(cased):
        return True, True, cased
    texts = {letter: normal(option) for letter, option in options}
    exact = {letter: compared(option) for letter, option in cased.items()}
    as_written = len(set(texts.values())) < len(set(exact.values()))
    return as_written, False, exact if as_written else texts


def _read(text: str, options: Mapping[str, str]) -> str | Verdict:
    """The letter that an answer commits to; a verdict where it commits to none."""
    for suffix in SUFFIXES:
        text = suffix.pattern.sub("", text)
    bare = text[lead_length(text) :].lstrip(" \"'")
    # "Option a heparin": a label, no article.
    if bare[:2].lower() == "a " and _LABELLED_BEFORE.search(text[: len(text) - len(bare)]):
        return _labelled(bare, options) or NO_ANSWER
    for candidate in dict.fromkeys((text, bare)):
        if letters := _plain(candidate, options):
            return letters.pop() if len(letters) == 1 else NO_ANSWER
    letter = _labelled(bare, options) or _worded(bare, options) or _worded(text, options)
    if letter is not None:
        return letter
    several = _several(bare, options) or len((strays(text) | named(text)) & options.keys()) > 1
    return NO_ANSWER if several or NEGATION.search(text) or phrases(text, options) else MALFORMED


def _plain(text: str, options: Mapping[str, str]) -> set[str]:
    """The options of an answer that is nothing but a letter, an option's text, or a letter with its own text."""
    if (found := _BARE.fullmatch(text)) and found[1].upper() in options:
        return {found[1].upper()}
    whole = compared(text)
    labelled = [(match["letter"], match["rest"])] if (match := _LABEL.match(text)) else []
    labelled += [(match[1], match[2])] if (match := _HYPHENATED.fullmatch(text)) else []
    beside = [(name.upper(), compared(rest)) for name, rest in labelled if name.upper() in options]
    for equal in (same, alike):
        # Twin options (the same text under two letters) are told apart by their letter.
        letters = {letter for letter, option in options.items() if option and equal(whole, option)}
        letters |= {name for name, rest in beside if options[name] and equal(rest, options[name])}
        if letters:
            return letters
    return set()


def _told_by_case(text: str, options: Mapping[str, str]) -> str | Verdict:
    """The letter of an answer to a question with "AA", "Aa" and "aa": a label, or an option's text to the letter."""
    bare = text[lead_length(text) :].strip(" \"'.")
    if (found := _BARE.fullmatch(bare)) and bare not in options.values() and found[1].upper() in options:
        return found[1].upper()
    if (found := _LABEL.match(bare)) and options.get(found["letter"].upper()) == found["rest"].strip(" ().\"'"):
        return found["letter"].upper()
    letters = [letter for letter, option in options.items() if option == bare]
    return letters[0] if len(letters) == 1 else NO_ANSWER


def _labelled(text: str, options: Mapping[str, str]) -> str | None:
    """The letter at the start of the answer, where it is a label and nothing beside it says otherwise."""
    found = _LABEL.match(text)
    if not found or (letter := found["letter"].upper()) not in options:
        return None
    spans = phrases(text, options)
    if any(begins(text, span) for span in spans):
        return None
    rest, own = found["rest"], options[letter]
    start = found.start("rest")
    if connective := _CONNECTIVE.match(rest):
        start += connective.end()
        rest = text[start:]
    if any(begins(rest, span) and len(options[span.letter]) >= len(own) for span in phrases(rest, options, within=own)):
        return None
    behind = behind_phrase(rest, own)
    if behind is not None:
        return letter if _adds_nothing(behind, letter, options) else None
    strong = bool(found["open"]) or not _WEAK_MARK.fullmatch(found["mark"])
    own_line = "\n" in found["mark"]
    said, reason = _first_line_split(rest) if own_line else split_reason(text, spans)
    if not own_line:
        said = said[start:]
    if reason and takes_back(reason, letter, options):
        return None
    # "A: He cannot date her because ..." may be another option's text, "A because ..." is none.
    least = 0.85 if REASON.pattern.match(said.strip() or reason) else 0.6
    if _resembles(f"{said} {reason}", letter, options, least):
        return None
    said = said.strip()
    if not said.strip(" .,;:!)"):
        plain = compared(reason)
        return (
            None
            if any(misspelt(plain, text) is not None for name, text in options.items() if name != letter)
            else letter
        )
    return letter if _agrees(said, letter, options, strong=strong or own_line, reasoned=bool(reason)) else None


def _agrees(said: str, letter: str, options: Mapping[str, str], *, strong: bool, reasoned: bool) -> bool:
    """Whether the text beside a label, which does not begin with its option's, says the same, or nothing else."""
    own, plain = options[letter], compared(said)
    others = {name: option for name, option in options.items() if option != own}
    if any(same(plain, option) for option in others.values()) or phrases(said, others, within=own):
        return False
    # "B) yes it does"
    if plain.split(" ")[0].rstrip(",") in COMMON_WORDS & set(others.values()):
        return False
    near, far = misspelt(plain, own), [misspelt(plain, option) for option in others.values()]
    if any(distance is not None and (near is None or distance <= near) for distance in far):
        return False
    without_gloss = not reasoned and len(plain) > 3 and own.startswith(f"{plain}(")
    if same(plain, own) or near is not None or without_gloss or _is_predicate(said):
        return True
    if _is_abbreviation(said, own) and not any(_is_abbreviation(said, option) for option in others.values()):
        return True
    if (precise := _PRECISE.match(plain.removesuffix(own))) and precise.end() + len(own) == len(plain):
        return not any(content_words(own) <= content_words(option) for option in others.values())
    if _worded(said, options) == letter:
        return True
    # Words that no option has may tell of this one; a single one, or a symbol, is another answer's.
    return (
        strong
        and len(plain.split()) > 1
        and not _ABOUT_A_LABEL.search(plain)
        and not any(content_words(plain) & content_words(option) for option in options.values())
        and not _unaccounted(said, letter, options)
    )


def _adds_nothing(behind: str, letter: str, options: Mapping[str, str]) -> bool:
    """Whether what stands behind an option's own text is filler, its abbreviation, or an explanation of it."""
    behind = _unbracketed(_without_gloss(behind, options[letter]), letter)
    if options[letter] in COMMON_WORDS and _CLAUSE.match(behind):
        short = _SHORT_FORM.match(behind)
        if short and bool(NEGATION.search(short[0])) != (options[letter] == "no"):
            return False
        # What "no" denies is denied behind it too.
        agreed = _DENIAL.sub("", behind) if options[letter] == "no" else behind
        return not (_NOT.match(behind) or takes_back(agreed, letter, options))
    if is_filler(behind):
        return labels(behind) & options.keys() <= {letter}
    if denies(behind):
        return False
    if _EXPLAINED.match(behind):
        return not takes_back(behind, letter, options)
    said, reason = split_reason(behind, phrases(behind, options))
    return bool(reason) and is_filler(said) and not takes_back(reason, letter, options)


def _is_abbreviation(text: str, option: str) -> bool:
    """Whether `text` is an abbreviation, in brackets or not, whose letters the option's words begin with."""
    found = _ABBREVIATION.fullmatch(text.strip(" .,;:!"))
    return found is not None and not _without_gloss(f"({found[1]})", option)


def _without_gloss(behind: str, own: str) -> str:
    """`behind` without an abbreviation in brackets whose letters the option's words begin with: "(PE)"."""
    found = _GLOSS.match(behind)
    if not found or len(found[1]) < 2:
        return behind
    initials = "".join(word[0] for word in re.findall(r"[^\W_]+", own))
    letters = found[1].lower().removesuffix("s")
    return behind[found.end() :] if letters in (initials, initials.removesuffix("s")) else behind


def _resembles(text: str, letter: str, options: Mapping[str, str], least: float) -> bool:
    """Whether the first sentence beside a label is made of another option's words rather than of its own option's.

    `least` is the share of the other's words that it takes.
    """
    sentence = content_words(compared(_SENTENCE.split(text.strip(" .,;:!)\n\u2014-"), maxsplit=1)[0]))
    own = _share(sentence, options[letter])
    return any(
        (share := _share(sentence, option)) >= least and share >= own
        for name, option in options.items()
        if name != letter and option not in COMMON_WORDS
    )


def _share(words: frozenset[str], option: str) -> float:
    """How many of an option's words are among `words`, as a share; 0 for an option of one word or none."""
    of_option = content_words(option)
    return len(words & of_option) / len(of_option) if len(of_option) > 1 else 0.0


def _first_line_split(rest: str) -> tuple[str, str]:
    """A paragraph below a label is its explanation, where it is a sentence and no option's short text."""
    return ("", rest) if len(rest.split()) >= 6 else (rest, "")


def _worded(text: str, options: Mapping[str, str]) -> str | None:
    """The option whose text stands in the answer as a whole phrase, among words that say nothing."""
    all_spans = phrases(text, options)
    first = [span for span in all_spans if begins(text, span)]
    if len({span.letter for span in first}) == 1 and _SENTENCE_BEHIND.match(text, first[0].end):
        letter = first[0].letter
        if _adds_nothing(text[first[0].end :], letter, options):
            return letter
        if options[letter] in COMMON_WORDS:
            return None
    said, reason = split_reason(text, all_spans)
    spans = sorted(phrases(said, options), key=lambda span: span.start)
    letters = {span.letter for span in spans}
    if (
        len(letters) != 1
        or _COUNTERFACTUAL.search(said)
        or not all(is_filler(said[one.end : two.start]) for one, two in itertools.pairwise(spans))
    ):
        return None
    (letter,) = letters
    if reason and takes_back(reason, letter, options):
        return None
    before, behind = said[: spans[0].start], said[spans[-1].end :]
    if options[letter] in COMMON_WORDS and _CLAUSE.match(behind) and not _adds_nothing(behind, letter, options):
        return None
    behind = _without_gloss(behind, options[letter])
    if (labels(before, article_at_end=True) | labels(behind)) & options.keys() - {letter} or not is_filler(before):
        return None
    if found := _LABEL_BEHIND.match(behind):
        return letter if found[1] == letter else None
    return letter if is_filler(_unbracketed(behind, letter)) else None


def _unbracketed(text: str, letter: str) -> str:
    """`text` without labels in brackets; with them where one is another option's or part of a name."""
    found = list(_BRACKETED.finditer(text))
    if any(match[2].upper() != letter or (match[1] or "").lower() in LETTERED for match in found):
        return text
    return _BRACKETED.sub(lambda match: match[1] or "", text)


def _unaccounted(text: str, letter: str, options: Mapping[str, str]) -> bool:
    """Whether words beside a label hold something that the label does not account for."""
    if _SYMBOL.search(text) or any(pattern.search(text) for pattern in (NEGATION, ALTERNATIVE, COUNTED)):
        return True
    return bool(number_words(text) or (labels(text) | named(text)) & options.keys() - {letter})


def _is_predicate(text: str) -> bool:
    """Whether the words behind a label only call it the answer."""
    return any((found := tail.pattern.match(text)) and is_filler(text[found.end() :]) for tail in TAILS)


def _several(text: str, options: Mapping[str, str]) -> bool:
    """Whether an answer is nothing but letters ("A, C", "B or D", "ABCD"), and several."""
    runs = [word.upper() for word in re.findall(r"\w+", text) if word.lower() not in _CONNECTORS]
    letters = "".join(runs)
    distinct = all(len(set(run)) == len(run) for run in runs)
    return distinct and len(set(letters)) > 1 and set(letters) <= options.keys()
