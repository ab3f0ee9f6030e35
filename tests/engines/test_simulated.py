from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from sim_fakes import FakeBackend, ask, numbered, passage

import zerosearch_env  # noqa: F401  (registers the environment)
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread, chat, documents
from zerosearch_env.engines import check_engine, make_engine
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.simulated.sets import SimulationOptions
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.llm import Completion, Prompt
from zerosearch_env.types import full_text

FAST = {"attempts": 2, "backoff_s": 0.005, "total_s": 5.0, "read_s": 2.0}


def fake(write: Any = None, **options: Any) -> tuple[SimulatedEngine, FakeBackend]:
    backend = FakeBackend(write)
    return SimulatedEngine(backend, options=SimulationOptions(**options)), backend


def seeded(prompt: Prompt, _: int) -> str:
    return documents(prompt.text).replace("speaks", f"({prompt.seed % 1000}) speaks")


@pytest.mark.parametrize("prompt", ["tuned", "few-shot"])
def test_it_keeps_the_promises_of_an_engine(prompt: str) -> None:
    check_engine(fake(seeded, prompt=prompt)[0])


def test_it_keeps_them_on_a_server_too() -> None:
    async def handler(call: Call) -> Reply:
        if call.path == "/v1/models":
            return Reply({"data": [{"id": "served"}]})
        assert call.body["model"] == "served"
        text = documents(call.body["messages"][0]["content"])
        return chat(text.replace("speaks", f"({call.body['seed'] % 1000}) speaks"))

    with ServerThread(handler) as server:
        engine = make_engine(f"simulated:openai:{server.url}")
        check_engine(engine)
        engine.close()


def test_all_answers_reach_the_useful_prompt_and_none_the_noisy_one() -> None:
    for style in ("tuned", "few-shot"):
        engine, backend = fake(prompt=style)
        engine.search([ask(noisy=False), ask(noisy=True)])
        useful, noisy = (prompt.text for prompt in backend.prompts)
        assert "Paris | City of Light" in useful
        assert "Paris" not in noisy
        assert "City of Light" not in noisy
        assert useful.index("Paris") < useful.index('"capital of France"')


def test_prompts_of_one_question_begin_alike() -> None:
    engine, backend = fake()
    engine.search([ask("a first query"), ask("another one")])
    first, second = (prompt.text for prompt in backend.prompts)
    shared = len(first) - len(first[first.index('"a first') :])
    assert first[:shared] == second[:shared]


@pytest.mark.parametrize("top_k", [1, 2, 7, 12])
def test_any_number_of_documents(top_k: int) -> None:
    engine, backend = fake()
    (result,) = engine.search([ask(top_k=top_k)])
    assert len(result.documents) == top_k
    assert f"Number: {top_k}\n" in backend.prompts[0].text
    assert backend.prompts[0].max_tokens == 100 + 100 * top_k


def test_a_mixed_search_holds_what_the_pure_ones_hold() -> None:
    engine, _ = fake(seeded)
    mask = (True, False, True)
    useful, noisy, mixed = engine.search([ask(), ask(noisy=True), ask(noisy=mask)])
    assert mixed.documents == (noisy.documents[0], useful.documents[1], noisy.documents[2])
    stats = engine.stats()
    assert (stats.documents, stats.noisy_documents, stats.completions) == (9, 5, 2), "equal sets are made once"
    assert stats.realised_noise == pytest.approx(5 / 9)


def test_leaks_are_sampled_again() -> None:
    engine, backend = fake(lambda prompt, n: numbered("It is Paris.", "b", "c") if n == 0 else numbered("d", "e", "f"))
    (result,) = engine.search([ask(noisy=True)])
    texts = [document.text for document in result.documents]
    assert texts == [passage("d"), passage("b"), passage("c")], "clean slots of the first sample stay"
    stats = engine.stats()
    assert (stats.leaks, stats.noisy_sets, stats.resamples, stats.redactions) == (1, 1, 1, 0)
    assert stats.leak_rate == 1.0
    assert len({prompt.seed for prompt in backend.prompts}) == 2


