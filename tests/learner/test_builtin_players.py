"""The built-in players that ask a model in plain words, with models that write what a test says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sim_fakes import FakeBackend

from zerosearch_agents.players.base import AgentOptions
from zerosearch_agents.players.builtin import prompts
from zerosearch_agents.players.builtin.plans import PLANS, SEARCH_O1_TURNS
from zerosearch_agents.players.builtin.prompted import PromptedPlayer, PromptOptions, turn_text
from zerosearch_env.engines import FailingEngine
from zerosearch_env.errors import AgentError, EngineError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules, make_rules
from zerosearch_env.llm import Completion, Prompt
from zerosearch_env.progress import WORK
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.randomness import mix
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult, StopReason, Turn

RULES = make_rules(max_turns=4, top_k=3)
QUESTION = "Who wrote Emma?"


class Engine:
    """Returns `top_k` documents that name the query, and counts the calls."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.calls = 0

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        self.calls += 1
        self.queries += [request.query for request in requests]
        return [
            SearchResult(tuple(Document(f"T{n}", f"text {n} on {r.query}") for n in range(r.top_k))) for r in requests
        ]

    async def asearch(self, request: SearchRequest) -> SearchResult:
        return self.search([request])[0]

    def close(self) -> None:
        pass


def play(
    plan: str,
    write: Callable[[Prompt, int], Any],
    *,
    count: int = 1,
    rules: Rules = RULES,
    engine: Any = None,
    level: float = 0.0,
    **options: Any,
) -> tuple[list[Episode], FakeBackend, Any]:
    failures = options.pop("failures", None)
    if few_shot := options.pop("few_shot", None):
        options["rules"] = {"few_shot": few_shot}
    backend = FakeBackend(write)
    player = PromptedPlayer(plan, backend, options=PromptOptions(**options), failures=failures)
    questions = [Question(f"q{i}", QUESTION, ("Jane Austen",)) for i in range(count)]
    own = player.rules_for(rules)
    episodes = [Episode(q, own, noise_level=level, seed=mix(7, i)) for i, q in enumerate(questions)]
    done: list[int] = []
    engine = engine or Engine()
    player.play(episodes, engine, done.append)
    assert sorted(done) == list(range(count))
    assert all(episode.done for episode in episodes)
    return episodes, backend, engine


def prediction(episode: Episode) -> str | None:
    return episode.scores.prediction if episode.scores else None


def script(*replies: str) -> Callable[[Prompt, int], str]:
    return lambda _, number: replies[number]


def test_direct_asks_once_and_cuts_the_answer() -> None:
    (episode,), backend, engine = play("direct", script("Jane Austen\nQuestion: Who"))
    (prompt,) = backend.prompts
    assert prompt.text.endswith(f"Question: {QUESTION}\nAnswer:")
    assert (prompt.max_tokens, prompt.temperature, prompt.stop) == (64, 0.0, ("\nQuestion:",))
    assert prompt.seed == mix(episode.seed, 0, 0)
    assert (prediction(episode), engine.calls) == ("Jane Austen", 0)
    assert episode.turns[0].action_text == (
        "<think>\nJane Austen\nQuestion: Who\n</think>\n\n<answer>Jane Austen</answer>"
    )


def test_rag_searches_once_for_the_question_and_reads_all_documents() -> None:
    (episode,), backend, engine = play("rag", script("Jane Austen"))
    (prompt,) = backend.prompts
    assert engine.queries == [QUESTION]
    assert f"Doc 1: T0: text 0 on {QUESTION}\nDoc 2: T1: text 1 on {QUESTION}\nDoc 3: T2:" in prompt.text
    assert prompt.seed == mix(episode.seed, 1, 0)
    assert [turn.action_text for turn in episode.turns] == [
        f"<search>{QUESTION}</search>",
        "<answer>Jane Austen</answer>",
    ]
    assert episode.rules.last_turn_notice in episode.turns[0].step.observation


def test_examples_system_message_and_limits_reach_the_model() -> None:
    _, backend, _ = play(
        "direct", script("x"), few_shot="Question: a\nAnswer: b", system="Be brief.", turn_tokens=9, temperature=0.5
    )
    (prompt,) = backend.prompts
    assert prompt.text.startswith("Question: a\nAnswer: b\n\nAnswer the question in")
    assert (prompt.system, prompt.max_tokens, prompt.temperature) == ("Be brief.", 9, 0.5)


def test_a_chain_of_thought_that_concludes_needs_one_completion() -> None:
    (episode,), backend, _ = play("cot", script("Emma is a novel of 1815.\nAnswer: Jane Austen"))
    assert backend.prompts[0].max_tokens == 512
    assert prediction(episode) == "Jane Austen"
    assert episode.turns[0].action_text.startswith("<think>\nEmma is a novel of 1815.\nAnswer: Jane Austen\n</think>")


