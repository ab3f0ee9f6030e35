"""The prompts of players that ask a model in plain words, for models that were not trained to search."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zerosearch_env.protocols.documents import render_plain
from zerosearch_env.types import Document

BEGIN_QUERY, END_QUERY = "<|begin_search_query|>", "<|end_search_query|>"
BEGIN_RESULT, END_RESULT = "<|begin_search_result|>", "<|end_search_result|>"
FINAL_INFORMATION = "Final information:"

NEXT_QUESTION = "\nQuestion:"
"""Stop string of short answers: a model without a chat template goes on to the next question."""

_SHORT = "in at most five words"
"""No gold answer of NQ-open is longer."""
_ONLY = "Write nothing but the answer."
_DIRECT = f"Answer the question {_SHORT}. {_ONLY}"
_RAG = f"Read the documents and answer the question {_SHORT}. {_ONLY}"
_ONE_DOCUMENT = (
    f"Read the document and answer the question {_SHORT}. {_ONLY} If the document does not contain the answer, write: "
    "unknown"
)
_REASON = (
    'Answer the question. First think step by step, and write down your reasoning. Then write a last line "Answer:" '
    f"followed by the answer alone, {_SHORT}."
)
_CONCLUDE = f"Read the reasoning and answer the question {_SHORT}. {_ONLY}"
_SEARCH_O1 = (
    "Answer the question. Think step by step, and search whenever you need a fact that you are not sure of.\n\n"
    f"To search, write your query between {BEGIN_QUERY} and {END_QUERY}, and stop there. You are then told what the "
    f"documents that were found say, between {BEGIN_RESULT} and {END_RESULT}, and go on with your reasoning. You may "
    "search {times}.\n\n"
    rf"As soon as you know the answer, write it inside \boxed{{}}, {_SHORT}."
)
_READ = (
    "Someone reasons about a question and has just searched. Read the documents that were found, and work out what "
    "they say that answers the query and helps the reasoning. Be brief. End with a last line that begins with "
    f'"{FINAL_INFORMATION}" and states the facts in one or two sentences, or says that nothing helps.'
)

SEARCHES_USED_UP = "There are no searches left. Answer with what you know."
SEARCHED_ALREADY = "You have searched for this before: use the earlier result, or search for something else."
NOTHING_HELPFUL = "The documents contain nothing that helps."


def direct_prompt(question: str) -> str:
    """Asks for a short answer."""
    return f"{_DIRECT}\n\n{_answer(question)}"


def rag_prompt(question: str, documents: Sequence[Document]) -> str:
    """Asks for a short answer with the help of documents."""
    return f"{_RAG}\n\n{render_plain(documents)}\n\n{_answer(question)}"


def one_document_prompt(question: str, document: Document) -> str:
    """Asks for the short answer that one document gives, or "unknown"."""
    return f"{_ONE_DOCUMENT}\n\n{render_plain([document])}\n\n{_answer(question)}"


def reasoning_prompt(question: str) -> str:
    """Asks for reasoning with the answer in its last line."""
    return f"{_REASON}\n\nQuestion: {question}\nReasoning:"


def conclusion_prompt(question: str, reasoning: str) -> str:
    """Asks for the short answer of reasoning that has none."""
    return f"{_CONCLUDE}\n\nQuestion: {question}\nReasoning: {reasoning}\nAnswer:"


def search_o1_prompt(question: str, searches: int) -> str:
    """Asks for reasoning that searches."""
    times = "once" if searches == 1 else f"up to {searches} times"
    return f"{_SEARCH_O1.replace('{times}', times)}\n\nQuestion: {question}\n"


def reading_prompt(question: str, reasoning: str, query: str, documents: Sequence[Document]) -> str:
    """Asks for what documents say that helps the reasoning."""
    parts = (f"Question: {question}", f"Reasoning so far:\n{recent_steps(reasoning)}", f"Query: {query}")
    return "\n\n".join((_READ, *parts, f"Documents:\n{render_plain(documents)}\n"))


def recent_steps(reasoning: str) -> str:
    """Reasoning cut to its first line, its last four, and those with a query or a result, as in Search-o1's code."""
    lines = [line for line in reasoning.split("\n") if line.strip()]
    kept: list[str] = []
    for number, line in enumerate(lines):
        if number == 0 or number >= len(lines) - 4 or _MARKS.search(line):
            kept.append(line)
        elif kept[-1] != "...":
            kept.append("...")
    return "\n".join(kept)


_MARKS = re.compile("|".join(map(re.escape, (BEGIN_QUERY, BEGIN_RESULT))))


def _answer(question: str) -> str:
    return f"Question: {question}\nAnswer:"
