"""`PromptedPlayer`: plays the plans of `plans.py` with any language model that completes prompts."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.bounded_cache import BoundedCache
from zerosearch_env.errors import AgentError, EngineError
from zerosearch_env.game.episode import Episode, Outcome
from zerosearch_env.game.rules import Rules, changed_rules
from zerosearch_env.identity import file_hash, text_hash
from zerosearch_env.llm.backend import Backend, Completion, Prompt
from zerosearch_env.llm.openai import OpenAIBackend
from zerosearch_env.progress import WORK
from zerosearch_env.randomness import mix
from zerosearch_env.types import StopReason

from ..base import AgentOptions, OnDone, Player, blocks
from ..endpoint import count_completions, served_model, shown_thought
from .answers import after_thought
from .plans import PLANS, Answer, Ask, Plan, Search
from .turns import NO_ANSWER, take_turns

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

_log = logging.getLogger(__name__)

SIDE_BY_SIDE = 256
"""Episodes played side by side: enough to fill batches, few enough that a killed command loses little."""
_REMEMBERED = 8192
"""Completions that a player caches: all of two noise levels with several hundred questions."""


@dataclass(frozen=True)
class PromptOptions:
    """How a model is asked."""

    temperature: float = 0.0
    """Sampling temperature; 0 always takes the most probable token."""
    top_p: float = 1.0
    """Nucleus sampling; 1 samples from the whole distribution."""
    turn_tokens: int | None = None
    """Maximum tokens of a completion; None: 64 for short answers, 512 for reasoning and for readings of documents."""
    system: str | None = None
    """The system message; None: none."""
    chat: bool = True
    """Whether an endpoint is asked through its chat API."""
    thinking: bool | None = None
    """The switch of an endpoint's chat template; None: it is not set."""
    # Any: `make_rules` checks them
    rules: Mapping[str, Any] = field(default_factory=dict)
    """Rules that were given for this player only: arguments of `make_rules`."""


