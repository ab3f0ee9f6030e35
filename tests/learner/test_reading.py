"""Base text: train names only, notes that are true, trained where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from zerosearch_agents.tiny.reading import Library, need_text, notes_text, open_library, plan_text, title_words
from zerosearch_env.datasets.world.make import WorldConfig, make_facts, make_questions
from zerosearch_env.datasets.world.names import GRAMMARS, TEST_SHARE, draw_names, is_test_code
from zerosearch_env.datasets.world.text import BY_NAME
from zerosearch_env.errors import ConfigError
from zerosearch_env.protocols import get_protocol

NOT_HERE = "not here"


@pytest.fixture(scope="module")
def library() -> Library:
    return open_library(1_000_003, 600)


def all_test_names(kind: str) -> set[str]:
    """Every name of up to two words (three with "The", three of an organisation) that belongs to the test split."""
    grammar = GRAMMARS[kind]
    codes = np.arange(grammar.capacity(), dtype=np.uint64)
    columns = []
    rest = codes[is_test_code(kind, codes)].astype(np.int64)
    for words in reversed(grammar.lists):
        rest, digits = np.divmod(rest, len(words))
        columns.append([words[i] for i in digits])
    return {grammar.pattern % row for row in zip(*reversed(columns), strict=True)}


def test_the_test_names_are_those_that_test_worlds_draw() -> None:
    names = all_test_names("town")
    assert abs(len(names) / GRAMMARS["town"].capacity() - TEST_SHARE) < 0.02
    assert set(draw_names("town", 300, "test", 5)) <= names
    assert not set(draw_names("town", 300, "train", 5)) & names


@pytest.mark.parametrize(("seed", "passages"), [(1_000_003, 600), (1_555_555, 2000), (1_999_999, 12_000)])
def test_only_train_names_occur(seed: int, passages: int) -> None:
    library = open_library(seed, passages)
    test_names = set().union(*(all_test_names(kind) for kind in GRAMMARS))
    assert len(test_names) > 20_000
    titles = {passage.title for passage in library.passages}
    objects = {object_ for stated in library.stated for _, _, object_ in stated}
    assert len(titles) == passages // 2
    assert not titles & test_names
    assert not objects & test_names
    # Whatever else the texts may hold: no test name stands in any of them.
    words = " ".join(passage.text for passage in library.passages[:300]).replace(".", " ").replace(",", " ").split()
    runs = {" ".join(words[i : i + n]) for n in (2, 3) for i in range(len(words))}
    assert not runs & test_names


def test_the_library_knows_its_passages(library: Library) -> None:
    assert len(library.passages) == len(library.stated) == len(library.numbers) == 600
    for number, passage in enumerate(library.passages):
        assert library.numbers[passage.source] == number
        assert all(
            subject == passage.title and object_ in passage.text for _, subject, object_ in library.stated[number]
        )
        assert all(number in library.by_word[word] for word in title_words(passage.title))
        assert number in library.by_relation[library.stated[number][0][0].name]
    assert title_words("The Amber Lantern") == ["Amber", "Lantern"]


def test_a_seed_gives_the_same_library(library: Library) -> None:
    assert open_library(1_000_003, 600).passages == library.passages
    assert open_library(1_000_004, 600).passages != library.passages


def test_bad_size() -> None:
    with pytest.raises(ConfigError, match="from 200"):
        open_library(0, 10)


@pytest.mark.parametrize("documents", [1, 2, 5])
def test_notes_are_true_to_the_documents(library: Library, documents: int) -> None:
    """Checked from the text alone: every fact of the world is looked up in the documents that are shown."""
    stated = {(r.noun, s): o for facts in library.stated for r, s, o in facts}
    protocol = get_protocol("zerosearch")
    rng = np.random.default_rng(documents)
    misses = total = several = 0
    for _ in range(40):
        (shown, trained), *notes = notes_text(library, rng, documents=documents, notes=10)
        assert not trained
        lines = shown.replace("</information>", "\n")
        present = [p for p in library.passages if f": {p.title}: {p.text}\n" in lines]
        assert len(present) == documents
        # The same block that an agent will see, whatever the order of the documents.
        order = sorted(present, key=lambda p: shown.index(p.text))
        assert shown == protocol.render_documents(order, "")
        several += len({word for p in present for word in title_words(p.title)}) < 2 * documents
        assert [flag for _, flag in notes] == [False, True] * 10
        for (about, _), (said, _) in zip(notes[::2], notes[1::2], strict=True):
            noun, _, subject = about.removeprefix("The ").removesuffix(" is").partition(" of ")
            object_ = said.removeprefix(" ").removesuffix(".\n")
            here = any(
                f[0].noun == noun and f[1] == subject
                for p in present
                for f in library.stated[library.numbers[p.source]]
            )
            assert object_ == (stated[noun, subject] if here else NOT_HERE)
            misses, total = misses + (object_ == NOT_HERE), total + 1
    assert 0.1 < misses / total < 0.4
    if documents > 1:
        assert several > 10  # titles share words


def test_notes_are_a_function_of_the_generator(library: Library) -> None:
    first, again, other = (notes_text(library, np.random.default_rng(s), documents=3, notes=5) for s in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("hops", [1, 2])
def test_needs_name_the_way_to_the_answer(hops: int) -> None:
    config = WorldConfig(seed=1_000_003, passages=600, hops=(hops,))
    questions = list(make_questions(make_facts(config, "train"), config, "train", 1))
    for question in questions[::10]:
        assert question.metadata is not None
        path, subject = [BY_NAME[name] for name in question.metadata["relations"]], question.metadata["subject"]
        asked, needed = need_text(question.text, path, subject)
        assert asked == (f"To look up: {question.text}\n", False)
        then = f", then the {path[1].noun}" if hops == 2 else ""
        assert needed == (f"Find the {path[0].noun} of {subject}{then}.\n", True)
        assert needed[0] == f"{plan_text(path, subject)}\n"
        assert subject in question.text
