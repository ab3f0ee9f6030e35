r"""Questions in natural English over real Wikipedia text, made by patterns: the data of `zerosearch bench real-llm`.

    python -m zerosearch_benchmarks.learning.wiki_questions FOLDER
    python -m zerosearch_benchmarks.learning.wiki_questions FOLDER --passages wiki.jsonl

The passages are the paragraphs of 2WikiMultihopQA from the Hugging Face Hub (needs the extra `hub`), or those of a
corpus file. FOLDER gets the passages, and four files of questions:

    passages -> facts -> one hop   Who directed the film F?   In which year was P born?   What is the nationality of P?
                      -> two hops  the last two, of the director of the film F, if the director's passage is there too

A fact is used only if its passage states it in one way: one director, one nationality, and no other passage with the
same name. Questions are split by a hash of the passage's title, so that nothing about a title is in both parts. A small
model cannot answer most of them from memory, except that it can guess a nationality.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import tyro

from zerosearch_env.command_line import read_options
from zerosearch_env.datasets import load_corpus, load_dataset
from zerosearch_env.errors import ConfigError
from zerosearch_env.files import write_text
from zerosearch_env.identity import text_hash
from zerosearch_env.types import Document

PASSAGES_FILE = "wikipedia_passages.jsonl"
HOPS = ("one_hop", "two_hop")
PARTS = ("train", "test")
_TEST_SHARE = 5
"""One title in so many is for the test."""
_START = 400
"""Characters at the start of a passage in which facts are looked for; later ones are often about something else."""

_QUESTIONS = {
    "director": "Who directed {}?",
    "birth year": "In which year was {} born?",
    "nationality": "What is the nationality of {}?",
}
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = rf"(?:\d{{1,2}} {_MONTH},? |{_MONTH} \d{{1,2}}, )"
_BORN = re.compile(rf"\b(?:born|b\.)\s(?:on )?(?:{_DATE}|{_MONTH} )?(\d{{4}})\b")
_LIVED = re.compile(rf"\(\s?{_DATE}(\d{{4}})\s?[-\u2013]\s?{_DATE}\d{{4}}\s?\)")
_EVENT = re.compile(r"\b(?:War|Battle|Siege|Campaign|Revolution|Conference|Games|Championship)s?\b")
_NATIONALITIES = (
    "American Argentine Australian Austrian Belgian Brazilian British Bulgarian Canadian Chilean Chinese "
    "Colombian Croatian Cuban Czech Danish Dutch Egyptian English Estonian Finnish French German Greek "
    "Hungarian Icelandic Indian Indonesian Iranian Irish Israeli Italian Japanese Kenyan Korean Latvian "
    "Lithuanian Malaysian Mexican Norwegian Pakistani Peruvian Polish Portuguese Romanian Russian Scottish "
    "Serbian Slovak Slovenian Spanish Swedish Swiss Thai Turkish Ukrainian Vietnamese Welsh"
).split()
_NATION = rf"(?:{'|'.join(_NATIONALITIES)})"
_CITIZEN = re.compile(rf"\b(?:is|was) an? (?:former |retired |late )?({_NATION})(?! ?(?:-|and\b|{_NATION}))\b")
_FILM = re.compile(r"\bfilm\b")
_DIRECTED = re.compile(r"\bdirected by\s+")
_INITIAL = re.compile(r"(?:[^\W\d_]\.)+")
_PARTICLES = {"al", "bin", "da", "de", "del", "della", "den", "der", "di", "du", "el", "la", "le", "van", "von"}


@dataclass(frozen=True)
class WikiQuestionsConfig:
    """Make questions with one and two hops from passages of Wikipedia."""

    folder: tyro.conf.Positional[Path]
    """Folder for the files."""
    dataset: str = "framolfese/2WikiMultihopQA"
    """A dataset whose questions have paragraphs: a name on the Hugging Face Hub, or a file."""
    split: str = "validation"
    """Split of the dataset."""
    limit: int = 1000
    """Number of questions of the dataset whose paragraphs are used; each has about ten."""
    passages: Path | None = None
    """A corpus file to use instead of the dataset; each passage begins with the subject of its title."""


@dataclass(frozen=True)
class Fact:
    """Something that a passage states about the subject of its title."""

    title: str
    relation: str
    """A key of the table of questions."""
    answer: str


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    config = read_options(
        WikiQuestionsConfig, argv, "python -m zerosearch_benchmarks.learning.wiki_questions", description=__doc__
    )
    for name, count in make_files(config).items():
        print(f"{count:7,}  {config.folder / name}")
    return 0


def make_files(config: WikiQuestionsConfig) -> dict[str, int]:
    """Write all files.

    Returns:
        For each file the number of its rows.

    Raises:
        ConfigError: the dataset has no paragraphs.
        DataError: the dataset or the file cannot be read.
    """
    passages = load_passages(config)
    rows: list[dict[str, object]] = [
        {"id": str(n), "contents": f'"{p.title}"\n{p.text}'} for n, p in enumerate(passages)
    ]
    files = {PASSAGES_FILE: rows}
    facts = find_facts(passages)
    for hops, questions in zip(HOPS, (one_hop(facts), two_hop(facts)), strict=True):
        for part in PARTS:
            chosen = [row for row in questions if part_of(str(row["title"])) == part]
            prefix = f"wikiq-{hops}-{part}"
            files[f"wikiq_{hops}_{part}.jsonl"] = [{"id": f"{prefix}-{n}", **row} for n, row in enumerate(chosen)]
    config.folder.mkdir(parents=True, exist_ok=True)
    for name, entries in files.items():
        write_text(config.folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in entries))
    return {name: len(entries) for name, entries in files.items()}


def load_passages(config: WikiQuestionsConfig) -> list[Document]:
    """The passages, each title once.

    Raises:
        ConfigError: the dataset has no paragraphs.
    """
    if config.passages is not None:
        return _distinct(load_corpus(config.passages))
    questions = load_dataset(config.dataset, config.split, limit=config.limit).questions
    paragraphs = [Document(p.title, p.text) for question in questions for p in question.paragraphs or ()]
    if not paragraphs:
        raise ConfigError(f"the questions of {config.dataset} have no paragraphs: give a corpus file with --passages.")
    return _distinct(paragraphs)


def _distinct(passages: Iterable[Document]) -> list[Document]:
    first: dict[str, Document] = {}
    for passage in passages:
        if passage.title and passage.text:
            first.setdefault(passage.title, passage)
    return list(first.values())


def find_facts(passages: Sequence[Document]) -> list[Fact]:
    """The facts that passages state, without those about a name that several passages have.

    Args:
        passages: passages with different titles.
    """
    named: dict[str, set[str]] = defaultdict(set)
    for passage in passages:
        named[name_of(passage.title)].add(passage.title)
    return [
        fact
        for passage in passages
        if len(named[name_of(passage.title)]) == 1
        for fact in facts_of(passage)
        if fact.answer.casefold() not in passage.title.casefold()  # the question would give the answer away
    ]


def facts_of(passage: Document) -> Iterator[Fact]:
    """The facts that the beginning of a passage states about the subject of its title."""
    title, start = passage.title, passage.text[:_START]
    if _FILM.search(start) and (director := director_in(start)) is not None:
        yield Fact(title, "director", director)
    if (year := birth_year_in(start)) is not None and not _EVENT.search(title):
        yield Fact(title, "birth year", year)
        if (citizen := _CITIZEN.search(start)) is not None:
            yield Fact(title, "nationality", citizen[1])


def director_in(text: str) -> str | None:
    """The person by whom a film is directed according to a text; None if it names no one or several."""
    found = _DIRECTED.search(text)
    name = "" if found is None else leading_name(text[found.end() :])
    if found is None or len(name.split()) < 2:
        return None
    after = text[found.end() + len(name) :]
    # "by A and B", "by A, B and C"; a comma before a word in small letters ends the name
    return None if re.match(r"\s*(?:and|&)\s+[^\W\d_a-z]|,\s+[^\W\d_a-z]", after) else name


def leading_name(text: str) -> str:
    """The name at the start of a text: up to four words in capitals, with initials and small words such as "van"."""
    words: list[str] = []
    for word in text.split(" "):
        bare = word.rstrip(".,;:()\u2019'\"")
        small = bare in _PARTICLES and bool(words)
        if not small and not (bare[:1].isupper() and bare.replace("-", "").replace("'", "").replace(".", "").isalpha()):
            break
        words.append(word if _INITIAL.fullmatch(word) else bare)
        if len(words) == 4 or words[-1] != word:  # the word ended with punctuation, and so does the name
            break
    while words and words[-1] in _PARTICLES:
        words.pop()
    return " ".join(words)


def birth_year_in(text: str) -> str | None:
    """The year in which the person at the start of a text was born: "(born 14 April 1935)", or both dates of a life."""
    found = _BORN.search(text[:160]) or _LIVED.search(text[:160])
    return None if found is None else found[1]


def name_of(title: str) -> str:
    """A title without the words in brackets that tell it apart: "Emma (1932 film)" is "Emma"."""
    return re.sub(r"\s*\([^)]*\)$", "", title)


def part_of(title: str) -> str:
    """The part to which the questions about a title belong."""
    return PARTS[int(text_hash(title), 16) % _TEST_SHARE == 0]


def one_hop(facts: Iterable[Fact]) -> list[dict[str, object]]:
    """Questions that one passage answers."""
    return [_row(fact.title, fact.relation, _subject(fact), [fact.answer]) for fact in facts]


def two_hop(facts: Sequence[Fact]) -> list[dict[str, object]]:
    """Questions about the directors of films, where a passage states a fact about the director too."""
    of_person = {
        name_of(title): [fact for fact in group if fact.relation != "director"]
        for title, group in groupby(facts, key=lambda fact: fact.title)
    }
    return [
        _row(film.title, fact.relation, f"the director of {_subject(film)}", [film.answer, fact.answer])
        for film in facts
        if film.relation == "director"
        for fact in of_person.get(film.answer, ())
    ]


def _subject(fact: Fact) -> str:
    return f"the film {name_of(fact.title)}" if fact.relation == "director" else name_of(fact.title)


def _row(title: str, relation: str, subject: str, chain: list[str]) -> dict[str, object]:
    row: dict[str, object] = {"question": _QUESTIONS[relation].format(subject), "answers": chain[-1:], "title": title}
    row |= {"relation": relation, "hops": len(chain)}
    return row | {"chain": chain} if len(chain) > 1 else row


if __name__ == "__main__":
    sys.exit(main())