def test_a_chain_of_thought_without_conclusion_is_asked_for_its_answer() -> None:
    (episode,), backend, _ = play("cot", script("It is a novel of 1815.", " Jane Austen."), few_shot="ONE EXAMPLE")
    assert len(backend.prompts) == 2
    assert "Reasoning: It is a novel of 1815.\nAnswer:" in backend.prompts[1].text
    assert "ONE EXAMPLE" in backend.prompts[0].text
    assert "ONE EXAMPLE" not in backend.prompts[1].text
    assert prediction(episode) == "Jane Austen."


@pytest.mark.parametrize(
    ("replies", "answer", "queries"),
    [
        (["Austen", "austen."], "austen.", ["", " Austen"]),
        (["A", "B", "a"], "a", ["", " A", " B"]),
        (["unknown", "unknown", "A", "A"], "A", ["", "", "", " A"]),
        (["A", "unknown", "A"], "A", ["", " A", ""]),
        (["A", "B", "C", "D"], "D", ["", " A", " B", " C"]),
        (["A", "unknown", "unknown", "unknown"], "A", ["", " A", "", ""]),
        (["unknown"] * 4, "unknown", [""] * 4),
    ],
)
def test_iterative_rag_stops_when_two_searches_agree(replies: list[str], answer: str, queries: list[str]) -> None:
    (episode,), backend, engine = play("iterative-rag", script(*replies))
    assert engine.queries == [f"{QUESTION}{tail}" for tail in queries]
    assert len(backend.prompts) == len(queries)
    assert prediction(episode) == answer
    for query, prompt in zip(engine.queries, backend.prompts, strict=True):
        assert re.findall(r"text 0 on (.*)", prompt.text) == [query]  # the documents of this search only
    assert episode.turns[1].action_text.startswith(f"<think>\n{replies[0]}\n</think>\n\n<search>")


def test_the_vote_asks_one_document_at_a_time() -> None:
    answers = {"T0": "Bob", "T1": "Jane Austen", "T2": "jane austen"}
    (episode,), backend, engine = play("vote", lambda prompt, _: answers[re.findall(r"Doc 1: (T\d)", prompt.text)[0]])
    assert (engine.calls, backend.batches) == (1, [3])
    assert all(prompt.text.count("Doc ") == 1 for prompt in backend.prompts)
    assert [prompt.seed for prompt in backend.prompts] == [mix(episode.seed, 1, n) for n in range(3)]
    assert prediction(episode) == "Jane Austen"
    assert episode.turns[1].action_text.startswith("<think>\nDoc 1: Bob\nDoc 2: Jane Austen\nDoc 3: jane austen\n")


def test_a_tie_goes_to_the_better_document_and_abstentions_do_not_vote() -> None:
    (first,), _, _ = play("vote", script("unknown", "B", "A"))
    (second,), _, _ = play("vote", script("unknown", "I do not know", "unknown"))
    assert (prediction(first), prediction(second)) == ("B", "unknown")


def test_a_vote_on_no_documents_asks_nothing() -> None:
    class Nothing(Engine):
        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            return [SearchResult(()) for _ in requests]

    (episode,), backend, _ = play("vote", script(), engine=Nothing())
    assert (prediction(episode), backend.prompts) == ("unknown", [])


def query(text: str) -> str:
    return f"I look it up. {prompts.BEGIN_QUERY} {text} "  # the backend cuts the stop string off


def test_search_o1_reads_documents_in_view_of_its_reasoning_and_goes_on() -> None:
    (episode,), backend, engine = play(
        "search-o1",
        script(query("author of Emma"), "It is a novel.\nFinal information: Emma is by Austen.", r"So \boxed{Austen}"),
        few_shot="ONE EXAMPLE",
    )
    first, reading, second = backend.prompts
    assert engine.queries == ["author of Emma"]
    assert first.stop == (prompts.END_QUERY,)
    assert first.text.startswith("ONE EXAMPLE\n\n")
    assert first.text.endswith(f"Question: {QUESTION}\n")
    assert "up to 4 times" in first.text
    assert "I look it up." in reading.text
    assert "Query: author of Emma" in reading.text
    assert "Doc 3: T2: text 2 on author of Emma" in reading.text
    turn = f"I look it up. {prompts.BEGIN_QUERY}author of Emma{prompts.END_QUERY}"
    assert second.history == (("user", first.text), ("assistant", turn))
    assert second.text == f"{prompts.BEGIN_RESULT}Emma is by Austen.{prompts.END_RESULT}"
    assert prediction(episode) == "Austen"
    assert [turn.action_text for turn in episode.turns] == [
        "<think>\nI look it up.\n</think>\n\n<search>author of Emma</search>",
        "<think>\nEmma is by Austen.\n\nSo \\boxed{Austen}\n</think>\n\n<answer>Austen</answer>",
    ]


