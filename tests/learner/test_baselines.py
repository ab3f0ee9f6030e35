from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_dataset, tiny_policy, tiny_tokenizer

from zerosearch_agents.players.base import PolicyOptions
from zerosearch_agents.players.builtin.own_format import (
    Context,
    DirectPlayer,
    OwnQueryRagPlayer,
    RagPlayer,
    Written,
    answer_tags,
    question_search,
    thought_before_action,
)
from zerosearch_agents.players.builtin.scripted import OraclePlayer, RandomPlayer
from zerosearch_agents.policy.policy import save_policy
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import CorpusEngine, FailingEngine, make_engine
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.protocols import PROTOCOLS, get_protocol
from zerosearch_env.randomness import mix
from zerosearch_env.types import StopReason

RULES = make_rules(max_turns=3, top_k=2)


def play(player, *, level: float = 0.0, engine=None, count: int = 6) -> list[Episode]:
    data = tiny_dataset()
    rules = player.rules_for(RULES)
    episodes = [Episode(q, rules, noise_level=level, seed=mix(0, i)) for i, q in enumerate(data.questions[:count])]
    done: list[int] = []
    player.play(episodes, engine or CorpusEngine(data.passages), done.append)
    assert sorted(done) == list(range(len(episodes)))
    return episodes


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> PolicyOptions:
    return PolicyOptions(str(save_policy(tiny_policy(), tmp_path_factory.mktemp("baselines") / "policy")))


def test_direct_always_answers_and_never_searches(options: PolicyOptions) -> None:
    episodes = play(DirectPlayer(options))
    assert all(e.stop_reason is StopReason.ANSWER and e.searches == 0 and len(e.turns) == 1 for e in episodes)
    assert DirectPlayer.searches is False


def test_rag_searches_once_with_the_question_and_answers(options: PolicyOptions) -> None:
    for episode in play(RagPlayer(options), level=0.5):
        assert episode.stop_reason is StopReason.ANSWER
        assert episode.searches == 1
        assert episode.turns[0].step.query == episode.question.text
        assert episode.rules.last_turn_notice in episode.turns[0].step.observation
        assert len(episode.turns) == 2


class Counting(RagPlayer):
    """Counts the rows that it samples for."""

    started = 0

    def make_sampler(self, rows, protocol, stop_strings=None):
        sampler = super().make_sampler(rows, protocol, stop_strings)
        start = sampler.start

        def counted(*arguments):
            self.started += 1
            return start(*arguments)

        sampler.start = counted
        return sampler


@pytest.mark.slow
def test_what_was_sampled_at_one_noise_level_is_not_sampled_again_at_the_next(options: PolicyOptions) -> None:
    def texts(episodes: list[Episode]) -> list[str]:
        return [episode.text for episode in episodes]

    player = Counting(replace(options, temperature=1.0))
    first = texts(play(player, level=0.25))
    once = player.started
    assert texts(play(player, level=0.25)) == first
    assert player.started == once
    later = texts(play(player, level=0.75))
    assert later == texts(play(RagPlayer(player.options), level=0.75))
    changed = sum(before != after for before, after in zip(first, later, strict=True))
    assert 0 < changed < len(first)
    assert player.started - once <= 2 * changed


def test_rag_with_its_own_query_searches_at_most_once(options: PolicyOptions) -> None:
    episodes = play(OwnQueryRagPlayer(replace(options, temperature=1.0)), count=8)
    assert all(e.stop_reason is StopReason.ANSWER and e.searches <= 1 for e in episodes)
    assert any(e.turns[0].step.query not in (None, e.question.text) for e in episodes)


def test_rag_survives_a_failing_engine(options: PolicyOptions) -> None:
    episodes = play(RagPlayer(options), engine=FailingEngine("down", after=2))
    assert [e.stop_reason for e in episodes] == [StopReason.ANSWER] * 2 + [StopReason.ENGINE_ERROR] * 4


class Scripted(DirectPlayer):
    """A model that writes what it is told: the first call is the free turn, the second the forced answer."""

    def __init__(self, *turns: str, opening: str = "") -> None:
        super().__init__("unused")
        self.opening = opening
        self.turns = list(turns)
        self.rows: list[str] = []

    def rules_for(self, rules):
        return rules

    def _encoder(self, episodes):
        return None

    def _prompts(self, episodes, encoder):
        return [Context([f"<{e.prompt}>"], self.opening) for e in episodes]

    def _encode(self, texts):
        return [[text] for text in texts]

    def _sample(self, rows, protocol, seeds, stop_strings=None):
        text = self.turns.pop(0)
        self.rows += ["".join(row.ids) for row in rows]
        self.stops = stop_strings
        return [Written(row.opening + text, []) for row in rows]


def test_an_answer_that_the_model_gives_by_itself_stands() -> None:
    player = Scripted("<think>easy</think><answer>a</answer>")
    (episode,) = play(player, count=1)
    assert episode.turns[0].action_text == "<think>easy</think><answer>a</answer>"
    assert player.turns == []


