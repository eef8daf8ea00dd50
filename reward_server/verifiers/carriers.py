"""What may stand around an answer, and what makes one unreadable: the tables that readers, tests and docs share.

A carrier adds nothing to an answer ("The answer is C"). A refusal is something that a reading cannot account for ("not
C", "C or D", "5-6 mg"): such an answer is never paid, since whatever picked the right part of it would be a guess. The
tables in docs/reward_server.md are printed by `python -m reward_server.verifiers.tables`; tests try every example
of both with every task that it is for.

Left out: any understanding of the sentence. A word that is in no table is no carrier of an option's text.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

Task = Literal["choice", "number", "date", "duration"]
ALL: tuple[Task, ...] = ("choice", "number", "date", "duration")


@dataclasses.dataclass(frozen=True)
class Carrier:
    """Words around an answer.

    Attributes:
        name: what they do.
        pattern: what is peeled off in front of an answer (lead-ins) or accepted behind it (tails).
        examples: templates with `{}` for the answer.
        tasks: whose answers they carry.
    """

    name: str
    pattern: re.Pattern[str]
    examples: tuple[str, ...]
    tasks: tuple[Task, ...] = ALL


def _carrier(name: str, pattern: str, *examples: str, tasks: tuple[Task, ...] = ALL) -> Carrier:
    return Carrier(name, re.compile(pattern, re.IGNORECASE), examples, tasks)


# The words of which sentences about a choice are made. None of them takes anything back, compares or counts.
_FILLER = """
a an the this that these it its it's that's i i'd i'll i'm we you my our your me us he she they his her their
is are am was be being been will would should must has have had does do seems appears looks remains
most more likely probable best correct right true appropriate accurate suitable proper single final only next
initial first-line answer answers option choice response solution letter diagnosis treatment management therapy
intervention test investigation study step drug agent medication medicine cause finding findings mechanism
explanation reason result organism pathogen condition disease disorder statement question case scenario
patient patient's man woman child boy girl infant who
receive receives received
of for to in on at by with from as so thus hence therefore overall here now today immediately urgently first
think believe conclude say choose choosing select pick go going give given giving gives start started starting
begin administer administered treat treated prescribe prescribed order perform obtain use used using try
recommend recommended suggest suggests suggested indicate indicates indicated need needs needed require requires
required diagnosed consistent represents responsible known called clearly definitely certainly strongly confident
sure please presentation clinical symptoms signs features picture suffering point points
"""
_FILLER_WORDS = frozenset(_FILLER.split())
_WORD = re.compile(r"[\s,:;.!()\"]*([^\s,:;.!()\"]+)")

_ADJECTIVE = (
    r"(?:(?:single|final|selected|chosen|predicted|correct|right|best|proper|most likely|most appropriate"
    r"|most probable)\s)*+"
)
_THING = r"(?:answer|option|choice|response|solution|diagnosis|ans)(?:\s(?:choice|option|letter|key))?+(?![a-z])"
_COPULA = r"(?:\s?(?:is|are|would be|should be|must be|will be|remains)(?![a-z])|\s?(?:->|[:=\u2014]|-(?=\s)))"
LEADS = (
    _carrier(
        "the answer is",
        rf"(?:(?:the|my|our)\s)?{_ADJECTIVE}{_THING}(?:\s(?:here|to (?:this|the) question))?+(?:{_COPULA})*+\s?",
        *("The answer is {}", "The correct answer is: {}", "Final answer: {}", "Answer \u2192 {}", "Ans: {}"),
    ),
    _carrier(
        "a conclusion",
        r"(?:so|ok|okay|well|thus|hence|therefore|overall|finally|in conclusion|in summary|to conclude"
        r"|conclusion|as a result|to (?:summari[sz]e|sum up)|in short|in this case|(?:we can|i) conclude that"
        r"|it follows that|this (?:means|suggests|points to|leads(?: us)? to)(?: that)?)(?![a-z])[,:]?\s?",
        *(
            "So {}",
            "Therefore, {}",
            "In conclusion: {}",
            "As a result, {}",
            "To sum up: {}",
            "This means the answer is {}",
        ),
    ),
    _carrier(
        "what it is chosen from",
        r"(?:among|(?:out )?of)\s(?:these|the|all)(?:\s(?:given|listed|available|above|five|four))?"
        r"(?:\s(?:options|choices|answers|ones))?(?:\s(?:given|listed|provided|above))?,\s",
        *("Among the options, {}", "Of these, {}", "Out of the choices given, {}"),
        tasks=("choice",),
    ),
    _carrier(
        "a heading",
        r"\[(?:final )?answer\]:?\s?|(?:final )?answer\s?\n\s?",
        *("[ANSWER] {}", "Final answer\n\n{}"),
        tasks=("choice",),
    ),
    _carrier(
        "what it is based on",
        r"(?:based on|given|considering|according to|with|in view of|from|after)\s"
        r"(?:(?!(?-i:\b[A-N]\b)|\b(?:not|no|wrong|incorrect)\b|n't)[^,.;:\n]){1,120},\s"
        r"(?=(?:the|my|i|we|it|this|so|therefore|thus|option|answer)(?![a-z])"
        r"|(?-i:[(\[]?[A-N][)\]]?(?:[.,:]?$|[.,:]?\s(?:is|would)\s)))",
        *("Based on the findings, the answer is {}", "Given the presentation, it is {}", "Given the above, {}"),
        "After weighing all options, I choose {}",
        tasks=("choice",),
    ),
    _carrier(
        "how sure it is",
        r"(?:probably|(?:most |very )?likely|definitely|certainly|clearly|obviously|undoubtedly|surely|without a doubt"
        r"|i'd say|i would say)(?![a-z])[,:]?\s",
        *("Probably {}", "Most likely: {}", "I'd say {}", "Without a doubt, {}"),
        tasks=("choice",),
    ),
    _carrier(
        "JSON",
        r"[\"'](?:final_|correct_)?(?:answer|option|choice|letter)(?:_(?:choice|option|letter|idx))?[\"']\s?:\s?",
        *('{{"answer": "{}"}}', "{{'answer': '{}'}}"),
        tasks=("choice", "number"),
    ),
    _carrier(
        "I think",
        r"(?:i|we)(?:'m| am| are)?\s(?:(?:fairly|quite|very|pretty)\s)?"
        r"(?:think|believe|conclude|say|would say|confident|sure|certain)(?:\sthat)?\s",
        *("I think the answer is {}", "I'm confident that it is {}"),
    ),
    _carrier("it is", r"(?:it|this|that)(?:'s|\s(?:is|must be|would be|should be))\s?:?\s?", "It is {}", "It's {}"),
    _carrier(
        "I choose",
        r"(?:(?:i|we)(?:'d|'ll|\swould|\swill)?\s)?(?:choose|select|pick|go with|mark)\s"
        r"|let(?:'s| us)\s(?:choose|select|pick|go with)\s",
        *("I choose {}", "Pick {}", "I'd go with {}", "Let's go with {}"),
        tasks=("choice",),
    ),
    _carrier(
        "a kind of label",
        r"(?:option|choice|letter|statement(?=\s[(\[]?[A-N]\b))(?![a-z])[:\s]\s?",
        "Option {}",
        tasks=("choice",),
    ),
    _carrier(
        "the answer, in other languages",
        r"(?:die |la |le |el |il |a |de |\u5219|\u6240\u4ee5|\u56e0\u6b64)?"
        r"(?:(?:richtige|endg\u00fcltige|bonne|juiste|\u6b63\u786e|\u6700\u7ec8|\u6b63\u78ba)\s?)?"
        r"(?:antwort|l\u00f6sung|r\u00e9ponse|respuesta|risposta|resposta|antwoord|\u043e\u0442\u0432\u0435\u0442"
        r"|\u7b54\u6848|\u9009\u62e9|\u9009|\u6b63\u89e3|\u7b54\u3048|\ub2f5|\uc815\ub2f5)"
        r"(?:\s(?:correcta|correcte|corretta|correta|finale?|final))?"
        r"(?:\s?(?:ist|lautet|est|es|\u00e9|\u00e8|is|\u4e3a|\u662f|\u306f|\uc740|\ub294))?\s?[:=]?\s?",
        *("Antwort: {}", "La respuesta correcta es {}", "La r\u00e9ponse est {}", "\u7b54\u6848\uff1a{}"),
        *("\u7b54\u6848\u662f{}\u3002", "\ub2f5\uc740 ({}) \uc785\ub2c8\ub2e4"),
        tasks=("choice",),
    ),
    _carrier("a sentence of words that say nothing", r"(?!)", "The best drug to give now is: {}", tasks=("choice",)),
    _carrier("a number in a list", r"[0-9]{1,2}[.)]\s(?=[(\[]?[A-Za-z])", "1. {}", tasks=("choice",)),
)
_IS = r"(?:is|are|would be|should be|must be|(?:seems|appears)(?: to be)?|looks)(?![a-z])"
TAILS = (
    _carrier(
        "calling it right",
        rf"\s?,?\s?{_IS}(?:\s(?:indeed|clearly|thus))?",
        *("{} is correct", "{} is the most likely diagnosis.", "{} would be the best next step"),
        tasks=("choice",),
    ),
    _carrier("as the answer", r"\s?,?\s?as\s(?:the|my)\s", "{} as the answer", tasks=("choice",)),
    _carrier("final answer", r"\s?,?\s?(?:is\s)?(?:my\s)?final answer", "{}, final answer", tasks=("choice",)),
)
# Words that other languages write onto the answer.
SUFFIXES = (
    _carrier(
        "'it is', in other languages",
        r"\s?(?:\uc785\ub2c8\ub2e4|\uc774\ub2e4|\u3067\u3059)(?=[\s.!]*$)",
        *("{}\uc785\ub2c8\ub2e4", "\ub2f5\uc740 {}\uc785\ub2c8\ub2e4."),
        tasks=("choice",),
    ),
    _carrier(
        "how sure it is, behind it",
        r"(?<![\s,;.(\[-])[\s,;.(\[-]*+(?:confidence(?:\s(?:level|score))?\s?[:=]?\s?"
        r"(?:(?!0+(?:\.0+)?\s?(?:%|/|$))[0-9.]{1,5}\s?%?(?:\s?/\s?10{1,2})?|(?:very )?high|moderate|medium|low)"
        r"|[\"'],\s?[\"']confidence[\"']\s?:\s?(?:[0-9.]{1,5}|[\"'](?:very )?(?:high|low|medium)[\"'])"
        r"|(?!0+\s?%)[0-9]{1,3}\s?%\s(?:confidence|confident|sure|certain))[\s.)\]]*$",
        *("{}\nConfidence: 95%", "{} (95% confidence)", "{}. Confidence: high"),
        tasks=("choice",),
    ),
    _carrier("a citation", r"(?<=[\w.)])(?:\s?\[[0-9]{1,2}\]){1,9}[\s.]*$", "{} [1]", "{}.[2][3]", tasks=("choice",)),
)
REASON = _carrier(
    "a reason",
    r"\s?[,;.:(\u2014-]?\s?(?:because|since|due to|owing to|based on|for the reason|given (?:that|the|his|her)"
    r"|as (?:it|this|the|these|he|she|they|there)"
    r"|reason(?:ing)?:|explanation:|rationale:|justification:)(?![a-z])",
    *("{} because the others do harm", "{}, since she has a clot", "{}. Explanation: it fits best"),
    tasks=("choice",),
)
# What begins a reason; whatever follows is read only for what it takes back.
REASONS = (
    REASON,
    _carrier(
        "a sentence behind it",
        r"\s?[.;:\n\u2014]\s?(?:options?|choices?|none of"
        r"|this|these|the|it|its|he|she|they|that|here|there|keep|note|remember|his|her|their"
        r"|in|with"
        r"|given|as|because|since|based|due|patients?|we|my|i hope|treatment|diagnosis|reason|explanation"
        r"|rationale)\s(?=\S+\s\S)",
        *("{}. This drug acts on antithrombin.", "The answer is {}. Keep in mind that A is often picked by mistake."),
        tasks=("choice",),
    ),
    _carrier(
        "what it explains",
        r"\s(?:(?:best|most|clearly)\s)?(?:explains?|accounts?\sfor|fits?|matches|describes?"
        r"|(?:is|are)\s(?:most\s|best\s)?(?:consistent\swith|supported\sby|explained\sby))\b",
        *("{} best explains the findings", "{} fits.", "{} is most consistent with the presentation"),
        tasks=("choice",),
    ),
    _carrier(
        "the others rejected",
        r"\s?[.;\n]\s?(?=(?-i:\(?[A-N]\)?(?:,\s(?:and\s)?\(?[A-N]\)?|\s(?:and|or)\s\(?[A-N]\)?)*\s(?:is|are)\s"
        r"(?:all\s|both\s|each\s|less\s)?(?:wrong|incorrect|false|unlikely|likely|not)\b))",
        *("{}. A, B and D are incorrect.", "{}; B is wrong because there is no fever"),
        tasks=("choice",),
    ),
    _carrier(
        "a reason in JSON",
        r"[\"'],\s?[\"'](?:explanation|reason(?:ing)?|rationale|justification)[\"']\s?:\s?",
        '{{"answer": "{}", "explanation": "It acts fast."}}',
        tasks=("choice",),
    ),
)

NEGATION = re.compile(
    r"(?<![^\W\d_])(?:no|not|cannot|never|neither|nor|none|non|nothing|without|except|excepting|incorrect|wrong"
    r"|false|unlikely|impossible"
    r"|exclude[sd]?|excluding|ruled? out|rules out|ruling out|rather than|instead of|as opposed to|against"
    r"|avoid(?:s|ed)?"
    r"|stop(?:s|ped)?|discontinued?|withh[eo]ld|contraindicated|inappropriate|harmful|absent|absence|lacks?"
    r"|negative|less likely|least|reject(?:s|ed)?|den(?:y|ies|ied)"
    r"|undetermined|indeterminate|unknown|unable|all of|any of|all options|untrue|invalid)\b|n't\b",
    re.IGNORECASE,
)
ALTERNATIVE = re.compile(
    r"(?<![^\W\d_])(?:or(?!\sso\b)|either|alternatively|otherwise|versus|vs|between|rang(?:e|es|ing)|respectively)\b",
    re.IGNORECASE,
)
# Words that make a bound of the amount behind them or in front of them.
_BOUND_BEFORE = re.compile(
    r"(?:\bthan|\bat (?:the )?(?:least|most)|\bup to|\bover|\bunder|\babove|\bbelow|\bbeyond|\bexceed(?:s|ing)?"
    r"|\bin excess|\bupwards?|\b(?:max|min)\.|\bmax(?:imum)?|\bminimum|\b(?:upper|lower) (?:bound|limit)|\blimit"
    r"|\bas (?:low|high|little|much|many|few|small|great|large|early|late|long|short) as|\bwithin|\bbefore|\bafter"
    r"|\bprior to|\bfollowing|\buntil|\btill|\bsince|\bevery|<|(?<!-)>|\u00b1)"
    r"(?:[\s:=~\u2248]|\b(?:about|approx(?:imately)?|roughly|around|circa|ca|some|nearly|almost|or equal to"
    r"|equal to|the|an?|value|of|is)\b\.?){0,9}$",
    re.IGNORECASE,
)
_BOUND_BEHIND = re.compile(
    r"\s?(?:\+|(?:or|and) (?:more|less|fewer|higher|lower|greater|above|below|over|under|up|older|younger"
    r"|later|earlier)\b"
    r"|plus\b|minus\b|less\b|ago\b|short of\b)"
    r"|[^.;\n]{0,30}?\b(?:at (?:the )?(?:least|most|latest|earliest)\b"
    r"|too (?:low|high|early|late|small|large|long|short|few|many|much)\b"
    r"|(?:max(?:imum)?|minimum|upwards?|onwards?|(?:upper|lower) (?:limit|bound))(?=[\s.!)\"']*(?:$|[\n;]))"
    r"|is (?:the |an? )?(?:max(?:imum)?|minimum|(?:upper|lower) (?:limit|bound))\b)",
    re.IGNORECASE,
)
_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_TENS = "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = dict(zip(f"{_ONES} {_TENS}".split(), (*range(20), *range(20, 100, 10)), strict=True))
# Amounts in words that no digit says.
COUNTED = re.compile(
    r"(?<![^\W\d_])(?:hal(?:f|ves|ved)|quarters?|thirds|tens|tenths?|hundredths?|hundreds?|thousandths?|dozens?|couple"
    r"|pairs?|gross|doubled?|tripled?|quadrupled?|twice|thrice|fortnights?|thousands?|thou|millions?|billions?|trillions?"
    r"|lakhs?|lacs?|crores?|myriads?|mio|mln|bn|mrd|tsd|tausend|mil|mille|mil(?:l)?iards?|milliarden?|millionen|mil(?:l)?ones"
    r"|mill\u00f3n|giga|mega|kilo|centi|milli|micro|nano|\u0442\u044b\u0441(?:\u044f\u0447)?|\u043c\u043b\u043d"
    r"|\u043c\u043b\u0440\u0434|fold)\b"
    r"|(?<![^\W\d_])(?:third|fourth|fifth|sixth|seventh|eighth|ninth)\sof\b",
    re.IGNORECASE,
)
_LETTER_WORDS = re.compile(r"[^\W\d_]+")


def lead_length(text: str) -> int:
    """How many characters of `text` are lead-ins, counted to the start of the answer proper; 0 without any."""
    position = 0
    for _ in range(6):
        ends = (found.end() for lead in LEADS if (found := lead.pattern.match(text, position)))
        further = next((end for end in ends if end > position), position)
        if further == position:
            further = _sentence_end(text, position)
        if further == position:
            break
        position = further
    return position


def _sentence_end(text: str, start: int) -> int:
    """Behind the last "is", "are", "be" or colon of the words that say nothing: "The best drug to give now is:"."""
    position = end = start
    while found := _WORD.match(text, position):
        # A letter may be a label: nothing in front of it is passed over together with it.
        if len(found[1]) == 1 or found[1].lower() not in _FILLER_WORDS:
            break
        position = found.end()
        if found[1].lower() in ("is", "are", "be", "with") or text[position : position + 1] == ":":
            spaces = re.compile(r"[:\s]*").match(text, position)
            end = spaces.end() if spaces else position
    return end


def filler_length(text: str, start: int = 0) -> int:
    """How many characters from `start` on are words of _FILLER_WORDS and punctuation."""
    position = start
    while found := _WORD.match(text, position):
        if found[1].lower() not in _FILLER_WORDS and found[1] != "->":
            break
        position = found.end()
    return position - start


def is_filler(text: str) -> bool:
    """Whether `text` says nothing: words of _FILLER_WORDS, punctuation, dashes that stand apart."""
    position = filler_length(text)
    return not re.search(r"[^\s,:;.!()\"\u2014]", text[position:].replace(" - ", " "))


def is_bound(text: str, start: int, end: int) -> bool:
    """Whether the amount at text[start:end] only bounds another: "at least 5", "5 or more", "before 09/03/2014"."""
    return bool(_BOUND_BEFORE.search(text[max(0, start - 50) : start]) or _BOUND_BEHIND.match(text, end))


def number_words(text: str) -> list[int]:
    """The numbers from zero to ninety that are written out in `text`, each word for itself."""
    return [NUMBER_WORDS[word] for word in _LETTER_WORDS.findall(text.lower()) if word in NUMBER_WORDS]
