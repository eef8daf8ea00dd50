"""The reason behind a choice: where it begins, and whether it takes the choice back.

A reason may hold any words. It may not name another answer ("C. On second thoughts, D", "C because D is right"), deny
its own ("C. This is wrong"), or mention another option but to reject it ("C because aspirin is not enough").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from reward_server.verifiers.carriers import NEGATION, REASONS
from reward_server.verifiers.phrases import COMMON_WORDS, Span, compared, phrases

# Naming a label as the answer, wherever it stands.
_NAMED = re.compile(
    r"(?i:\b(?:answer|option|choice|choose|pick|select|go with|correct|it's|it is|is)\b)[\s:=(\[]{0,3}"
    r"([A-N])\b(?!\s[a-z]|')"
    r"|(?i:\b(?:option|choice)\s)([A-N])\b"
    r"|\b([A-HJ-N])\s(?:works|fits|helps|treats|acts|explains|matches|wins|beats|seems|remains|makes|looks|suits|gets|comes"
    r"|also|too|then|as well|preferred|recommended|indicated|(?:should|must|can|may|might|could)\sbe)\b"
    r"|\b([B-HJ-N])\s(?:right|best|better|correct|true)\b"
    # At the start of a sentence, where it begins no name.
    r"|(?:^|[.;\n]\s?)([B-HJ-N])\s(?!(?:cells?|peptide|dimers?|diff|waves?|levels?|proteins?|symptoms?|lymphocytes?"
    r"|fib(?:er|re)s?|strains?|channels?|receptors?|antigens?|virus|complex)\b)[a-z]"
    r"|\b([A-HJ-N])\s(?:is|are)(?:n't|\snot)\s(?:wrong|incorrect|false|unlikely|excluded|untrue)\b"
    r"|[(\[]\s?([A-N])\s?[)\]]|(?:^|[.;,\n]\s?)([A-N])(?=[\s.,;:]*$|[.):]\s)"
    r"|\b([A-N])(?i:\s(?:is|are|would be|could be|may be|might be)\s"
    r"(?:also|the|a|correct|right|best|better|likely|possible|most)\b)"
)
_STRAY = re.compile(r"(?:(?<!\w)(\w{1,20})\s)?(?<![\w'-])([A-Z])(?![\w'+-]|\s[a-z])")
_SINGLE = re.compile(r"(?:(?<!\w)(\w{1,20})\s)?(?<![\w'.-])([A-Za-z])(?![\w'+-]|\.[a-z])(\s[a-z']{2,})?")
_COPULAS = frozenset({" is", " was", " are", " would", " seems", " or", " and"})
_LABELLING = frozenset({"option", "choice", "letter", "answer", "label"})
_NAMING = """
vitamin vitamins hepatitis type types group class grade stage factor protein influenza immunoglobulin interferon
strain chromosome phase category serotype complement
"""
# A single letter after one of these is part of a name.
LETTERED = frozenset(_NAMING.split())
_RETRACTION = re.compile(
    r"\b(?:wait|actually|on second thoughts?|second thoughts|instead|correction|scratch that|my mind|alternatively"
    r"|not sure|unsure|i guess|hmm+|nope|no(?=,)|the opposite|worst|ruled out|(?:all|both) (?:right|correct|wrong)"
    r"|my mistake|(?:is|be|was) (?:just |only )?a (?:mistake|guess)|must never|trick question"
    r"|(?:letter|option|choice|one) (?:after|before|above|below|next))\b"
    r"|\b(?:this|that|it|they)(?:'s| is| are)? (?:drug |option |answer |choice )?(?:is |are )?"
    r"(?:contraindicated|harmful|inappropriate|excluded|wrong|incorrect|false|unlikely|inferior|an error|a trap"
    r"|the trap)\b"
    r"|\b(?:this|that|it|they|these|others?|any)\b[^.;\n]{0,25}\b(?:avoided|be (?:an error|harmful|excluded|any)|bad"
    r"|depends|equally|also (?:be )?(?:correct|right)|all possible|might be|may or may not|used to be|until)\b"
    r"|\bi (?:was told|do not know|don't know|cannot decide|must pick)\b"
    r"|\b(?:this|that|it|which|answer|option|choice|letter|statement|diagnosis)\b[^.;\n]{0,30}?"
    r"(?:\b(?:is|was|are|be)(?:(?:n't|\s(?:\w+\s)?not)"
    r"(?=\s(?:\w+\s){0,2}(?:right|correct|true|valid|likely|indicated|appropriate|recommended|answer|option|choice|best"
    r"|good|safe|enough|useful|helpful|effective|needed|what|how|my|it|one)\b|[\s.,;!]*$|[.,;]|\s\(?(?-i:[A-N])\b)"
    r"|\s(?:\w+\s)?(?:wrong|incorrect|false|unlikely|untrue|invalid|mistaken|no)\b))"
    r"|^\s?(?:(?:best|most|clearly)\s)?(?:explains?|accounts? for|fits?|matches|describes?"
    r"|(?:is|are) (?:most |best )?(?:consistent with|supported by|explained by))"
    r"\s(?:\w+\s){0,2}?(?:none|nothing|neither|no|poorly|badly|little|less|worse|least)\b"
    r"|\b(?:anything|nothing|none) (?:but|except|other than)\b"
    r"|\b(?:first|second|third|fourth|fifth|last|other) (?:option|choice|answer|one)\b|\bleast likely\b",
    re.IGNORECASE,
)
_DENIED = (
    r"(?i:\bnot\s(?:\w+\s){{0,2}}\(?(?-i:{0})\b|\bso (?:is|are) \(?(?-i:{0})\b|"
    r"\b(?-i:{0})\)?\s(?:is|was|would be)(?:n't|\snot|\s(?:\w+\s)?(?:wrong|incorrect|false|unlikely)))"
)
# "The answer is ..." and "... is the answer" within a reason.
_CLAIM = re.compile(
    r"\b(?:answer|option|choice|(?:right|correct|best) one)\b(?:\s(?:here|to (?:this|the) question))?\s?"
    r"(?:is|was|would be|should be|must be|:|=)\s?"
    r"(?P<is>[^.;,\n]{1,80})"
    r"|(?:^|[.;,\n]|\b(?:because|since|that|so|thus|but)\b)\s?(?P<of>[^.;,\n]{1,80}?)\s(?:is|are|was|would be)\s"
    r"(?:the\s)?(?:(?:most likely|final|single)\s)?(?:correct|right|best|better|answer)\b",
    re.IGNORECASE,
)
# "Yes", "no" or "maybe" at the end of a clause, or said to be the answer: nothing else is meant by them there.
_CONCLUSION = re.compile(r"\b(yes|no|maybe|true|false)(?=\s?(?:[.,;!)\n]|$))", re.IGNORECASE)
# "Options B, C and D are incorrect."
_LABELS_REJECTED = re.compile(
    r"(?i:\b(?:options?|choices?|answers?)\s)?(\(?\b[A-N]\)?(?:(?:,|,?\sand|,?\sor)\s\(?[A-N]\)?)*)"
    r"(?i:\s(?:are|is)\s(?:all\s|both\s|each\s)?"
    r"(?:incorrect|wrong|false|unlikely|less likely|not (?:correct|right|likely|indicated|appropriate|consistent))\b)"
)
# Two of them in a clause that take each other back.
_TWICE_REJECTED = re.compile(
    r"(?:\bnot|n't|\bnever|\bcannot|\bno)\s(?:\w+\s){0,2}?(?:unlikely|less|wrong|incorrect|inferior|worse|without"
    r"|inappropriate|contraindicated|ruled|excluded?|avoid(?:ed)?|fails?|never|bad)\b"
    r"|\bwithout (?:equal|exception|doubt)\b",
    re.IGNORECASE,
)
# "It is not pneumonia", with the other option's text behind it.
_NOT_BEFORE = re.compile(
    r"\b(?:(?:(?:it|this|that) )?(?:is|was) )?(?:not|unlike|rather than|instead of)\s(?:an?\s|the\s)?$", re.IGNORECASE
)
# "It is less effective than warfarin", likewise.
_LESS_THAN = re.compile(
    r"\b(?:less|worse|inferior|weaker|slower|poorer|cannot|not as)\b[^.;\n]{0,40}?"
    r"\b(?:than|to|as|match|replace)\s(?:an?\s|the\s)?$",
    re.IGNORECASE,
)
# "It acts faster than warfarin": another option has lost, as where it is rejected.
_MORE_THAN = re.compile(
    r"\b(?:more \w+|better|faster|safer|stronger|earlier|quicker|superior|preferred|preferable|\w{3,12}er)\b"
    r"[^.;\n]{0,40}?\b(?:than|to|over)\s(?:an?\s|the\s)?$",
    re.IGNORECASE,
)
# What an answer does not do says nothing against it, unless it is what it is for.
_BEHAVES = re.compile(
    r"(?:\b(?:does|do|did|has|have|had|can)(?:n't|\snot)|\bcannot|\bwithout|\black(?:s|ing)|\b(?:has|have|with) no)\b"
    r"(?!\s(?:\w+\s)?(?:work|help|fit|treat|explain|apply|suit|account|match|cause|be)\b)"
    r"|\b(?:is|are|was|were)(?:n't|\snot)\s(?!(?:\w+\s){0,2}?(?:right|correct|true|valid|likely|indicated|appropriate|good|best"
    r"|recommended|safe|enough|useful|helpful|effective|needed|given|used|the|an?|it)\b)(?=\w)",
    re.IGNORECASE,
)
# "Pneumonia (B)"
_LABEL_BEHIND = re.compile(r"\s?\(([A-N])\)")
_LISTED = re.compile(r"[\s,]*(?:and|or|nor)?\s*")
# A key of JSON in front of a reason.
_KEY = re.compile(r"^[\"'],\s?[\"'](?:explanation|reason(?:ing)?|rationale|justification)[\"']\s?:\s?[\"']?")
_ALL_OF_THEM = re.compile(r"all(?: of)? (?:the above|these|them)")
_POINTING = frozenset({"this", "that", "it", "which", "clear", "obvious", "supported", "based"})
_REJECTED = re.compile(
    r"\bnot\b|n't\b|\b(?:in contrast|unlike|whereas|compared"
    r"|would (?:typically |usually )?(?:present|cause|show|produce)"
    r"|no (?:signs?|evidence|history|features?|symptoms?|indication)|absen(?:t|ce)"
    r"|less(?! (?:harmful|risky|toxic|dangerous))|unlikely|wrong|incorrect|contraindicated|never|without|rather than"
    r"|instead of|fails?|cannot|avoid(?:ed)?|inappropriate|inferior|worse|(?:argues?|speaks?) against|excludes?"
    r"|ruled? out|rules out|ruling out|less likely)\b",
    re.IGNORECASE,
)


# What a clause begins with that says something of the answer in front of it, and what it may then not hold.
_OF_IT = re.compile(
    r"[\s.;:,!(\u2014>-]*(?:(?:is|are|was|were|would|should|could|can|may|might|seems?|looks?|has|have|does|do|did|be|as)\b"
    r"|(?=(?:not|never|wrong|incorrect|false|unlikely|less|least|rather|instead|except|contraindicated|excluded?|ruled"
    r"|avoid|cannot|neither|nor|none(?! of the (?:other|remaining))"
    r"|inappropriate|untrue|invalid|rejected|harmful)\b)|no[\s.,;!]*$|no,)",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.;\n]\s|[.;\n]?$|\b(?:because|since)\b")


def denies(behind: str) -> bool:
    """Whether words right behind an answer deny it: "is wrong", "rather than heparin", "(not useful)"."""
    found = _OF_IT.match(behind)
    if not found:
        return False
    end = _CLAUSE_END.search(behind, found.end())
    return bool(NEGATION.search(behind[: end.start() if end else None]))


def split_reason(text: str, spans: Sequence[Span]) -> tuple[str, str]:
    """What is said, and the reason behind it (empty where there is none), which begins within no option's text."""
    matches = (match for reason in REASONS for match in reason.pattern.finditer(text))
    free = [
        match.start()
        for match in matches
        if not any(match.start() < span.end and span.start <= match.end() for span in spans)
    ]
    return (text[: min(free)], text[min(free) :]) if free else (text, "")


