from __future__ import annotations

import json
from typing import Any

import pytest

from zerosearch_env.engines.remote.providers import PROVIDERS, AnswerError, QuotaAnswer, WebPage, WebQuery, used_up
from zerosearch_env.types import Document

SERPAPI = {
    "search_metadata": {"status": "Success"},
    "answer_box": {"type": "organic_result", "title": "Box", "answer": "Paris", "snippet": "not this", "link": "u0"},
    "knowledge_graph": {"title": "France", "type": "Country", "description": "A country.", "website": "u1"},
    "organic_results": [
        {"position": 1, "title": "One &amp; only", "link": "u2", "snippet": "First\u00a0text &quot;quoted&quot;"},
        {"position": 2, "title": "No snippet", "link": "u3"},
        {"position": 3, "link": "u4"},
        {"position": 4, "title": None, "link": 5, "snippet": "Untitled"},
        "not an object",
    ],
    "related_questions": [
        {"question": "Why?", "snippet": "Because.", "title": "T", "link": "u5"},
        {"question": "How?"},
    ],
    "serpapi_pagination": {"current": 1, "next": "u"},
}
SERPER = {
    "searchParameters": {"q": "q"},
    "answerBox": {"title": "Box", "snippet": "Paris", "snippetHighlighted": ["Paris"], "link": "u0"},
    "knowledgeGraph": {"title": "France", "description": "A country.", "descriptionLink": "u1", "website": "other"},
    "organic": SERPAPI["organic_results"],
    "peopleAlsoAsk": [{"question": "Why?", "snippet": "Because.", "title": "T", "link": "u5"}, {"question": "How?"}],
    "credits": 1,
}
BRAVE = {
    "type": "search",
    "query": {"original": "q", "more_results_available": True},
    "infobox": {"results": [{"title": "France", "long_desc": "A <b>country</b>.", "website_url": "u1"}]},
    "web": {
        "results": [
            {"title": "One &amp; only", "url": "u2", "description": "First <strong>text</strong> &quot;quoted&quot;"},
            {"title": "No snippet", "url": "u3"},
            {"url": "u4"},
            {"title": None, "url": 5, "description": "Untitled"},
        ]
    },
    "faq": {"results": [{"question": "Why?", "answer": "Because.", "title": "T", "url": "u5"}, {"question": "How?"}]},
}
RESULTS = (
    Document("One & only", 'First text "quoted"', "u2"),
    Document("", "No snippet", "u3"),
    Document("", "Untitled", ""),
)
GRAPH = (Document("France", "A country.", "u1"),)
RELATED = (Document("Why?", "Because.", "u5"), Document("", "How?", ""))


def read(provider: str, data: Any) -> WebPage:
    return PROVIDERS[provider].read(data)


@pytest.mark.parametrize(("provider", "data"), [("serpapi", SERPAPI), ("serper", SERPER), ("brave", BRAVE)])
def test_results_and_extras(provider: str, data: dict[str, Any]) -> None:
    page = read(provider, data)
    box = () if provider == "brave" else (Document("Box", "Paris", "u0"),)
    assert page.results == RESULTS
    assert page.extras == {"answer_box": box, "knowledge_graph": GRAPH, "related_questions": RELATED}
    assert not page.last


@pytest.mark.parametrize(
    ("provider", "data", "last"),
    [
        ("serpapi", {"organic_results": [{"snippet": "a"}], "serpapi_pagination": {"current": 3}}, True),
        ("serpapi", {"organic_results": [{"snippet": "a"}]}, False),
        ("serpapi", {"search_metadata": {"status": "Success"}, "answer_box": {"answer": 42}}, True),
        ("serpapi", {"error": "Google hasn't returned any results for this query."}, True),
        ("serpapi", {"organic_results": []}, True),
        ("serper", {"organic": []}, True),
        ("serper", {"searchParameters": {"q": "q"}}, True),
        ("serper", {"organic": [{"title": "a"}]}, False),
        ("brave", {"query": {"original": "q"}}, True),
        ("brave", {"web": {"results": [{"title": "a"}]}, "query": {"more_results_available": False}}, True),
        ("brave", {"web": {"results": [{"title": "a"}]}}, False),
        ("brave", {"web": {"results": None}, "infobox": {"results": {"title": "one", "description": "box"}}}, True),
    ],
)
def test_what_comes_last(provider: str, data: dict[str, Any], last: bool) -> None:
    assert read(provider, data).last is last


