"""SkyRL-gym plays the episodes of the environment: the calls are those of SkyRL's generator, in its order."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from env_fakes import ANSWER, SEARCH, BadEngine, EchoEngine, make_dataset
from gym_reference import OPTIONS, SCRIPTS, reference
from pages import run_page

from zerosearch_env.envs.sessions import SessionSource
from zerosearch_env.errors import ConfigError, EngineError, EpisodeError

skyrl_gym = pytest.importorskip("skyrl_gym")

from skyrl_gym.envs.registration import deregister, registry  # noqa: E402
from skyrl_gym.metrics import aggregate_for_environment  # noqa: E402

from zerosearch_env.integrations.skyrl import ZeroSearchTextEnv, make_rows, register  # noqa: E402


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = set(registry)
    yield
    for name in set(registry) - before:
        deregister(name)


def make(row: dict[str, Any], max_turns: int | None = 6) -> Any:
    """As the generator makes an environment: the row without prompt and class, and `generator.max_turns`."""
    extras = {key: value for key, value in row.items() if key not in ("prompt", "env_class")}
    return skyrl_gym.make("zerosearch", env_config={}, extras={**extras, "max_turns": max_turns})


def fake(**options: Any) -> Any:
    options = {"dataset": make_dataset(3), "search_engine": EchoEngine(), **options}
    row = SessionSource.shared(**options).rows(count=1)[0]
    env = ZeroSearchTextEnv(extras=row, **options)
    env.init([])
    return env


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_episode_is_that_of_the_environment(seed: int, script: str) -> None:
    expected = reference(seed, script)
    register("zerosearch", **OPTIONS)
    env = make(expected.row)
    prompt, info = env.init(expected.row["prompt"])
    assert prompt == [{"role": "user", "content": expected.prompt}]
    assert info["noise_level"] == 0.5
    outputs = [env.step(text) for text in expected.turns]
    told = [[{"role": "user", "content": text}] if text else [] for text in expected.observations]
    assert [output["observations"] for output in outputs] == told
    assert [output["reward"] for output in outputs] == expected.rewards
    assert [output["done"] for output in outputs] == expected.done
    assert [output["metadata"]["noise_flags"] for output in outputs] == expected.flags
    assert [json.loads(json.dumps(output["metadata"])) for output in outputs] == expected.infos
    assert all(output["postprocessed_action"] is None for output in outputs)  # tokens stay as they were sampled
    metrics = env.get_metrics()
    assert metrics["em"] == expected.infos[-1]["em"]
    assert metrics["noisy_searches"] == sum(flag is True for flags in expected.flags for flag in flags)  # type: ignore[union-attr]


def test_parity_has_noisy_and_useful_searches_and_both_rewards() -> None:
    played = [reference(seed, script) for seed in (1, 2, 3) for script in SCRIPTS]
    assert {flag for one in played for flags in one.flags for flag in flags} == {True, False}  # type: ignore[union-attr]
    assert {one.rewards[-1] for one in played} == {0.0, 1.0}


def test_rows_go_through_a_json_file_and_a_group_meets_the_same_noise(tmp_path: Path) -> None:
    rows = make_rows(seed=4, count=3, **OPTIONS)
    assert [row["env_class"] for row in rows] == ["zerosearch"] * 3
    assert rows[0]["reward_spec"] == {"method": "rule", "ground_truth": rows[0]["answers"]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    row = json.loads(path.read_text("utf-8").splitlines()[2])
    register("zerosearch", **OPTIONS)
    flags = []
    for _ in range(2):
        env = make(row)
        env.init(row["prompt"])
        flags.append([env.step(f"<search>query {number}</search>")["metadata"]["noisy"] for number in range(5)])
        env.close()
    assert flags[0] == flags[1]


def test_a_worker_registers_by_itself_and_environments_share_one_engine() -> None:
    code = f"""
import skyrl_gym
from zerosearch_env.integrations.skyrl import make_rows, register
options = {OPTIONS!r}
register("zerosearch", **options)
register("zerosearch", **options)
row, other = make_rows(count=2, **options)
envs = [skyrl_gym.make("zerosearch", env_config={{}}, extras=dict(each, max_turns=6)) for each in (row, other, row)]
for env, each in zip(envs, (row, other, row)):
    env.init(each["prompt"])
