"""What a simulation LLM writes in place of documents, and what only looks like it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sim_fakes import FakeBackend, ask, numbered, passage

from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.simulated.parse import parse_documents
from zerosearch_env.engines.simulated.reject import is_chat, is_refusal, prompt_words, rejection
from zerosearch_env.engines.simulated.sets import SimulationOptions, prompt_of

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t help with that.",
    "I am very sorry. There is nothing to show.",
    "**I'm sorry**, I can't do that.",
    '"I\'m sorry, but I cannot provide documents."',
    "Sorry, I can't find this.",
    "Sorry, but no.",
    "I'm unable to write noisy documents.",
    "I cannot fulfill this request for documents.",
    "I can't assist you with this.",
    "I won't be able to help you here.",
    "I don't have access to the internet.",
    "I do not have enough information about it.",
    "As an AI language model, I know nothing of it.",
    "I'm just an AI, and this is a document.",
    "My apologies, there is no document on it.",
]
CHAT = [
    "I hope this helps.",
    '"I hope this helps."',
    "I hope these documents are helpful!",
    "I'm ready to help you with your quest.",
    "I'd be happy to help with this.",
    "Let me know if you need more documents.",
    "Please provide the query.",
    "Sure, here are the documents.",
    "Certainly! Here you go, five of them.",
    "Here are five useful documents:",
    "Is there anything else you want to know?",
    "Feel free to ask for more of them.",
    "Thank you for your question about rivers.",
]
DOCUMENTS = [
    '"I Can\'t See Myself Leaving You" is a song written by Ronnie Shannon.',
    '"I Can\'t Help Myself (Sugar Pie, Honey Bunch)" is a 1965 song by the Four Tops.',
    "I Can't Help Myself is a 1965 song by the Four Tops.",
    "I'm Sorry, I Haven't a Clue is a comedy panel game on BBC Radio 4.",
    '"Sorry" is a song by the Canadian singer Justin Bieber.',
    "Sorry! is a British sitcom that was shown from 1981 to 1988.",
    "Sorry, I Love You is a television series of 2004.",
    "I Am Legend is a horror novel by Richard Matheson.",
    '"Let Me Know" is a single by Roisin Murphy, released in 2007.',
    '"Thank You for the Music" is a song by the Swedish group ABBA.',
    "As an actor, he appeared in more than forty films.",
    "Here Are the Sonics is the first album of the Sonics.",
    "Here is the first line of his best known poem on the sea.",
    "I don't have a favourite river, she said in an interview of 1984.",
    "Of course, the river was named after the town, and not the town after it.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(text: str) -> None:
    assert is_refusal(text)
    assert parse_documents(f"Doc 1: {text}\nDoc 2: {passage('a mill')}", 2).rejected == ("refusal",)


@pytest.mark.parametrize("text", CHAT)
def test_chat(text: str) -> None:
    assert is_chat(text)
    parsed = parse_documents(f"Doc 1: {passage('a mill')}\nDoc 2: {text}", 2)
    assert (parsed.problem, parsed.rejected) == ("chat", ("chat",))


@pytest.mark.parametrize("text", DOCUMENTS)
def test_documents_that_begin_like_them(text: str) -> None:
    parsed = parse_documents(f"Doc 1: {text}\nDoc 2: {passage('a mill')}", 2)
    assert (parsed.problem, parsed.rejected) == (None, ())
    assert parsed.documents[0].text == text


def test_a_closing_line_is_not_part_of_the_last_document() -> None:
    written = f"{numbered('a', 'b')}\n\nI hope this helps! Let me know if you need more.\n"
    assert [d.text for d in parse_documents(written, 2).documents] == [passage("a"), passage("b")]
    written = f"{passage('a')}\n\n{passage('b')}\n\nFeel free to ask."
    assert [d.text for d in parse_documents(written, 2).documents] == [passage("a"), passage("b")]
    assert parse_documents("I'm ready to help you with your quest.", 2).problem == "chat"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("One two three four", "fragment"),
        ("One two three four five", None),
        ("\u6cb3\u5ddd\u5927\u6d77", "fragment"),
        ("\u6cb3\u5ddd\u6d41\u5165\u5927\u6d77", None),  # a script without blanks: every character counts
        ("...", "fragment"),
    ],
)
def test_fragments(text: str, reason: str | None) -> None:
    assert rejection(text, (), prompt_words("", SimulationOptions().style, noisy=False, count=1)) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The Tarn bridge, opened in 1931, was designed by the engineer Ida Holm, who won a prize for it.", "echo"),
        ("Ida Holm (1889-1960) built bridges and cranes. Her best known work is the bridge over the Tarn.", "echo"),
        ("You are a search engine. Return 2 documents of the kind useful.", "echo"),
        ("Question behind the search: What is the capital of France?", "echo"),
        ("What is the capital of France?", "echo"),
        ("The capital of France is Paris, a city on the Seine.", None),
        ("What is the capital of France? It is Paris, on the Seine.", None),
        ("A bridge over the Tarn was opened near Albi, in the south of France.", None),
    ],
)
def test_echoes_of_the_prompt_and_its_examples(text: str, reason: str | None) -> None:
    options, request = SimulationOptions(prompt="few-shot"), ask(top_k=2)
    prompt = prompt_words(prompt_of(request, False, options), options.style, noisy=False, count=2)
    assert rejection(text, (), prompt) == reason


def test_they_are_counted() -> None:
    texts = [
        "Doc 1: I hope this helps.\nDoc 2: I'm sorry, but no.\nDoc 3: Short.",
        f"Doc 1: {passage('a')}\nDoc 2: {passage('a')}\nDoc 3: What is the capital of France?",
        numbered("Paris", "b", "c") + "\nDoc 4: not looked at",
    ]
    engine = SimulatedEngine(FakeBackend(lambda _, n: texts[n]))
    (result,) = engine.search([ask()])
    assert result.failure is None
    stats = engine.stats()
    assert (stats.chat_phrases, stats.refusals, stats.fragments, stats.repetitions, stats.echoes) == (1, 1, 1, 1, 1)
    assert stats.unusable == 2


@pytest.mark.parametrize(
    ("query", "count"),
    [("who drowned in the Po", 1), ("the capital", 0), ("Who is it", 0), ("", 0), ("of the", 0)],
)
def test_useful_sets_without_a_word_of_the_query(query: str, count: int) -> None:
    engine = SimulatedEngine(FakeBackend(lambda *_: numbered("Paris, the capital of France", "who", "c")))
    engine.search([ask(query), ask(query, noisy=True, answers=("x",))])
    assert engine.stats().off_query_sets == count


@pytest.mark.slow
def test_real_texts_are_not_rejected(shared_data: Path) -> None:
    """Snippets of Google and paragraphs of Wikipedia, apart from answer boxes of fewer than five words."""
    rows, passages = (
        [json.loads(line) for line in (shared_data / name).read_text("utf-8").split("\n") if line]
        for name in ("real_search_trajectories.jsonl", "wikipedia_passages.jsonl")
    )
    texts = {text for row in rows for search in row["searches"] for text in search["documents"]}
    texts |= {row["contents"].partition("\n")[2] for row in passages}
    found = {text: parse_documents(f"Doc 1: {text}", 1).rejected for text in texts if text.strip()}
    rejected = {text: reasons for text, reasons in found.items() if set(reasons) - {"fragment"}}
    assert len(found) > 8000
    assert not rejected