def test_a_search_is_cut_off_and_its_thought_kept() -> None:
    player = Scripted("<think>look</think><search>letter</search>", "a</answer>")
    (episode,) = play(player, count=1)
    assert player.rows[1].endswith("><think>look</think><answer>")
    assert "</answer>" in player.stops
    assert episode.turns[0].step.scores is not None
    assert episode.turns[0].step.scores.prediction == "a"
    assert episode.turns[0].action_text.startswith("<think>look</think><answer>")


@pytest.mark.parametrize(
    ("written", "kept"),
    [("look</think><search>letter</search>", "look</think>"), ("look", "</think>\n")],
)
def test_a_thought_that_the_chat_template_opened_is_closed_before_a_forced_answer(written: str, kept: str) -> None:
    player = Scripted(written, "a</answer>", opening="<think>\n")
    (episode,) = play(player, count=1)
    assert player.rows[1].endswith(f">{kept}<answer>")
    assert episode.turns[0].action_text == f"<think>\n{kept}<answer>a</answer>"


def test_rag_of_a_chat_model_reads_its_results_in_turns_of_the_template(tmp_path: Path) -> None:
    policy = tiny_policy()
    tokenizer = tiny_tokenizer.__wrapped__()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|eos|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    card = replace(policy.card, protocol="hermes", chat=True, tools=False, context_tokens=2000)
    path = save_policy(replace(policy, tokenizer=tokenizer, card=card), tmp_path / "policy")
    player = RagPlayer(PolicyOptions(str(path)))
    read: list[str] = []
    sample = player._sample

    def listen(rows, *arguments):
        read.extend(tokenizer.decode(row.ids) for row in rows)
        return sample(rows, *arguments)

    player._sample = listen
    (episode,) = play(player, count=1)
    search, shown = episode.turns[0].action_text, episode.turns[0].step.observation.removeprefix("\n")
    assert f"[assistant]{search}<|eos|>[user]{shown}<|eos|>[assistant]" in read[1]


def test_rag_keeps_the_thought_and_asks_the_question() -> None:
    protocol = get_protocol("zerosearch")
    text = question_search("<think>look</think><search> letter</search>", "Who?", protocol)
    assert text == "<think>look</think><search> Who?</search>"
    assert protocol.parse(text).content == "Who?"
    assert question_search("<answer>k</answer>", "Who?", protocol) == protocol.render_search("Who?")


@pytest.mark.parametrize("written", ["", "   ", "</answer>"])
def test_an_empty_forced_answer_still_ends_the_episode(written: str) -> None:
    (episode,) = play(Scripted("<search>letter</search>", written), count=1)
    assert episode.stop_reason is StopReason.ANSWER
    assert episode.turns[0].step.scores is not None
    assert episode.turns[0].step.scores.em == 0


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>a</think><search>b</search>", "<think>a</think>"),
        ("<think>a</think> nothing", "<think>a</think>"),
        ("<think>never closed", ""),
        ("<think>a <search>b</search>", ""),
        ("plain words <search>b</search>", "plain words "),
        ("no tag at all", ""),
    ],
)
def test_only_finished_thoughts_are_kept(text: str, thought: str) -> None:
    assert thought_before_action(text, get_protocol("zerosearch")) == thought


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_forced_answer_parses_in_every_protocol(name: str) -> None:
    protocol = get_protocol(name)
    opening, closing = answer_tags(protocol)
    text = f"{opening} Paris {closing}" if opening else protocol.render_answer("Paris")
    assert protocol.parse(text).kind == "answer"
    assert protocol.parse(protocol.render_answer("unknown")).kind == "answer"


def test_random_is_well_formed_and_repeatable() -> None:
    first, again = play(RandomPlayer()), play(RandomPlayer())
    assert [e.text for e in first] == [e.text for e in again]
    assert all(e.stop_reason is StopReason.ANSWER for e in first)
    assert all(turn.step.action != "invalid" for e in first for turn in e.turns)
    assert [e.text for e in play(RandomPlayer(seed=1))] != [e.text for e in first]


def test_the_oracle_follows_the_chain_and_searches_again() -> None:
    world = load_dataset("world", "test", world=WorldConfig(passages=400, questions=40))
    engine = make_engine("corpus", dataset=world)

    def score(level: float) -> tuple[float, float]:
        rules = make_rules()
        episodes = [Episode(q, rules, noise_level=level, seed=mix(1, i)) for i, q in enumerate(world.questions)]
        OraclePlayer().play(episodes, engine)
        scores = [e.turns[-1].step.scores for e in episodes]
        return sum(s.em for s in scores if s) / len(scores), sum(e.searches for e in episodes) / len(episodes)

    (clean, few), (half, more), (none, _) = score(0.0), score(0.5), score(1.0)
    assert clean > 0.9
    assert half > 0.5
    assert more > few
    assert none == 0.0


def test_the_oracle_works_without_a_chain() -> None:
    episodes = play(OraclePlayer())
    assert sum(e.turns[-1].step.scores.em for e in episodes if e.turns[-1].step.scores) > 0


def test_every_baseline_can_be_made() -> None:
    makers: list[Callable[..., object]] = [RandomPlayer, OraclePlayer]
    assert all(maker(name="x").name == "x" for maker in makers)  # type: ignore[attr-defined]


def test_an_own_query_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no policy directory"):
        play(OwnQueryRagPlayer(str(tmp_path / "none")))