assert envs[0].source is envs[1].source
texts = [env.step("<search>a river</search>")["observations"][0]["content"] for env in envs]
assert texts[0] == texts[2] and "<information>" in texts[0]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_max_turns_counts_the_answer() -> None:
    register("zerosearch", **OPTIONS)
    row = make_rows(count=1, **OPTIONS)[0]
    env = make(row, max_turns=3)
    assert env.source.rules.max_turns == 2
    env.init(row["prompt"])
    outputs = [env.step("<search>a river</search>") for _ in range(3)]
    assert [output["done"] for output in outputs] == [False, False, True]
    assert outputs[-1]["metadata"]["stop_reason"] == "max_turns"


@pytest.mark.parametrize(
    ("turns", "option", "message"),
    [
        (1, {}, r"expected 6 for 5 searches, got 1"),
        (5, {"max_turns": 5}, r"expected 6 for 5 searches, got 5"),
        (4, {"max_turns": 2}, r"expected 3 for 2 searches, got 4"),
        (0, {}, r"generator\.max_turns"),
    ],
)
def test_a_limit_that_does_not_fit_is_refused(turns: int, option: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ZeroSearchTextEnv(extras={"max_turns": turns}, **OPTIONS, **option)


def test_an_engine_failure_raises_and_is_no_reward() -> None:
    env = fake(search_engine=BadEngine("a failure of the engine"))
    with pytest.raises(EngineError, match="down"):
        env.step("<search>bad</search>")
    assert env.session.done
    assert env.get_metrics()["answered"] == 0.0


def test_calls_after_the_end_are_answered_with_a_message() -> None:
    env = fake()
    assert env.step(ANSWER)["done"]
    output = env.step(SEARCH)
    assert output["done"]
    assert output["reward"] == 0.0
    assert "finished (answer)" in output["observations"][0]["content"]
    assert env.turns == 1


def test_more_searches_than_allowed_and_an_agent_that_never_answers() -> None:
    env = fake(max_turns=2)
    texts = [env.step(SEARCH) for _ in range(3)]
    assert [one["done"] for one in texts] == [False, False, True]
    assert texts[-1]["reward"] == 0.0
    assert env.get_metrics() == {
        **{"em": 0.0, "f1": 0.0, "searches": 2.0, "misled": 0.0, "abstained": 0.0},
        **{"noisy_searches": 0.0, "answered": 0.0},
    }


def test_an_empty_answer_is_an_invalid_turn() -> None:
    env = fake()
    output = env.step("<answer> </answer>")
    assert not output["done"]
    assert output["metadata"]["action"] == "invalid"
    assert output["observations"][0]["content"]


def test_an_episode_cut_off_by_tokens_has_metrics_and_closing_frees_it() -> None:
    env = fake()
    env.step(SEARCH)
    session = env.session
    assert env.get_metrics()["searches"] == 1.0
    assert session.episode.stop_reason == "context_limit"
    env.close()
    with pytest.raises(EpisodeError, match="init"):
        env.step(SEARCH)


def test_metrics_of_a_batch_are_averaged_by_skyrl() -> None:
    register("zerosearch", **OPTIONS)
    averaged = aggregate_for_environment("zerosearch", [{"em": 1.0, "searches": 2.0}, {"em": 0.0, "searches": 1.0}])
    assert averaged == {"em": 0.5, "searches": 1.5}


def test_tool_messages_keep_their_role() -> None:
    env = fake(protocol="hermes")
    call = '<tool_call>{"name": "search", "arguments": {"query_list": ["a", "b"]}}</tool_call>'
    messages = env.step(call)["observations"]
    assert {message["role"] for message in messages} <= {"tool", "user"}
    assert "tool" in {message["role"] for message in messages}


def test_bad_registrations_and_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean"):
        register("zerosearch", noise_levle=0.5)
    assert "zerosearch" not in registry
    register("zerosearch", **OPTIONS)
    with pytest.raises(ConfigError, match="choose another name"):
        register("zerosearch", **{**OPTIONS, "noise_level": 0.25})
    env = skyrl_gym.make("zerosearch", env_config={}, extras={"max_turns": 6, "data_source": "other"})
    with pytest.raises(ConfigError, match="question_id"):
        env.init([])


def test_options_of_skyrls_configuration_replace_those_of_the_registration() -> None:
    register("zerosearch", **OPTIONS)
    row = make_rows(count=1, **OPTIONS)[0]
    env = skyrl_gym.make("zerosearch", env_config={"top_k": 2}, extras=row)
    env.init(row["prompt"])
    assert len(env.step("<search>a river</search>")["metadata"]["documents"]) == 2


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page("frameworks/skyrl.md", block=0)
    assert names["done"]
    assert names["env"].turns == 3
    assert len((tmp_path / "train.jsonl").read_text("utf-8").splitlines()) == 32
