from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from env_fakes import SEARCH, make_dataset

from zerosearch_env.engines import CorpusEngine
from zerosearch_env.envs.single import ZeroSearchEnv
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import Dataset, Document, Paragraph, Question


@pytest.mark.parametrize(
    ("passages", "arguments", "needed"),
    [
        (4, {}, 5),
        (9, {"top_k": 10}, 10),
        (9, {"noise_level": 0.5}, 10),
        (9, {"noise_level": 0.5, "noise_unit": "document"}, 10),
        (9, {"noise_schedule": "linear"}, 10),
        (9, {"noise_schedule": "linear", "noise_start": 0.5, "noise_end": 0.0}, 10),
        (9, {"noise_schedule": lambda progress: 0.0}, 10),
        (5, {}, None),
        (5, {"noise_level": 0.0}, None),
        (9, {"noise_schedule": "constant", "noise_end": 0.0}, None),
        (9, {"noise_level": 0.5, "top_k": 4}, None),
        (10, {"noise_level": 0.5}, None),
        (10, {"noise_schedule": "exp"}, None),
    ],
)
@pytest.mark.parametrize("owned", [True, False])
def test_a_corpus_too_small_for_top_k_is_found_at_once(
    passages: int, arguments: dict[str, Any], needed: int | None, owned: bool
) -> None:
    dataset = replace(make_dataset(3), passages=make_dataset(passages).passages)
    engine = "corpus" if owned else CorpusEngine(dataset.passages or ())
    if needed is not None:
        with pytest.raises(ConfigError, match=f"the corpus has {passages} passages .* at least {needed}"):
            ZeroSearchEnv(dataset, search_engine=engine, **arguments)
        return
    env = ZeroSearchEnv(dataset, search_engine=engine, **arguments)
    env.reset(seed=0)
    for _ in range(5):
        assert env.step(SEARCH)[4]["documents"]


def test_questions_with_paragraphs_of_their_own_need_no_large_corpus() -> None:
    paragraphs = tuple(Paragraph(f"Page {i}", f"Words about {i}.", supporting=i < 2) for i in range(10))
    dataset = Dataset("own", "train", (Question("q", "Which page?", ("Page 1",), paragraphs=paragraphs),))
    env = ZeroSearchEnv(replace(dataset, passages=(Document("One", "passage"),)), noise_level=0.5)
    env.reset(seed=0)
    assert env.step(SEARCH)[4]["documents"]
