"""The environments of gem-llm and skyrl-gym with a search that costs nothing, for `env_real_text`."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from typing import Any
from unittest.mock import MagicMock

from ..measure import Case
from .real_text import Workload

ENVIRONMENTS = 256


def gem_cases(workload: Workload) -> list[Case]:
    """GEM with its search tool: one environment as shipped, and its vector environment.

    Its answers are taken from the environments, because GEM draws its questions itself.
    """
    sys.modules.setdefault("reasoning_gym", MagicMock())  # gem imports it for its other environments
    import datasets
    from gem.envs.qa_env import QaEnv
    from gem.tools.search_tool import SearchTool
    from gem.tools.tool_env_wrapper import ToolEnvWrapper
    from gem.vector.sync_vector_env import SyncVectorEnv
    from gem.vector.vector_env import AutoresetMode

    datasets.disable_progress_bars()
    results = workload.results()

    class FreeSearch(SearchTool):  # type: ignore[misc]
        def _search(self, query: str) -> str:
            return "".join([f"Doc {i}(Title: {title}) {text}\n" for i, (title, text) in enumerate(next(results), 1)])

    rows = [{"question": question.text, "answer": list(question.answers)} for question in workload.questions]
    table = datasets.Dataset.from_list(rows)
    thought = workload.answers[0].partition("<answer>")[0]

    def make(**_: Any) -> Any:
        return ToolEnvWrapper(QaEnv(dataset=table), tools=[FreeSearch(search_url="http://unused")])

    def answer(env: Any) -> str:
        gold = env.env.answer
        return f"{thought}<answer>{gold if isinstance(gold, str) else gold[0]}</answer>"

    single = make()
    turns = itertools.cycle(workload.searches)

    def run_single() -> int:
        single.reset()
        searches = next(turns)
        for action in searches:
            single.step(action)
        _, reward, terminated, _, _ = single.step(answer(single))
        if not terminated or reward != 1.0:
            raise AssertionError(f"GEM: the last turn must answer correctly, got reward {reward}")
        return len(searches) + 1

    vector = SyncVectorEnv(["qa"] * ENVIRONMENTS, [make] * ENVIRONMENTS, autoreset_mode=AutoresetMode.SAME_STEP)
    vector.reset()

    def run_vector() -> int:
        rows = [next(turns) for _ in range(ENVIRONMENTS)]
        for number in range(len(rows[0])):
            vector.step([row[number] for row in rows])
        _, rewards, terminated, _, _ = vector.step([answer(env) for env in vector.envs])
        if not all(terminated) or not all(reward == 1.0 for reward in rewards):
            raise AssertionError("GEM: the last turn must answer correctly in every environment")
        return (len(rows[0]) + 1) * ENVIRONMENTS

    return [Case("GEM", run_single), Case("GEM vector, 256", run_vector)]


def skyrl_cases(workload: Workload) -> list[Case]:
    """skyrl-gym's search environment, 256 in a loop (it has no vector environment); only its HTTP call is replaced."""
    import skyrl_gym.tools.search as tools
    from skyrl_gym.envs.search.env import SearchEnv, SearchEnvConfig

    logging.getLogger("skyrl_gym").setLevel(logging.WARNING)
    results = workload.results()

    def call(**_: Any) -> tuple[dict[str, Any], None]:
        rows = [{"document": {"contents": f'"{title}"\n{text}'}, "score": 1.0} for title, text in next(results)]
        return {"result": [rows]}, None

    tools.call_search_api = call
    config = SearchEnvConfig(log_requests=False)
    numbers = itertools.cycle(range(len(workload.questions)))

    def run() -> int:
        chosen = [next(numbers) for _ in range(ENVIRONMENTS)]
        extras = [
            {"reward_spec": {"ground_truth": {"target": list(workload.questions[i].answers)}}, "max_turns": 5}
            for i in chosen
        ]
        envs = [SearchEnv(config, extra) for extra in extras]
        for env, number in zip(envs, chosen, strict=True):
            env.init([{"role": "user", "content": workload.questions[number].text}])
        for turn in range(len(workload.searches[0])):
            for env, number in zip(envs, chosen, strict=True):
                env.step(workload.searches[number][turn])
        for env, number in zip(envs, chosen, strict=True):
            step = env.step(workload.answers[number])
        if not step["done"] or step["reward"] != 1.0:
            raise AssertionError(f"skyrl-gym: the last turn must answer correctly, got {json.dumps(step)}")
        return (len(workload.searches[0]) + 1) * ENVIRONMENTS

    return [Case("skyrl-gym, 256", run)]