def test_an_answer_that_is_a_number_or_a_list_is_a_text() -> None:
    data = {"search_metadata": {"status": "Success"}}
    assert read("serpapi", data | {"answer_box": {"title": "6 * 7", "result": 42}}).extras["answer_box"] == (
        Document("6 * 7", "42", ""),
    )
    assert read("serpapi", data | {"answer_box": {"answer": ["a", "b", 3]}}).extras["answer_box"][0].text == "a; b"


@pytest.mark.parametrize(
    ("provider", "data", "message", "kind"),
    [
        ("serpapi", {"error": "Your account has run out of searches."}, "run out", QuotaAnswer),
        ("serpapi", {"error": "We couldn't get valid results for this search."}, "valid results", AnswerError),
        ("serpapi", {"search_metadata": {"status": "Processing"}}, "neither organic_results", AnswerError),
        ("serpapi", {}, r"its fields are \(none\)", AnswerError),
        ("serper", {"message": "Not enough credits", "statusCode": 400}, "credits", QuotaAnswer),
        ("serper", {"message": "Internal error"}, "Internal error", AnswerError),
        ("serper", {"message": 3, "b": 1}, "its fields are b, message", AnswerError),
        ("brave", {"error": {"code": "QUOTA_LIMITED", "detail": "x"}}, "QUOTA_LIMITED: x", QuotaAnswer),
        ("brave", {"error": {"code": "RATE_LIMITED", "detail": "slow down"}}, "slow down", AnswerError),
        ("brave", {"type": "ErrorResponse"}, "neither web results", AnswerError),
    ],
)
def test_errors_with_status_200(provider: str, data: dict[str, Any], message: str, kind: type[AnswerError]) -> None:
    with pytest.raises(AnswerError, match=message) as caught:
        read(provider, data)
    assert type(caught.value) is kind


BUSY = {
    "type": "ErrorResponse",
    "error": {
        "meta": {"plan": "Free", "quota_limit": 2000, "quota_current": 1},
        "detail": "Request rate limit exceeded for plan.",
        "code": "RATE_LIMITED",
    },
}


@pytest.mark.parametrize(
    ("status", "data", "expected"),
    [
        (429, {"error": "Your account has run out of searches."}, True),
        (429, {"error": "Your searches for the month have run out."}, True),
        (400, {"message": "Not enough credits", "statusCode": 400}, True),
        (402, {"error": {"code": "QUOTA_LIMITED", "detail": "Request quota limit exceeded for plan."}}, True),
        (429, "Monthly quota has been exceeded.", True),
        (429, BUSY, False),
        (429, {"error": "Too many requests this hour"}, False),
        (500, {"error": "Your account has run out of searches."}, False),
        (400, {"error": "bad query", "search_parameters": {"q": "who has run out of searches"}}, False),
        (403, [], False),
    ],
)
def test_a_used_up_account_is_told_from_a_busy_service(status: int, data: Any, expected: bool) -> None:
    assert used_up(status, json.dumps(data).encode()) is expected


def test_what_is_no_json_says_nothing_about_the_account() -> None:
    for body in (b"<html>run out</html>", b"[" * 200_000, b"\xff", b""):
        assert not used_up(429, body)


@pytest.mark.parametrize(
    ("provider", "first", "third"),
    [
        (
            "serpapi",
            {"engine": "google", "q": "a b", "num": 10, "output": "json"},
            {"start": 20, "gl": "us", "hl": "en"},
        ),
        ("serper", {"q": "a b", "num": 10}, {"page": 3, "gl": "us", "hl": "en"}),
        (
            "brave",
            {"q": "a b", "count": 10, "text_decorations": "false"},
            {"offset": 2, "country": "US", "search_lang": "en"},
        ),
    ],
)
def test_how_a_page_is_asked_for(provider: str, first: dict[str, Any], third: dict[str, Any]) -> None:
    fields = PROVIDERS[provider].fields
    assert fields(WebQuery("a b", 0, 10)) == first
    assert fields(WebQuery("a b", 2, 10, "us", "en")) == first | third
