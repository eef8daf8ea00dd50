"""The words that a model was trained to be asked in, as a release has them: a prompt file that `data.style` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

PROMPT_FILE = "prompt.yaml"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand as they are, line below line, where YAML can."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML reads line ends of other kinds as its own, but where they are escaped.
    style = '"' if re.search("[\r\x85\u2028\u2029]", text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def prompt_yaml(words: Mapping[str, Any]) -> str:
    """The words as YAML, which reads back as the same to the last character."""
    return yaml.dump(dict(words), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
