from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from rich.console import Console
from tiny import tiny_dataset

from zerosearch_agents.commands.evaluate import EvalConfig, main, run_evaluation
from zerosearch_agents.evaluation.display import print_evaluation
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.items import select_questions
from zerosearch_agents.evaluation.results import CellKey, Evaluation, load_evaluation, save_evaluation
from zerosearch_agents.evaluation.store import Store, transcript_path
from zerosearch_agents.players.builtin.scripted import OraclePlayer, RandomPlayer
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_agents.report.page import Notes, Report, render_report
from zerosearch_env.cli import main as zerosearch
from zerosearch_env.engines import ConstantEngine, CorpusEngine, FailingEngine, register_engine
from zerosearch_env.errors import AgentError, ConfigError, DataError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.randomness import mix
from zerosearch_env.records.transcripts import read_transcripts
from zerosearch_env.types import Question

RULES = make_rules(max_turns=4, top_k=2)
DATA = tiny_dataset()
TWICE = {"twice": {"its code": "1"}}
QUESTIONS = [replace(q, metadata={"hops": 1 + i % 2}) for i, q in enumerate(DATA.questions)]


@pytest.fixture
def engine() -> CorpusEngine:
    return CorpusEngine(DATA.passages)


def search_twice(observation: str, info) -> str:
    return f"<search>{info['question']}</search>" if info["turn"] < 2 else "<answer>k</answer>"


def test_a_cell_holds_what_was_played(engine: CorpusEngine) -> None:
    result = evaluate(CallablePlayer(search_twice, name="twice"), QUESTIONS, engine, RULES, (0.0, 1.0), engine_name="e")
    assert [cell.key for cell in result.cells] == [CellKey("twice", "e", 0.0), CellKey("twice", "e", 1.0)]
    summary = result.cells[0].summary()
    assert summary.em.mean == 0.5
    assert summary.em.n == 8
    assert summary.searches.mean == 2.0
    assert summary.realised_noise == 0.0
    assert result.cells[1].summary().realised_noise == 1.0
    assert summary.invalid_rate == 0.0
    assert summary.stop_reasons == {"answer": 8}
    assert result.groups == ("1-hop", "2-hop")
    assert result.cells[0].summary("1-hop").em.mean == 1.0
    assert result.cells[0].summary("2-hop").em.mean == 0.0


