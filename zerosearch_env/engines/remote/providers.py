"""Web search services: how each is asked, and what its answers say. One row a service; pure functions.

Formats after the services' own documentation (serpapi.com/search-api, serper.dev, api-dashboard.search.brave.com), as
far as it is public; peers of this package read the same fields.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...types import Document
from ..simulated.prompts import clean_text

EXTRAS = ("answer_box", "knowledge_graph", "related_questions")
"""What a page may hold besides its results, by the names that the option `extras` takes."""

_MARKUP = re.compile(r"</?(?:strong|b|em|i|br)\s*/?>", re.IGNORECASE)
_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class WebQuery:
    """One page that is asked for."""

    text: str
    page: int
    """0-based."""
    size: int
    """Results a page."""
    country: str | None = None
    """A code such as `"us"`."""
    language: str | None = None
    """A code such as `"en"`."""


@dataclass(frozen=True, slots=True)
class WebPage:
    """What an answer holds."""

    results: tuple[Document, ...]
    extras: Mapping[str, tuple[Document, ...]]
    last: bool
    """Whether the service says that nothing follows."""


class AnswerError(ValueError):
    """An answer with status 200 reports an error, or has an unknown shape."""


class QuotaAnswer(AnswerError):  # noqa: N818 (an answer first, and an error by what it says)
    """It reports that the account's searches are used up."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A web search service."""

    name: str
    url: str
    method: Literal["GET", "POST"]
    path: str
    key_variable: str
    """Environment variable with the key."""
    key_header: str
    """Header that carries the key; empty: it is the parameter `api_key`."""
    page_size: int
    """Results a page, unless the option `page_size` says otherwise."""
    max_page_size: int
    max_pages: int
    """Pages that the service serves."""
    rate: float
    """Requests a second, unless the option `rate` says otherwise."""
    fields: Callable[[WebQuery], dict[str, Any]]
    """The parameters, or the body of a POST."""
    read: Callable[[Mapping[str, Any]], WebPage]
    """An answer with status 200. Raises AnswerError."""
    max_words: int | None = None
    """Words of a query that the service takes."""
    max_chars: int | None = None
    """Characters of a query that the service takes."""


_USED_UP = re.compile(
    r"\brun out\b|not enough credits|\bUSAGE_LIMIT_EXCEEDED\b|"
    r"\bquota\b.{0,40}(?:exceeded|exhausted|reached)|\bQUOTA_LIMITED\b",
    re.IGNORECASE,
)
_WRONG_KEY = re.compile(r"SUBSCRIPTION_TOKEN_|x-subscription-token", re.IGNORECASE)
_SAID = ("error", "errors", "message", "detail", "code")
"""Fields in which the services say what is wrong, some of them inside one another."""


def used_up(status: int, body: bytes) -> bool:
    """Whether an error says that the account's searches are used up, which no retry mends.

    Only what the service itself says is looked at: an answer may also repeat the query, which the policy wrote.
    """
    if status == 402:  # "payment required", whatever the body says
        return True
    if status not in (400, 403, 429):
        return False
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return bool(_USED_UP.search(" | ".join(_said(data))))


def _said(data: Any, depth: int = 3) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping) and depth:
        for name in _SAID:
            yield from _said(data.get(name), depth - 1)
    elif isinstance(data, list) and depth:
        for entry in data:
            yield from _said(entry, depth - 1)


def wrong_key(status: int, message: str) -> bool:
    """Whether an error says that the key is wrong. Brave says so with 422, as it does of a malformed request."""
    return status in (401, 403) or (status == 422 and bool(_WRONG_KEY.search(message)))


def _serpapi_fields(query: WebQuery) -> dict[str, Any]:
    asked = {"engine": "google", "q": query.text, "num": query.size, "output": "json"}
    more = {"start": query.page * query.size or None, "gl": query.country, "hl": query.language}
    return asked | _given(more)


def _serper_fields(query: WebQuery) -> dict[str, Any]:
    more = {"page": query.page + 1 if query.page else None, "gl": query.country, "hl": query.language}
    return {"q": query.text, "num": query.size} | _given(more)


def _brave_fields(query: WebQuery) -> dict[str, Any]:
    # Decorations are markup around the words of the query, which would otherwise stand in titles and texts.
    asked = {"q": query.text, "count": query.size, "text_decorations": "false"}
    country = query.country.upper() if query.country else None
    more = {"offset": query.page or None, "country": country, "search_lang": query.language}
    return asked | _given(more)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read_serpapi(data: Mapping[str, Any]) -> WebPage:
    status = _part(data, "search_metadata").get("status")
    error = data.get("error")
    results = _ranking(data, "organic_results", ("snippet",), ("link",))
    if isinstance(error, str) and not results:
        if _USED_UP.search(error):
            raise QuotaAnswer(error)
        if "any results" not in error.lower() and "no results" not in error.lower():
            raise AnswerError(error)
    elif not results and status != "Success" and not isinstance(data.get("organic_results"), list):
        raise AnswerError(f"neither organic_results nor an error; its fields are {_names(data)}")
    extras = {
        "answer_box": _documents([data.get("answer_box")], ("answer", "snippet", "result"), ("link",)),
        "knowledge_graph": _documents([data.get("knowledge_graph")], ("description",), ("website",)),
        "related_questions": _documents(data.get("related_questions"), ("snippet",), ("link",), "question"),
    }
    pagination = data.get("serpapi_pagination")
    last = not results or (isinstance(pagination, Mapping) and "next" not in pagination)
    return WebPage(results, {name: tuple(found) for name, found in extras.items()}, last)


