"""The list of episodes on a page: filters, permanent links, and the transcripts of all agents side by side.

    Explorer.add, Explorer.describe    episodes and their questions
    Explorer.listing                   the list as JSON: one row per question and place, one column per agent
    Explorer.block                     the transcripts of one question as JSON; they share their documents
    Explorer.section                   what the template writes; blocks are on the page or in files that load on a click

`templates/explorer.js` shows it. Transcripts are hostile: their documents hold instructions and markup. They reach the
page only as JSON in which `<`, `>` and `&` are escaped, the script writes them only as text, and the page's content
security policy runs no other script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files as package_files
from typing import Any, NamedTuple

from ..types import JsonObject
from .transcripts import search_groups

OUTCOMES = {
    "right": "r",
    "misled": "m",
    "abstained": "a",
    "wrong": "w",
    "no answer": "n",
    "failed": "f",
    "open": "o",
}
"""What an episode came to -> its letter in the list. "open" has no verdict: not over, or no gold answers."""
_LONGEST = 90
"""Characters of a prediction in the list; the transcript has all of it."""
LARGEST_LIST = 8_000_000
"""Bytes of the list. One that is larger leaves out the predictions."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


class Place(NamedTuple):
    """Under what conditions a question was played: equal for all agents that are compared."""

    engine: str
    noise_kind: str
    noise_level: float
    note: str = ""
    """What tells further episodes of the question apart, such as the sample or the training step."""


def outcome(
    em: float | None, misled: float | None, abstained: float | None, prediction: str | None, *, failed: bool = False
) -> str:
    """One of `OUTCOMES`: the first that applies of failed, open, right, misled, abstained, no answer, wrong."""
    if failed:
        return "failed"
    if em is None:
        return "open"
    if em == 1:
        return "right"
    if misled:
        return "misled"
    if abstained:
        return "abstained"
    return "no answer" if prediction is None else "wrong"


@dataclass
class Question:
    """A question in the list."""

    id: str
    text: str = ""
    answers: tuple[str, ...] = ()
    group: str = ""
    """`"1-hop"`, ..., or "" if it is not known."""
    data_source: str = ""


@dataclass(frozen=True)
class Section:
    """What `templates/explorer.html` writes, as it is: JSON from `encode`, and the script."""

    listing: str
    blocks: Sequence[str]
    """Transcripts on the page, one block per question that has some."""
    script: str
    policy: str
    """The content security policy of the page, see `content_policy`."""


@dataclass
class Explorer:
    """Collects episodes for a page."""

    questions: dict[str, Question] = field(default_factory=dict)
    places: dict[Place, int] = field(default_factory=dict)
    agents: dict[str, int] = field(default_factory=dict)
    _rows: dict[tuple[str, Place], dict[int, tuple[str, str | None, int, int]]] = field(default_factory=dict)

    def add(
        self,
        question: Question,
        place: Place,
        agent: str,
        outcome: str,
        prediction: str | None,
        searches: int,
        noisy: int,
    ) -> None:
        """Add an episode; one of the same agent, question and place is replaced.

        Args:
            question: what was asked. What a later episode says about it fills what is empty.
            place: the conditions.
            agent: name of the agent.
            outcome: one of `OUTCOMES`.
            prediction: the agent's answer.
            searches: number of searches.
            noisy: number of noise draws that came out noisy.
        """
        known = self.questions.setdefault(question.id, question)
        if not known.text and question.text:
            known.text, known.answers = question.text, question.answers
        self.places.setdefault(place, len(self.places))
        row = self._rows.setdefault((question.id, place), {})
        row[self.agents.setdefault(agent, len(self.agents))] = (outcome, prediction, searches, noisy)

    def __len__(self) -> int:
        """Number of episodes."""
        return sum(map(len, self._rows.values()))

    def rows_by_question(self) -> dict[str, list[Place]]:
        """The places of each question that have episodes."""
        found: dict[str, list[Place]] = {}
        for question, place in self._rows:
            found.setdefault(question, []).append(place)
        return found

    def listing(self, embedded: Mapping[str, int], files: Mapping[str, str]) -> str:
        """The list as JSON.

        Args:
            embedded: question id -> number of the block on the page that holds transcripts of it.
            files: question id -> path, relative to the page, of the file that holds further transcripts of it.
        """
        text = self._listing(embedded, files, predictions=True)
        return text if len(text) <= LARGEST_LIST else self._listing(embedded, files, predictions=False)

    def _listing(self, embedded: Mapping[str, int], files: Mapping[str, str], *, predictions: bool) -> str:
        strings: dict[str, int] = {}
        numbers = {id: number for number, id in enumerate(self.questions)}
        columns: list[dict[str, Any]] = []
        for agent in self.agents.values():
            episodes = [row.get(agent) for row in self._rows.values()]
            columns.append(
                {
                    "outcomes": "".join("." if e is None else OUTCOMES[e[0]] for e in episodes),
                    "predictions": [
                        -1 if e is None or e[1] is None else _number(strings, _short(e[1])) for e in episodes
                    ]
                    if predictions
                    else [],
                    "searches": [0 if e is None else e[2] for e in episodes],
                    "noisy": [0 if e is None else e[3] for e in episodes],
                }
            )
        return encode(
            {
                "agents": list(self.agents),
                "places": [list(place) for place in self.places],
                "questions": [
                    [q.id, q.text, q.answers, q.group, q.data_source, embedded.get(q.id, -1), files.get(q.id)]
                    for q in self.questions.values()
                ],
                "question": [numbers[question] for question, _ in self._rows],
                "place": [self.places[place] for _, place in self._rows],
                "columns": columns,
                "strings": list(strings),
                "predictions": predictions,
                "version": self.version,
            }
        )

    def section(self, blocks: Mapping[str, str], files: Mapping[str, str] | None = None) -> Section:
        """The list as the template needs it.

        Args:
            blocks: question id -> its `block`, for the transcripts that are on the page.
            files: see `listing`.
        """
        script = _script()
        listing = self.listing({id: number for number, id in enumerate(blocks)}, files or {})
        return Section(listing, list(blocks.values()), script, content_policy(script))

    @property
    def version(self) -> str:
        """A hash of what the numbers in blocks refer to, once every episode has been added."""
        named = json.dumps([list(self.agents), list(self.places), list(self.questions)])
        return hashlib.sha256(named.encode()).hexdigest()[:16]

    def block(self, records: Iterable[tuple[str, Place, JsonObject]]) -> str:
        """Transcripts of one question as JSON.

        Args:
            records: agent, place, and record of `transcript_record`, of episodes that were added.
        """
        texts: dict[str, int] = {}
        documents: dict[tuple[str, str], int] = {}
        episodes = [
            [self.agents[agent], self.places[place], _episode(record, texts, documents)]
            for agent, place, record in records
        ]
        return encode({"texts": list(texts), "documents": list(documents), "episodes": episodes})