class PromptedPlayer(Player):
    """Plays a plan with a language model.

    The episodes of a block take their turns side by side: in each round, one call of the backend completes what all of
    them ask (or several, see `batch`), and one call of the engine answers all of their searches. A completion that
    fails is a failure of the agent (`AgentOptions.on_error`): it ends the evaluation, or its episode, and is never an
    answer. A prompt that does not fit into the model's context ends its episode like that of a policy
    (`context_limit`).

    Completions are cached: the noise draws of different levels are coupled, so most prompts are the same at the next
    level.

    Args:
        plan: a name in `PLANS`.
        backend: completes the prompts.
        name: name in results; None: `"baseline:PLAN"`.
        options: how the model is asked.
        failures: what follows a failed completion, after the retries of the backend.
        batch: maximum number of prompts in one call of the backend, so that progress shows; None: all of a round.

    Attributes:
        backend: the backend.
    """

    counts_tokens = True

    def __init__(
        self,
        plan: str,
        backend: Backend,
        *,
        name: str | None = None,
        options: PromptOptions | None = None,
        failures: AgentOptions | None = None,
        batch: int | None = None,
    ) -> None:
        self.plan, self.kind = plan, PLANS[plan]
        self.backend = backend
        self.name = name or f"baseline:{plan}"
        self.options = options or PromptOptions()
        self.failures = failures or AgentOptions()
        self.batch = batch
        self.searches = self.kind.searches != 0
        self._completed: BoundedCache[Prompt, Completion] = BoundedCache(_REMEMBERED)
        self._warned = False

    @cached_property
    def model(self) -> str:
        """What identifies the model: its files, or what the server lists about it.

        Raises:
            ConfigError: no server can be reached, or the model is not there.
        """
        if isinstance(self.backend, OpenAIBackend):
            return json.dumps(served_model(self.backend, self.name, chat=self.options.chat))
        return self.backend.identity

    @property
    def billed(self) -> bool:
        """See `Player.billed`."""
        return isinstance(self.backend, OpenAIBackend)

    @property
    def greedy(self) -> bool:
        """See `Player.greedy`."""
        return self.options.temperature == 0

    @property
    def identity(self) -> dict[str, str]:
        """See `Player.identity`: the model, the options and the prompts."""
        files = [file_hash(Path(__file__).with_name(f"{module}.py")) for module in ("answers", "plans", "prompts")]
        return {
            "model": self.model,
            "options": text_hash(f"{self.plan} {self.options!r}"),
            "prompts": text_hash(" ".join(files)),
        }

    def rules_for(self, rules: Rules) -> Rules:
        """The evaluation's rules with the player's own, and no more turns that may search than the plan uses."""
        rules = changed_rules(rules, self.options.rules)
        return replace(rules, max_turns=min(rules.max_turns, self.kind.searches or rules.max_turns))

    def notes(self, rules: Rules) -> list[str]:
        """See `Player.notes`."""
        own = self.rules_for(rules)
        several = "1 search" if own.max_turns == 1 else f"{own.max_turns} searches"
        searches = f"at most {several}" if self.searches else "no search"
        notes = [f"{self.name}: the model is asked in plain words (docs/builtin-players.md), {searches}."]
        if "prompt_template" in rules.given:
            notes.append(f"{self.name}: its prompts are its own, prompt_template has no effect on it.")
        return notes

    def check(self) -> None:
        """See `Player.check`: an endpoint answers, and has the model."""
        if isinstance(self.backend, OpenAIBackend):
            _ = self.model

    def close(self) -> None:
        """Close the backend, and with it that of other players of the same model."""
        self.backend.close()

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode; see `Player.play`.

        Raises:
            AgentError: a completion failed, and `on_error` is "stop".
            ConfigError: the model cannot be loaded.
        """
        for block, done in blocks(episodes, on_done, SIDE_BY_SIDE):
            self._play_block(block, engine, done)

    def _play_block(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None) -> None:
        started = {i: self.kind.start(e.question.text, e.rules.max_turns) for i, e in enumerate(episodes)}
        moves = {i: _next(plan, None) for i, plan in started.items()}
        apart: defaultdict[int, list[str]] = defaultdict(list)  # thoughts that came apart, since the last turn
        while moves:
            asks = {i: move for i, move in moves.items() if isinstance(move, Ask)}
            actions = {i: move for i, move in moves.items() if not isinstance(move, Ask)}
            completed = self._ask_all(episodes, asks, on_done)
            for i, completions in completed.items():
                apart[i] += [completion.reasoning for completion in completions if completion.reasoning]
            actions = {i: move._replace(thought=_join(apart.pop(i, []), move.thought)) for i, move in actions.items()}
            WORK.add(turns=len(actions), requests=0)
            results: dict[int, Any] = {**completed}
            results |= take_turns(episodes, actions, engine, on_done, take=_act)
            moves = {i: _next(started[i], results[i]) for i in sorted(results)}

    def _ask_all(
        self, episodes: Sequence[Episode], asks: Mapping[int, Ask], on_done: OnDone | None
    ) -> dict[int, list[Completion]]:
        """The completions that the episodes ask for. An episode with a failed one ends, and is left out."""
        rows = [(i, prompt) for i, ask in asks.items() for prompt in self._prompts(episodes[i], ask)]
        completions = self._complete([prompt for _, prompt in rows])
        results: dict[int, list[Completion]] = {i: [] for i in asks}
        for (i, _), completion in zip(rows, completions, strict=True):
            results[i].append(completion)
        for i, answered in list(results.items()):
            failed = next((completion for completion in answered if completion.failure is not None), None)
            if failed is not None:
                self._fail(episodes[i], failed)
                del results[i]
                if on_done:
                    on_done(i)
        return results

    def _fail(self, episode: Episode, failed: Completion) -> None:
        """End an episode whose completion failed."""
        where = f"agent {self.name!r}, question {episode.question.id!r}, turn {len(episode.turns) + 1}"
        error = f"{where}: {failed.failure}"
        if failed.too_long:
            episode.stop(StopReason.CONTEXT_LIMIT, error=error)
        elif self.failures.on_error == "stop":
            raise AgentError(error)
        else:
            episode.stop(StopReason.AGENT_ERROR, error=error)

    def _prompts(self, episode: Episode, ask: Ask) -> list[Prompt]:
        options, few_shot = self.options, episode.rules.few_shot if ask.examples else ""
        history, texts = ask.history, ask.texts
        if few_shot and history:
            history = ((history[0][0], f"{few_shot}\n\n{history[0][1]}"), *history[1:])
        elif few_shot:
            texts = tuple(f"{few_shot}\n\n{text}" for text in texts)
        return [
            Prompt(
                text,
                seed=mix(episode.seed, len(episode.turns), number),
                max_tokens=options.turn_tokens or ask.tokens,
                temperature=options.temperature,
                top_p=options.top_p,
                stop=ask.stop,
                system=options.system,
                history=history,
            )
            for number, text in enumerate(texts)
        ]

    def _complete(self, asked: Sequence[Prompt]) -> list[Completion]:
        """A completion per prompt; those that fail are asked again if the options say so."""
        made = {prompt: completion for prompt in asked if (completion := self._completed.get(prompt)) is not None}
        retries = self.failures.retries if self.failures.on_error == "retry" else 0
        for attempt in range(retries + 1):
            missing = [prompt for prompt in dict.fromkeys(asked) if prompt not in made or _may_be_retried(made[prompt])]
            if not missing:
                break
            if attempt:
                time.sleep(self.failures.pause_s(attempt))
            missing.sort(key=lambda prompt: len(prompt.text))  # batches of prompts of about the same length
            size = self.batch or len(missing)
            for start in range(0, len(missing), size):
                made |= self._complete_batch(missing[start : start + size])
        return [made[prompt] for prompt in asked]

    def _complete_batch(self, asked: Sequence[Prompt]) -> dict[Prompt, Completion]:
        try:
            completions = self.backend.complete(asked)
        except EngineError as error:
            completions = [Completion(failure=str(error))] * len(asked)
        count_completions(completions)
        made = dict(zip(asked, completions, strict=True))
        if not self._warned and (cut := next((p for p, completion in made.items() if _only_thought(completion)), None)):
            self._warned = True
            _log.warning(
                "%s: a completion ended within a thought after %d tokens, without an answer. Give the model more with "
                "--turn-tokens, or switch thinking off",
                self.name,
                cut.max_tokens,
            )
        for prompt, completion in made.items():
            if completion.failure is None:
                self._completed.put(prompt, completion)
        return made


def _join(thoughts: Sequence[str], written: str) -> str:
    return "\n\n".join(filter(None, (*thoughts, written)))


def _only_thought(completion: Completion) -> bool:
    """Whether a completion reached its limit before the model wrote anything but a thought."""
    return completion.truncated and not after_thought(completion.text).strip()


def _may_be_retried(completion: Completion) -> bool:
    return completion.failure is not None and not completion.too_long


def _next(plan: Plan, result: object) -> Ask | Search | Answer:
    """The next move of a plan, which gets the result of the one before."""
    try:
        return plan.send(result)
    except StopIteration as end:
        answer: Answer = end.value
        return answer


def _act(episode: Episode, move: Search | Answer) -> Outcome:
    """Take a search or an answer as the turn of an episode, with what the model wrote."""
    if isinstance(move, Search):
        return episode.advance_action("search", move.query, turn_text(episode, "search", move.query, move.thought))
    answer = move.text or NO_ANSWER
    return episode.advance_action("answer", answer, turn_text(episode, "answer", answer, move.thought))


def turn_text(episode: Episode, kind: str, content: str, thought: str) -> str | None:
    """A turn in the protocol's form: what the model wrote as a thought, and the action.

    Whoever reads it with the protocol's parser finds the same action, so tags in the thought are defused.

    Args:
        episode: the episode.
        kind: "search" or "answer".
        content: the query or the answer.
        thought: what the model wrote.

    Returns:
        None for the action alone.
    """
    rules = episode.rules
    protocol = rules.protocol
    action = (protocol.render_search if kind == "search" else protocol.render_answer)(content)
    room = rules.max_action_chars - len(action)
    text = shown_thought(thought, room) + action
    if thought.strip() == content or len(text) > rules.max_action_chars:
        return None
    parsed, alone = protocol.parse(text), protocol.parse(action)
    # A protocol of the user's own may have other tags.
    return text if (parsed.kind, parsed.content) == (alone.kind, alone.content) else None
