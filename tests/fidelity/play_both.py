"""Play a generated episode in a published loop and in this package, and say where they first differ."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from generated_episodes import Script, passages
from published_loops import ERROR, LOOPS, NOTICE, Outcome, Passage

from zerosearch_env import get_protocol, make_rules
from zerosearch_env.game.episode import Episode
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult, Step


@dataclass(frozen=True)
class Difference:
    """The first turn of an episode in which the package does something else than the published loop."""

    what: str
    """`action`, `queries`, `observation`, `end`, `prediction` or `kept`."""
    text: str
    """The policy's turn."""
    published: Outcome
    here: Outcome


def rules_of(protocol: str) -> Any:
    """The rules of a published family's card."""
    return make_rules(
        protocol=protocol,
        invalid_notice="reference",
        last_turn_notice="reference",
        max_turns=min(LOOPS[protocol].turns, get_protocol(protocol).max_turns),
    )


class Here:
    """One episode of this package, told in the terms of the published loops."""

    def __init__(self, protocol: str, rules: Any) -> None:
        self.protocol = protocol
        self.episode = Episode(Question("q", "Who?", ("nobody",)), rules)
        self.notice = rules.invalid_notice if hasattr(rules, "invalid_notice") else rules.protocol.invalid_notice

    def turn(self, text: str) -> Outcome:
        """Play one turn."""
        step = self.episode.advance(text)
        found: list[Passage] = []
        queries: tuple[str, ...] = ()
        if not isinstance(step, Step):
            requests = (step,) if isinstance(step, SearchRequest) else step
            queries = tuple(request.query for request in requests)
            results = []
            for request in requests:
                group = passages(request.query, request.top_k)
                found += group
                documents = tuple(Document(page.title, page.text, page.url) for page in group)
                results.append(SearchResult(documents))
            step = self.episode.observe(results[0] if len(results) == 1 else results)
        elif step.action == "search" and step.query is not None:
            queries = (step.query,)
        turn = self.episode.turns[-1]
        kept = turn.action_text[: turn.end]
        scores = step.scores
        action = {"invalid": "none"}.get(step.action, step.action)
        prediction = None if scores is None else scores.prediction
        observation = None if step.stop_reason is not None else self._plain(step)
        return Outcome(action, queries, observation, kept, prediction, tuple(found))

    def _plain(self, step: Step) -> str:
        """The observation with the wording of notices and errors taken out."""
        text = step.observation
        if step.action == "invalid" and text == self.notice:
            return text.replace(text.strip(), NOTICE)
        if self.protocol == "hermes":
            text = re.sub(r"\nerror: \n[^\n]*\n</tool_response>", f"\n{ERROR}\n</tool_response>", text)
            return text.removeprefix("\n")
        if self.protocol == "deepresearcher":
            return text.removeprefix("\n<tool_response>\n").removesuffix("\n</tool_response>\n")
        return text


def first_difference(protocol: str, script: Script, rules: Any) -> Difference | None:
    """Play an episode in both, up to the first turn in which they differ; None if they never do."""
    loop = LOOPS[protocol](passages)
    here = Here(protocol, rules)
    shown: list[Passage] = []
    for text in script.turns:
        for number, page in enumerate(shown[:2]):
            text = text.replace(f"PAGE {number}", page.url)
        published, ours = loop.turn(text), here.turn(text)
        what = _compare(protocol, published, ours)
        if what:
            return Difference(what, text, published, ours)
        if published.observation is None:
            return None
        shown = list(published.passages) or shown
    return None


def _compare(protocol: str, published: Outcome, here: Outcome) -> str:
    over = published.observation is None
    if over != (here.observation is None):
        return "end"
    if over:
        return "" if (published.prediction or "").strip() == (here.prediction or "").strip() else "prediction"
    if published.action != here.action:
        return "action"
    if published.action == "search" and published.queries != here.queries:
        return "queries"
    if published.observation != here.observation:
        return "observation"
    kept, ours = published.kept, here.kept
    if protocol == "deepresearcher":
        return ""  # the published loop writes the turn again from its parts
    if protocol == "r1-searcher":  # and this one removes white space around its text
        kept, ours = kept.strip(), re.sub(r"\s+(<\|end_of_query\|>)$", r"\1", ours.strip())
    return "" if kept == ours or protocol == "hermes" else "kept"


# The named classes of difference, as in docs/protocols.md

CALLS = re.compile("<tool_call>(.*?)</tool_call>", re.DOTALL)


