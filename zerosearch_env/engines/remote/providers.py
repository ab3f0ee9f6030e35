"""Web search services: how to build their requests and read their answers. One `Provider` per service; pure functions.

The formats follow the services' documentation (serpapi.com/search-api, serper.dev, api-dashboard.search.brave.com), as
far as it is public. Similar packages read the same fields.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...types import Document, Json, JsonObject
from ..simulated.prompts import clean_text

EXTRAS = ("answer_box", "knowledge_graph", "related_questions")
"""Parts that a page may have in addition to its results; the values of the option `extras`."""

_MARKUP = re.compile(r"</?(?:strong|b|em|i|br)\s*/?>", re.IGNORECASE)
_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class WebQuery:
    """A request for one page."""

    text: str
    page: int
    """Page number, from 0."""
    size: int
    """Results per page."""
    country: str | None = None
    """Country code such as `"us"`."""
    language: str | None = None
    """Language code such as `"en"`."""


@dataclass(frozen=True, slots=True)
class WebPage:
    """The content of an answer."""

    results: tuple[Document, ...]
    extras: Mapping[str, tuple[Document, ...]]
    last: bool
    """Whether the service reports that there are no further pages."""


class AnswerError(ValueError):
    """An answer with status 200 that reports an error or has an unknown format."""


class QuotaAnswer(AnswerError):  # noqa: N818 (an answer first, and an error by what it says)
    """An answer that reports that the account's searches are used up."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A web search service."""

    name: str
    url: str
    method: Literal["GET", "POST"]
    key_variable: str
    """Environment variable with the key."""
    key_header: str
    """Header for the key; if empty, the key is sent as the parameter `api_key`."""
    fields: Callable[[WebQuery], dict[str, Json]]
    """Builds the URL parameters, or the body of a POST."""
    read: Callable[[JsonObject], WebPage]
    """Reads an answer with status 200. Raises AnswerError."""
    path: str = "/search"
    rate: float = 5.0
    """Default of the option `rate`: requests per second."""
    page_size: int = 10
    """Default of the option `page_size`: results per page."""
    max_page_size: int = 100
    max_pages: int = 10
    """Maximum number of pages that the service provides."""
    max_words: int | None = None
    """Maximum number of words in a query."""
    max_chars: int | None = None
    """Maximum number of characters in a query."""


_USED_UP = re.compile(
    r"\brun out\b|not enough credits|\bUSAGE_LIMIT_EXCEEDED\b|"
    r"\bquota\b.{0,40}(?:exceeded|exhausted|reached)|\bQUOTA_LIMITED\b",
    re.IGNORECASE,
)
_WRONG_KEY = re.compile(r"SUBSCRIPTION_TOKEN_|x-subscription-token", re.IGNORECASE)
_SAID = ("error", "errors", "message", "detail", "code")
"""Fields in which the services report errors; some are nested in one another."""


def used_up(status: int, body: bytes) -> bool:
    """Whether an error means that the account's searches are used up, which a retry cannot fix.

    Only the error fields of the answer are checked, since other fields may repeat the query, which the policy wrote.
    """
    if status == 402:  # "Payment Required", whatever the body is.
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
    """Whether an error means that the key is wrong. Brave uses 422 for this, and also for malformed requests."""
    return status in (401, 403) or (status == 422 and bool(_WRONG_KEY.search(message)))


def _refusal(message: str) -> AnswerError:
    return QuotaAnswer(message) if _USED_UP.search(message) else AnswerError(message)


def _serpapi_fields(query: WebQuery) -> dict[str, Any]:
    fields = {"engine": "google", "q": query.text, "num": query.size, "output": "json"}
    more = {"start": query.page * query.size or None, "gl": query.country, "hl": query.language}
    return fields | _given(more)


def _serper_fields(query: WebQuery) -> dict[str, Any]:
    more = {"page": query.page + 1 if query.page else None, "gl": query.country, "hl": query.language}
    return {"q": query.text, "num": query.size} | _given(more)