def test_search_o1_does_not_repeat_a_search_and_stops_at_the_limit() -> None:
    queries = iter(["a", "A", "b", *map(str, range(SEARCH_O1_TURNS - 3))])

    def write(prompt: Prompt, _: int) -> str:
        if "Documents:" in prompt.text:
            return "nothing"
        return query(next(queries)) if not prompt.text.startswith("Read the reasoning") else "Austen"

    rules = make_rules(max_turns=2, top_k=1)
    (episode,), backend, engine = play("search-o1", write, rules=rules)
    told = [prompt.text for prompt in backend.prompts if prompt.text.startswith(prompts.BEGIN_RESULT)]
    assert engine.queries == ["a", "b"]
    assert prompts.SEARCHED_ALREADY in told[1]
    assert all(prompts.SEARCHES_USED_UP in text for text in told[3:])
    assert len(told) == SEARCH_O1_TURNS - 1
    assert "Reasoning: I look it up." in backend.prompts[-1].text
    assert prediction(episode) == "Austen"


@pytest.mark.parametrize(
    "written",
    [
        Completion(f"I see. {prompts.BEGIN_QUERY}half a que", truncated=True),
        f"I see. {prompts.BEGIN_QUERY} {prompts.END_QUERY}",
        "I see.",
    ],
)
def test_search_o1_without_a_whole_query_is_asked_for_its_answer(written: Any) -> None:
    (episode,), backend, engine = play("search-o1", lambda _, number: [written, "Austen"][number])
    assert (len(backend.prompts), engine.calls) == (2, 0)
    assert prediction(episode) == "Austen"
    assert "I see." in backend.prompts[1].text


def test_a_server_without_stop_strings_does_not_make_up_results() -> None:
    text = f"{query('a')}{prompts.END_QUERY}\n{prompts.BEGIN_RESULT}made up{prompts.END_RESULT} \\boxed{{x}}"
    (episode,), backend, engine = play("search-o1", script(text, "Final information: f", r"\boxed{y}"))
    assert engine.queries == ["a"]
    assert not any("made up" in prompt.text for prompt in backend.prompts)
    assert prediction(episode) == "y"


@pytest.mark.parametrize("plan", PLANS)
def test_episodes_take_their_turns_side_by_side(plan: str) -> None:
    def write(prompt: Prompt, _: int) -> str:
        if prompt.stop == (prompts.END_QUERY,):
            return r"\boxed{a}" if prompt.history else query("a")
        return "a"

    alone, _, _ = play(plan, write)
    episodes, backend, engine = play(plan, write, count=5)
    searches = len(alone[0].turns) - 1
    assert engine.calls == searches
    assert set(map(len, (episode.turns for episode in episodes))) == {searches + 1}
    assert set(backend.batches) == {15 if plan == "vote" else 5}
    assert episodes[0].text == alone[0].text


@pytest.mark.parametrize("written", ["", "  \n", "<think>never ends"])
@pytest.mark.parametrize("plan", ["direct", "cot", "rag", "iterative-rag", "vote"])
def test_a_model_that_never_answers_gives_the_answer_unknown(plan: str, written: str) -> None:
    (episode,), _, _ = play(plan, lambda *_: written)
    assert (episode.stop_reason, prediction(episode)) == (StopReason.ANSWER, "unknown")


FAILED = Completion(failure="the server is down")


def test_thoughts_that_a_server_returns_apart_are_in_the_transcript_and_nowhere_else() -> None:
    (episode,), backend, _ = play("iterative-rag", lambda *_: Completion("Austen", reasoning="Hm, <answer>x</answer>"))
    assert episode.turns[0].action_text.startswith("<search>")
    assert episode.turns[1].action_text.startswith("<think>\nHm, [answer]x[/answer]\n\nAusten\n</think>")
    assert not any("Hm" in prompt.text for prompt in backend.prompts)
    assert prediction(episode) == "Austen"


def test_a_failed_completion_ends_the_evaluation() -> None:
    with pytest.raises(AgentError, match="agent 'baseline:rag', question 'q0', turn 2: the server is down"):
        play("rag", lambda *_: FAILED)


def test_a_failed_completion_is_no_answer_and_leaves_the_others_alone() -> None:
    episodes, _, _ = play(
        "vote",
        lambda _, number: FAILED if number == 4 else "a",
        count=3,
        failures=AgentOptions(on_error="skip"),
    )
    assert [e.stop_reason for e in episodes] == [StopReason.ANSWER, StopReason.AGENT_ERROR, StopReason.ANSWER]
    assert episodes[1].turns[-1].step.error == "agent 'baseline:vote', question 'q1', turn 2: the server is down"
    assert prediction(episodes[1]) is None


