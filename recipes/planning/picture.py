"""A plan as one SVG picture: memory while models train and while sampling, a step's time line, and its longest phase.

Colours are Okabe-Ito's, and every piece carries its name and value as a title; the report's charts stretch and react,
this one is for a page or a slide. Left out: scales to read values from; the values stand in the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from recipes.planning.estimate import Plan

_COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#999999", "#e69f00", "#d55e00", "#cc79a7", "#f0e442", "#000000")
_ON_DARK = {"#0072b2": "#ffffff", "#000000": "#ffffff"}
_WIDTH, _LEFT, _BAR = 960, 190, 34
_INNER = _WIDTH - _LEFT - 30
# A piece narrower than this has no room for its name; the legend has it.
_ROOM_A_LETTER = 7
_INK = "#18212b"
_SAVES = ("saving", "critic saving")
_CRITICS = "critic "


def as_svg(plan: Plan) -> str:
    """The picture, a document of its own."""
    memory, limit = plan.memory, plan.gpu.memory
    largest = max(memory.peak, limit) * 1.02
    gigabyte = {
        phase: {name: size / 1e9 for name, size in parts.items()}
        for phase, parts in memory.phases.items()
        if phase not in _SAVES
    }
    colours = _colours(list(dict.fromkeys(name for parts in gigabyte.values() for name in parts)))
    marks = [
        _text(20, 34, f"{plan.config.name}: memory and time of a step", 18, bold=True),
        _text(20, 56, "An estimate; nothing was measured.", 13),
        _text(20, 92, f"Memory of the fullest GPU: {plan.verdict}", 14, bold=True),
    ]
    top = 108
    for phase, parts in gigabyte.items():
        marks += _bar(f"{phase}, {sum(parts.values()):.1f} GB", parts, top, largest / 1e9, colours, "GB")
        top += 46
    x = _LEFT + _INNER * limit / largest
    marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="100" y2="{top - 6}" stroke="#d00000" stroke-dasharray="5 3"/>')
    marks.append(_text(x - 4, top + 6, f"{limit / 1e9:.0f} GB", 12, end=True))
    named, top = _legend(colours, top + 28)
    marks += [*named, _text(20, top + 44, f"A step, {plan.step_seconds:.0f} s", 14, bold=True)]
    longest = max(plan.seconds, key=lambda name: plan.seconds[name])
    top += 60
    for label, parts in (("phases", plan.seconds), (longest, plan.phases[longest])):
        tones = dict(zip(parts, _COLOURS, strict=False))
        marks += _bar(label, parts, top, sum(parts.values()), tones, "s")
        named, top = _legend({f"{name} {parts[name]:.1f} s": colour for name, colour in tones.items()}, top + 44)
        marks, top = marks + named, top + 42
    said = f"Peak {memory.peak / 1e9:.1f} of {limit / 1e9:.0f} GB, {plan.step_seconds:.0f} seconds a step, estimated."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" '
        'aria-labelledby="title about" font-family="system-ui, sans-serif">\n'
        f'<title id="title">Plan of {escape(plan.config.name)}</title>\n<desc id="about">{said}</desc>\n'
        f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>\n' + "\n".join(marks) + "\n</svg>\n"
    )


def _colours(parts: Sequence[str]) -> dict[str, str]:
    """A colour for each part of memory; a critic's is its policy's in pale."""
    own = [part for part in parts if not part.startswith(_CRITICS)]
    colours = dict(zip(own, _COLOURS, strict=False))
    for part in parts:
        if part.startswith(_CRITICS):
            like = next(each for each in own if each.startswith(part.removeprefix(_CRITICS)))
            colours[part] = _pale(colours[like])
    return colours


def _pale(colour: str) -> str:
    """Half of the way to white."""
    return "#" + "".join(f"{(int(colour[at : at + 2], 16) + 255) // 2:02x}" for at in (1, 3, 5))


def _bar(
    label: str, parts: Mapping[str, float], top: int, largest: float, colours: Mapping[str, str], unit: str
) -> list[str]:
    marks, x = [_text(_LEFT - 10, top + 22, label, 13, end=True)], float(_LEFT)
    for name, value in parts.items():
        width = _INNER * value / largest
        marks.append(
            f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colours[name]}" stroke="#ffffff">'
            f"<title>{escape(name)} {value:.1f} {unit}</title></rect>"
        )
        shown = f"{value:.0f}"
        if width > _ROOM_A_LETTER * (len(shown) + 2):
            marks.append(_text(x + 6, top + 22, shown, 12, colour=_ON_DARK.get(colours[name], _INK)))
        x += width
    return marks


def _legend(colours: Mapping[str, str], top: int) -> tuple[list[str], int]:
    """Its marks, and where its last line is."""
    marks, x = [], 20.0
    for name, colour in colours.items():
        width = 30 + _ROOM_A_LETTER * len(name)
        if x + width > _WIDTH:
            x, top = 20.0, top + 24
        marks.append(f'<rect x="{x:.0f}" y="{top}" width="14" height="14" fill="{colour}"/>')
        marks.append(_text(x + 20, top + 12, name, 13))
        x += width + 10
    return marks, top


def _text(
    x: float, y: float, text: str, size: int, *, bold: bool = False, end: bool = False, colour: str = _INK
) -> str:
    extra = (' font-weight="600"' if bold else "") + (' text-anchor="end"' if end else "")
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" fill="{colour}"{extra}>{escape(text)}</text>'
