r"""How each built-in player that asks a model in plain words goes about a question.

A plan is a generator without input or output. It yields what it needs (`Ask`: completions, `Search`: documents), is
sent the result, and returns its `Answer`. `PromptedPlayer` runs the plans of many episodes side by side. A plan knows
the question's text and the number of searches, nothing else of the episode.

`direct`: one short answer without documents.

`cot`: chain of thought (Wei et al., arXiv 2201.11903), without examples as in Kojima et al. (arXiv 2205.11916): the
model reasons, and a second completion gives the answer if the reasoning does not end with one. Examples can be given
with `few_shot`.

`rag`: one search with the question, all documents in one prompt. It is the naive RAG of FlashRAG (Jin et al.,
arXiv 2405.13576) and the RAG row of Search-R1 (Jin et al., arXiv 2503.09516).

`iterative_rag`: ITER-RETGEN (Shao et al., arXiv 2305.15294) as in FlashRAG: each round searches for the question
followed by the previous answer, and answers from the documents of this round. It stops not after a fixed number of
rounds, but as soon as two searches, not necessarily in a row, led to the same answer. A round without an answer counts
for nothing and is followed by a search for the question. Without agreement the last answer is used.

`vote`: isolate, then aggregate (RobustRAG, Xiang et al., arXiv 2405.15556): one search, one answer from each document
by itself, and a majority vote as in self-consistency (Wang et al., arXiv 2203.11171). A document without the answer
has no vote. RobustRAG counts keywords; here whole answers are counted.

`search_o1`: Search-o1 (Li et al., arXiv 2501.05366, github.com/RUC-NLPIR/Search-o1): the model reasons, searches
between `<|begin_search_query|>` and `<|end_search_query|>`, and continues with what a second prompt
(Reason-in-Documents) has extracted from the documents in view of the reasoning so far. The same query is not searched
twice, reasoning ends after 15 turns, and the answer is in `\boxed{}`, as in its code. Differences: results come as
messages of the user, so that every chat model and every server can play; reasoning without `\boxed{}` gets its answer
from one more completion; a reading without the marker of its result is used as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

from zerosearch_env.game.rewards import answer_key
from zerosearch_env.llm.backend import Completion
from zerosearch_env.protocols.hygiene import clean_query
from zerosearch_env.types import Step

from . import prompts
from .answers import abstains, conclusion, cut_answer, majority
from .prompts import BEGIN_QUERY, BEGIN_RESULT, END_QUERY, END_RESULT, FINAL_INFORMATION

ANSWER_TOKENS = 64
"""Default maximum of a short answer, in tokens."""
REASONING_TOKENS = 512
"""Default maximum of reasoning and of a reading of documents, in tokens."""
SEARCH_O1_TURNS = 15
"""Completions after which the reasoning of Search-o1 ends, searches or not."""

Messages = tuple[tuple[str, str], ...]
"""Earlier messages, (role, content) each."""


class Ask(NamedTuple):
    """A plan needs completions; it is sent a list of `Completion`, one per text."""

    texts: tuple[str, ...]
    """The user's messages, one per completion."""
    tokens: int = ANSWER_TOKENS
    """Maximum tokens of each completion, unless the user of the player sets another limit."""
    stop: tuple[str, ...] = (prompts.NEXT_QUESTION,)
    """Stop strings."""
    history: Messages = ()
    """The messages before `texts`."""
    examples: bool = True
    """Whether `few_shot` precedes the first message."""


class Search(NamedTuple):
    """A plan searches; it is sent the `Step`."""

    query: str
    thought: str = ""
    """What the model wrote since its last turn, for the transcript."""


class Answer(NamedTuple):
    """What a plan returns."""

    text: str
    """"" if the model gave no answer."""
    thought: str = ""
    """What the model wrote since its last turn, for the transcript."""


# Any: each kind of move has its own kind of result
Plan = Generator[Ask | Search, Any, Answer]


@dataclass(frozen=True)
class PlanKind:
    """A kind of plan."""

    start: Callable[[str, int], Plan]
    """(question, maximum number of searches) -> the plan."""
    searches: int | None
    """Maximum number of searches; None: that of the rules."""


def direct(question: str, _: int) -> Plan:
    """See the module's docstring."""
    reply = yield from _ask(prompts.direct_prompt(question))
    return _answer(reply)


def cot(question: str, _: int) -> Plan:
    """See the module's docstring."""
    reasoning = yield from _ask(prompts.reasoning_prompt(question), REASONING_TOKENS)
    return (yield from _conclude(question, reasoning, reasoning, reasoning))