def _read_serper(data: Mapping[str, Any]) -> WebPage:
    if "organic" not in data and "searchParameters" not in data:
        message = data.get("message")
        said = message if isinstance(message, str) else f"no organic results; its fields are {_names(data)}"
        raise QuotaAnswer(said) if _USED_UP.search(said) else AnswerError(said)
    results = _ranking(data, "organic", ("snippet",), ("link",))
    graph = ("descriptionLink", "website")
    extras = {
        "answer_box": _documents([data.get("answerBox")], ("answer", "snippet"), ("link",)),
        "knowledge_graph": _documents([data.get("knowledgeGraph")], ("description",), graph),
        "related_questions": _documents(data.get("peopleAlsoAsk"), ("snippet",), ("link",), "question"),
    }
    return WebPage(results, {name: tuple(found) for name, found in extras.items()}, not results)


def _read_brave(data: Mapping[str, Any]) -> WebPage:
    query, error, errors = data.get("query"), data.get("error"), data.get("errors")
    if isinstance(errors, list) and errors:  # the reference has this form, the service the other one
        error = errors[0]
    if isinstance(error, Mapping):
        said = f"{error.get('code')}: {error.get('detail')}"
        raise QuotaAnswer(said) if _USED_UP.search(said) else AnswerError(said)
    if "web" not in data and not isinstance(query, Mapping):
        raise AnswerError(f"neither web results nor an error; its fields are {_names(data)}")
    results = _ranking(_part(data, "web"), "results", ("description",), ("url",))
    boxes = _part(data, "infobox").get("results")
    extras = {
        "answer_box": iter(()),
        "knowledge_graph": _documents(
            boxes if isinstance(boxes, list) else [boxes], ("long_desc", "description"), ("website_url", "url")
        ),
        "related_questions": _documents(_part(data, "faq").get("results"), ("answer",), ("url",), "question"),
    }
    more = query.get("more_results_available") if isinstance(query, Mapping) else None
    return WebPage(results, {name: tuple(found) for name, found in extras.items()}, not results or more is False)


def _ranking(data: Mapping[str, Any], name: str, texts: Sequence[str], links: Sequence[str]) -> tuple[Document, ...]:
    """The results under a name, best first; none where the name is absent, as services say that nothing was found.

    Raises:
        AnswerError: there is something else, or results of which none can be read: that is no empty ranking.
    """
    items = data.get(name)
    if items is None:
        return ()
    if not isinstance(items, list):
        raise AnswerError(f"expected a list under {name!r}, got {type(items).__name__}")
    if all(isinstance(item, Mapping) and isinstance(item.get("position"), int) for item in items):
        items = sorted(items, key=lambda item: int(item["position"]))
    documents = tuple(_documents(items, texts, links))
    if items and not documents:
        raise AnswerError(f"none of the {len(items)} entries of {name!r} has a title or a text")
    return documents


def _documents(items: Any, texts: Sequence[str], links: Sequence[str], title: str = "title") -> Iterator[Document]:
    """The documents among items; those without any text are left out."""
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, Mapping):
            continue
        name, text = _plain(item.get(title)), next(filter(None, (_plain(item.get(field)) for field in texts)), "")
        source = next((item[field] for field in links if isinstance(item.get(field), str)), "")
        if text or name:
            # A result without a snippet still says something by its title; the texts stay apart otherwise.
            yield Document(name if text else "", text or name, clean_text(source, 2000))


def _plain(value: Any) -> str:
    """One line without markup and entities; the items of a list, such as highlighted answers, behind one another."""
    if isinstance(value, list):
        value = "; ".join(part for part in value if isinstance(part, str))
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    return clean_text(html.unescape(_MARKUP.sub("", text)), _CHARS)


def _part(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}


def _names(data: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, data))[:12]) or "(none)"


PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            name="serpapi",
            url="https://serpapi.com",
            method="GET",
            path="/search",
            key_variable="SERPAPI_API_KEY",
            key_header="",
            page_size=10,
            max_page_size=100,
            max_pages=10,
            rate=5.0,
            fields=_serpapi_fields,
            read=_read_serpapi,
        ),
        Provider(
            name="serper",
            url="https://google.serper.dev",
            method="POST",
            path="/search",
            key_variable="SERPER_API_KEY",
            key_header="X-API-KEY",
            page_size=10,
            max_page_size=100,
            max_pages=10,
            rate=5.0,
            fields=_serper_fields,
            read=_read_serper,
        ),
        Provider(
            name="brave",
            url="https://api.search.brave.com",
            method="GET",
            path="/res/v1/web/search",
            key_variable="BRAVE_API_KEY",
            key_header="X-Subscription-Token",
            page_size=20,
            max_page_size=20,
            max_pages=10,
            rate=1.0,
            fields=_brave_fields,
            read=_read_brave,
            max_words=50,
            max_chars=400,
        ),
    )
}
"""The services by name. Brave's smallest plan allows one request a second."""
