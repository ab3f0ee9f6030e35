"""gem-llm as a peer of `env_overhead`, with a search that costs nothing, and the loops that drive both packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zerosearch_env.types import Document, Question

from ..measure import Case


def gem_cases(
    questions: Sequence[Question], actions: Sequence[str], documents: Sequence[Document], environments: int
) -> list[Case]:
    """Return cases for GEM single, in a loop, and in its own vector environment; only the search is replaced.

    Args:
        questions: rows of the dataset.
        actions: one episode, ending with a right answer.
        documents: what every search returns.
        environments: number of environments that run together.
    """
    import datasets
    from gem.envs.qa_env import QaEnv
    from gem.tools.search_tool import SearchTool
    from gem.tools.tool_env_wrapper import ToolEnvWrapper
    from gem.vector.sync_vector_env import SyncVectorEnv
    from gem.vector.vector_env import AutoresetMode

    datasets.disable_progress_bars()
    text = "".join(f"Doc {i}(Title: {doc.title}) {doc.text}\n" for i, doc in enumerate(documents, start=1))

    class FreeSearch(SearchTool):  # type: ignore[misc]
        def _search(self, query: str) -> str:
            return text

    rows = [{"question": question.text, "answer": list(question.answers)} for question in questions]
    table = datasets.Dataset.from_list(rows)

    def make(**_: Any) -> Any:
        return ToolEnvWrapper(QaEnv(dataset=table), tools=[FreeSearch(search_url="http://unused")])

    class RowsInList(QaEnv):  # type: ignore[misc]
        """Without the fetch of a row from an Arrow table, which is most of GEM's reset."""

        def __init__(self) -> None:
            super().__init__(dataset=table)
            self.dataset: Any = _ListRows(table)

    single = make()
    rows_in_list = ToolEnvWrapper(RowsInList(), tools=[FreeSearch(search_url="http://unused")])
    loop = [make() for _ in range(environments)]
    vector = SyncVectorEnv(["qa"] * environments, [make] * environments, autoreset_mode=AutoresetMode.SAME_STEP)
    vector.reset()
    return [
        Case("GEM, 1, E4", play_each([single], actions)),
        Case("GEM, rows in a list, 1, E4", play_each([rows_in_list], actions)),
        Case("GEM loop, 256, E4", play_each(loop, actions)),
        Case("GEM vector, 256, E4", play_vector(vector, actions, environments)),
    ]


class _ListRows(list[Any]):
    """A list that a GEM environment accepts as its dataset."""

    def shuffle(self, seed: int) -> _ListRows:
        return self


def play_each(environments: Sequence[Any], actions: Sequence[str]) -> Callable[[], int]:
    """Make a function that plays one episode in each environment, in turn, and returns the number of steps."""

    def run() -> int:
        for env in environments:
            env.reset()
        for action in actions:
            for env in environments:
                _, reward, terminated, _, _ = env.step(action)
        if not terminated or reward != 1.0:
            raise AssertionError(f"the last action must answer correctly, got reward {reward}")
        return len(actions) * len(environments)

    return run


def play_vector(env: Any, actions: Sequence[str], count: int) -> Callable[[], int]:
    """Make a function that plays one episode in every row of a vector environment that resets in the same step."""

    def run() -> int:
        for action in actions:
            _, rewards, terminated, _, _ = env.step([action] * count)
        if not all(terminated) or not all(reward == 1.0 for reward in rewards):
            raise AssertionError("the last action must answer correctly in every environment")
        return len(actions) * count

    return run
