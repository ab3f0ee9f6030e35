r"""The loops of the published systems, restated: slow, plain, and without this package's parsers.

Each class plays one episode: `turn(text)` takes the policy's whole text of a turn, searches, and says what the loop
made of it. Stated are rules: which text is read, what is searched, what the policy sees next, when the episode ends,
and what is scored. Sources: Search-R1 and ZeroSearch `llm_agent/generation.py`, R1-Searcher's loop of training with
the stop strings of its evaluation, ReSearch and ReCall `vllm_rollout`, DeepResearcher `scrl/llm_agent` and
`scrl/handler`. Wording of notices and errors is not compared, so it is `NOTICE` and `ERROR` here.

Only a turn that answers gives a prediction. (Search-R1 and ZeroSearch score the last `<answer>` of prompt, turns and
observations. Without an answer of the policy, that is the example in the prompt or in a notice.)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NOTICE = "(notice)"
ERROR = "(error)"


@dataclass(frozen=True)
class Passage:
    """A document of the stand-in engine, as a corpus holds it."""

    title: str
    text: str
    url: str = ""

    @property
    def contents(self) -> str:
        """One field, as in the corpora of Search-R1, ReSearch and ReCall: the title in quotes on the first line."""
        return f'"{self.title}"\n{self.text}' if self.title else self.text


@dataclass(frozen=True)
class Outcome:
    """What a loop made of one turn."""

    action: str
    """`search`, `browse`, `answer`, or `none`: neither."""
    queries: tuple[str, ...]
    """What was searched for."""
    observation: str | None
    """What the policy sees next; None: the episode is over."""
    kept: str
    """The part of the turn that stays in the context."""
    prediction: str | None = None
    """What is scored, if the episode is over."""
    passages: tuple[Passage, ...] = ()
    """What the searches of this turn found."""


Search = Callable[[str, int], list[Passage]]
"""(query, number of passages) -> passages."""


def up_to(text: str, mark: str) -> str:
    """The text up to the first `mark`, which is kept."""
    return text[: text.index(mark) + len(mark)]


def elements(text: str, name: str) -> list[str]:
    """The contents of the elements of one name: each from an opening tag to the next closing one."""
    found = []
    position = 0
    while True:
        start = text.find(f"<{name}>", position)
        end = text.find(f"</{name}>", start)
        if start < 0 or end < 0:
            return found
        found.append(text[start + len(name) + 2 : end])
        position = end + len(name) + 3


def last_box(text: str) -> str | None:
    r"""The content of the last `\boxed{}`, with the braces counted; None if it is not closed."""
    start = text.rfind("\\boxed{")
    depth = 0
    for position in range(start + 6, len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 7 : position]
    return None


class Loop:
    """One episode of a published loop."""

    turns: int
    """Turns after which no search is carried out."""
    top_k: int

    def __init__(self, search: Search) -> None:
        self.search = search
        self.played = 0
        self.response = ""
        """Everything after the prompt, as the scorer reads it."""

    def turn(self, text: str) -> Outcome:
        """Play one turn."""
        self.played += 1
        outcome = self._turn(text)
        self.response += outcome.kept + (outcome.observation or "")
        return outcome

    def _turn(self, text: str) -> Outcome:
        raise NotImplementedError


class SearchR1(Loop):
    """Search-R1: a turn is cut at `</search>`, else at `</answer>`; the first element of either name acts."""

    turns, top_k = 4, 3

    def _turn(self, text: str) -> Outcome:
        for mark in ("</search>", "</answer>"):
            if mark in text:
                text = up_to(text, mark)
                break
        starts = sorted(
            (text.find(f"<{name}>"), name)
            for name in ("search", "answer")
            if f"</{name}>" in text[max(text.find(f"<{name}>"), 0) :] and f"<{name}>" in text
        )
        last = self.played > self.turns
        if not starts:
            return Outcome("none", (), None if last else f"\n{NOTICE}\n", text)
        name = starts[0][1]
        content = elements(text, name)[0].strip()
        if name == "answer":
            return Outcome("answer", (), None, text, self._prediction(text))
        if last:
            return Outcome("search", (content,), None, text)
        passages = self.search(content, self.top_k)
        found = self.passages(passages).strip()
        return Outcome("search", (content,), f"\n\n<information>{found}</information>\n\n", text, None, tuple(passages))

    def _prediction(self, text: str) -> str:
        # The published notice shows an answer element, which closes an `<answer>` that was left open before it.
        response = self.response.replace(NOTICE, "<search> and </search> <answer> and </answer>")
        return elements(response + text, "answer")[-1].strip()

    def passages(self, passages: list[Passage]) -> str:
        """The first line of a passage is its title."""
        lines = [passage.contents.split("\n", 1) for passage in passages]
        return "".join(
            f"Doc {number}(Title: {line[0]}) {line[1] if len(line) > 1 else ''}\n"
            for number, line in enumerate(lines, 1)
        )


class ZeroSearch(SearchR1):
    """ZeroSearch with a simulation LLM: the loop is Search-R1's; the LLM's own text is shown."""

    turns, top_k = 5, 5

    def passages(self, passages: list[Passage]) -> str:
        """What a simulation LLM writes."""
        return "\n".join(
            f"Doc {number}: {passage.title + ': ' if passage.title else ''}{passage.text}"
            for number, passage in enumerate(passages, 1)
        )


class R1Searcher(Loop):
    """R1-Searcher: the sampler stops at `<|end_of_query|>`, `</answer>` and end-of-turn tokens; an empty query ends."""

    turns, top_k = 8, 3

    def _turn(self, text: str) -> Outcome:
        stops = [mark for mark in ("<|end_of_query|>", "</answer>", "<|im_end|>", "<|endoftext|>") if mark in text]
        stop = min(stops, key=text.index, default="")
        text = text[: text.index(stop)] if stop else text
        kept = text.strip() + stop
        if "<answer>" in text and stop == "</answer>":
            return Outcome("answer", (), None, kept, text.split("<answer>")[-1].strip())
        if "<|begin_of_query|>" in text and stop == "<|end_of_query|>":
            query = " ".join(text.split("<|begin_of_query|>")[-1].replace('"', "").split())
            if self.played > self.turns:
                return Outcome("search", (query,), None, kept)
            if query:
                passages = self.search(query, self.top_k)
                found = "".join(
                    f"({number}){' '.join(filter(None, (passage.title, passage.text)))}\n"
                    for number, passage in enumerate(passages, 1)
                )
                block = f"\n\n<|begin_of_documents|>\n{found or 'None'}<|end_of_documents|>\n\n"
                return Outcome("search", (query,), block, kept, None, tuple(passages))
        return Outcome("none", (), None, kept)


class ReSearch(Loop):
    r"""ReSearch: the sampler stops at `</search>`; a turn that ends otherwise is the last; `\boxed{}` in the answer."""

    turns, top_k = 1000, 5

    def _turn(self, text: str) -> Outcome:
        if "</search>" not in text:
            answers = elements(self.response + text, "answer")
            prediction = last_box(answers[0]) if answers else None
            return Outcome("none" if prediction is None else "answer", (), None, text, prediction)
        text = up_to(text, "</search>")
        start = text.rfind("<search>")
        query = text[start + 8 : -9].strip() if start >= 0 else ""
        passages = self.search(query, self.top_k)
        found = "\n\n".join(passage.contents for passage in passages).strip()
        return Outcome("search", (query,), f" <result>\n{found}\n</result>", text, None, tuple(passages))


class ReCall(Loop):
    r"""ReCall: if the tags of calls pair up, every call of the turn is carried out; without a call, `\boxed{}`."""

    turns, top_k = 4, 5  # a fifth turn may answer; its calls are carried out, but no one reads the results

    def _turn(self, text: str) -> Outcome:
        starts = [position for position in range(len(text)) if text.startswith("<tool_call>", position)]
        ends = [position for position in range(len(text)) if text.startswith("</tool_call>", position)]
        paired = len(starts) == len(ends) and all(start < end for start, end in zip(starts, ends, strict=True))
        calls = [call.strip() for call in elements(text, "tool_call")] if paired else []
        if not calls:
            prediction = last_box(self.response + text)
            return Outcome("none" if prediction is None else "answer", (), None, text, prediction)
        queries: list[str] = []
        shown: list[Passage] = []
        observation = ""
        for call in calls:
            query, number = self._arguments(call)
            if query is None:
                observation += f"<tool_response>{call}\n{ERROR}\n</tool_response>\n"
                continue
            queries.append(query)
            passages = self.search(query, number)
            shown += passages
            found = "\n\n".join(passage.contents for passage in passages).strip()
            result = f"result: \n{found}" if found else ""
            observation += f"<tool_response>{call}\n{result}\n</tool_response>\n"
        over = self.played > self.turns
        return Outcome(
            "search" if queries else "none", tuple(queries), None if over else observation, text, None, tuple(shown)
        )

    def _arguments(self, call: str) -> tuple[str | None, int]:
        """The query and the number of passages; no query if the call cannot be carried out."""
        try:
            value = json.loads(call)
            arguments = dict(value.get("arguments", {}).items())
            number = arguments.pop("top_n", self.top_k)
            query = arguments.pop("query")
        except (ValueError, KeyError, AttributeError):
            return None, 0
        known = "search" in value.get("name", "") and not arguments and isinstance(query, str)
        return (query, number) if known else (None, 0)


class DeepResearcher(Loop):
    """DeepResearcher: an answer comes before a call; the first three queries of the first call; pages are read."""

    turns, top_k = 9, 10  # as for ReCall

    def __init__(self, search: Search) -> None:
        super().__init__(search)
        self.results: list[Passage] = []
        self.read: set[str] = set()

    def _turn(self, text: str) -> Outcome:
        text = "<think>" + text
        ended = Outcome("none", (), None, text)
        if "</think>" not in text:
            return ended
        if "<answer>" in text:
            if "</answer>" not in text:
                return ended
            return Outcome("answer", (), None, text, text.split("<answer>")[1].split("</answer>")[0].strip())
        if "<tool_call>" not in text or "</tool_call>" not in text:
            return ended
        try:
            call = json.loads(text.split("<tool_call>")[1].split("</tool_call>")[0])
            name, arguments = call["name"], call["arguments"]
            values = arguments[{"web_search": "query", "browse_webpage": "url_list"}[name]]
        except (ValueError, KeyError, TypeError, IndexError):
            return ended
        if not isinstance(values, list) or (name == "browse_webpage" and not values):
            return ended
        over = self.played > self.turns
        if name == "browse_webpage":
            return Outcome("browse", tuple(values), None if over else self._pages(values), text)
        queries = tuple(values[:3])
        if not all(isinstance(query, str) for query in queries):
            return Outcome("search", (), None if over else "[]", text)
        groups = [self.search(query, self.top_k) for query in queries]
        self.results = [passage for group in groups for passage in group]
        self.read = set()
        content: list[Any] = [
            {
                "search_query": query,
                "web_page_info_list": [
                    {"title": page.title, "url": page.url, "quick_summary": page.text} for page in group
                ],
            }
            for query, group in zip(queries, groups, strict=True)
        ]
        return Outcome("search", queries, None if over else str(content), text, None, tuple(self.results))

    def _pages(self, urls: list[str]) -> str:
        """What an LLM that reads pages would say; its stand-in quotes the passage, once."""
        content = []
        for page in self.results:
            if page.url in urls:
                information = [] if page.url in self.read else [{"page_number": 0, "page_summary": page.text}]
                content.append({"url": page.url, "information": information})
                self.read.add(page.url)
        return str(content)


LOOPS: dict[str, type[Loop]] = {
    "zerosearch": ZeroSearch,
    "search-r1": SearchR1,
    "r1-searcher": R1Searcher,
    "research": ReSearch,
    "hermes": ReCall,
    "deepresearcher": DeepResearcher,
}
"""Protocol -> the loop after which it is made."""
