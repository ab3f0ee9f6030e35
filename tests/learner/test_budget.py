"""Budgets: what is counted, when no further episode begins, and how an evaluation continues after one."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_dataset, tiny_policy

from zerosearch_agents.commands.evaluate import main
from zerosearch_agents.evaluation.budget import Meter, Price, Spending, money_text, read_budget, read_prices
from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_agents.evaluation.store import Store, transcript_path
from zerosearch_agents.players.base import AgentOptions, PolicyOptions
from zerosearch_agents.players.builtin.scripted import RandomPlayer
from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_agents.policy.policy import save_policy
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.errors import BudgetError, ConfigError
from zerosearch_env.game.rules import make_rules
from zerosearch_env.progress import WORK
from zerosearch_env.records.transcripts import read_transcripts

RULES = make_rules(max_turns=4, top_k=2)
DATA = tiny_dataset()
SMALL = ["--world.passages", "400", "--noise", "0", "--questions"]


def once(observation: str, info: Any) -> str:
    return "<answer>x</answer>" if info["turn"] else f"<search>{info['question']}</search>"


@contextlib.contextmanager
def endpoint(usage: dict[str, int] | None) -> Iterator[str]:
    """A server that searches once and then answers, and says that every request took these tokens."""

    async def handler(call: Call) -> Reply:
        if call.method == "GET":
            return Reply({"data": [{"id": "m"}]})
        text = "<search>who" if len(call.body["messages"]) < 3 else "<answer>x"
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return Reply({"choices": [choice], **({"usage": usage} if usage else {})})

    with ServerThread(handler) as thread:
        yield thread.url


def test_a_budget_is_read() -> None:
    assert read_budget(["requests=1000", "tokens=2e6", "money=0.5"]) == {"requests": 1e3, "tokens": 2e6, "money": 0.5}
    assert read_budget([]) == {}
    assert read_prices(["a=b=2,8", "0.15,0.6"]) == {"a=b": Price(2.0, 8.0), "": Price(0.15, 0.6)}
    assert read_prices([]) == {}
    assert Price(2.0, 10.0).of(500_000, 100_000) == 2.0


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["request=3"], r"unknown budget 'request'. Did you mean 'requests'\?"),
        (["requests"], r"expected requests=NUMBER, for example requests=1000, got 'requests'"),
        (["money=five"], "expected money=NUMBER"),
        (["money=0"], "budget money must be a finite number above 0"),
        (["tokens=nan"], "budget tokens must be"),
        (["tokens=1", "tokens=2"], "budget: tokens is given twice"),
    ],
)
def test_wrong_budgets(entries: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_budget(entries)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["1"], r"price: expected READ,WRITTEN, .* or NAME=READ,WRITTEN for one agent, got '1'"),
        (["1,2,3"], "got '1,2,3'"),
        (["m=a,b"], "got 'm=a,b'"),
        (["m"], "got 'm'"),
        (["1,-2"], "price '1,-2' must be"),
        (["m=1,nan"], "price 'm=1,nan' must be"),
        (["m=1,2", "m=1,3"], "price: that of agent 'm' is given twice"),
        (["1,2", "1,3"], "price: that of all agents is given twice"),
    ],
)
def test_wrong_prices(entries: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_prices(entries)


def test_a_budget_must_suit_the_agents() -> None:
    own, price = CallablePlayer(once, name="own"), {"": Price(1.0, 2.0)}
    with pytest.raises(ConfigError, match="budget money needs the price of tokens: pass --price READ,WRITTEN"):
        Meter({"money": 1.0})
    with pytest.raises(ConfigError, match=r"the tokens of own are not known.*--budget requests=1000"):
        Meter({"tokens": 1.0}, None, [RandomPlayer(), own])
    with pytest.raises(ConfigError, match="price: no agent has a model whose tokens are counted"):
        Meter({}, price, [RandomPlayer()])
    assert Meter({"requests": 1.0}, None, [own]).figures() == "0 of 1 requests"


def test_spending_adds_up_and_names_its_limits() -> None:
    meter, player = Meter({"requests": 3.0, "money": 5.0}, {"": Price(1.0, 4.0)}), RandomPlayer()
    meter.begin(player)
    WORK.add(requests=2, read=1_000_000, tokens=500_000)
    assert not meter.used_up
    assert meter.end() == Spending(2, 1_000_000, 500_000, 3.0)
    meter.begin(RandomPlayer())
    WORK.add(turns=1, tokens=250_000)
    assert meter.spent == Spending(3, 1_000_000, 750_000, 4.0)
    assert meter.figures() == "3 of 3 requests, 4.00 of 5 money"
    with pytest.raises(
        BudgetError, match=r"3 of 3 requests, 1,000,000 tokens read and 750,000 written, 4\.00 of 5 money"
    ):
        meter.check()
    assert [money_text(money) for money in (0, 0.00132, 0.5, 1234.5)] == ["0.00", "0.00132", "0.5", "1,234.50"]
    assert Spending(1).as_dict() == {"requests": 1}
    assert Spending(**Spending(1, 2, 3, 0.5).as_dict()) == Spending(1, 2, 3, 0.5)


def test_a_budget_ends_in_the_middle_of_a_cell_and_the_rest_is_played_later(tmp_path: Path) -> None:
    engine = CorpusEngine(DATA.passages)
    whole = evaluate(CallablePlayer(once, name="once"), DATA.questions, engine, RULES, (0.0, 0.5))
    ends = []
    for _ in range(4):
        store = Store(tmp_path, {"seed": 0}, {"once": {}})
        meter = Meter({"requests": 9.0})  # two turns an episode: the fifth is played to its end
        with contextlib.suppress(BudgetError):
            evaluate(
                CallablePlayer(once, name="once"), DATA.questions, engine, RULES, (0.0, 0.5), store=store, meter=meter
            )
        ends.append([(len(cell.episodes), cell.spent["requests"]) for cell in load_evaluation(tmp_path).cells])
    assert ends == [[(5, 10)], [(8, 16), (2, 4)], [(8, 16), (7, 14)], [(8, 16), (8, 16)]]
    assert [cell.episodes for cell in load_evaluation(tmp_path).cells] == [cell.episodes for cell in whole.cells]
    assert [len(list(read_transcripts(transcript_path(tmp_path, cell.key)))) for cell in whole.cells] == [8, 8]


def test_episodes_in_progress_are_finished_and_no_other_begins() -> None:
    asked: dict[str, int] = {}
    together = threading.Barrier(4)

    def agent(observation: str, info: Any) -> str:
        asked[info["question"]] = asked.get(info["question"], 0) + 1
        if info["turn"] == 0:
            together.wait(20)
        return once(observation, info)

    player = CallablePlayer(agent, name="four", options=AgentOptions(concurrency=4))
    with pytest.raises(BudgetError, match="the budget is used up: 8 of 2 requests"):
        evaluate(player, DATA.questions, CorpusEngine(DATA.passages), RULES, (0.0,), meter=Meter({"requests": 2.0}))
    assert sorted(asked.values()) == [2, 2, 2, 2]


def test_a_player_of_many_episodes_at_once_gets_them_in_parts() -> None:
    played: list[int] = []

    class Counted(RandomPlayer):
        def play(self, episodes, engine, on_done=None):
            played.append(len(episodes))
            super().play(episodes, engine, on_done)

    questions = [question for _ in range(20) for question in DATA.questions]
    with pytest.raises(BudgetError):
        evaluate(Counted(), questions, CorpusEngine(DATA.passages), RULES, (0.0,), meter=Meter({"requests": 100.0}))
    assert played == [64]
    played.clear()
    evaluate(Counted(), questions, CorpusEngine(DATA.passages), RULES, (0.0,), meter=Meter())
    assert played == [160]


def test_the_command_counts_money_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    priced = ["--price", "1,3", "--concurrency", "1"]
    with endpoint({"prompt_tokens": 250_000, "completion_tokens": 250_000}) as url:
        command = ["--agent", f"m=openai:{url}", *SMALL, "4", *priced, "--output", "out", "--budget", "money=3"]
        assert main(command) == 3  # a turn costs 1, an episode 2
        last = capsys.readouterr().out.splitlines()[-1]
        assert "4.00 of 3 money; 2 of 4 episodes are left, and the same command plays them" in last
        (cell,) = load_evaluation("out").cells
        assert cell.spent == {"requests": 4, "tokens_read": 1_000_000, "tokens_written": 1_000_000, "money": 4.0}
        assert not cell.complete
        assert Path("out/report.html").is_file()
        assert main([*command[:-2], "--no-report"]) == 0
        assert (
            "spent:       4 requests, 1,000,000 tokens read and 1,000,000 written, 4.00 money"
            in capsys.readouterr().out
        )
        (cell,) = load_evaluation("out").cells
        assert cell.spent["money"] == 8.0
        assert json.loads(Path("out/results.json").read_text())["cells"][0]["spent"]["requests"] == 8
        assert main(command) == 0  # nothing is left to play, so the budget has no say
    with endpoint(None) as url, pytest.raises(ConfigError, match="agent 'm': its server answers without token counts"):
        main(["--agent", f"m=openai:{url}", *SMALL, "4", *priced, "--output", "uncounted"])


def test_each_agent_has_its_own_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint({"prompt_tokens": 1_000_000, "completion_tokens": 0}) as url:
        agents = ["--agent", f"a=openai:{url}", "--agent", f"b=openai:{url}", "--agent", "baseline:random"]
        options = [*agents, *SMALL, "2", "--no-report", "--output", str(tmp_path)]
        with pytest.raises(ConfigError, match=r"unknown agent in --price 'A'\. Did you mean 'a'\?"):
            main([*options, "--price", "A=1,1"])
        with pytest.raises(ConfigError, match="price: agent 'baseline:random' has no model whose tokens are counted"):
            main([*options, "--price", "baseline:random=1,1"])
        with pytest.raises(ConfigError, match="budget money: the tokens of b have no price; pass --price b=READ,WRIT"):
            main([*options, "--price", "a=1,1", "--budget", "money=100"])
        assert main([*options, "--price", "a=3,1"]) == 0
        assert "12.00 money" in capsys.readouterr().out
        spent = {cell.agent: cell.spent for cell in load_evaluation(tmp_path).cells}
        assert [spent[name].get("money") for name in ("a", "b", "baseline:random")] == [12.0, None, None]
        assert main([*options, "--fresh", "--price", "0.5,0", "--price", "a=3,1", "--budget", "money=100"]) == 0
        spent = {cell.agent: cell.spent for cell in load_evaluation(tmp_path).cells}
        assert [spent[name].get("money") for name in ("a", "b", "baseline:random")] == [12.0, 2.0, 0.0]


def test_a_cached_turn_costs_nothing(tmp_path: Path) -> None:
    with endpoint({"prompt_tokens": 10, "completion_tokens": 1}) as url:
        agent = f"m=openai:{url},cache={tmp_path / 'turns.sqlite'}"
        for output, spent in (("first", 6), ("second", 0)):
            folder = str(tmp_path / output)
            assert main(["--agent", agent, *SMALL, "3", "--price", "1,1", "--output", folder]) == 0
            assert load_evaluation(folder).cells[0].spent["requests"] == spent


def test_the_tokens_of_a_local_policy_have_a_price_too(tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path)
    player = PolicyPlayer(PolicyOptions(str(tmp_path), temperature=1.0))
    meter = Meter({"money": 1e9}, {"": Price(2e6, 1e6)}, [player])
    (cell,) = evaluate(player, DATA.questions[:2], CorpusEngine(DATA.passages), RULES, (0.0,), meter=meter).cells
    assert cell.spent is not None
    read, written = cell.spent["tokens_read"], cell.spent["tokens_written"]
    assert read >= 4 * cell.spent["requests"]  # every turn reads its prompt
    assert 0 < written <= 8 * cell.spent["requests"]
    assert cell.spent["money"] == 2 * read + written


def test_a_plan_with_an_endpoint_is_billed(tmp_path: Path) -> None:
    with endpoint({"prompt_tokens": 10, "completion_tokens": 2}) as url:
        options = ["--agent", "baseline:rag", "--policy", f"openai:{url}", *SMALL, "3", "--price", "1e5,0"]
        assert main([*options, "--output", str(tmp_path), "--budget", "tokens=1e6"]) == 0
    spent = load_evaluation(tmp_path).cells[0].spent
    assert spent == {"requests": 3, "tokens_read": 30, "tokens_written": 6, "money": 3.0}
