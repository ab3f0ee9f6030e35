"""Transcripts as HTML, the templates of all pages, and the string cleaning that all renderers share."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any

from ..types import JsonObject
from .transcripts import search_groups

if TYPE_CHECKING:
    from jinja2 import Environment

_LINE_CHARACTERS = "\n\t"
_THOUGHT = re.compile(r"(<think>.*?(?:</think>|\Z))", re.DOTALL)


def clean(text: str) -> str:
    """Make a string safe to print: control and format characters become visible symbols or the replacement character.

    Line breaks and tabs are kept. Escape sequences, carriage returns, bidirectional overrides and lone surrogates have
    no effect any more.
    """
    if text.isprintable():
        return text
    return "".join(char if char in _LINE_CHARACTERS or char.isprintable() else _picture(char) for char in text)


def _picture(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return " " if unicodedata.category(char) == "Zs" else "\ufffd"


@cache
def load_templates(*packages: str) -> Environment:
    """The jinja templates in the folders `templates/` of packages, with those of this package.

    Every value that a template writes is escaped and cleaned (see `clean`), except the output of other templates.

    Args:
        *packages: import names, for example `"zerosearch_agents.report"`.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, __package__)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    # Splitting at a group keeps it: the parts with an odd index are thoughts.
    environment.filters |= {
        "split_thoughts": _THOUGHT.split,
        "search_groups": search_groups,
        "no_documents": no_documents,
    }
    return environment


def html_style() -> str:
    """The `<style>` element of `render_html`, for pages that show many transcripts and need it only once."""
    return str(_transcript_macros().style())


def render_html(record: JsonObject, *, style: bool = True) -> str:
    """The transcript as a self-contained HTML fragment, for light and dark themes, desktop and phone.

    Args:
        record: a record from `transcript_record`.
        style: start with the `<style>` element; pass False if the page already has `html_style()`.

    Returns:
        One `<section>`. It loads nothing and runs no script.
    """
    return (html_style() if style else "") + str(_transcript_macros().transcript(record))


def _transcript_macros() -> Any:
    return load_templates().get_template("transcript.html").module


def no_documents(turn: JsonObject) -> str:
    """The text to show for a search without documents."""
    return "not run: only an answer was allowed" if turn["noisy"] is None else "no documents"
