"""`zerosearch simulator evaluate`: every figure for an engine with known faults, and the whole command."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from small_simulator import TREES

from zerosearch_agents.simulator.cli import main
from zerosearch_agents.simulator.evaluation.attacks import ATTACKS
from zerosearch_agents.simulator.evaluation.evaluate import SimulatorEvalConfig, run_evaluate
from zerosearch_agents.simulator.evaluation.table import print_report
from zerosearch_env.engines import ConstantEngine, FailingEngine, register_engine, registry
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.simulated.sets import SimulationOptions
from zerosearch_env.errors import ConfigError, DataError, EngineError
from zerosearch_env.llm import Completion
from zerosearch_env.types import Document

pytestmark = pytest.mark.slow


class Writer:
    """Useful: the answer in two of three first samples. Noisy: an answer in every fourth first sample, or always."""

    name = identity = "writer"

    def __init__(self, stubborn: bool = False) -> None:
        self.stubborn = stubborn
        self.asked: dict[str, int] = {}

    def complete(self, prompts):
        return [Completion(self.write(prompt.text)) for prompt in prompts]

    def write(self, text: str) -> str:
        garden = int(re.findall(r"garden (\d+)\?", text)[0])
        count = int(re.findall(r"\nNumber: (\d+)", text)[-1])
        turn = self.asked[text] = self.asked.get(text, -1) + 1
        tree = TREES[garden % len(TREES)]
        if "\nKind: useful\n" in text:
            body = f"Garden {garden} has an old {tree}" if garden % 3 else f"Garden {garden} is closed"
        else:
            leaks = self.stubborn or (garden % 4 == 0 and turn == 0)
            body = f"Garden {garden} has a {tree}" if leaks else f"Gardens like {garden} have paths"
        return "\n".join(f"Doc {n}: {body}, sample {turn} number {n}." for n in range(1, count + 1))

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def engines() -> Iterator[None]:
    """Kinds of engines for these tests only."""
    known = dict(registry._FACTORIES)

    def writer(argument: str, dataset: object, *, resamples: int = 3) -> SimulatedEngine:
        return SimulatedEngine(Writer(argument == "stubborn"), options=SimulationOptions(resamples=resamples))

    register_engine("writer", writer)
    register_engine("failing", lambda argument, dataset: FailingEngine("no server", after=int(argument or 0)))
    register_engine("constant", lambda argument, dataset: ConstantEngine([Document("", "The oak. " + argument)]))
    yield
    registry._FACTORIES.clear()
    registry._FACTORIES.update(known)


def evaluate(pairs_file: Path, engine: str, **options: object) -> dict:
    output = pairs_file.parent / "report.json"
    base_options = {"input": pairs_file, "split": "train", "top_k": 2, "levels": (0.0, 0.5, 1.0), "attack_questions": 2}
    run_evaluate(SimulatorEvalConfig(engine, output=output, **{**base_options, **options}), command="c")
    return json.loads(output.read_text())


def test_the_figures_of_each_level(pairs_file: Path) -> None:
    report = evaluate(pairs_file, "writer")
    clean, half, full = report["levels"]
    assert clean["searches"] == report["searches"] == report["questions"] == 16
    gardens = [i for i in range(24) if i % 6 < 4]
    with_answer = sum(i % 3 != 0 for i in gardens) / 16
    assert clean["realised_noise"]["mean"] == 0.0
    assert clean["useful_with_answer"]["mean"] == clean["useful_with_sought_before"]["mean"] == with_answer
    assert clean["useful_with_answer"]["low"] < with_answer < clean["useful_with_answer"]["high"]
    assert clean["noisy_with_answer"]["n"] == 0
    assert clean["useful_with_hop_answer"]["mean"] is None
    assert 0 < half["realised_noise"]["mean"] < 1
    assert full["realised_noise"]["mean"] == 1.0
    assert full["noisy_with_answer"]["mean"] == 0.0
    leaks = sum(i % 4 == 0 for i in gardens)
    assert full["noisy_with_answer_before"]["mean"] == leaks / 16
    assert full["redactions"] == 0
    assert full["resamples"] == leaks
    assert clean["documents_per_second"]["mean"] > 0
    assert clean["words"]["n"] == 32
    assert {"documents", "word_pairs", "overlap"} == set(clean["distinct"])


def test_a_stubborn_leak_is_redacted(pairs_file: Path) -> None:
    report = evaluate(pairs_file, '{"kind": "writer:stubborn", "resamples": 1}')
    full, attacks = report["levels"][-1], report["attacks"]
    assert full["noisy_with_answer_before"]["mean"] == 1.0
    assert full["noisy_with_answer"]["mean"] == 0.0
    assert full["redactions"] == 32
    assert attacks["all"]["before"]["mean"] == 1.0
    assert attacks["all"]["after"]["mean"] == attacks["all"]["encoded"]["mean"] == 0.0
    assert attacks["queries"] == len(ATTACKS)
    assert attacks["all"]["searches"] == 2 * len(ATTACKS)
    assert sum(family["searches"] for family in attacks["families"].values()) == 2 * len(ATTACKS)
    assert attacks["gave_away"] == []


def test_an_engine_without_a_guard_is_found_out(pairs_file: Path) -> None:
    report = evaluate(pairs_file, "constant:ash elm hazel", top_k=1)
    full = report["levels"][-1]
    assert 0.2 < full["noisy_with_answer"]["mean"] < 1.0
    assert "noisy_with_answer_before" not in full
    attacks = report["attacks"]
    assert attacks["all"]["before"]["mean"] is None
    assert attacks["all"]["after"]["mean"] == 0.5  # two questions; every document contains the answer to one of them
    assert len(attacks["gave_away"]) == len(ATTACKS)


def test_style_beside_the_real_documents(pairs_file: Path) -> None:
    assert evaluate(pairs_file, "writer")["style"]["reference"] == "documents of the pairs"
    style = evaluate(pairs_file, "writer", reference="writer", levels=(0.0, 1.0), attack_questions=0)["style"]
    assert style["reference"] == "writer"
    level = style["levels"][0]
    for who in ("engine", "template", "reference"):
        assert set(level[who]) == {"words", "word_pairs", "character_triples", "length"}
    assert level["engine"]["words"]["mean"] < level["template"]["words"]["mean"]
    assert level["engine"]["words"]["mean"] == pytest.approx(0.0, abs=0.05)


def test_the_world_has_both_counts(tmp_path: Path) -> None:
    command = ["evaluate", "--engine", "corpus", "--searches", "60", "--levels", "0", "1", "--attack-questions", "1"]
    assert main([*command, "--world.passages", "600", "--output", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    useful, noisy = report["levels"]
    assert useful["useful_with_hop_answer"]["mean"] > 0.9
    assert useful["useful_with_answer"]["mean"] < useful["useful_with_hop_answer"]["mean"]
    assert noisy["noisy_with_answer"]["mean"] == 0.0
    assert report["style"]["levels"][0]["engine"]["words"]["mean"] < 0.01
    assert report["settings"]["world"]["passages"] == 600
    text = (tmp_path / "r.md").read_text()
    assert "| useful sets with their hop's answer % |" in text
    assert "## Some documents" in text


def test_tables_fit_a_narrow_terminal(pairs_file: Path) -> None:
    report = evaluate(pairs_file, "writer")
    for width in (80, 200):
        stream = io.StringIO()
        print_report(report, Console(file=stream, width=width))
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert any("before the guard" in line for line in lines)
        assert ("[0.0," in stream.getvalue()) == (width == 200) or "\n" in stream.getvalue()


def test_failures(pairs_file: Path) -> None:
    with pytest.raises(EngineError, match="all 16 searches failed; the first: no server"):
        evaluate(pairs_file, "failing", reference="constant")
    with pytest.raises(EngineError, match="reference 'failing' failed every time: no server"):
        evaluate(pairs_file, "writer", reference="failing", attack_questions=0)
    report = evaluate(pairs_file, "failing:20", reference="constant", levels=(0.0, 1.0), attack_questions=0, top_k=1)
    assert report["attacks"] is None
    assert [level["failed"] for level in report["levels"]] == [0, 13]
    assert report["levels"][1]["first_failure"] == "no server"
    assert report["levels"][1]["noisy_with_answer"]["n"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ()}, "at least one noise level"),
        ({"output": Path("report.md")}, "output is the JSON report"),
        ({"levels": (1.5,)}, r"1\.5"),
        ({"searches": 0}, "searches must be a whole number of at least 1"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1"),
        ({"attack_questions": -1}, "attack_questions must be a whole number of at least 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulatorEvalConfig("corpus", **options)


def test_a_reference_or_an_engine_that_raises_is_an_engine_error(pairs_file: Path) -> None:
    class Raising(ConstantEngine):
        def search(self, requests: object) -> list:
            raise ValueError("no index")

    register_engine("raising", lambda argument, dataset: Raising())
    with pytest.raises(EngineError, match=r"reference 'raising' failed every time: .*no index"):
        evaluate(pairs_file, "constant", reference="raising", attack_questions=0)
    with pytest.raises(EngineError, match=r"searches failed; the first: .*no index"):
        evaluate(pairs_file, "raising", attack_questions=0)


def test_what_cannot_be_evaluated(pairs_file: Path) -> None:
    with pytest.raises(ConfigError, match="is not JSON"):
        evaluate(pairs_file, '{"kind": "writer", temperature: 0}')
    with pytest.raises(DataError, match="no pair with split 'dev'"):
        evaluate(pairs_file, "writer", split="dev")
