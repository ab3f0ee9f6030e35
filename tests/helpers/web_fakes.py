"""Local stand-ins for the three web search services, written from their documented formats."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread
from zerosearch_env.engines import make_engine

KEY = "k/9+hush=hush"
"""Has characters that libraries escape in different ways."""
VARIABLES = {"serpapi": "SERPAPI_API_KEY", "serper": "SERPER_API_KEY", "brave": "BRAVE_API_KEY"}
PATHS = {"serpapi": "/v1/search", "serper": "/v1/search", "brave": "/v1/res/v1/web/search"}
FAST = {"attempts": 2, "backoff_s": 0.005, "total_s": 5.0, "read_s": 2.0}


def ranks(query: str, start: int, count: int, held: int) -> list[tuple[int, str, str]]:
    """(rank, title, snippet) of a query; every fourth one states the answer."""
    return [
        (rank, f"Title {rank}", f"On {query[:30]}: " + ("Paris" if rank % 4 == 0 else f"rank {rank}"))
        for rank in range(start, min(start + count, held))
    ]


def serpapi(query: str, page: int, size: int, held: int) -> dict[str, Any]:
    found = ranks(query, page * size, size, held)
    data: dict[str, Any] = {
        "search_metadata": {"id": "1", "status": "Success"},
        "search_parameters": {"engine": "google", "q": query},
        "search_information": {"organic_results_state": "Results for exact spelling"},
    }
    if not found:
        data["search_information"]["organic_results_state"] = "Fully empty"
        return data | {"error": "Google hasn't returned any results for this query."}
    data["organic_results"] = [
        {"position": rank + 1, "title": title, "link": f"https://x/{rank}", "snippet": text}
        for rank, title, text in found
    ]
    more = {"next": "https://serpapi.com/search.json?start=10"} if (page + 1) * size < held else {}
    return data | {"serpapi_pagination": {"current": page + 1, **more}}


def serper(query: str, page: int, size: int, held: int) -> dict[str, Any]:
    return {
        "searchParameters": {"q": query, "type": "search", "page": page + 1},
        "organic": [
            {"title": title, "link": f"https://x/{rank}", "snippet": text, "position": rank + 1, "date": "1 May 2024"}
            for rank, title, text in ranks(query, page * size, size, held)
        ],
        "credits": 1,
    }


def brave(query: str, page: int, size: int, held: int) -> dict[str, Any]:
    found = ranks(query, page * size, size, held)
    more = (page + 1) * size < held
    data: dict[str, Any] = {"type": "search", "query": {"original": query, "more_results_available": more}}
    if found:
        results = [
            {"title": title, "url": f"https://x/{rank}", "description": text.replace("On ", "<strong>On</strong> ")}
            for rank, title, text in found
        ]
        data["web"] = {"type": "search", "results": results}
    return data


ANSWERS = {"serpapi": serpapi, "serper": serper, "brave": brave}


class Service:
    """A web search service; keeps what it was asked.

    Args:
        provider: whose formats it has.
        held: results that it has for every query.
        more: fields that the first page has besides.
    """

    def __init__(self, provider: str = "serper", held: int = 200, more: dict[str, Any] | None = None) -> None:
        self.provider, self.held, self.more = provider, held, more or {}
        self.calls: list[Call] = []
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, call: Call) -> Reply:
        self.calls.append(call)
        query = {name: values[0] for name, values in parse_qs(urlsplit(call.path).query).items()}
        asked = call.body if self.provider == "serper" else query
        self.asked.append(asked)
        size = int(asked.get("num") or asked.get("count"))
        if self.provider == "serpapi":
            page = int(asked.get("start", 0)) // size
            key = asked.get("api_key")
        elif self.provider == "serper":
            page, key = asked.get("page", 1) - 1, call.headers.get("x-api-key")
        else:
            page, key = int(asked.get("offset", 0)), call.headers.get("x-subscription-token")
        if key != KEY:
            return Reply({"message": "Unauthorized.", "statusCode": 403}, 403)
        data = ANSWERS[self.provider](asked["q"], page, size, self.held)
        return Reply(data if page else {**data, **self.more})


def engine(thread: ServerThread | str, provider: str = "serper", **options: Any) -> Any:
    """The engine of a local service, as fast as it can."""
    url = thread if isinstance(thread, str) else thread.url
    return make_engine({"kind": provider, "url": url, "http": FAST, "rate": 1e6, **options})
