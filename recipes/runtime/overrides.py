"""Settings as people type them, made into what Hydra's grammar takes; mistakes in them told in sentences.

Hydra reads `=`, quotes, commas, brackets, `~` and letters beyond ASCII in a value as grammar or not at all. Here a text
setting, such as a path, is what stands behind its first `=`, and each file of a list what stands between commas. In
quotes a text is read as Hydra reads it, so a comma in a file's name is written data.train=['a,b.jsonl'].

Left out: Hydra's own settings (hydra.*), sweeps and deletions, which have no effect here.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from recipes.runtime.config import Config, ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LISTED = f"(the keys are listed in {CONFIGS.name}/ and recipes/runtime/config.py)"
# An element of a list: quoted as a whole, or all up to the next comma.
_ELEMENT = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?=\s*(?:,|$))|[^,]*""")


def leaves(kind: type[Any] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the schema with its type, sections as `section.key`."""
    for name, hint in get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from leaves(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def as_hydra_reads(overrides: Sequence[str]) -> list[str]:
    """The same overrides in Hydra's grammar.

    Raises:
        ConfigError: one is no `key=value`, or names a key or a file of `configs/` that is not there; with the nearest
            that is.
    """
    kinds = dict(leaves())
    chosen: dict[str, str] = {}
    made = []
    for override in overrides:
        key, equals, value = override.partition("=")
        key = key.strip()
        if not equals or not key.lstrip("+"):
            raise ConfigError(f"{override}: expected key=value, such as trainer.steps=100, or GROUP=NAME")
        name = key.lstrip("+")
        group = CONFIGS / name
        if name == "prompt":
            raise ConfigError(f"prompt={value}: a prompt is chosen by data.style={value}")
        if re.fullmatch(r"\w+", name) and group.is_dir():
            _check_file(group, value.strip())
            if chosen.setdefault(name, value) != value:
                raise ConfigError(f"{name}={chosen[name]} and {name}={value}: only one of them can be meant")
        elif name in kinds:
            value = _value(name, kinds[name], value)
        else:
            _check_known(name, kinds)
        made.append(f"{key}={value}")
    return made


def as_text(path: object) -> str:
    """A path as the value of a setting that is a text; unescaped, `${` would begin the name of another setting."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", str(path))


def quoted(text: str) -> str:
    """A text in Hydra's quotes; backslashes count there only before a quote."""
    # At the end the closing quote comes next.
    escaped = re.sub(r"(\\*)(')", r"\1\1\\\2", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _value(key: str, kind: Any, value: str) -> str:
    if kind in (str, str | None):
        null = kind is not str and value.strip() == "null"
        return value if null or _is_quoted(value.strip()) else quoted(value)
    text = value.strip()
    if kind != list[str] or text.startswith("${"):
        # Hydra's grammar knows no line ends.
        return re.sub(r"\s", " ", value)
    if not (text.startswith("[") and text.endswith("]")):
        raise ConfigError(f"{key}={value}: expected a list; give it as {key}=[{value}]")
    return f"[{','.join(each if _is_quoted(each) else quoted(each) for each in _elements(text[1:-1]))}]"


def _elements(text: str) -> Iterator[str]:
    while text := text.strip():
        found = _ELEMENT.match(text)
        assert found is not None
        yield found[0].strip()
        text = text[found.end() :].lstrip().removeprefix(",")


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\""


def _check_file(group: Path, name: str) -> None:
    files = sorted(path.stem for path in group.glob("*.yaml"))
    if name not in (*files, "null"):
        raise ConfigError(f"{group.name}={name}: expected one of {', '.join(files)}{_nearest(name, files)}")


def _check_known(name: str, kinds: Iterable[str]) -> None:
    sections = {field.name for field in dataclasses.fields(Config)}
    # Of dictionaries the schema does not list the keys, and a section may be given whole.
    if name in sections or any(name.startswith(f"{key}.") for key in kinds) or "@" in name:
        return
    if name.startswith("hydra."):
        raise ConfigError(f"{name}: Hydra's own settings have no effect here; a run's folder is output=FOLDER")
    last = {key.rpartition(".")[2]: key for key in kinds}
    # The key in another section, or without its section, perhaps misspelt as well.
    same = difflib.get_close_matches(name.rpartition(".")[2], last, n=1)
    hint = _nearest(name, list(kinds)) or (f"; did you mean {last[same[0]]}?" if same else "")
    raise ConfigError(f"{name} is no setting{hint} {LISTED}")


def _nearest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def reason(error: Exception) -> str:
    """What Hydra or OmegaConf refused, in one line that names the key."""
    text = str(error.__cause__ or error)
    named = re.search(r"full_key: (\S+)", text)
    first = text.split("\n")[0].strip()
    typed = re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", first)
    if typed and named:
        wanted = {"Integer": "a whole number", "Float": "a number"}
        first = f"expected {wanted.get(typed[2], typed[2])}, found '{typed[1]}'"
    if "nterpolation" in first or "GrammarParseError" in type(error).__name__:
        first += "; where ${ is part of a text, write \\${"
    if named and "is not a valid bool" in first:
        first = f"expected true or false, found {first.removeprefix('Value ').split(' is not')[0]}"
    override = getattr(error, "override", None) or getattr(error.__cause__, "override", None)
    if override:
        first = f"{override}: cannot be read; put a text in quotes, key='TEXT'"
    return f"{named[1]}: {first} {LISTED}" if named else f"{first} {LISTED}"