def _queries(difference: Difference) -> tuple[str, ...]:
    return difference.published.queries


def empty_query(difference: Difference) -> bool:
    """An empty query is searched there, invalid here."""
    return any(not query.strip() for query in _queries(difference))


def empty_answer(difference: Difference) -> bool:
    """An empty answer ends the episode there, and is invalid here."""
    return difference.published.action == "answer" and not (difference.published.prediction or "").strip()


def query_as_written(difference: Difference) -> bool:
    """Queries are one line of visible text here, without tags, of at most 512 characters."""
    return any(
        not isinstance(query, str)
        or not query.isprintable()
        or "  " in query
        or "<" in query
        or len(query) > 512
        or query != query.strip()
        for query in _queries(difference)
    )


def passage_as_written(difference: Difference) -> bool:
    """Passages are shown here without invisible characters, white space at their ends, and tags."""
    return difference.what == "observation" and any(
        "\u200e" in page.text or page.text != page.text.strip() or "<search>" in page.text
        for page in difference.published.passages
    )


def no_documents(difference: Difference) -> bool:
    """`zerosearch` says so in a sentence."""
    return difference.what == "observation" and not difference.published.passages


def untitled(difference: Difference) -> bool:
    """Search-R1 takes the first line of a passage for its title."""
    return difference.what == "observation" and any(not page.title for page in difference.published.passages)


def one_line(difference: Difference) -> bool:
    """A passage of `zerosearch` is one line here."""
    return difference.what == "observation" and any("\n" in page.text for page in difference.published.passages)


def answer_tag_first(difference: Difference) -> bool:
    """A turn with `</answer>` before `</search>`: the first closing tag decides here."""
    text = difference.text
    return "</answer>" in text and "</search>" in text and text.index("</answer>") < text.index("</search>")


def open_answer(difference: Difference) -> bool:
    """An `<answer>` that an earlier turn left open is closed by the answer of a later one, for the published scorer."""
    return difference.what == "prediction" and len(difference.published.prediction or "") > len(difference.text)


def earlier_answer(difference: Difference) -> bool:
    """ReSearch scores the first answer of the response, also of a turn that searched after it."""
    scored = difference.published.prediction
    return difference.what == "prediction" and (scored is None or scored not in difference.text)


def draft(difference: Difference) -> bool:
    """What is before the first `</think>` is a draft here."""
    before = difference.text.partition("</think>")[0] if "</think>" in difference.text else ""
    return any(mark in before for mark in ("tool_call>", "answer>", "\\boxed")) or "<think>" in (
        difference.published.prediction or ""
    )


def call_as_written(difference: Difference) -> bool:
    """The call in an observation is shown here without tags."""
    return difference.what == "observation" and "<" in "".join(CALLS.findall(difference.text))


def asked_number(difference: Difference) -> bool:
    """ReCall's search has an argument for the number of passages."""
    return "top_n" in difference.text


def lenient_json(difference: Difference) -> bool:
    """Line breaks in strings and missing braces are accepted here."""
    for call in CALLS.findall(difference.text):
        try:
            json.loads(call)
        except ValueError:
            return True
    return False


def no_search(difference: Difference) -> bool:
    """DeepResearcher answers a call without a usable query or page with an empty list, and here it is told why."""
    return difference.published.observation == "[]"


def refused_call(difference: Difference) -> bool:
    """DeepResearcher ends the episode at a call of another function or without a list of queries or pages."""
    return difference.published.action == "none" and "<tool_call>" in difference.text


Predicate = Callable[[Difference], bool]
_ALL: tuple[Predicate, ...] = (empty_query, empty_answer, query_as_written, passage_as_written)
NAMED: dict[str, tuple[Predicate, ...]] = {
    "zerosearch": (*_ALL, answer_tag_first, open_answer, no_documents, one_line),
    "search-r1": (*_ALL, answer_tag_first, open_answer, untitled),
    "r1-searcher": _ALL,
    "research": (*_ALL, earlier_answer),
    "hermes": (*_ALL, draft, call_as_written, asked_number, lenient_json),
    "deepresearcher": (*_ALL, draft, lenient_json, no_search, refused_call),
}
"""Protocol -> its named classes of difference."""


def name_of(protocol: str, difference: Difference) -> str | None:
    """The first named class to which a difference belongs; None if it has no name."""
    return next((named.__name__ for named in NAMED[protocol] if named(difference)), None)