def takes_back(reason: str, letter: str, options: Mapping[str, str]) -> bool:
    """Whether a reason names another option as the answer, or denies the one that it is for."""
    own, reason = options[letter], _KEY.sub("", reason)
    rejected = _LABELS_REJECTED.findall(reason)
    if any(letter in re.findall(r"\b[A-N]\b", letters) for letters in rejected):
        return True
    reason = _LABELS_REJECTED.sub(" ", reason)
    others = {name: option for name, option in options.items() if option != own and option not in COMMON_WORDS}
    for span in sorted(phrases(reason, others, within=own), key=lambda span: -span.start):
        if _LESS_THAN.search(reason, max(0, span.start - 80), span.start):
            return True
        if (label := _LABEL_BEHIND.match(reason, span.end)) and label[1] == span.letter:
            reason = reason[: span.end] + reason[label.end() :]
        if _MORE_THAN.search(reason, max(0, span.start - 80), span.start):
            reason = reason[: span.start] + reason[span.end :]
        elif found := _NOT_BEFORE.search(reason, max(0, span.start - 40), span.start):
            reason = reason[: found.start()] + reason[span.end :]
    if _RETRACTION.search(reason) or re.search(_DENIED.format(letter), reason):
        return True
    if (named(reason) | strays(reason)) & options.keys() - {letter}:
        return True
    if any(not _is_own(found["is"] or found["of"], letter, own) for found in _CLAIM.finditer(reason)):
        return True
    if own not in COMMON_WORDS and any(
        NEGATION.search(_BEHAVES.sub(" ", words)) for words in _clauses(reason, phrases(reason, {letter: own}))
    ):
        return True
    if own in COMMON_WORDS and {found[1].lower() for found in _CONCLUSION.finditer(reason)} & _common_others(
        options, own
    ):
        return True
    if _ALL_OF_THEM.fullmatch(own):
        return False
    return not _all_rejected(reason, phrases(reason, others, within=own))


