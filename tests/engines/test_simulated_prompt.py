"""A user's own prompt, a system message and the beginning of the reply, from the engine's options to the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sim_fakes import FakeBackend, ask, numbered, passage

from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread, chat
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.simulated.sets import SimulationOptions, prompt_of
from zerosearch_env.engines.simulated.template import PromptTemplate
from zerosearch_env.errors import ConfigError

TEMPLATE = (
    'Write {count} {kind} texts.\nReader: "{question}", answer {answer} ({answers}). {"a": {b}}\nQuery: {query}\n'
)


def prompts_of(*requests: Any, **options: Any) -> list[Any]:
    backend = FakeBackend(lambda *_: numbered("Paris", "b", "c"))
    SimulatedEngine(backend, options=SimulationOptions(**options)).search(requests)
    return backend.prompts


def test_a_template_is_filled_in_once() -> None:
    useful, noisy, *_ = prompts_of(
        ask("{kind} <b>of</b> {answers}", question="Is {query} it?"), ask(noisy=True, answers=("x",)), prompt=TEMPLATE
    )
    assert useful.text == (
        'Write 3 useful texts.\nReader: "Is {query} it?", answer Paris (Paris | City of Light). {"a": {b}}\n'
        "Query: {kind} of {answers}\n"
    )
    assert noisy.text.startswith("Write 3 noisy texts.\n")
    assert "answer x (x)" in noisy.text, "the template says that a noisy prompt states the answer"
    assert (useful.stop, useful.system, useful.prefill) == ((), None, "")


def test_a_template_without_values() -> None:
    style = SimulationOptions(prompt=TEMPLATE).style
    assert style.render(noisy=False, question="", answers=(), query="", count=1) == (
        'Write 1 useful texts.\nReader: "unknown", answer unknown (unknown). {"a": {b}}\nQuery: (no words)\n'
    )


def test_a_noisy_search_may_have_another_text(tmp_path: Path) -> None:
    file = tmp_path / "noisy.txt"
    file.write_text("Noise on {query}", encoding="utf-8")
    useful, noisy = prompts_of(
        ask(), ask(noisy=True, answers=("x",)), prompt="Help with {query} ({answers})", noisy_prompt=str(file)
    )
    assert (useful.text, noisy.text) == (
        "Help with capital of France (Paris | City of Light)",
        "Noise on capital of France",
    )
    file.write_text("Other noise on {query}", encoding="utf-8")
    options = SimulationOptions(prompt="Help with {query} ({answers})", noisy_prompt=str(file))
    file.unlink()
    assert prompt_of(ask(), True, options) == "Other noise on capital of France", "it is read once"


def test_documents_of_a_template_are_guarded() -> None:
    engine = SimulatedEngine(
        FakeBackend(lambda *_: numbered("It is Paris of course", "b", "c")), options=SimulationOptions(prompt=TEMPLATE)
    )
    (result,) = engine.search([ask(noisy=True)])
    assert result.documents[0].text == passage("It is ... of course")
    assert engine.stats().redactions == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "tuned-1"}, r"unknown prompt 'tuned-1'. Did you mean 'tuned'\? Expected one of 'tuned', .*{query}"),
        ({"prompt": "No query here, {Query}"}, "a text that contains {query}, or a file"),
        ({"prompt": "FILE"}, "does not contain {query}; put it where"),
        ({"prompt": "Write for {query}"}, "does not contain {kind}.*noisy_prompt"),
        ({"prompt": "tuned", "noisy_prompt": "{query}"}, "noisy_prompt needs a text of your own as prompt.*'tuned'"),
        ({"prompt": "{query}", "noisy_prompt": "x"}, "unknown noisy_prompt 'x'"),
        ({"prompt": 3}, "prompt must be a string, got 3"),
        ({"system": 3}, "system must be a string, got 3"),
        ({"prefill": None}, "prefill must be a string, got None"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("{question}", encoding="utf-8")
    if options.get("prompt") == "FILE":
        options = {"prompt": str(file)}
    with pytest.raises(ConfigError, match=message):
        SimulationOptions(**options)
    file.write_bytes(b"\xff{query}")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        SimulationOptions(prompt=str(file))


@pytest.mark.parametrize("text", [" one{}\nDoc 2: two{}", "Doc 1: one{}\nDoc 2: two{}", "\nDoc 1: one{}\nDoc 2: two{}"])
def test_the_reply_begins_with_the_prefill(text: str) -> None:
    """Also that of a server which repeats it, or which begins a new reply."""
    backend = FakeBackend(lambda *_: text.format(*2 * [passage("")]))
    engine = SimulatedEngine(backend, options=SimulationOptions(prefill="Doc 1:", system=""))
    (result,) = engine.search([ask(top_k=2, answers=())])
    assert [d.text for d in result.documents] == [passage("one"), passage("two")]
    assert (backend.prompts[0].prefill, backend.prompts[0].system) == ("Doc 1:", "")


def test_an_empty_reply_stays_empty() -> None:
    engine = SimulatedEngine(FakeBackend(lambda *_: " "), options=SimulationOptions(prefill="Doc 1:"))
    assert "empty" in (engine.search([ask()])[0].failure or "")


def test_cached_documents_belong_to_prompt_system_and_prefill(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"system": ""},
        {"system": "Be."},
        {"prefill": "Doc 1:"},
        {"prompt": TEMPLATE},
        {"prompt": TEMPLATE + "!"},
        {"prompt": TEMPLATE, "noisy_prompt": "{query}"},
    ]
    identities = set()
    for number, options in enumerate([*settings, *settings]):
        backend = FakeBackend(lambda *_: numbered("Paris", "b", "c"))
        engine = SimulatedEngine(backend, options=SimulationOptions(**options), cache=str(tmp_path / "cache"))
        engine.search([ask()])
        assert len(backend.prompts) == (number < len(settings)), options
        identities.add(tuple(engine.identity().items()))
        engine.close()
    assert len(identities) == 4, "an engine's record names a prompt that is not part of this package by its content"


def test_a_template_in_a_description_reaches_a_server(tmp_path: Path) -> None:
    calls: list[Call] = []

    async def handler(call: Call) -> Reply:
        calls.append(call)
        return chat(f" {passage('Paris')}")

    file = tmp_path / "prompt.txt"
    file.write_text("{kind}: {query}", encoding="utf-8")
    with ServerThread(handler) as server:
        engine = make_engine(
            {
                "kind": f"simulated:openai:{server.url}",
                "model": "m",
                "prompt": str(file),
                "system": "",
                "prefill": "Doc 1:",
            }
        )
        (result,) = engine.search([ask(top_k=1)])
        engine.close()
    assert result.documents[0].text == passage("Paris")
    assert [m["content"] for m in calls[0].body["messages"]] == ["", "useful: capital of France", "Doc 1:"]
    assert "stop" not in calls[0].body


def test_templates_with_the_same_text_are_equal() -> None:
    assert PromptTemplate("a", "b") == PromptTemplate("a", "b")
    assert PromptTemplate("a", "b").id != PromptTemplate("ab", "").id