def test_several_data_sets_get_a_table_each_next_to_the_pooled_one(
    tmp_path: Path, engine: CorpusEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [
        replace(q, dataset="nq" if i < 6 else "bamboogle", metadata=None) for i, q in enumerate(DATA.questions)
    ]

    def right_on_some(observation: str, info) -> str:
        index = [q.text for q in questions].index(info["question"])
        return f"<answer>{questions[index].answers[0] if index < 3 else 'no'}</answer>"

    result = evaluate(CallablePlayer(right_on_some, name="some"), questions, engine, RULES, (0.0, 1.0))
    assert result.data_sources == ("bamboogle", "nq")
    save_evaluation(result, tmp_path)
    assert load_evaluation(tmp_path).cells == result.cells
    stored = json.loads((tmp_path / "results.json").read_text())["cells"][0]
    assert stored["summary"]["all"]["em"]["mean"] == 3 / 8
    means = {name: (summary["em"]["mean"], summary["em"]["n"]) for name, summary in stored["data_sources"].items()}
    assert means == {"bamboogle": (0.0, 2), "nq": (0.5, 6)}
    print_evaluation(result, Console(width=120))
    lines = capsys.readouterr().out.splitlines()
    words = [line.split()[:2] for line in lines]
    start = words.index(["bamboogle"])
    assert words[start + 1] == ["some", "0.0"]
    assert words[words.index(["nq"], start) + 1] == ["some", "50.0"]
    page = render_report(Report(Notes("results"), result))
    assert "data source nq" in page
    assert "data source bamboogle" in page
    pooled = evaluate(CallablePlayer(right_on_some, name="some"), questions[:6], engine, RULES, (0.0,))
    assert pooled.data_sources == ()  # one data set: the pooled table says it all
    assert "data source" not in render_report(Report(Notes("results"), pooled))


def test_draws_are_coupled_across_agents_and_levels(engine: CorpusEngine) -> None:
    flags: dict[tuple[str, float], list[list[bool]]] = {}

    class Recording(CallablePlayer):
        def play(self, episodes, engine, on_done=None):
            rows = flags[self.name, episodes[0].noise_level] = []

            def done(position: int) -> None:
                rows.append([bool(t.step.noisy) for t in episodes[position].turns if t.step.noisy is not None])
                on_done(position)

            super().play(episodes, engine, done)

    for name in ("a", "b"):
        evaluate(Recording(search_twice, name=name), QUESTIONS, engine, RULES, (0.25, 0.5, 0.75), seed=3)
    assert flags["a", 0.5] == flags["b", 0.5]
    for low, high in ((0.25, 0.5), (0.5, 0.75)):
        pairs = zip(chain.from_iterable(flags["a", low]), chain.from_iterable(flags["a", high]), strict=True)
        assert all(not lower or higher for lower, higher in pairs)
    assert flags["a", 0.25] != flags["a", 0.75]


def test_the_seed_of_an_episode_is_that_of_its_question_in_the_dataset(engine: CorpusEngine) -> None:
    seeds: dict[str, int] = {}

    class Seeds(RandomPlayer):
        def play(self, episodes, engine, on_done=None):
            seeds.update({e.question.id: e.seed for e in episodes})
            super().play(episodes, engine, on_done)

    evaluate(Seeds(), select_questions(QUESTIONS, 3, seed=1), engine, RULES, (0.0,), seed=9)
    assert len(seeds) == 3
    assert all(seeds[f"q{i}"] == mix(9, i) for i in range(8) if f"q{i}" in seeds)


def test_more_questions_contain_the_fewer() -> None:
    few, many = select_questions(QUESTIONS, 2, seed=4), select_questions(QUESTIONS, 5, seed=4)
    assert {item.index for item in few} < {item.index for item in many}
    assert [item.index for item in many] == sorted(item.index for item in many)
    assert len(select_questions(QUESTIONS, None)) == len(select_questions(QUESTIONS, 99)) == 8
    hops = [item.question.metadata["hops"] for item in select_questions(QUESTIONS, 3, per_hop=True)]
    assert sorted(hops) == [1, 1, 1, 2, 2, 2]
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        select_questions(QUESTIONS, 0)
    with pytest.raises(DataError, match="no question"):
        select_questions([], 3)


def test_engine_failures_are_counted_and_left_out_of_the_means() -> None:
    result = evaluate(CallablePlayer(search_twice), QUESTIONS, FailingEngine("down", after=6), RULES, (0.0,))
    summary = result.cells[0].summary()
    assert summary.engine_failures == 5
    assert summary.em.n == 3
    assert summary.stop_reasons == {"answer": 3, "engine_error": 5}
    assert result.cells[0].episodes[-1].error == "down"


def test_every_engine_failure_gives_an_empty_mean() -> None:
    summary = evaluate(OraclePlayer(), QUESTIONS, FailingEngine("down"), RULES, (0.0,)).cells[0].summary()
    assert math.isnan(summary.em.mean)
    assert summary.as_dict()["em"]["mean"] is None
    assert summary.as_dict()["realised_noise"] is None


def test_an_agent_that_never_searches_is_played_once(engine: CorpusEngine) -> None:
    class Silent(CallablePlayer):
        searches = False

    calls: list[str] = []

    def answer(observation: str, info) -> str:
        calls.append(info["question"])
        return "<answer>k</answer>"

    result = evaluate(Silent(answer), QUESTIONS, engine, RULES, (0.0, 0.5, 1.0))
    assert len(calls) == 8
    assert [cell.summary().em.mean for cell in result.cells] == [0.5] * 3


def test_invalid_turns_are_counted(engine: CorpusEngine) -> None:
    def agent(observation: str, info) -> str:
        return "hm" if info["turn"] == 0 else "<answer>b</answer>"

    summary = evaluate(CallablePlayer(agent), QUESTIONS, engine, RULES, (0.0,)).cells[0].summary()
    assert summary.invalid_rate == 0.5


def test_a_player_that_leaves_episodes_open_is_an_error(engine: CorpusEngine) -> None:
    class Lazy(RandomPlayer):
        def play(self, episodes, engine, on_done=None):
            super().play(episodes[1:], engine, lambda position: on_done(position + 1))

    with pytest.raises(AgentError, match="left 1 episodes unfinished, the first is 'q0'"):
        evaluate(Lazy(), QUESTIONS, engine, RULES, (0.0,))


@pytest.mark.parametrize("level", [-0.1, 1.1, math.nan])
def test_noise_levels_are_checked_before_anything_is_played(engine: CorpusEngine, level: float) -> None:
    with pytest.raises(ConfigError):
        evaluate(RandomPlayer(), QUESTIONS, engine, RULES, (0.0, level))


# what is written


def test_results_and_transcripts_are_written_and_read_back(tmp_path: Path, engine: CorpusEngine) -> None:
    store = Store(tmp_path, {"seed": 0}, TWICE)
    result = evaluate(CallablePlayer(search_twice, name="twice"), QUESTIONS, engine, RULES, (0.0, 0.5), store=store)
    loaded = load_evaluation(tmp_path)
    assert loaded.cells == result.cells == store.evaluation.cells
    assert loaded.settings["agents"] == TWICE
    raw = json.loads((tmp_path / "results.json").read_text())
    assert raw["schema_version"] == 2
    assert set(raw["cells"][0]["summary"]) == {"all", "1-hop", "2-hop"}
    records = list(read_transcripts(transcript_path(tmp_path, result.cells[1].key)))
    assert [r["extra"]["index"] for r in records] == list(range(8))
    assert records[0]["extra"]["agent"] == "twice"


def test_an_interrupted_cell_is_continued_where_it_stopped(tmp_path: Path, engine: CorpusEngine) -> None:
    asked: list[str] = []

    def stops(observation: str, info) -> str:
        if info["question"] == "letter 3":
            raise KeyboardInterrupt
        return search_twice(observation, info)

    def counts(observation: str, info) -> str:
        asked.append(info["question"])
        return search_twice(observation, info)

    store = Store(tmp_path, {"seed": 0}, TWICE)
    with pytest.raises(KeyboardInterrupt):
        evaluate(CallablePlayer(stops, name="twice"), QUESTIONS, engine, RULES, (0.0, 0.5), store=store)
    (partial,) = load_evaluation(tmp_path).cells
    assert not partial.complete
    assert [r.question_id for r in partial.episodes] == ["q0", "q1", "q2"]
    path = transcript_path(tmp_path, partial.key)
    assert len(list(read_transcripts(path))) == 3

    lines = path.read_bytes()
    path.write_bytes(lines[: lines.rindex(b"\n", 0, -1) + 40])  # a kill cut the third line off
    store = Store(tmp_path, {"seed": 0}, TWICE)
    evaluate(CallablePlayer(counts, name="twice"), QUESTIONS, engine, RULES, (0.0,), store=store)
    assert list(dict.fromkeys(asked)) == [f"letter {i}" for i in range(2, 8)]
    (cell,) = store.evaluation.cells
    assert cell.complete
    assert len(list(read_transcripts(path))) == 8
    whole = evaluate(CallablePlayer(search_twice, name="twice"), QUESTIONS, engine, RULES, (0.0,)).cells[0]
    assert cell.episodes == whole.episodes

    store = Store(tmp_path, {"seed": 0}, {"twice": {"its code": "2"}})
    asked.clear()
    evaluate(CallablePlayer(counts, name="twice"), QUESTIONS, engine, RULES, (0.0,), store=store)
    assert len(set(asked)) == 8
    assert len(list(read_transcripts(path))) == 8


def test_only_failed_episodes_are_played_again(tmp_path: Path) -> None:
    def run(engine: FailingEngine) -> list[str]:
        asked: list[str] = []

        def agent(observation: str, info) -> str:
            asked.append(info["question"])
            return search_twice(observation, info)

        store = Store(tmp_path, {"seed": 0}, TWICE)
        evaluate(CallablePlayer(agent, name="twice"), QUESTIONS, engine, RULES, (0.0,), store=store)
        assert store.evaluation.cells[0].complete == (not engine.failing)
        return list(dict.fromkeys(asked))

    class Flaky(FailingEngine):
        failing = True

    assert len(run(Flaky("down", after=6))) == 8

    class Healthy(ConstantEngine):
        failing = False

    assert run(Healthy()) == [f"letter {i}" for i in range(3, 8)]
    assert run(Healthy()) == []


def test_complete_cells_are_taken_over_unless_the_agent_has_changed(tmp_path: Path, engine: CorpusEngine) -> None:
    calls: list[str] = []

    def agent(observation: str, info) -> str:
        calls.append(info["question"])
        return "<answer>k</answer>"

    for known, played in (("v1", 8), ("v1", 0), ("v2", 8)):
        calls.clear()
        store = Store(tmp_path, {"seed": 0}, {"agent": {"its code": known}})
        evaluate(CallablePlayer(agent), QUESTIONS, engine, RULES, (0.0,), store=store)
        assert len(calls) == played
        assert len(store.evaluation.cells) == 1
    with pytest.raises(ConfigError, match="other settings \\(seed: 0 -> 1\\)"):
        Store(tmp_path, {"seed": 1}, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "not a results file"), ('{"schema_version": 99}', "expected schema version 2, got 99"), ("[]", "got None")],
)
def test_a_damaged_results_file_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_evaluation(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        load_evaluation(tmp_path / "results.txt")


def test_an_incomplete_cell_in_the_file_is_an_error(tmp_path: Path, engine: CorpusEngine) -> None:
    save_evaluation(evaluate(RandomPlayer(), QUESTIONS, engine, RULES, (0.0,)), tmp_path)
    values = json.loads((tmp_path / "results.json").read_text())
    del values["cells"][0]["episodes"][0]["em"]
    (tmp_path / "results.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="incomplete"):
        load_evaluation(tmp_path)


def test_differences_are_paired_on_the_questions_that_both_finished(engine: CorpusEngine) -> None:
    a = evaluate(CallablePlayer(lambda o, i: "<answer>k</answer>", name="a"), QUESTIONS, engine, RULES, (0.0,))
    flaky = evaluate(CallablePlayer(search_twice, name="b"), QUESTIONS, FailingEngine("x", after=6), RULES, (0.0,))
    both = a.merged(flaky.cells)
    gap = both.difference("a", "b", 0.0)
    assert (gap.mean, gap.n) == (0.0, 3)
    assert both.difference("a", "b", 0.0, metric="searches").mean == -2.0
    assert both.difference("a", "b", 0.0, group="2-hop").n == 1
    assert math.isnan(both.difference("a", "nobody", 0.0).mean)


def test_there_is_a_table_for_each_group(engine: CorpusEngine, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate(CallablePlayer(search_twice, name="twice"), QUESTIONS, engine, RULES, (0.0, 0.5), engine_name="e")
    for width, figures in ((120, "100.0 [51.0, 100.0]"), (40, "51 to 100")):
        print_evaluation(result, Console(width=width))
        out = capsys.readouterr().out
        assert "EM in %, 1-hop questions (95 % interval; 4 questions)" in " ".join(out.split())
        assert figures in out
    print_evaluation(Evaluation(), Console(width=120))


# the command


@pytest.fixture
def agent_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "eval_cli_agent.py").write_text(
        "def agent(observation, info):\n"
        "    return f\"<search>{info['question']}</search>\" if info['turn'] == 0 else '<answer>x</answer>'\n\n\n"
        "def bad(observation, info):\n    raise ValueError('oh no')\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = ["--world.passages", "400", "--questions", "6", "--noise", "0", "0.5", "--output", "out"]


def test_the_command_measures_and_says_where_things_are(agent_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agents = ["--agent", "mine=eval_cli_agent.py:agent", "--agent", "baseline:random", "--agent", "baseline:oracle"]
    assert main([*agents, *SMALL]) == 0
    out = capsys.readouterr().out
    assert "mine, corpus, noise 0.5: EM" in out
    assert "baseline:oracle" in out
    assert "results.json" in out
    loaded = load_evaluation("out")
    assert loaded.agents == ("mine", "baseline:random", "baseline:oracle")
    assert loaded.noise_levels == (0.0, 0.5)
    assert "--agent" in loaded.settings["command"]
    assert loaded.settings["versions"]["python"]
    assert len(list(Path("out/transcripts").glob("*.jsonl"))) == 6
    oracle, random = (loaded.find(name, 0.0) for name in ("baseline:oracle", "baseline:random"))
    assert oracle is not None
    assert random is not None
    assert oracle.summary().em.mean > random.summary().em.mean


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no agent given"),
        (["--agent", "baseline:radom"], "Did you mean 'random'"),
        (["--agent", "baseline:random", "--noise", "1.5"], "1.5"),
        (["--agent", "baseline:random", "--agent", "baseline:random"], "two agents are called 'baseline:random'"),
        (["--agent", "baseline:random", "--protocol", "zerosaerch"], "Did you mean 'zerosearch'"),
        (["--agent", "baseline:random", "--engine", "corpsu"], "Did you mean 'corpus'"),
        (["--agent", "eval_cli_agent:agnet"], "Did you mean 'agent'"),
        (["--agent", "eval_cli_agent.py:agent", "--noise"], "no noise level given"),
        (["--agent", "eval_cli_agent.py:agent", "--slots", "0"], "slots must be a whole number of at least 1, got 0"),
        (["--agent", "eval_cli_agent.py:agent", "--temperature", "-1"], "temperature must be"),
        (["--agent", "eval_cli_agent.py:agent", "--turn-tokens", "0"], "turn_tokens must be"),
        (["--agent", "eval_cli_agent.py:agent", "--device", "cdua"], "expected 'cpu' or 'cuda', got 'cdua'"),
        (["--agent", "eval_cli_agent.py:agent", "--top-k", "300"], "needs at least 600 (300 useful ones"),
    ],
)
def test_mistakes_end_in_one_line(
    agent_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert zerosearch(["eval", "--world.passages", "400", "--output", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_mistyped_option_names_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--agnet", "baseline:random"])
    assert stop.value.code == 2
    assert "--agent" in capsys.readouterr().err


def test_a_failing_agent_leaves_the_others_results(agent_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agents = ["--agent", "baseline:random", "--agent", "eval_cli_agent.py:bad"]
    assert zerosearch(["eval", *agents, *SMALL]) == 3
    captured = capsys.readouterr()
    assert "turn 1: ValueError: oh no" in captured.err
    assert "the results so far are in out" in captured.out
    assert [cell.complete for cell in load_evaluation("out").cells] == [True, True, False]


def test_an_exit_is_counted_and_the_next_agent_is_measured(
    agent_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("exits.py").write_text(
        "import sys\n\n\ndef agent(observation, info):\n"
        "    return sys.exit(0) if len(info['question']) % 2 else '<answer>x</answer>'\n"
    )
    command = ["eval", "--agent", "exits=exits.py:agent", "--agent", "baseline:random", *SMALL]
    assert zerosearch([*command, "--on-agent-error", "skip"]) == 3
    out = capsys.readouterr().out
    exits, *others = load_evaluation("out").cells[::2]
    failures = exits.summary().agent_failures
    assert 0 < failures < 6
    assert [cell.complete for cell in others] == [True]
    assert f"exits, corpus, noise 0.5: EM {exits.summary().em.mean:.1f}" in out
    assert out.count(f"; the agent failed in {failures}; the first cause: agent 'exits', question") == 2
    assert "SystemExit: 0 (exits.py:5)" in out
    assert "(incomplete)" in out
    Path("exits.py").write_text("def agent(observation, info):\n    return '<answer>x</answer>'\n")
    assert zerosearch(command) == 0


def test_a_dead_engine_ends_with_a_status_and_its_cause(
    agent_file: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    register_engine("dead-in-tests", lambda argument, dataset: FailingEngine("HTTP 503: no backend"))
    assert zerosearch(["eval", "--agent", "eval_cli_agent.py:agent", "--engine", "dead-in-tests", *SMALL]) == 3
    out = capsys.readouterr().out
    assert out.count("0 of 6 episodes finished; the engine failed in 6; the first cause: HTTP 503: no backend") == 2
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "a search failed, and the other episodes are played: HTTP 503: no backend"
    ] * 2  # one line for each cell, as soon as it happens


def test_your_own_engine_and_its_options_are_given_on_the_command_line(
    agent_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text(
        "from zerosearch_env.engines import FailingEngine\n\n\n"
        "def engine(*, reason='none'):\n    return FailingEngine(reason)\n"
    )
    described = json.dumps({"kind": "mine.py:engine", "reason": "closed on Sundays"})
    assert zerosearch(["eval", "--agent", "eval_cli_agent.py:agent", "--engine", described, *SMALL]) == 3
    assert "the first cause: closed on Sundays" in capsys.readouterr().out
    assert load_evaluation("out").engines == ("mine.py:engine (reason=closed on Sundays)",)
    assert zerosearch(["eval", "--agent", "baseline:random", "--engine", described.replace("rea", "sea"), *SMALL]) == 2
    assert "Did you mean 'reason'" in capsys.readouterr().err


def test_an_engine_that_exits_does_not_end_the_command_silently(
    agent_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("leaves.py").write_text(
        "import sys\n\nfrom zerosearch_env import BatchedEngine\n\n\nclass Engine(BatchedEngine):\n"
        "    def search(self, requests):\n        sys.exit(0)\n"
    )
    assert zerosearch(["eval", "--agent", "eval_cli_agent.py:agent", "--engine", "leaves.py:Engine", *SMALL]) == 3
    assert "the engine failed in 6; the first cause: Engine raised SystemExit: 0" in capsys.readouterr().out


def test_fresh_forgets_what_was_there(agent_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EvalConfig(agent=("baseline:random",), noise=(0.0,), questions=3, output=Path("out"))
    config = replace(config, world=replace(config.world, passages=400))
    run_evaluation(config)
    with pytest.raises(ConfigError, match="questions: 3 -> 4"):
        run_evaluation(replace(config, questions=4))
    run_evaluation(replace(config, questions=4, fresh=True))
    assert load_evaluation("out").cells[0].planned == 4


def test_questions_without_answers_are_refused() -> None:
    with pytest.raises(DataError, match="no answers"):
        Episode(Question("q", "?", ()), RULES)