def _common_others(options: Mapping[str, str], own: str) -> frozenset[str]:
    return frozenset(option for option in options.values() if option != own) & COMMON_WORDS


def _is_own(claim: str, letter: str, own: str) -> bool:
    words = claim.strip(" ()[]\"'")
    if {words.split(" ")[0].lower(), words.split(" ")[-1].lower()} & _POINTING:
        return True
    labelled = words == letter or words.startswith((f"{letter} ", f"{letter})", f"{letter}:"))
    return labelled or compared(words).startswith(own)


def _all_rejected(reason: str, spans: Sequence[Span]) -> bool:
    """Whether each of these options is rejected where it stands; two rejections of one would take each other back."""
    return all(_REJECTED.search(words) and not _TWICE_REJECTED.search(words) for words in _clauses(reason, spans))


def _clauses(text: str, spans: Sequence[Span]) -> Iterator[str]:
    """Of each clause with options' texts its other words; theirs may themselves deny something."""
    held: dict[int, list[Span]] = {}
    start, last = 0, -1
    for span in sorted(spans, key=lambda span: span.start):
        # In a list of options a comma parts no clauses.
        if last < 0 or not _LISTED.fullmatch(text, last, max(last, span.start)):
            start = max(text.rfind(mark, 0, span.start) for mark in ".;\n,") + 1
        held.setdefault(start, []).append(span)
        last = max(last, span.end)
    for start, inside in held.items():
        position, words = start, []
        for span in sorted(inside, key=lambda span: span.start):
            words.append(text[position : span.start])
            position = max(position, span.end)
        ends = [end for mark in ".;\n," if (end := text.find(mark, position)) >= 0]
        yield " ".join((*words, text[position : min(ends, default=len(text))]))


def named(text: str) -> set[str]:
    """The letters that `text` names as answers."""
    return {letter for groups in _NAMED.findall(text) for letter in groups if letter}


def strays(text: str) -> set[str]:
    """Capital letters that neither begin a clause of their own ("A fails") nor belong to a name ("vitamin C")."""
    return {found[2] for found in _STRAY.finditer(text) if found[1] is None or found[1].lower() not in LETTERED}


def labels(text: str, *, article_at_end: bool = False) -> set[str]:
    """The single letters in `text` that may be labels, in capitals; not articles, pronouns and letters of names.

    With `article_at_end`, an option's text follows: a small "a" at the end of `text` is its article.
    """
    found = set()
    for match in _SINGLE.finditer(text):
        before, single, word = (match[1] or "").lower(), match[2], match[3]
        if before in LETTERED:
            continue
        article = single == "a" and article_at_end and before and re.fullmatch(r"\s", text[match.end(2) :])
        spoken = single in "aAI" and word is not None and word not in _COPULAS
        if (article or spoken) and before not in _LABELLING:
            continue
        found.add(single.upper())
    return found