@pytest.mark.parametrize("tries", [2, 5])
def test_only_what_failed_is_asked_again(tries: int) -> None:
    def write(prompt: Prompt, number: int) -> Any:
        bad = prompt.seed == mix(mix(7, 1), 0, 0)
        return FAILED if bad and number < 2 + tries - 1 else "a"

    episodes, backend, _ = play(
        "direct", write, count=3, failures=AgentOptions(on_error="retry", retries=3, backoff_s=0)
    )
    assert backend.batches == [3] + [1] * min(3, tries - 1)
    assert episodes[1].stop_reason == (StopReason.ANSWER if tries < 5 else StopReason.AGENT_ERROR)


def test_a_backend_that_breaks_fails_its_prompts() -> None:
    def write(*_: Any) -> str:
        raise EngineError("out of memory")

    (episode,), _, _ = play("direct", write, failures=AgentOptions(on_error="skip"))
    assert episode.stop_reason is StopReason.AGENT_ERROR
    assert "out of memory" in str(episode.turns[-1].step.error)


def test_a_prompt_that_does_not_fit_ends_its_episode_like_that_of_a_policy() -> None:
    (episode,), _, _ = play("rag", lambda *_: Completion(failure="9000 tokens", too_long=True))
    assert episode.stop_reason is StopReason.CONTEXT_LIMIT


def test_a_failing_engine_ends_its_episodes_only() -> None:
    episodes, _, _ = play("rag", script("a", "a"), count=4, engine=FailingEngine("down", after=2))
    assert [e.stop_reason for e in episodes] == [StopReason.ANSWER] * 2 + [StopReason.ENGINE_ERROR] * 2


def test_what_was_completed_at_one_noise_level_is_not_asked_again() -> None:
    backend = FakeBackend(lambda *_: "a")
    player = PromptedPlayer("rag", backend)
    rules = player.rules_for(RULES)
    for level in (0.0, 0.5):
        player.play([Episode(Question("q", QUESTION, ("a",)), rules, noise_level=level, seed=3)], Engine())
    assert len(backend.prompts) == 1


def test_a_limit_that_a_thought_uses_up_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    thoughts = [Completion("<think>Hm", truncated=True), Completion("", truncated=True, reasoning="Hm")]
    episodes, _, _ = play("direct", lambda _, number: thoughts[number % 2], count=4)
    assert {prediction(episode) for episode in episodes} == {"unknown"}
    (record,) = caplog.records
    assert "within a thought after 64 tokens" in record.getMessage()


def test_batches_are_bounded_and_tokens_counted_once() -> None:
    backend = FakeBackend(lambda *_: Completion("a", completion_tokens=2))
    player = PromptedPlayer("rag", backend, batch=2)
    rules = player.rules_for(RULES)
    before = WORK.total().tokens
    for _ in range(2):
        player.play([Episode(Question(f"q{i}", f"{i}?", ("a",)), rules, seed=i) for i in range(5)], Engine())
    assert backend.batches == [2, 2, 1]
    assert WORK.total().tokens - before == 10


def test_no_plan_sees_more_than_the_question() -> None:
    for plan in PLANS:
        _, backend, _ = play(plan, lambda *_: "x", level=0.5)
        assert not any("Jane Austen" in prompt.text for prompt in backend.prompts)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@pytest.mark.parametrize(
    "thought",
    ["plain words", "<answer>no</answer> <search>no</search>", r"\boxed{no} </think>", prompts.BEGIN_QUERY + "no", "<"],
)
def test_a_transcript_is_in_the_protocol_s_form_whatever_the_model_wrote(protocol: str, thought: str) -> None:
    rules = make_rules(protocol=protocol)
    episode = Episode(Question("q", QUESTION, ("a",)), rules)
    for kind in ("search", "answer"):
        text = turn_text(episode, kind, "Jane Austen", thought)
        assert text is not None
        assert (rules.protocol.parse(text).kind, rules.protocol.parse(text).content) == (kind, "Jane Austen")
        assert Turn(text, None).context_text == text  # type: ignore[arg-type]


def test_a_thought_is_cut_to_the_longest_turn() -> None:
    episode = Episode(Question("q", QUESTION, ("a",)), make_rules(max_action_chars=60))
    text = turn_text(episode, "answer", "a", "x" * 100 + "y")
    assert text is not None
    assert len(text) <= 60
    assert "xxx\n</think>" in text
    assert turn_text(episode, "answer", "a" * 40, "x") is None
