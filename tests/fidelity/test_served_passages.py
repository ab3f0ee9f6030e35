"""From the answer of a published server, or of a simulation LLM, to the bytes that its policies were shown."""

from __future__ import annotations

from typing import Any

import pytest
from published_loops import LOOPS, Passage

from zerosearch_env import get_protocol
from zerosearch_env.engines.simulated.parse import parse_documents
from zerosearch_env.retrieve_api.results import parse_results

PASSAGES = [
    Passage("Wolves of the Range", "Wolves of the Range is a 1943 American Western film directed by Sam Newfield."),
    Passage('"Hello" (song)', 'It begins: "Hello, it\'s me".\nThe second line of the passage is shorter.'),
    Passage("1984", "1984 is a dystopian novel by the English writer George Orwell."),
]
ONE_LINE = [Passage(page.title, page.text.replace("\n", " ")) for page in PASSAGES]  # as in R1-Searcher's corpus
ACTIONS = {
    "search-r1": "<search>q</search>",
    "research": "<search>q</search>",
    "r1-searcher": "<|begin_of_query|>q<|end_of_query|>",
    "zerosearch": "<search>q</search>",
}
BODIES: dict[str, Any] = {
    "search-r1": {"result": [[{"document": {"contents": page.contents}, "score": 1.0} for page in PASSAGES]]},
    "research": [[{"id": "7", "contents": page.contents} for page in PASSAGES]],
    "r1-searcher": {"answers": [[f"{number} {page.title} {page.text}" for number, page in enumerate(ONE_LINE, 7)]]},
}


def published(protocol: str, passages: list[Passage]) -> str | None:
    return LOOPS[protocol](lambda query, number: passages).turn(ACTIONS[protocol]).observation


@pytest.mark.parametrize("protocol", BODIES)
def test_the_passages_of_a_server(protocol: str) -> None:
    (documents,) = parse_results(BODIES[protocol], 1, numbered=protocol == "r1-searcher")
    assert documents is not None
    shown = get_protocol(protocol).render_documents(documents, "q")
    assert shown == published(protocol, ONE_LINE if protocol == "r1-searcher" else PASSAGES)


def test_the_documents_of_a_simulation_llm() -> None:
    """The text is shown as the LLM wrote it, whether or not a document begins with a title."""
    written = [
        Passage("", "Wolves of the Range is a Western film from 1943, directed by Sam Newfield."),
        Passage("Hello (song)", "the song was written by Adele and Greg Kurstin and came out in October 2015."),
        Passage("", 'The novel "1984" was written by George Orwell: it came out in June 1949.'),
    ]
    text = "\n".join(
        f"Doc {k}: {page.title + ': ' if page.title else ''}{page.text}" for k, page in enumerate(written, 1)
    )
    documents = parse_documents(text, 3).documents
    shown = get_protocol("zerosearch").render_documents(documents, "q")
    assert shown == f"\n\n<information>{text}</information>\n\n" == published("zerosearch", written)