def _brave_fields(query: WebQuery) -> dict[str, Any]:
    # Text decorations are markup around the query's words in titles and texts; turn them off.
    fields = {"q": query.text, "count": query.size, "text_decorations": "false"}
    country = query.country.upper() if query.country else None
    more = {"offset": query.page or None, "country": country, "search_lang": query.language}
    return fields | _given(more)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read_serpapi(data: Mapping[str, Any]) -> WebPage:
    status = _part(data, "search_metadata").get("status")
    error = data.get("error")
    results = _ranking(data, "organic_results", ("snippet",), ("link",))
    if isinstance(error, str) and not results:
        if _USED_UP.search(error) or ("any results" not in error.lower() and "no results" not in error.lower()):
            raise _refusal(error)
    elif not results and status != "Success" and not isinstance(data.get("organic_results"), list):
        raise AnswerError(f"neither organic_results nor an error; its fields are {_names(data)}")
    extras = {
        "answer_box": _documents([data.get("answer_box")], ("answer", "snippet", "result"), ("link",)),
        "knowledge_graph": _documents([data.get("knowledge_graph")], ("description",), ("website",)),
        "related_questions": _documents(data.get("related_questions"), ("snippet",), ("link",), "question"),
    }
    pagination = data.get("serpapi_pagination")
    last = not results or (isinstance(pagination, Mapping) and "next" not in pagination)
    return WebPage(results, extras, last)


def _read_serper(data: Mapping[str, Any]) -> WebPage:
    if "organic" not in data and "searchParameters" not in data:
        message = data.get("message")
        message = message if isinstance(message, str) else f"no organic results; its fields are {_names(data)}"
        raise _refusal(message)
    results = _ranking(data, "organic", ("snippet",), ("link",))
    graph = ("descriptionLink", "website")
    extras = {
        "answer_box": _documents([data.get("answerBox")], ("answer", "snippet"), ("link",)),
        "knowledge_graph": _documents([data.get("knowledgeGraph")], ("description",), graph),
        "related_questions": _documents(data.get("peopleAlsoAsk"), ("snippet",), ("link",), "question"),
    }
    return WebPage(results, extras, not results)


def _read_brave(data: Mapping[str, Any]) -> WebPage:
    query, error, errors = data.get("query"), data.get("error"), data.get("errors")
    if isinstance(errors, list) and errors:  # This is the documented form; the service itself sends the other one.
        error = errors[0]
    if isinstance(error, Mapping):
        message = f"{error.get('code')}: {error.get('detail')}"
        raise _refusal(message)
    if "web" not in data and not isinstance(query, Mapping):
        raise AnswerError(f"neither web results nor an error; its fields are {_names(data)}")
    results = _ranking(_part(data, "web"), "results", ("description",), ("url",))
    boxes = _part(data, "infobox").get("results")
    extras = {
        "answer_box": (),
        "knowledge_graph": _documents(
            boxes if isinstance(boxes, list) else [boxes], ("long_desc", "description"), ("website_url", "url")
        ),
        "related_questions": _documents(_part(data, "faq").get("results"), ("answer",), ("url",), "question"),
    }
    more = query.get("more_results_available") if isinstance(query, Mapping) else None
    return WebPage(results, extras, not results or more is False)


def _ranking(data: Mapping[str, Any], name: str, texts: Sequence[str], links: Sequence[str]) -> tuple[Document, ...]:
    """The results in field `name`, best first; empty if the field is absent, which means that nothing was found.

    Raises:
        AnswerError: the field is not a list, or it has entries but none is readable, so the ranking is not empty.
    """
    items = data.get(name)
    if items is None:
        return ()
    if not isinstance(items, list):
        raise AnswerError(f"expected a list under {name!r}, got {type(items).__name__}")
    if all(isinstance(item, Mapping) and isinstance(item.get("position"), int) for item in items):
        items = sorted(items, key=lambda item: int(item["position"]))
    documents = _documents(items, texts, links)
    if items and not documents:
        raise AnswerError(f"none of the {len(items)} entries of {name!r} has a title or a text")
    return documents


def _documents(items: Any, texts: Sequence[str], links: Sequence[str], title: str = "title") -> tuple[Document, ...]:
    """Convert items to documents; items without any text are left out."""
    documents = []
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, Mapping):
            continue
        name, text = _plain(item.get(title)), next(filter(None, (_plain(item.get(field)) for field in texts)), "")
        source = next((item[field] for field in links if isinstance(item.get(field), str)), "")
        if text or name:
            # Without a snippet, the title becomes the text.
            documents.append(Document(name if text else "", text or name, clean_text(source, 2000)))
    return tuple(documents)


def _plain(value: Any) -> str:
    """One line without markup and entities; the items of a list, such as highlighted answers, are joined."""
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
            key_variable="SERPAPI_API_KEY",
            key_header="",
            fields=_serpapi_fields,
            read=_read_serpapi,
        ),
        Provider(
            name="serper",
            url="https://google.serper.dev",
            method="POST",
            key_variable="SERPER_API_KEY",
            key_header="X-API-KEY",
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
            rate=1.0,
            fields=_brave_fields,
            read=_read_brave,
            max_words=50,
            max_chars=400,
        ),
    )
}
"""The services by name. Brave's smallest plan allows one request per second."""
