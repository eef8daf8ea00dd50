r"""Plain characters: what stands on paper, whichever code points, Markdown, LaTeX or HTML it was written with.

Everything that a verifier or an option's text goes through first, and the only place where characters are exchanged.
Marks that change a meaning stay to be refused: strike-through, `\sqrt`, unknown commands, symbols of comparison.

Left out: repair of broken markup; a lone `{` or `**` falls away where it can have no meaning.
"""

from __future__ import annotations

import dataclasses
import html
import re
import unicodedata

# Seen by no reader: zero-width characters, direction marks, soft hyphens, fillers, variation selectors, tags.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060\u2061\u2065-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]+"
)
# What a font draws as nothing besides: Braille without a dot.
_UNSEEN = re.compile(f"{_INVISIBLE.pattern}|\u2800+")
# Spaces and controls of ASCII.
_UNPRINTED = "".join(map(chr, (*range(33), 127)))
# Control characters, which no verifier reads, and the invisible operators of mathematics, which part their neighbours.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_PARTING = re.compile("[\u2062-\u2064]")
_RAISED_DIGITS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b"
_RAISED = re.compile(f"[{_RAISED_DIGITS}]+")
_LOWERED_DIGITS = "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089"
_LOWERED = re.compile(f"(?<=[0-9])[{_LOWERED_DIGITS}]+")
_TO_PLAIN = str.maketrans(_RAISED_DIGITS + _LOWERED_DIGITS, "0123456789+-0123456789")
# Characters that are numbers of their own: vulgar fractions, circled and bracketed numbers.
_NUMBER_CHARACTERS = re.compile(
    "[\u00bc-\u00be\u2150-\u215e\u2189\u2460-\u249b\u24ea-\u24ff\u2776-\u2793\u3251-\u32bf]"
)
# The German letter in the place of beta.
_SHARP_S = re.compile("(?<![^\\W\\d_])\u00df(?![^\\W\\d_])")
_WIDE_DIGITS = re.compile(r"[^\W\D0-9]")
# Cyrillic and Greek letters that no reader can tell from Latin ones; exchanged in words that hold no others.
_LOOKALIKES = str.maketrans(
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0430\u0435\u0455\u0456"
    "\u0458\u043e\u0440\u0441\u0443\u0445\u0501\u051b\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1"
    "\u03a4\u03a5\u03a7\u03bf\u2c9f",
    "ABESIJKMHOPCTYXaesijopcyxdqABEZHIKMNOPTYXoo",
)
_WORD_OF_LOOKALIKES = re.compile(f"(?<!\\w)(?:[A-Za-z]*[{''.join(map(chr, _LOOKALIKES))}]+[A-Za-z]*)+(?!\\w)")
# Micro, ohm and pi stay: they belong to numbers.
_GREEK_LETTERS = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda . nu xi omicron . rho sigma sigma tau upsilon phi chi
psi omega
"""
_GREEK_NAMES = _GREEK_LETTERS.split()
GREEK_NAMES = tuple(name for name in _GREEK_NAMES if name != ".")
_GREEK = str.maketrans(
    {
        **{chr(0x3B1 + place): name for place, name in enumerate(_GREEK_NAMES) if name != "."},
        **{chr(0x391 + place): name.title() for place, name in enumerate(_GREEK_NAMES[:-1]) if name != "."},
        "\u03d1": "theta",
        "\u03d5": "phi",
        "\u03f5": "epsilon",
    }
)
_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\u02d7\u2796\ufe58", "-"),
        **dict.fromkeys("\u2014\u2015\u2e3a\u2e3b\u30fc", " \u2014 "),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u02b9\u2032\u2039\u203a", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u300c\u300d\u300e\u300f", '"'),
        **dict.fromkeys("\u3010\u3014\u3016\u3018\u27e8\u27ea\u301a", "("),
        **dict.fromkeys("\u3011\u3015\u3017\u3019\u27e9\u27eb\u301b", ")"),
        **dict.fromkeys("\u2044\u2215\u29f8", "/"),
        **dict.fromkeys("\u00d7\u22c5\u00b7\u2219\u2217\u2715\u2716\u2a2f\u2a09", "*"),
        **dict.fromkeys("\u2192\u21d2\u27f6\u27f9\u2794\u279c\u279e\u27a1\u21a6\u27a4\u25b6", " -> "),
        **dict.fromkeys("\u3002\uff61", ". "),
        **dict.fromkeys("\u3001\uff64\u060c", ", "),
        **dict.fromkeys("\u2245\u2243\u223c\u2248", "\u2248"),
        **dict.fromkeys("\u2264\u2a7d", "<="),
        **dict.fromkeys("\u2265\u2a7e", ">="),
        **dict.fromkeys("\u2260\u2262", "!="),
        "\u066b": ".",
        "\u066c": ",",
        "\u066a": "%",
        "\u2236": ":",
        "\u2795": "+",
    }
)


@dataclasses.dataclass(frozen=True)
class Markup:
    """A way of marking up an answer, and what stands on paper instead.

    Attributes:
        name: what it is.
        pattern: where it stands.
        paper: the replacement, as for `re.sub`.
        example: a template with `{}` for the answer; None where it marks up a part of one.
    """

    name: str
    pattern: re.Pattern[str]
    paper: str
    example: str | None = None


def _markup(name: str, pattern: str, paper: str, example: str | None = None) -> Markup:
    return Markup(name, re.compile(pattern, re.MULTILINE), paper, example)


_WRAPPERS = (
    r"\\(?:boxed|fbox|mbox|emph|underline|bm|boldsymbol|displaystyle|left|right|bf|rm|it|large|Large|huge|bigl?|bigr?"
    r"|ce|text(?:bf|rm|it|sf|tt|up|normal|md)?|math(?:bf|rm|it|sf|tt|bb|cal|normal))(?![A-Za-z]) ?"
)
# In this order: a fraction is read before its braces fall.
MARKUP = (
    _markup("special tokens", r"<\|[a-z_]{2,20}\|>|(?:</s>|<eos>|<end_of_turn>)\s*\Z", "", "{}<|im_end|>"),
    _markup("ticks", "[\u2705\u2714\u2611\U0001f449]\ufe0f?", " ", "\u2705 {}"),
    _markup("HTML raised digits", r"<sup> ?([+-]?[0-9]{1,9}|[0-9]?[+-]) ?</sup>", r"^\1"),
    _markup("HTML lowered digits", r"(?<=[A-Za-z])<sub> ?([0-9]{1,2}) ?</sub>", r"\1"),
    _markup(
        "HTML tags",
        r"</?(?:b|i|u|em|strong|p|br|span|div|code|pre|mark|small|li|ul|ol|center|h[1-6])(?:\s[^<>\n]{0,99})?/?>",
        " ",
        "<b>{}</b>",
    ),
    _markup("LaTeX spaces", r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|(?<=\\)~|(?<=[0-9])~(?=\\)", " "),
    _markup("LaTeX line breaks", r"\\\\", "\n"),
    _markup("LaTeX brackets", r"\\[()\[\]]", " ", r"\( {} \)"),
    _markup("LaTeX display brackets", r"\$\$", " ", "$${}$$"),
    _markup("LaTeX thousands", r"(?<=[0-9])\{,\}(?=[0-9])", ","),
    _markup(
        "LaTeX fractions",
        r"\\[dtc]?frac(?: ?\{ ?([0-9.,]{1,30}) ?\} ?\{ ?([0-9.,]{1,30}) ?\}|([0-9])([0-9])|\s([0-9])\s([0-9]))",
        r" \1\3\5/\2\4\6 ",
    ),
    _markup("LaTeX lowered digits", r"(?:(?<=[A-Z])|(?<=[A-Za-z]{2}))\}? ?_ ?\{? ?([0-9]{1,2})(?![0-9.,]) ?\}?", r"\1"),
    _markup("LaTeX wrappers", _WRAPPERS, "", r"\boxed{{\text{{{}}}}}"),
    _markup("LaTeX times", r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
    _markup("LaTeX about", r"\\(?:approx|simeq|sim|cong)(?![A-Za-z])", "\u2248"),
    _markup("LaTeX plus or minus", r"\\pm(?![A-Za-z])", "\u00b1"),
    _markup("LaTeX degrees", r"\^? ?\{?\\(?:circ|degree)(?![A-Za-z])\}?", "\u00b0"),
    _markup("LaTeX arrows", r"\\(?:to|implies|(?:long)?(?:r|R)ightarrow)(?![A-Za-z])", "->"),
    _markup("LaTeX up", r"\\(?:uparrow|nearrow)(?![A-Za-z])", "\u2191 "),
    _markup("LaTeX down", r"\\(?:downarrow|searrow)(?![A-Za-z])", "\u2193 "),
    _markup(
        "LaTeX letters",
        rf"\\(?:var)?((?i:{'|'.join(GREEK_NAMES)}))(?![A-Za-z])",
        r"\1",
    ),
    _markup("LaTeX comparison", r"\\(?:le|leq|lt|leqslant)(?![A-Za-z])", "<"),
    _markup("LaTeX comparison, the other way", r"\\(?:ge|geq|gt|geqslant)(?![A-Za-z])", ">"),
    _markup("LaTeX inequality", r"\\neq?(?![A-Za-z])", "!="),
    _markup("LaTeX micro", r"\\mu(?![A-Za-z])", "\u03bc"),
    _markup("escaped symbols", r"\\([%$&#_*`\"'.-])", r"\1"),
    _markup("LaTeX powers", r"\^ ?\{ ?([^{}\n]{0,30}?) ?\}", r"^\1"),
    _markup("LaTeX groups", r"\} ?\{", " "),
    _markup("LaTeX braces", r"[{}]", ""),
    _markup("LaTeX mathematics in a word", r"\$(?=[-+][A-Za-z])|(?<=[A-Za-z]-)\$", ""),
    _markup("LaTeX mathematics", r"\$", " ", "${}$"),
    _markup("code", r"```(?:text|markdown|latex|json)?|`", " ", "`{}`"),
    _markup("italic within bold", r"(?<![\d)*])\*\*(?=[^\s*])([^*\n]{0,999})\*([^*\n]{1,999})\*\*\*(?![\d*])", r"\1\2"),
    _markup("bold", r"(?<![\d)*])(\*\*\*?)(?=[^\s*])([^*\n]{0,999}[^*\s])\1(?![\d*])", r"\2", "**{}**"),
    _markup("italic", r"(?<![\w)*])\*(?=[^\s*])([^*\n]{0,999}[^*\s])\*(?![\w*])", r"\1", "*{}*"),
    _markup("underscores", r"(?<!\w)(__?)(?=[^\s_])([^_\n]{0,999}[^_\s])\1(?!\w)", r"\2", "__{}__"),
    _markup("headings", r"^ ?#{1,6} ", "", "### {}"),
    _markup("rows of a table's head", r"^ ?\|(?:[^|\n]{1,60}\|){2} ?\n ?\|(?: ?:?-{2,}:? ?\|){2} ?\n", ""),
    _markup("a table row", r"^ ?\| ?([^|\n]{1,60}?) ?\| ?([^|\n]{1,60}?) ?\| ?$", r"\1: \2", "| Answer | {} |"),
    _markup("quotation", r"^ ?> ?(?=[^\s\d.>+-])", "", "> The answer is {}"),
    _markup("bullets", r"^ ?(?:[*\u2022\u25cf\u25aa\u2023] |[-+] (?=[^\s\d.+-]))", "", "\u2022 {}"),
    _markup("table cells", r"^ ?\| ?|(?<! ) ?\| ?$", "", "| {} |"),
    _markup("loose stars", r"\A[\s*]+|(?<![\d*\s])[\s*]+\Z", ""),
)
_MARKED = re.compile(
    r"[\\*_`$<>#|{}\u2022\u25cf\u25aa\u2023\u2705\u2714\u2611\U0001f449]|^[ \t]{0,8}[-+]\s", re.MULTILINE
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z]{2,8});")


def clean(text: str) -> str:
    """The text as it stands on paper: plain characters, no markup, single spaces; line breaks stay, one at a time.

    Raised digits come after `^`, fractions of one character as `1/2`, long dashes stay apart from minus signs.
    """
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    # Markup before characters: a times sign must not become a star that Markdown takes for its own.
    if _MARKED.search(text):
        text = _single_spaces(text)
        for markup in MARKUP:
            text = markup.pattern.sub(markup.paper, text)
    return _single_spaces(characters(text))


def readable(answer: str, most: int) -> str | None:
    """`clean` of an answer; None when it has more than `most` characters, as written or as it stands on paper."""
    # A single character may be a whole phrase on paper.
    if len(answer) > most or len(unicodedata.normalize("NFKC", answer)) > 2 * most:
        return None
    text = clean(answer)
    return None if len(text) > most else text


def _single_spaces(text: str) -> str:
    return "\n".join(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)


def characters(text: str) -> str:
    """NFKC with the exceptions that keep a meaning: raised and lowered digits, fractions, look-alikes, dashes."""
    text = _CONTROL.sub("\ufffd", text)
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", _PARTING.sub(" ", text))
    text = _RAISED.sub(lambda found: "^" + found[0].translate(_TO_PLAIN), text)
    text = _LOWERED.sub(lambda found: "_" + found[0].translate(_TO_PLAIN), text)
    text = _NUMBER_CHARACTERS.sub(lambda found: f" {found[0]} ", text)
    text = unicodedata.normalize("NFKC", text).translate(_PUNCTUATION)
    text = _SHARP_S.sub("beta", text)
    text = _WIDE_DIGITS.sub(lambda found: str(unicodedata.digit(found[0])), text)
    return _WORD_OF_LOOKALIKES.sub(lambda found: found[0].translate(_LOOKALIKES), text).translate(_GREEK)


# A mark and the word for it.
_SPELLED_OUT = (
    (re.compile("[\u2191\u21d1\u2b06\u25b2\u2197]\\s?"), "increased "),
    (re.compile("[\u2193\u21d3\u2b07\u25bc\u2198]\\s?"), "decreased "),
    (re.compile(r"\s?&\s?"), " and "),
    (re.compile(r"(?:(?<=[A-Za-z])|(?<=[A-Za-z][0-9]))\^(?=[0-9]?[+-])"), ""),
)


def is_blank(text: str) -> bool:
    """Whether a reader would see nothing: no character but spaces, controls, invisible marks and fillers."""
    if text.isascii():
        return not text.strip(_UNPRINTED)
    return all(unicodedata.category(character)[0] in "ZC" for character in _UNSEEN.sub("", text))


def spelled_out(plain: str) -> str:
    """Plain text with arrows and ampersands in words, and charges on the line: "Na+" for "Na^+"."""
    for pattern, words in _SPELLED_OUT:
        plain = pattern.sub(words, plain)
    return plain
