"""TRL's `environment_factory`: a chat model calls the tools `search` and `answer`, and TRL samples.

    source = SessionSource(prompt_template=TOOL_PROMPT, noise_level=0.5, top_k=3)
    factory = make_environment_factory(source, tokenizer, args)
    trainer = GRPOTrainer(
        model, args=args, processing_class=tokenizer, environment_factory=factory, train_dataset=make_dataset(source)
    )

The other way is token-exact, needs no chat template, and samples with the trainer's own model: `RolloutFunc` in
`zerosearch_agents.integrations.trl`. Both: docs/frameworks/trl.md.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from ..envs.session import Session
from ..envs.sessions import ROW_FIELDS, SessionSource
from ..errors import ConfigError
from ..types import JsonObject, StopReason
from .tool_texts import ANSWER, SEARCH
from .tool_texts import TOOL_PROMPT as TOOL_PROMPT
from .versions import require_version

require_version("trl", "1.16", "1.16", 'pip install "zerosearch-env[trl]"')

if TYPE_CHECKING:
    from datasets import Dataset
    from trl.trainer.grpo_config import GRPOConfig

ROW = "zerosearch"
"""The key of a prompt's last message under which `make_dataset` puts what starts the row's episode."""


def make_dataset(
    source: SessionSource, *, seed: int = 0, count: int | None = None, noise_level: float | None = None
) -> Dataset:
    """The `train_dataset` of a `GRPOTrainer`: the rows of the source, whose columns start the episodes.

    Both ways take it. A `rollout_func` sees the prompts only, so the last message of each prompt names its row, under
    the key `ROW`; chat templates do not show it. A row's noise comes from its seed: every rollout of its group meets
    the same noise, also in later epochs.

    Args:
        source: questions, engine and rules.
        seed: random seed of the noise.
        count: number of rows, the first questions of the dataset; None, or more than there are, takes all.
        noise_level: probability in [0, 1] that a search is noisy. None: that of the source, at its progress.

    Raises:
        ConfigError: an argument is invalid.
    """
    from datasets import Dataset

    rows = source.rows(seed=seed, count=count, noise_level=noise_level)
    for row in rows:
        cast("list[dict[str, Any]]", row["prompt"])[-1][ROW] = {name: row[name] for name in ROW_FIELDS}
    return Dataset.from_list(rows)


class ZeroSearchTools:
    """The environment that TRL makes for each sample of a batch, and uses again for later ones.

    What cannot be done is raised with a message for the model, which TRL shows as the result of the call: more searches
    than allowed, an empty query or answer, calls after the end. A sample without an answer ends with `max_turns`.

    Args:
        source: questions, engine and rules, which all samples share.
    """

    def __init__(self, source: SessionSource) -> None:
        self._source = source
        self._session: Session | None = None

    # Any: the columns of the user's dataset
    def reset(self, **row: Any) -> None:
        """Start the episode of a row of `make_dataset`; the prompt stays as it is."""
        self._session = self._source.start_row(row)

    def search(self, query: str) -> str:  # noqa: D102, see below
        return self._started.search_text(query)

    def answer(self, text: str) -> str:  # noqa: D102, see below
        return self._started.answer_text(text)

    # TRL describes the tools to the model with these.
    search.__doc__, answer.__doc__ = SEARCH.docstring, ANSWER.docstring

    def get_reward(self) -> float | None:
        """The reward of the episode; None, which leaves the sample out, if the search engine failed."""
        session = self._started
        scores = session.scores if session.done else session.stop(StopReason.MAX_TURNS)
        reason = session.episode.stop_reason
        assert scores is not None  # the episode is over
        assert reason is not None
        return None if reason.failed else scores.reward

    @property
    def _started(self) -> Session:
        if self._session is None:
            raise ConfigError("call reset with a row of make_dataset first.")
        return self._session


# Any: tokenizers of Transformers have no common type without importing it
def make_environment_factory(source: SessionSource, tokenizer: Any, args: GRPOConfig) -> Callable[[], ZeroSearchTools]:
    """The `environment_factory` of a `GRPOTrainer`, after a check that a search and an answer fit its token budget.

    For the check, the engine makes one search. TRL drops a result that does not fit without a message, and the sample
    ends with reward 0.

    Args:
        source: questions, engine and rules, which all samples share. Its `prompt_template` must ask for calls of tools,
            such as `TOOL_PROMPT`.
        tokenizer: the `processing_class` of the trainer.
        args: the arguments of the trainer.

    Raises:
        ConfigError: the tokenizer's chat template cannot show calls of tools, the prompt asks for tags, or the token
            budget is too small for one search.
        EngineError: the search failed.

    Warns:
        UserWarning: the budget is too small for all searches that the rules allow.
    """
    from trl.chat_template_utils import supports_tool_calling

    rules = source.rules
    if not supports_tool_calling(tokenizer):
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path!r} cannot show calls of tools, which environment_factory "
            "needs. Use a model whose template can (Qwen3, Llama 3.1), or rollout_func, which needs no chat template: "
            "zerosearch_agents.integrations.trl.RolloutFunc."
        )
    if rules.prompt_template == rules.protocol.prompt_template:
        raise ConfigError(
            f"the prompt of protocol {rules.protocol.name!r} asks for tags, not for calls of tools: make the source "
            "with SessionSource(prompt_template=TOOL_PROMPT), or with an instruction of your own."
        )
    if args.max_tool_calling_iterations is not None and args.max_tool_calling_iterations < 2:
        raise ConfigError(
            f"max_tool_calling_iterations={args.max_tool_calling_iterations} ends a sample before it can search and "
            f"answer: set it to {rules.max_turns + 1}, for all searches and the answer, or leave it out."
        )
    least, whole = measure_tokens(source, tokenizer)
    budget = args.max_completion_length
    if budget is not None and budget < least:
        raise ConfigError(
            f"max_completion_length={budget} is too small: one search with {rules.top_k} documents and an answer take "
            f"about {least} tokens, all {rules.max_turns} searches {whole}. TRL drops a result that does not fit, "
            "and the sample ends with reward 0. Raise max_completion_length, or give SessionSource a smaller top_k or "
            "max_turns."
        )
    if budget is not None and budget < whole:
        warnings.warn(
            f"max_completion_length={budget} does not hold all {rules.max_turns} searches, about {whole} tokens: TRL "
            "ends samples that search more often than fits, with reward 0.",
            stacklevel=2,
        )
    return functools.partial(ZeroSearchTools, source)


# Any: see above
def measure_tokens(source: SessionSource, tokenizer: Any) -> tuple[int, int]:
    """About how many tokens the completion of an episode takes, without thoughts: one search and the answer, and all.

    Args:
        source: the engine searches the first question's text, without noise.
        tokenizer: its chat template shows calls of tools.

    Raises:
        EngineError: the search failed.
    """
    rules, question = source.rules, source.dataset.questions[0]
    documents = Session(question, rules, source.engine).search_text(question.text)
    asked: list[JsonObject] = [{"role": "user", "content": question.text}]
    search: list[JsonObject] = [
        _call("search", query=question.text),
        {"role": "tool", "name": "search", "content": documents},
    ]
    answer = [_call("answer", text=question.answers[0])]

    def count(*parts: list[JsonObject], prompt: bool = False) -> int:
        messages = [message for part in parts for message in part]
        return len(tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False))

    both = count(asked, search, answer)
    least = both - count(asked, prompt=True)
    return least, least + (rules.max_turns - 1) * (both - count(asked, answer))


def _call(name: str, **arguments: str) -> JsonObject:
    function: JsonObject = {"name": name, "arguments": dict(arguments)}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