def test_leaks_that_stay_are_redacted() -> None:
    texts = ("In PARIS, the city.", "the (City) of lights", "A city of   Light!", "Par-is and Pa\u200bris")
    engine, backend = fake(lambda prompt, n: numbered(*(f"{text} number {n}" for text in texts)))
    (result,) = engine.search([ask(noisy=True, top_k=4)])
    assert len(backend.prompts) == 4
    assert [d.text for d in result.documents] == [
        passage("In ... the city. number 0"),
        passage("the (City) of lights number 0"),
        passage("A ... number 0"),
        passage("... and ... number 0"),
    ]
    assert not any(contains_answer(full_text(d), ("Paris", "City of Light")) for d in result.documents)
    assert engine.stats().redactions == 3


def test_a_document_that_is_nothing_but_the_answer_fails() -> None:
    engine, _ = fake(lambda prompt, n: f"Doc 1: {'Paris ' * 5}\nDoc 2: {passage('b')}\nDoc 3: {passage('c')}")
    (result,) = engine.search([ask(noisy=True)])
    assert result.documents == ()
    assert "consists of a gold answer" in (result.failure or "")


def test_misses_are_sampled_again_and_then_accepted() -> None:
    engine, backend = fake(lambda prompt, n: numbered(f"a first hop {n}", "b", "c"))
    (result,) = engine.search([ask()])
    assert result.documents[0].text == passage("a first hop 0")
    stats = engine.stats()
    assert (stats.misses, stats.accepted_misses, stats.useful_sets, len(backend.prompts)) == (1, 1, 1, 2)
    assert stats.miss_rate == 1.0
    engine, _ = fake(lambda prompt, n: numbered("Paris" if n else "no", "b", "c"))
    engine.search([ask()])
    assert (engine.stats().misses, engine.stats().accepted_misses) == (1, 0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("   \n", "empty"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        (numbered("one", "two"), "too few, 2 of 3"),
        (numbered("the same", "the same", "the same"), "looping, 1 of 3"),
        (numbered("one", "two", "on and on and on and on " * 40), "looping, 2 of 3"),
        ("What a lovely day.", "too few, 0 of 3"),
    ],
)
def test_what_is_no_set_of_documents_fails_after_a_bound(text: str, problem: str) -> None:
    engine, backend = fake(lambda prompt, n: text + "\n" * n)
    (result,) = engine.search([ask()])
    assert result.documents == ()
    assert problem in (result.failure or "")
    assert result.attempts == len(backend.prompts) == 4
    stats = engine.stats()
    assert (stats.unusable, stats.resamples, stats.failed_searches, stats.documents) == (4, 3, 1, 0)


def test_a_search_without_question_and_answers_is_written_for_its_query_alone() -> None:
    backend = FakeBackend(lambda prompt, _: numbered("A mill.", "A weir."))
    engine = SimulatedEngine(backend)
    requests = [ask("mill", question="", answers=(), top_k=2, noisy=noisy) for noisy in (False, True)]
    results = engine.search(requests)
    written = [passage("A mill."), passage("A weir.")]
    assert [[document.text for document in result.documents] for result in results] == 2 * [written]
    useful, noisy = (prompt.text for prompt in backend.prompts)
    assert "Question behind the search: unknown\nAnswers to that question: unknown\n" in useful
    assert "Question behind the search: unknown\nAnswers to that question: withheld\n" in noisy
    assert (engine.stats().misses, engine.stats().resamples) == (0, 0)


def test_a_greedy_server_is_not_asked_again_and_again() -> None:
    engine, backend = fake(lambda prompt, n: "nothing")
    engine.search([ask()])
    assert len(backend.prompts) == 2


def test_failures_of_the_backend_are_the_search_s() -> None:
    engine, _ = fake(lambda prompt, n: Completion(attempts=3, failure="no server"))
    (result,) = engine.search([ask()])
    assert (result.failure, result.attempts, result.documents) == ("no server", 3, ())
    engine, _ = fake(lambda prompt, n: Completion(failure="gone") if n else numbered("first hop", "b", "c"))
    (result,) = engine.search([ask()])
    assert result.documents[0].text == passage("first hop"), "a sample at hand is not lost with the server"


def test_batches_go_in_step() -> None:
    engine, backend = fake(lambda prompt, n: numbered("Paris", "b", "c") if n != 1 else "no")
    engine.search([ask(seed=n) for n in range(4)])
    assert backend.batches == [4, 1]


def test_a_closed_engine_does_not_search(tmp_path: Path) -> None:
    backend = FakeBackend()
    engine = SimulatedEngine(backend, cache=str(tmp_path / "cache"))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.search([ask()])
    assert backend.closed


