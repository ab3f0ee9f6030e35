"""The memory of finished turns: the same turns as without it, and fewer of them sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_policy

from zerosearch_agents.evaluation.episodes import EpisodeResult
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.players.base import Player, PolicyOptions
from zerosearch_agents.players.builtin.own_format import RagPlayer
from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.players.vllm import VLLMPlayer
from zerosearch_agents.policy.files import policy_path
from zerosearch_agents.policy.policy import Policy
from zerosearch_agents.sampling.local import Sampler
from zerosearch_agents.sampling.protocol import TurnSample, TurnSampler
from zerosearch_agents.sampling.remembered import RememberingSampler, TurnMemory
from zerosearch_env.datasets import load_dataset
from zerosearch_env.engines import SearchEngine, make_engine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.rules import make_rules
from zerosearch_env.progress import WORK
from zerosearch_env.types import Question

STOPS = ("</search>", "</answer>")
PROMPT, OTHER, TEXT = [11, 12, 13], [14, 15], [16, 17]
LONG = [20] * 39


class Asked:
    """Makes the inner samplers, and records the turns that they are asked for: row and number of new tokens."""

    def __init__(self, **options: object) -> None:
        self.options = options
        self.turns: list[tuple[object, int]] = []
        self.finished: list[object] = []

    def __call__(self) -> Sampler:
        sampler = plain(**self.options)
        start, extend, finish = sampler.start, sampler.extend, sampler.finish

        def counted_start(key, ids, seed):
            start(key, ids, seed)
            self.turns.append((key, len(ids)))

        def counted_extend(key, ids):
            extend(key, ids)
            self.turns.append((key, len(ids)))

        def counted_finish(key):
            finish(key)
            self.finished.append(key)

        sampler.start, sampler.extend, sampler.finish = counted_start, counted_extend, counted_finish  # type: ignore[method-assign]
        return sampler


@lru_cache
def policy() -> Policy:
    return tiny_policy()


def plain(temperature: float = 0.0, **options: object) -> Sampler:
    chosen = {"slots": 4, "context_tokens": 40, "turn_tokens": 6, "stop_strings": STOPS} | options
    return Sampler(policy().model, policy().tokenizer, temperature=temperature, **chosen)  # type: ignore[arg-type]


def remembering(
    make: Callable[[], TurnSampler], memory: TurnMemory | None = None, settings: object = "", *, seeded: bool = False
) -> RememberingSampler:
    memory = TurnMemory() if memory is None else memory
    return RememberingSampler(make, memory, settings, context_tokens=40, seeded=seeded)


def play(sampler: TurnSampler, key: object, prompt: Sequence[int], *texts: Sequence[int], seed: int = 0) -> list[tuple]:
    """The turns of one row, which is finished then."""
    sampler.start(key, prompt, seed)
    turns = [contents(turn) for turn in sampler.run()]
    for text in texts:
        sampler.extend(key, text)
        turns += [contents(turn) for turn in sampler.run()]
    sampler.finish(key)
    return turns


def contents(turn: TurnSample) -> tuple:
    return turn.token_ids, turn.text, turn.finish


def test_it_is_a_sampler() -> None:
    sampler = remembering(plain)
    assert isinstance(sampler, TurnSampler)
    assert sampler.context_tokens == plain().context_tokens
    sampler.before_training()
    sampler.close()
    play(sampler, 0, PROMPT)
    sampler.before_training()
    sampler.close()


def test_a_known_context_is_not_sampled_again() -> None:
    inner = Asked()
    memory = TurnMemory()
    first = play(remembering(inner, memory), "a", PROMPT, TEXT)
    assert first == play(plain(), 0, PROMPT, TEXT)
    assert len(inner.turns) == len(memory) == 2

    def never() -> TurnSampler:
        raise AssertionError("every turn is known")

    before = WORK.total()
    again = play(remembering(never, memory), "b", PROMPT, TEXT, seed=5)
    assert again == first
    assert WORK.total() == before._replace(turns=before.turns + 2)


def test_a_row_that_is_known_in_part_goes_on_as_if_all_of_it_had_been_sampled() -> None:
    inner, memory = Asked(), TurnMemory()
    first = play(remembering(inner, memory), 0, PROMPT, TEXT)
    inner.turns.clear()
    texts = (OTHER, TEXT, OTHER)
    got = play(remembering(inner, memory), 1, PROMPT, *texts)
    assert got == play(plain(), 0, PROMPT, *texts)
    assert got[0] == first[0]
    # The inner row began with prompt, first turn and text; then it only gets the text that is new.
    assert inner.turns == [(1, len(PROMPT) + len(first[0][0]) + len(OTHER)), (1, len(TEXT)), (1, len(OTHER))]
    # A row that is sampled and then meets a known context: the inner sampler gets both at its next unknown context.
    forgetful = TurnMemory(1)
    sampler, inner.turns = remembering(inner, forgetful), []
    sampler.start("x", PROMPT, 0)
    (turn,) = sampler.run()
    later = play(remembering(inner, forgetful), "y", PROMPT, TEXT)
    sampler.extend("x", TEXT)
    (known,) = sampler.run()
    assert contents(known) == later[1]
    assert len(inner.turns) == 2
    sampler.extend("x", OTHER)
    (new,) = sampler.run()
    assert contents(new) == play(plain(), 0, PROMPT, TEXT, OTHER)[2]
    assert inner.turns[-1] == ("x", len(TEXT) + len(known.token_ids) + len(OTHER))
    assert turn.token_ids == first[0][0]


def test_what_else_decides_a_turn_is_part_of_its_context() -> None:
    inner, memory = Asked(), TurnMemory()
    play(remembering(inner, memory, "a"), 0, PROMPT)
    play(remembering(inner, memory, "b"), 0, PROMPT)
    assert len(inner.turns) == 2
    sampled = Asked(temperature=1.0)
    for seed in (1, 2, 1):
        got = play(remembering(sampled, memory, "c", seeded=True), seed, PROMPT, TEXT, seed=seed)
        assert got == play(plain(temperature=1.0), 0, PROMPT, TEXT, seed=seed)
    assert [key for key, _ in sampled.turns] == [1, 1, 2, 2]


def test_the_least_recently_used_turn_is_forgotten() -> None:
    inner, memory = Asked(), TurnMemory(2)
    sampler = remembering(inner, memory)
    for prompt in ([1], [2], [1], [3], [1], [2]):
        play(sampler, prompt[0], prompt)
    assert [key for key, _ in inner.turns] == [1, 2, 3, 2]
    assert len(memory) == 2


def test_run_waits_for_as_many_as_asked() -> None:
    inner, memory = Asked(), TurnMemory()
    play(remembering(inner, memory), 0, PROMPT)
    sampler = remembering(inner, memory)
    assert sampler.run() == []
    sampler.start("new", OTHER, 0)
    sampler.start("known", PROMPT, 0)
    assert [turn.key for turn in sampler.run()] == ["known"]
    sampler.extend("known", LONG)  # fills the context: its turn has no token
    assert {turn.key for turn in sampler.run(2)} == {"new", "known"}
    sampler.start("again", PROMPT, 0)
    assert [turn.key for turn in sampler.run(5)] == ["again"]  # no other row is being sampled
    sampler.start("full", PROMPT + LONG, 0)
    (full,) = sampler.run()
    assert (full.token_ids, full.finish) == ((), "context")
    assert play(sampler, "too", PROMPT + LONG) == [((), "", "context")]


def test_wake_returns_what_is_known_and_leaves_the_rest() -> None:
    sampler = remembering(plain)
    sampler.wake()
    sampler.start(0, PROMPT, 0)
    assert sampler.run() == []
    assert len(sampler.run()) == 1
    sampler.wake()
    sampler.extend(0, TEXT)
    assert sampler.run() == []
    assert len(sampler.run()) == 1


def test_a_row_is_finished_in_any_state() -> None:
    inner, memory = Asked(), TurnMemory()
    known = play(remembering(inner, memory), "first", PROMPT, TEXT)
    inner.finished.clear()
    sampler = remembering(inner, memory)
    sampler.start("known", PROMPT, 0)
    sampler.finish("known")
    sampler.start("returned", PROMPT, 0)
    assert len(sampler.run()) == 1
    sampler.finish("returned")
    assert not sampler.run()
    assert not inner.finished  # the inner sampler never had them
    sampler.start("sampled", OTHER, 0)
    sampler.finish("sampled")
    assert not sampler.run()
    sampler.start("waiting", OTHER, 0)
    assert len(sampler.run()) == 1
    sampler.finish("waiting")
    sampler.start("behind", PROMPT, 0)
    assert len(sampler.run()) == 1
    sampler.extend("behind", OTHER)
    sampler.finish("behind")
    assert inner.finished == ["sampled", "waiting", "behind"]
    assert play(sampler, "known", PROMPT, TEXT) == known  # every key can be used again


def test_misuse_is_named_and_changes_nothing() -> None:
    memory = TurnMemory()
    sampler = remembering(plain, memory)
    play(sampler, "first", PROMPT)
    for method in (sampler.finish, lambda key: sampler.extend(key, TEXT)):
        with pytest.raises(ConfigError, match="no row 'x'"):
            method("x")
    for wrong in ([], [-1], [10**6]):
        with pytest.raises(ConfigError):
            sampler.start("x", wrong, 0)
    sampler.start("x", PROMPT, 0)
    with pytest.raises(ConfigError, match="in use"):
        sampler.start("x", PROMPT, 0)
    with pytest.raises(ConfigError, match="not finished"):
        sampler.extend("x", TEXT)
    (turn,) = sampler.run()
    with pytest.raises(ConfigError, match="token ids"):
        sampler.extend("x", [-1])
    with pytest.raises(ConfigError, match="1 rows"), sampler.greedy():
        pass
    sampler.extend("x", TEXT)
    assert [contents(turn), *map(contents, sampler.run())] == play(plain(), 0, PROMPT, TEXT)


def test_a_greedy_context_has_turns_of_its_own() -> None:
    sampler = remembering(lambda: plain(temperature=1.0), seeded=True)
    sampled = play(sampler, 0, PROMPT, TEXT, seed=3)
    with sampler.greedy():
        for seed in (3, 4):
            assert [turn[0] for turn in play(sampler, 0, PROMPT, TEXT, seed=seed)] == [
                turn[0] for turn in play(plain(), 0, PROMPT, TEXT)
            ]
    assert play(sampler, 0, PROMPT, TEXT, seed=3) == sampled


def test_new_weights_forget_the_turns_of_the_old_ones() -> None:
    inner, memory = Asked(), TurnMemory()
    play(remembering(inner, memory), 0, PROMPT, TEXT)
    kept = len(memory)
    sampler = remembering(inner, memory)
    sampler.start("known", PROMPT, 0)
    sampler.refresh(7)
    assert sampler.weight_version == 7
    (turn,) = sampler.run()
    assert turn.weight_version == 7
    assert inner.turns[-1] == ("known", len(PROMPT))
    sampler.finish("known")
    sampler.start("again", PROMPT, 0)
    (turn,) = sampler.run()
    assert (turn.weight_version, inner.turns[-1][0]) == (7, "known")
    assert len(memory) == kept


IDS = st.lists(st.integers(10, 13), min_size=1, max_size=3)
STEPS = st.lists(st.tuples(st.sampled_from(["start", "extend", "finish", "run", "wake"]), st.integers(0, 3), IDS))


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([0.0, 1.0]), st.integers(1, 6))
def test_any_use_gives_the_turns_of_a_plain_sampler(steps, temperature: float, turns: int) -> None:
    """Few ids, so that contexts return, and a small memory, so that they are forgotten in between."""
    sampler = remembering(lambda: plain(temperature), TurnMemory(turns), seeded=temperature > 0)
    reference = plain(temperature)
    rows: dict[int, tuple[list[int], bool]] = {}  # tokens, and whether a turn has been begun

    def run(minimum: int) -> None:
        for turn in sampler.run(minimum):
            ids, begun = rows[turn.key]
            assert begun
            reference.start("row", ids, turn.key % 2)
            (want,) = reference.run()
            reference.finish("row")
            assert contents(turn) == contents(want)
            assert turn.logprobs == pytest.approx(want.logprobs, abs=1e-4)
            rows[turn.key] = [*ids, *turn.token_ids], False

    for what, key, ids in steps:
        if what == "start" and key not in rows:
            sampler.start(key, ids, key % 2)
            rows[key] = ids, True
        elif what == "extend" and key in rows and not rows[key][1]:
            sampler.extend(key, ids)
            rows[key] = [*rows[key][0], *ids], True
        elif what == "finish" and key in rows:
            sampler.finish(key)
            del rows[key]
        elif what == "run":
            run(len(ids))
        elif what == "wake":
            sampler.wake()
    run(1)  # which a wake may end at once
    while any(begun for _, begun in rows.values()):
        run(1)


# Players

RULES = make_rules()
LEVELS, KINDS = (0.0, 0.5, 1.0), ("distractor", "empty")
PLAYED_TWICE = (0.0, "empty")
"""A cell that is a copy: without noise the kinds are the same."""


@lru_cache
def world() -> tuple[list[Question], SearchEngine]:
    data = load_dataset("world", split="test")
    questions = list(data.questions[:6])
    return questions, add_noise_kinds(make_engine("corpus", dataset=data), KINDS, questions)


class Recording:
    """A player that records the contexts for which its samplers sample a turn."""

    def __init__(self, **options: object) -> None:
        super().__init__(PolicyOptions(str(policy_path("tiny")), **options))  # type: ignore[call-arg, arg-type]
        self.contexts: list[tuple[int, ...]] = []

    def make_sampler(self, rows, protocol, stop_strings=None):
        sampler = super().make_sampler(rows, protocol, stop_strings)  # type: ignore[misc]
        start, extend = sampler.start, sampler.extend

        def recorded(method):
            def call(key, *arguments):
                method(key, *arguments)
                self.contexts.append(tuple(sampler._rows[key].ids))

            return call

        sampler.start, sampler.extend = recorded(start), recorded(extend)
        return sampler


class RecordingPolicy(Recording, PolicyPlayer):
    pass


class Forgetful(RecordingPolicy):
    remembers = False


class RecordingRag(Recording, RagPlayer):
    pass


def play_cells(player: Player) -> dict[tuple[float, str], tuple[EpisodeResult, ...]]:
    questions, engine = world()
    result = evaluate(player, questions, engine, RULES, LEVELS, noise_kinds=KINDS)
    return {(cell.noise_level, cell.noise_kind): cell.episodes for cell in result.cells}


def turns(results: dict[tuple[float, str], tuple[EpisodeResult, ...]]) -> int:
    return sum(episode.turns for key, episodes in results.items() if key != PLAYED_TWICE for episode in episodes)


def test_an_evaluation_has_the_same_results_and_samples_each_context_once() -> None:
    player, forgetful = RecordingPolicy(), Forgetful()
    results = play_cells(player)
    assert results == play_cells(forgetful)
    assert len(forgetful.contexts) == turns(results)
    assert sorted(player.contexts) == sorted(set(forgetful.contexts))
    # Five cells are played. They have the first turns in common, and second ones after other documents.
    first = len(world()[0])
    assert 2 * first < len(player.contexts) <= turns(results) - 4 * first
    before = len(player.contexts)
    assert play_cells(player) == results
    assert len(player.contexts) == before


def test_the_results_of_rag_are_those_of_a_fresh_player_per_cell() -> None:
    player = RecordingRag()
    results = play_cells(player)
    questions, engine = world()
    for (level, kind), episodes in results.items():
        cells = evaluate(RecordingRag(), questions, engine, RULES, [level], noise_kinds=[kind]).cells
        assert cells[0].episodes == episodes
    assert len(player.contexts) == len(set(player.contexts))
    before = len(player.contexts)
    assert play_cells(player) == results
    assert len(player.contexts) == before


def test_only_turns_of_greedy_policies_in_this_process_are_remembered() -> None:
    options = PolicyOptions(str(policy_path("tiny")))
    assert PolicyPlayer(options).remembers
    assert not PolicyPlayer(replace(options, temperature=0.7)).remembers
    assert not VLLMPlayer(options, name="vllm", urls=("http://127.0.0.1:1",)).remembers
    player = RecordingPolicy(temperature=0.7)
    assert turns(play_cells(player)) == len(player.contexts)
