"""What all pages share: templates, styles, scripts, and texts that cannot become markup."""

from __future__ import annotations

import functools
import json
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def page_parts(template: str, *, title: str, data: Any, **values: Any) -> str:
    """A page of a template: ``values`` and, for its pictures, ``data``; every text is escaped."""
    return (
        environment()
        .get_template(template)
        .render(
            title=title,
            version=_version(),
            css=file_text("report.css"),
            js=file_text("report.js"),
            plotly=_plotly(),
            data=_inert(data),
            **values,
        )
    )


@functools.cache
def environment() -> Environment:
    """The templates, with every value escaped."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def file_text(name: str) -> Markup:
    """A style sheet or script of ours."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs().replace("</script", "<\\/script"))


def _version() -> str:
    from nlp_transfer import __version__

    return __version__


def _inert(value: Any) -> Markup:
    """JSON that can end no script element and start no comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def plain_text(text: str) -> str:
    """A text that Plotly shows as it is: its pseudo-HTML is escaped."""
    return escape(str(text), quote=False)