def test_bad_requests_and_descriptions() -> None:
    engine, _ = fake()
    with pytest.raises(ConfigError, match="2 flags for top_k=3"):
        engine.search([ask(noisy=(True, False))])
    for spec, message in {
        "simulated": "unknown backend",
        "simulated:openai": "at least one address",
        "simulated:openai:127.0.0.1": "expected an address",
        "simulated:hf": "a model is needed",
        "simulated:vllm:": "a model is needed",
    }.items():
        with pytest.raises(ConfigError, match=message):
            make_engine(spec)
    url = "openai:http://127.0.0.1:1/v1"
    for option, message in {
        "prompt": "Did you mean 'tuned'",
        "device": "not one of the backend 'openai'",
        "http": "Did you mean 'attempts'",
        "temperature": "temperature",
        "top_p": "top_p",
        "resamples": "resamples",
        "api_key_env": "is not set",
    }.items():
        values = {"prompt": "tune", "http": {"attempt": 1}, "temperature": -1, "top_p": 0, "resamples": -1}
        with pytest.raises(ConfigError, match=message):
            make_engine({"kind": "simulated", "argument": url, option: values.get(option, "UNSET_VARIABLE")})


def test_each_search_carries_its_own_question() -> None:
    """Some episodes answer while others search: no search may be told another episode's question or answers."""
    asked: list[tuple[str, str, str]] = []

    def write(prompt: Prompt, _: int) -> str:
        task = prompt.text.rpartition("Question behind the search: ")[2].split("\n")
        asked.append((task[0], task[1].rpartition(": ")[2], task[2].rpartition(": ")[2].strip('"')))
        return documents(prompt.text)

    rows = [{"id": f"q{i}", "question": f"What is thing {i}?", "answers": [f"thing {i}"]} for i in range(40)]
    env = gym.make_vec("ZeroSearch-v0", num_envs=6, dataset=rows, search_engine=SimulatedEngine(FakeBackend(write)))
    _, infos = env.reset(seed=3)
    questions = list(infos["question"])
    for step in range(12):
        searching = [(i + step) % 3 != 0 for i in range(6)]
        actions = [
            f"<search>{question}</search>" if search else "<answer>no idea</answer>"
            for question, search in zip(questions, searching, strict=True)
        ]
        _, _, _, _, infos = env.step(actions)
        for i in range(6):
            if "question" in infos and infos["_question"][i]:
                questions[i] = infos["question"][i]
    env.close()
    assert len(asked) > 20
    assert len({question for question, _, _ in asked}) > 5
    for question, answers, query in asked:
        assert question == query
        assert f"What is {answers}?" == question


def test_copies_search_too(tmp_path: Path) -> None:
    engine = SimulatedEngine(FakeBackend(documents_of), cache=str(tmp_path / "cache"))
    engine.search([ask()])
    copy = pickle.loads(pickle.dumps(engine))
    assert copy.stats().searches == 0
    assert copy.search([ask()])[0].documents == engine.search([ask()])[0].documents
    assert copy.stats().hit_rate == 1.0
    engine.close()
    copy.close()


def documents_of(prompt: Prompt, _: int) -> str:
    return documents(prompt.text)


def test_specs_of_an_environment_stay_json() -> None:
    with ServerThread(_documents) as server:
        spec = {"kind": "simulated", "argument": f"openai:{server.url}", "model": "m", "http": FAST}
        env = gym.make("ZeroSearch-v0", search_engine=spec, noise_level=0.5)
        assert env.spec is not None
        json.loads(env.spec.to_json())
        env.reset(seed=0)
        _, _, _, truncated, info = env.step("<search>anything</search>")
        assert not truncated
        assert len(info["documents"]) == 5
        env.close()


async def _documents(call: Call) -> Reply:
    return chat(documents(call.body["messages"][0]["content"]))


def test_it_searches_inside_a_running_loop() -> None:
    with ServerThread(_documents) as server:
        engine = make_engine({"kind": "simulated", "argument": f"openai:{server.url}", "model": "m", "http": FAST})

        async def main() -> None:
            (inside,) = engine.search([ask()])
            first, second = await asyncio.gather(engine.asearch(ask()), engine.asearch(ask(seed=9)))
            assert inside.documents == first.documents
            assert second.failure is None

        asyncio.run(main())
        engine.close()
