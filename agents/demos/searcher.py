"""A scripted searcher that plays any question with gold answers: the teacher of a warm start.

It plans, searches with the question or with keywords, and reads: if a document about the right subject states the
answer, it notes what it read and answers; otherwise it says what the documents are about, and searches again. It is
imperfect at fixed rates, so that reinforcement learning finds both the habit and what is better:

    documents state the answer      note it and answer              careless: another name or year of the documents
    they do not                     search again (noise is new)     guess from the documents
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

from zerosearch_env.checks import check_number
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rewards import answer_key
from zerosearch_env.game.rules import Rules
from zerosearch_env.protocols.hygiene import clean_query
from zerosearch_env.protocols.tags import THINK, THINK_END
from zerosearch_env.randomness import mix, uniform
from zerosearch_env.types import Document, Question, Step

from ..players.builtin.scripted import ScriptedPlayer
from ..players.builtin.turns import NO_ANSWER
from . import phrases
from .needs import Fact, facts_of, other_answers, quote

MAX_QUERY_WORDS = 24
"""A longer question is searched for in keywords only."""


@dataclass(frozen=True)
class Habits:
    """Rates of the scripted searcher's behaviours, each a probability in [0, 1]."""

    keywords: float = 0.4
    """Rate of queries in keywords; the others are the whole question."""
    short_query: float = 0.1
    """Rate of careless first queries: the last word of a name only."""
    search_again: float = 0.9
    """Rate of another search after documents without the answer; otherwise it guesses from them."""
    careless: float = 0.1
    """Rate of answering with another name or number of the documents although they state the answer."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_number(f"habits.{entry.name}", getattr(self, entry.name), least=0, most=1)


class ScriptedSearcher(ScriptedPlayer):
    """Plays like a model that has learnt to search but not perfectly; it sees the gold answers.

    What it does is a function of the episode's seed and turn and of its own seed. Metadata of the question that it
    uses where they are there: `title` or `subject`, `relation` or `relations`, `chain`.

    Args:
        habits: rates of its behaviours.
        seed: determines every choice, together with the episode's seed and the turn.
        name: name in results.
    """

    name = "demos"

    def __init__(self, habits: Habits | None = None, *, seed: int = 0, name: str | None = None) -> None:
        super().__init__(name=name)
        self.habits = habits or Habits()
        self._seed = seed

    @property
    def identity(self) -> dict[str, str]:
        """The rates of its habits."""
        return {"habits": json.dumps(asdict(self.habits))}

    @staticmethod
    def suits(question: Question) -> bool:
        """Whether documents can state an answer of the question: yes and no are words of any text."""
        return not {answer_key(answer) for answer in question.answers} & {"yes", "no"}

    def rules_for(self, rules: Rules) -> Rules:
        """The same rules.

        Raises:
            ConfigError: the protocol cannot hold a thought in front of its actions.
        """
        for kind, render in (("search", rules.protocol.render_search), ("answer", rules.protocol.render_answer)):
            turn = write_turn(rules, "A thought.", render, "words")
            if (got := rules.protocol.parse(turn).kind) != kind:
                raise ConfigError(
                    f"protocol {rules.protocol.name!r}: it reads {turn!r} as {got!r} instead of {kind!r}, so the "
                    "scripted searcher cannot play it; demonstrate with an agent (--agent), or with another protocol"
                )
        return rules

    def _act(self, episode: Episode, step: Step | None) -> str:
        return _Turn(episode, self.habits, self._seed).write(step)


class _Turn:
    """The next turn of an episode."""

    def __init__(self, episode: Episode, habits: Habits, seed: int) -> None:
        self._episode, self._habits, self._seed = episode, habits, seed
        self._number, self._draws = len(episode.turns), 0
        self._facts = facts_of(episode.question)

    def write(self, step: Step | None) -> str:
        """Its text; `step` is the latest step, None at the start of the episode."""
        if step is None:
            return self._begin()
        known = 0
        for turn in self._episode.turns[:-1]:
            known, _ = self._read(known, turn.step.documents)
        known, found = self._read(known, step.documents)
        if found is None:
            return self._miss(self._facts[known], step)
        if known == len(self._facts):
            return self._found(found, step.documents)
        fact = self._facts[known]
        if self._episode.last_turn:
            return self._guess(step.documents, self._noted(found))
        thought = f"{self._noted(found)} {self._fill(phrases.NEXT, fact=self._name(fact))}"
        return self._search(thought, self._first_query(fact))

    def _read(self, known: int, documents: Sequence[Document]) -> tuple[int, tuple[Document, str] | None]:
        """How many facts are known after reading documents, and where these state the last of them, if they do."""
        latest = None
        while known < len(self._facts) and (found := self._facts[known].stated_by(documents)) is not None:
            known, latest = known + 1, found
            documents = [document for document in documents if document is not found[0]]
        return known, latest

    def _begin(self) -> str:
        fact = self._facts[0]
        first = phrases.PLAN if len(self._facts) == 1 else phrases.PLAN_FIRST
        thought = self._fill(first, fact=self._name(fact)) if fact.phrase else self._fill(phrases.PLAN_UNKNOWN)
        return self._search(thought, self._first_query(fact))

    def _found(self, found: tuple[Document, str], documents: Sequence[Document]) -> str:
        others = self._others(documents)
        if others and self._chance(self._habits.careless):
            answer = self._pick(others)
            return self._answer(self._fill(phrases.CARELESS, answer=phrases.plain(answer)), answer)
        return self._answer(self._noted(found), found[1])

    def _miss(self, fact: Fact, step: Step) -> str:
        titles = [phrases.title_text(document.title) for document in step.documents[:2]]
        shown = " and ".join(dict.fromkeys(filter(None, titles)))
        read = self._fill(phrases.READ, titles=shown)
        if not shown:
            thought = self._fill(phrases.NOTHING)
        elif fact.subject and not any(fact.about(document) for document in step.documents):
            thought = read + self._fill(phrases.ELSEWHERE, subject=phrases.title_text(fact.subject))
        else:
            thought = read + self._fill(phrases.ABSENT)
        if self._episode.last_turn or not self._chance(self._habits.search_again):
            return self._guess(step.documents, thought)
        queries = self._queries(fact)
        query = step.query if step.query in queries and self._chance(0.5) else self._pick(queries)
        return self._search(f"{thought} {self._fill(phrases.AGAIN)}", query or queries[0])

    def _guess(self, documents: Sequence[Document], thought: str) -> str:
        others = self._others(documents)
        return self._answer(f"{thought} {self._fill(phrases.GUESS)}", self._pick(others) if others else NO_ANSWER)

    def _others(self, documents: Sequence[Document]) -> list[str]:
        question = self._episode.question
        return other_answers(question.answers, documents, question.text)

    def _noted(self, found: tuple[Document, str]) -> str:
        document, answer = found
        title, said = phrases.title_text(document.title), phrases.plain(quote(document, answer))
        if not title:
            return self._fill(phrases.STATED_UNTITLED, quote=said)
        return self._fill(phrases.READ, titles=title) + self._fill(phrases.STATED, quote=said)

    def _name(self, fact: Fact) -> str:
        return phrases.plain(fact.phrase or fact.question, MAX_QUERY_WORDS)

    def _first_query(self, fact: Fact) -> str:
        if self._chance(self._habits.short_query):
            return fact.short_query
        question, *keywords = self._queries(fact)
        return self._pick(keywords) if keywords and self._chance(self._habits.keywords) else question

    def _queries(self, fact: Fact) -> list[str]:
        """The whole question if it is not too long, then keywords."""
        long = len(fact.question.split()) > MAX_QUERY_WORDS
        queries = [*(() if long else (fact.question,)), *fact.keywords]
        return [" ".join(query.split()[:MAX_QUERY_WORDS]) for query in dict.fromkeys(queries)]

    def _chance(self, rate: float) -> bool:
        self._draws += 1
        return uniform(self._episode.seed, self._seed, self._number, self._draws) < rate

    def _pick(self, choices: Sequence[str]) -> str:
        self._draws += 1
        return choices[mix(self._episode.seed, self._seed, self._number, self._draws) % len(choices)]

    def _fill(self, choices: Sequence[str], **names: str) -> str:
        return self._pick(choices).format(**names).replace("..", ".")

    def _search(self, thought: str, query: str) -> str:
        query = query if clean_query(query) else self._episode.question.text
        return self._turn(thought, self._episode.rules.protocol.render_search, query)

    def _answer(self, thought: str, answer: str) -> str:
        return self._turn(thought, self._episode.rules.protocol.render_answer, answer)

    def _turn(self, thought: str, render: Callable[[str], str], content: str) -> str:
        # Without the tags in it nothing may be left of a text from a file.
        return write_turn(self._episode.rules, thought, render, clean_query(content) or NO_ANSWER)


def write_turn(rules: Rules, thought: str, render: Callable[[str], str], content: str) -> str:
    """A thought and an action as one turn of a protocol.

    Args:
        rules: the rules with the protocol.
        thought: one or two sentences.
        render: `render_search` or `render_answer` of the protocol.
        content: the query or the answer.
    """
    action = render(content)
    # The blank matters: a byte-level tokenizer encodes "Paris" and " Paris" differently, and texts have the latter.
    action = action.replace(f">{content}<", f"> {content}<", 1)
    if f"{THINK}{THINK_END}" in action:
        return action.replace(f"{THINK}{THINK_END}", f"{THINK}{thought}{THINK_END}", 1)
    if rules.prompt_template.rstrip().endswith(THINK):  # the thought is open, and the searches are inside it
        return f"{thought}{THINK_END}{action}" if render is rules.protocol.render_answer else f"{thought} {action}"
    return f"{THINK}{thought}{THINK_END}{action}"
