"""The built-in dataset `"world"`: a seeded synthetic world with passages and questions.

People, towns, works and organisations are linked by 17 relations. Every entity has two passages of about thirty words.
Questions ask for one fact (1 hop) or for a fact about the object of another fact (2 hops). No model can know the
answers in advance, and test entities never occur in a train world, so a policy must read passages to answer.

Every draw is a function of the seed (`zerosearch_env.randomness`), so the same configuration gives byte-identical data
on every machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ...checks import is_whole_number
from ...errors import ConfigError, unknown_name
from ...randomness import mix, mix_array
from ...types import Dataset, Document, Question
from .names import aliases, draw_names
from .text import ASIDES, BY_NAME, PASSAGE_PLANS, PRONOUNS, RELATIONS, Relation

SPLITS = ("train", "test")

_SHARES = {"person": 0.48, "town": 0.12, "work": 0.24, "organisation": 0.16}
_MIN_PASSAGES, _MAX_PASSAGES = 200, 1_000_000
_FIRST_YEAR, _YEARS = 1600, 300

PATHS: dict[int, tuple[tuple[Relation, ...], ...]] = {
    1: tuple((relation,) for relation in RELATIONS),
    2: tuple((first, then) for first in RELATIONS for then in RELATIONS if first.object == then.subject),
}
"""Number of hops -> all question types; each is the sequence of relations to follow from the subject."""


@dataclass(frozen=True)
class WorldConfig:
    """The size and the seed of a synthetic world."""

    seed: int = 0
    """Selects the world. The train and test splits of one seed are two worlds that share no names."""
    passages: int = 6000
    """Number of passages per split, from 200 to 1,000,000 (rounded down to two per entity)."""
    questions: int | None = None
    """Number of questions per split; with hops (1, 2), half of them are 1-hop. None: one per two passages."""
    hops: tuple[int, ...] = (1, 2)
    """Numbers of hops that questions have: (1,), (2,) or (1, 2)."""

    def __post_init__(self) -> None:
        for name in ("seed", "passages", "questions"):
            value = getattr(self, name)
            if not is_whole_number(value):
                if name == "questions" and value is None:
                    continue
                raise ConfigError(f"WorldConfig.{name} must be a whole number, got {value!r}.")
            object.__setattr__(self, name, int(value))  # converts numpy integers to int
        if not _MIN_PASSAGES <= self.passages <= _MAX_PASSAGES:
            raise ConfigError(
                f"WorldConfig.passages must be from {_MIN_PASSAGES} to {_MAX_PASSAGES}, got {self.passages}."
            )
        if self.questions is not None and self.questions < 1:
            raise ConfigError(f"WorldConfig.questions must be at least 1, got {self.questions}.")
        if isinstance(self.hops, list):
            object.__setattr__(self, "hops", tuple(self.hops))
        if self.hops not in ((1,), (2,), (1, 2)):
            raise ConfigError(f"WorldConfig.hops must be (1,), (2,) or (1, 2), got {self.hops!r}.")


@dataclass(frozen=True, repr=False)  # as long as the world is large
class WorldFacts:
    """The facts of one split: the names of all entities by kind, and for every relation the object of each subject."""

    names: Mapping[str, list[str]]
    objects: Mapping[str, NDArray[np.int64]]
    """relation name -> index of the object in `names[relation.object]` (or the year itself), shape (subjects,)."""

    @cached_property
    def object_indexes(self) -> Mapping[str, list[int]]:
        """`objects` as lists, which are faster to read one by one."""
        return {name: indexes.tolist() for name, indexes in self.objects.items()}

    @cached_property
    def object_names(self) -> Mapping[str, list[str]]:
        """relation name -> the object of each subject, as a string."""
        return {
            relation.name: list(map(str, indexes))
            if relation.object == "year"
            else [self.names[relation.object][index] for index in indexes]
            for relation in RELATIONS
            for indexes in [self.object_indexes[relation.name]]
        }


def make_facts(config: WorldConfig, split: str) -> WorldFacts:
    """Draw the entities and the facts of one split of a world.

    Args:
        config: size and seed.
        split: "train" or "test".

    Raises:
        ConfigError: the split is unknown.
    """
    if split not in SPLITS:
        raise unknown_name("split of the world", split, SPLITS)
    world_seed = mix(config.seed, SPLITS.index(split))
    entities = config.passages // 2
    counts = {kind: int(entities * share) for kind, share in _SHARES.items()}
    counts["person"] += entities - sum(counts.values())
    counts["region"] = max(4, counts["town"] // 12)
    names = {kind: draw_names(kind, n, split, mix(world_seed, i)) for i, (kind, n) in enumerate(counts.items())}
    objects: dict[str, NDArray[np.int64]] = {}
    for i, relation in enumerate(RELATIONS):
        draws = _draw(mix(world_seed, 100 + i), counts[relation.subject])
        if relation.object == "year":
            objects[relation.name] = _FIRST_YEAR + draws % _YEARS
        elif relation.name in ("spouse", "twin_town"):
            objects[relation.name] = _pairs(draws)
        elif relation.object == relation.subject:  # never the subject itself: no one is their own teacher
            n = counts[relation.subject]
            objects[relation.name] = (np.arange(n) + 1 + draws % (n - 1)) % n
        else:
            objects[relation.name] = draws % counts[relation.object]
    objects["publication_year"] = objects["birth_year"][objects["author"]] + 20 + objects["publication_year"] % 40
    objects["founding_year"] = objects["birth_year"][objects["founder"]] + 20 + objects["founding_year"] % 40
    return WorldFacts(names, objects)


def make_world(config: WorldConfig | None = None, split: str = "train") -> Dataset:
    """Create the passages and questions of one split of a world.

    Args:
        config: size and seed; None: the default world.
        split: "train" or "test". They share no entities.

    Raises:
        ConfigError: the split is unknown, or a size is out of range.
    """
    config = config or WorldConfig()
    facts = make_facts(config, split)
    world_seed = mix(config.seed, SPLITS.index(split), 7)
    return Dataset(
        name="world",
        split=split,
        questions=list(make_questions(facts, config, split, world_seed)),
        passages=list(make_passages(facts, world_seed)),
        metadata={"config": config},
    )


def make_passages(facts: WorldFacts, seed: int) -> Iterator[Document]:
    """Generate the passages of a world: two per entity, with an opening fact, follow-up facts and possibly an aside.

    Args:
        facts: the facts that the passages state.
        seed: determines the wording.
    """
    number = 0
    for k, (kind, plans) in enumerate(PASSAGE_PLANS.items()):
        subjects = facts.names[kind]
        pronoun = PRONOUNS[kind]
        for p, plan in enumerate(plans):
            columns = [facts.object_names[name] for name in plan]
            openers = BY_NAME[plan[0]].openers
            followers = [BY_NAME[name].followers for name in plan[1:]]
            draws = _draw(mix(seed, k, p), len(subjects)).tolist()
            for subject, draw, first, *rest in zip(subjects, draws, *columns, strict=True):
                text = openers[draw & 3] % {"s": subject, "o": first}
                draw >>= 2
                for templates, object_ in zip(followers, rest, strict=True):
                    template = templates[draw % 3]
                    if draw & 96:  # three out of four mentions use the full name
                        mention = subject
                    elif pronoun is None:
                        mention = subject[subject.rindex(" ") + 1 :]
                    else:
                        mention = pronoun if template[0] == "%" else pronoun.lower()
                    text += " " + template % {"s": mention, "o": object_}
                    draw >>= 7
                if len(plan) == 2 or draw & 1:
                    text += " " + ASIDES[kind][draw % 5]
                yield Document(subject, text, f"world-{number}")
                number += 1


def passage_facts(facts: WorldFacts) -> list[tuple[tuple[Relation, str, str], ...]]:
    """The (relation, subject, object) triples that each passage of `make_passages` states, in the same order."""
    stated: list[tuple[tuple[Relation, str, str], ...]] = []
    for kind, plans in PASSAGE_PLANS.items():
        subjects = facts.names[kind]
        for plan in plans:
            relations = [BY_NAME[name] for name in plan]
            columns = [facts.object_names[relation.name] for relation in relations]
            for subject, *objects in zip(subjects, *columns, strict=True):
                stated.append(tuple((r, subject, o) for r, o in zip(relations, objects, strict=True)))
    return stated


def make_questions(facts: WorldFacts, config: WorldConfig, split: str, seed: int) -> Iterator[Question]:
    """Draw the questions of a world. Every pair of a subject and a path of relations occurs at most once.

    Args:
        facts: the facts to ask about.
        config: number of questions and of hops; the 1-hop questions come first.
        split: name of the split, used in the ids of the questions.
        seed: determines which questions are drawn, and their wording.

    Raises:
        ConfigError: the world is too small for this number of questions.
    """
    total = config.questions or config.passages // 2
    counts = {1: total - total // 2, 2: total // 2} if config.hops == (1, 2) else {config.hops[0]: total}
    number = 0
    for hops, count in counts.items():
        paths = PATHS[hops]
        ends = list(accumulate(len(facts.names[path[0].subject]) for path in paths))
        if count > 0.9 * ends[-1]:
            raise ConfigError(
                f"WorldConfig.questions: {config.passages} passages give at most {int(0.9 * ends[-1])} questions of "
                f"{hops} hop(s), got {count}. Ask for fewer, or for more passages."
            )
        codes = np.argsort(_draw(mix(seed, 50 + hops), ends[-1]), kind="stable")
        made = 0
        for code in map(int, codes):
            p = bisect_right(ends, code)
            subject = code - (ends[p - 1] if p else 0)
            question = make_question(
                facts, paths[p], subject, code, id=f"world-{config.seed}-{split}-{number}", split=split
            )
            if question.answers[0] == question.metadata["subject"]:  # type: ignore[index]  # the spouse of one's spouse
                continue
            yield question
            number += 1
            made += 1
            if made == count:
                break


def make_question(
    facts: WorldFacts, path: tuple[Relation, ...], subject: int, draw: int, *, id: str, split: str
) -> Question:
    """Create the question that follows `path` from a subject; `draw` selects the wording.

    `metadata` contains `hops`, `relations` (the names along the path), `subject`, and `chain` (the object of every hop;
    the last one is the answer).
    """
    name = facts.names[path[0].subject][subject]
    phrase, chain, at = name, [], subject
    for relation in path:
        chain.append(facts.object_names[relation.name][at])
        at = facts.object_indexes[relation.name][at]
    for relation in path[:-1]:
        phrase = relation.phrase % {"s": phrase}
    questions = path[-1].questions
    answer, kind = chain[-1], path[-1].object
    return Question(
        id=id,
        text=questions[draw % len(questions)] % {"s": phrase},
        answers=(answer, *aliases(kind, answer)),
        dataset="world",
        split=split,
        metadata={
            "hops": len(path),
            "relations": tuple(relation.name for relation in path),
            "subject": name,
            "chain": tuple(chain),
        },
    )


def _draw(seed: int, count: int) -> NDArray[np.int64]:
    """`count` random non-negative 63-bit integers."""
    return (mix_array(seed, np.arange(count, dtype=np.uint64)) >> np.uint64(1)).astype(np.int64)


def _pairs(draws: NDArray[np.int64]) -> NDArray[np.int64]:
    """A random pairing, for symmetric relations. If the number is odd, the last three form a ring."""
    order = np.argsort(draws, kind="stable")
    partner = np.empty_like(order)
    even = len(order) - len(order) % 2
    partner[order[0:even:2]], partner[order[1:even:2]] = order[1:even:2], order[0:even:2]
    if len(order) % 2:
        a, b, c = order[-3:]
        partner[[a, b, c]] = b, c, a
    return partner
