from __future__ import annotations

import copy
import json
import pickle
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Dict, Text, flatdim, flatten, flatten_space, unflatten
from gymnasium.vector.utils import (
    batch_space,
    create_empty_array,
)
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_env.envs.spaces import UnicodeText
from zerosearch_env.protocols import PROTOCOLS

any_text = st.text(st.characters(exclude_categories=()), max_size=60)


@given(any_text)
def test_every_text_is_a_member_and_survives_flattening(text: str) -> None:
    space = UnicodeText(max_length=64)
    assert text in space
    assert unflatten(space, flatten(space, text)) == text
    assert flatten(space, text) in flatten_space(space)


@pytest.mark.parametrize("other", [None, 3, b"text", ["text"], np.zeros(2)])
def test_only_texts_are_members(other: object) -> None:
    assert other not in UnicodeText()


def test_a_megabyte_is_a_member_in_constant_time() -> None:
    space, text = UnicodeText(), "é" * 1_000_000
    start = time.process_time()
    for _ in range(1000):
        assert text in space
    assert time.process_time() - start < 0.5


def test_comparing_and_hashing_is_fast_and_by_value() -> None:
    one, same, other = (
        UnicodeText(protocol="zerosearch"),
        UnicodeText(protocol="zerosearch"),
        UnicodeText(protocol="hermes"),
    )
    start = time.process_time()
    for _ in range(1000):
        assert one == same
        assert hash(one) == hash(same)
    assert time.process_time() - start < 0.5
    assert one != other
    assert one != UnicodeText()
    assert UnicodeText(max_length=8) != UnicodeText(max_length=9)
    assert one != Text(65_536, min_length=0)
    assert len({one, same, other}) == 2
    assert len(repr(one)) < 100


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_samples_are_well_formed_searches_and_answers(name: str) -> None:
    space = UnicodeText(protocol=name, seed=0)
    kinds = [PROTOCOLS[name].parse(space.sample()) for _ in range(60)]
    assert {parsed.kind for parsed in kinds} == {"search", "answer"}
    assert all(parsed.content for parsed in kinds)


def test_samples_follow_the_seed_and_need_no_protocol() -> None:
    space = UnicodeText(seed=5)
    first = [space.sample() for _ in range(5)]
    space.seed(5)
    assert [space.sample() for _ in range(5)] == first
    assert len(set(first)) > 1
    assert all(first)


@pytest.mark.parametrize("arguments", [{"mask": (None, None)}, {"probability": (3, None)}])
def test_masks_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="neither a mask nor a probability"):
        UnicodeText().sample(**arguments)  # type: ignore[arg-type]


def test_copies_pickles_and_json_keep_the_space() -> None:
    space = UnicodeText(123, protocol="search-r1", seed=3)
    for twin in (copy.deepcopy(space), pickle.loads(pickle.dumps(space))):
        assert twin == space
        assert twin.sample() == copy.deepcopy(space).sample()
    samples = ["plain", "", "\ud800 ✓", "\x00"]
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(samples)))) == samples


def test_batches_to_a_tuple_with_samples_of_their_own() -> None:
    batch = batch_space(UnicodeText(protocol="zerosearch", seed=1), 4)
    assert isinstance(batch, gymnasium.spaces.Tuple)
    sample = batch.sample()
    assert sample in batch
    assert len(set(sample)) == 4
    assert create_empty_array(UnicodeText(), n=3) == ("", "", "")


def test_inside_a_dict_it_flattens_too() -> None:
    space = Dict({"text": UnicodeText(16), "other": gymnasium.spaces.Discrete(3)})
    assert flatdim(space) == 19
    value = {"text": "né", "other": np.int64(1)}
    assert unflatten(space, flatten(space, value)) == value


def test_a_text_without_room_names_the_way_out() -> None:
    space = UnicodeText(max_length=4)
    with pytest.raises(ValueError, match="5 characters does not fit into the 4"):
        flatten(space, "xxxxx")


def test_the_character_set_is_all_of_unicode_and_stores_nothing() -> None:
    characters = UnicodeText().character_set
    assert "✓" in characters
    assert "\ud800" in characters
    assert "ab" not in characters
    assert len(characters) == 0x110000
    assert characters[65] == "A"
    assert characters[97:100] == "abc"
    assert characters == UnicodeText(3).character_list
    assert UnicodeText().characters[:2] == "\x00\x01"
    assert UnicodeText().character_index("A") == 65