def rag(question: str, _: int) -> Plan:
    """See the module's docstring."""
    step = yield from _search(question)
    reply = yield from _ask(prompts.rag_prompt(question, step.documents))
    return _answer(reply)


def iterative_rag(question: str, searches: int) -> Plan:
    """See the module's docstring."""
    given: set[str] = set()
    query, reply, last = question, "", ""
    for _ in range(searches):
        step = yield from _search(query, reply)
        reply = yield from _ask(prompts.rag_prompt(question, step.documents))
        answer = cut_answer(reply)
        if abstains(answer):
            query = question
            continue
        if answer_key(answer) in given:
            return Answer(answer, reply)
        given.add(answer_key(answer))
        query, last = f"{question} {answer}", answer
    return Answer(last, reply)


def vote(question: str, _: int) -> Plan:
    """See the module's docstring."""
    step = yield from _search(question)
    texts = tuple(prompts.one_document_prompt(question, document) for document in step.documents)
    completions: list[Completion] = (yield Ask(texts)) if texts else []
    answers = [cut_answer(completion.text) for completion in completions]
    ballots = "\n".join(f"Doc {number}: {answer}" for number, answer in enumerate(answers, 1))
    return Answer(majority(answers), ballots)


def search_o1(question: str, searches: int) -> Plan:
    """See the module's docstring."""
    message = prompts.search_o1_prompt(question, searches)
    history: Messages = ()
    asked: set[str] = set()
    reasoning = thought = text = ""
    for _ in range(SEARCH_O1_TURNS):
        completions = yield Ask((message,), REASONING_TOKENS, (END_QUERY,), history)
        text, query = _split_query(completions[0])
        reasoning, thought = reasoning + text, thought + text
        if not query:
            break
        turn = f"{text}{BEGIN_QUERY}{query}{END_QUERY}"
        if len(asked) >= searches:
            result = prompts.SEARCHES_USED_UP
        elif answer_key(query) in asked:
            result = prompts.SEARCHED_ALREADY
        else:
            asked.add(answer_key(query))
            step = yield from _search(query, thought)
            reasoning += f"\n{BEGIN_QUERY}{query}{END_QUERY}\n"
            result = yield from _read(question, reasoning, query, step)
            thought = f"{result}\n\n"
        history += (("user", message), ("assistant", turn))
        message = f"{BEGIN_RESULT}{result}{END_RESULT}"
        reasoning += f"\n{message}\n"
    return (yield from _conclude(question, reasoning, text, thought))


PLANS = {
    "direct": PlanKind(direct, 0),
    "cot": PlanKind(cot, 0),
    "rag": PlanKind(rag, 1),
    "iterative-rag": PlanKind(iterative_rag, None),
    "vote": PlanKind(vote, 1),
    "search-o1": PlanKind(search_o1, None),
}
"""Every kind of plan, by the name of its player."""


def _ask(text: str, tokens: int = ANSWER_TOKENS, *, examples: bool = True) -> Generator[Ask, list[Completion], str]:
    (completion,) = yield Ask((text,), tokens, examples=examples)
    return completion.text


def _search(query: str, thought: str = "") -> Generator[Search, Step, Step]:
    return (yield Search(query, thought))


def _answer(reply: str) -> Answer:
    return Answer(cut_answer(reply), reply)


def _conclude(question: str, reasoning: str, last: str, thought: str) -> Generator[Ask, list[Completion], Answer]:
    """The answer that the last part of reasoning gives; if it gives none, that of one more completion."""
    answer = conclusion(last)
    if answer:
        return Answer(answer, thought)
    reply = yield from _ask(prompts.conclusion_prompt(question, reasoning), examples=False)
    return Answer(cut_answer(reply), f"{thought}\n\n{reply}")


def _read(question: str, reasoning: str, query: str, step: Step) -> Generator[Ask, list[Completion], str]:
    """What the documents say that helps (Reason-in-Documents)."""
    if not step.documents:
        return prompts.NOTHING_HELPFUL
    prompt = prompts.reading_prompt(question, reasoning, query, step.documents)
    reply = yield from _ask(prompt, REASONING_TOKENS, examples=False)
    _, marked, information = reply.rpartition(FINAL_INFORMATION)
    return (information if marked else reply).strip() or prompts.NOTHING_HELPFUL


def _split_query(completion: Completion) -> tuple[str, str]:
    """The reasoning before a query, and the query; "" if there is none, or if it was cut off."""
    text, begun, rest = completion.text.partition(BEGIN_QUERY)
    query, ended, _ = rest.partition(END_QUERY)
    complete = begun and (ended or not completion.truncated)
    return text, clean_query(query) if complete else ""