def file_text(number: int, block: str, version: str) -> str:
    """The text of a JavaScript file that gives the page a block. The page refuses a file with another version.

    Args:
        number: position of the question in `Explorer.questions`.
        block: `Explorer.block`.
        version: `Explorer.version`.
    """
    return f"zerosearchBlock({number},{block},{encode(version)});\n"


# Any: whatever can be written as JSON
def encode(value: Any) -> str:
    """A value as JSON that is safe inside a `<script>` element of HTML, and in a JavaScript file."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not text.isprintable():  # bidirectional overrides, lone surrogates, ...
        text = json.dumps(value, separators=(",", ":"))
    for char, escape in _ESCAPES.items():  # eight times faster than str.translate
        text = text.replace(char, escape)
    return text


@cache
def _script() -> str:
    """The text of the page's script, as it is in the page."""
    return (package_files(__package__) / "templates" / "explorer.js").read_text("utf-8")


def content_policy(script: str) -> str:
    """The content security policy of a page whose only script is `script`; files next to the page may be loaded too.

    Args:
        script: the text of the `<script>` element, to the character.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}' 'self' file:; "
        "base-uri 'none'; form-action 'none'"
    )


def _number(table: dict[Any, int], value: Any) -> int:
    """The position of a value in a table, which it is added to."""
    return table.setdefault(value, len(table))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _episode(record: JsonObject, texts: dict[str, int], documents: dict[tuple[str, str], int]) -> dict[str, Any]:
    """What the page shows of a transcript. Prompts and documents, which repeat, are numbers."""
    return {
        "level": record["noise_level"],
        "protocol": record["protocol"],
        "prompt": _number(texts, record["prompt"]),
        "turns": [_turn(turn, documents) for turn in record["turns"]],
        "end": record["stop_reason"],
        "error": record.get("error"),
        "scores": record["scores"],
        "answers": record["answers"],
        "notes": [
            f"{name} {value}" for name, value in record["extra"].items() if name not in _HIDDEN and value is not None
        ],
    }


_HIDDEN = ("run", "agent", "engine", "index", "hops")
"""Entries of a record's `extra` that the page shows elsewhere, or that say nothing to a reader."""


def _turn(turn: JsonObject, documents: dict[tuple[str, str], int]) -> dict[str, Any]:
    searched = turn["action"] == "search"
    kinds = [search.get("kind") for search in turn.get("searches") or ()]
    wrong = [search.get("wrong_answers", []) for search in turn.get("searches") or ()]
    return {
        "action": turn["action"],
        "text": turn["action_text"],
        "found": turn["answer_in_documents"],
        "asked": turn["noisy"] is not None,
        "notice": "" if searched else turn["observation"],
        "searches": [
            {
                "query": group["query"],
                "message": group["message"],
                "kind": kinds[number] if number < len(kinds) else None,
                "wrong": wrong[number] if number < len(wrong) else [],
                "documents": [
                    [_number(documents, (document["title"] or "", document["text"])), int(noisy)]
                    for document, noisy in zip(group["documents"], group["noisy"], strict=True)
                ],
            }
            for number, group in enumerate(search_groups(turn) if searched else ())
        ],
    }
