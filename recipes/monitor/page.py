"""The frame of all pages: one file each, which loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template

NOT_MEDICAL = "Not for medical use"


def framed(
    main: str,
    *,
    kind: str,
    title: str,
    subtitle: str,
    links: Mapping[str, str],
    banner: str = NOT_MEDICAL,
    style: str = "",
) -> str:
    """A whole page.

    Args:
        main: HTML of its body.
        kind, title, banner: plain text: what it is a page of, its name, and what stands above and below all.
        subtitle: HTML.
        links: headings by anchor, for the navigation.
        style: CSS beside that of all pages.
    """
    style, script = asset("page.css") + style, asset("page.js")
    return Template(asset("page.html")).substitute(
        style=style,
        script=script,
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
        kind=escape(kind),
        title=escape(title),
        banner=escape(banner),
        subtitle=subtitle,
        links="".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading in links.items()),
        main=main,
    )


def asset(name: str) -> str:
    """One of the files that pages are made of."""
    return files("recipes.monitor").joinpath(name).read_text(encoding="utf-8")


def _content_hash(content: str) -> str:
    """The hash by which a page's policy knows its style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
