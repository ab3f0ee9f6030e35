"""A model behind an endpoint as a player: `openai:URL[,URL...][#MODEL]`, any server with OpenAI's API.

With the chat API (the default) an episode is a conversation in which every message keeps its role. What the model wrote
after its action is left out, as in the transcript:

    [system]  [user: instruction and question]  [assistant: turn 1]  [user: documents]  [assistant: turn 2]  ...

With `chat=off` the completions API gets the transcript as one text. Tools are described by the instruction, and their
results are user messages with the protocol's tags: servers would take the calls out of the text.

Three things that servers change are put right:

- The stop string that ended a turn is cut off by most servers. It is appended again: the one that the server names, or
  else the one that completes an action. (So a model that ends its turn within an action is given the closing tag.)
- Thoughts that the server returns apart are kept in the transcript, between `<think>` and `</think>`. They do not act,
  and are not sent back.
- A conversation that has outgrown the model's context ends its episode (`StopReason.CONTEXT_LIMIT`).

Whatever else a server refuses, after the client's retries, is an `AgentError`, as a failure of the user's own agent.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import cached_property
from typing import ClassVar

from zerosearch_env.engines.cache import ResultCache, cache_key
from zerosearch_env.engines.run import Engine, run_searches
from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules, changed_rules
from zerosearch_env.identity import text_hash
from zerosearch_env.llm.backend import Completion, Prompt
from zerosearch_env.llm.make import make_endpoint
from zerosearch_env.llm.openai import Model, OpenAIBackend
from zerosearch_env.progress import WORK
from zerosearch_env.protocols import Protocol
from zerosearch_env.protocols.base import with_stop_string as close_action
from zerosearch_env.protocols.hygiene import defuse_tags
from zerosearch_env.randomness import mix
from zerosearch_env.types import Document, Step, StopReason

from ..policy.card import AgentCard, card_rules, changed_card
from .base import AgentOptions, PolicyOptions
from .third_party import ConcurrentPlayer, PlayTurn

TIMEOUT_S = 600.0
"""Limit of a turn with all retries, in seconds, unless `AgentOptions.turn_timeout_s` says otherwise. A model that
thinks for thousands of tokens needs minutes, and a server that answers 429 needs patience."""
_ATTEMPTS = 20
_LISTED = ("id", "root", "parent", "max_model_len", "meta")
"""What identifies a model in a server's list. Other fields change with every request."""
WITHOUT_EFFECT = ("tools", "max_observation_tokens")
"""Entries of a card that need the model's tokenizer or chat template, which an endpoint does not share."""


class EndpointPlayer(ConcurrentPlayer):
    """Plays with a model behind an endpoint; see the module docstring.

    Args:
        source: `"openai:URL[,URL...][#MODEL]"`. Without a model the first one that the server lists plays.
        policy: how it is asked: entries of its card, and sampling. The path, slots, device and dtype have no meaning.
        name: name in results.
        options: concurrency, time limit of a turn, and what follows a failure.
        api_key_env: the environment variable with the key; None: `OPENAI_API_KEY`, if set.
        cache: a SQLite file in which completions are kept, so that the same turn is never asked for twice.

    Raises:
        ConfigError: an address or an option is invalid.
        CacheError: the cache cannot be opened.
    """

    default_concurrency: ClassVar[int] = 16
    billed = True
    counts_tokens = True
    restarts = False
    """A conversation in which a turn failed is as it was before that turn."""

    def __init__(
        self,
        source: str,
        policy: PolicyOptions,
        *,
        name: str,
        options: AgentOptions | None = None,
        api_key_env: str | None = None,
        cache: str | None = None,
    ) -> None:
        super().__init__(name, options)
        self.policy = policy
        limits = {"turn_tokens": policy.turn_tokens, "context_tokens": policy.context_tokens}
        chosen = {name: value for name, value in policy.format if name not in WITHOUT_EFFECT}
        card = changed_card(AgentCard(), limits | chosen)
        # The server has a chat template, or says that it has none.
        self.card = replace(card, chat=card.chat is not False)
        self.backend = endpoint_backend(
            source,
            self.card,
            concurrency=self.concurrency,
            timeout_s=self.options.turn_timeout_s,
            api_key_env=api_key_env,
        )
        self._pending: set[Future[Completion]] = set()
        self._cache = None if cache is None else ResultCache(cache)

    @cached_property
    def model(self) -> Model:
        """What identifies the model, from the server's list. At the first access the model is asked for one token.

        Raises:
            ConfigError: no server can be reached, or the model is not there; see `OpenAIBackend.check`.
        """
        return served_model(self.backend, self.name, chat=bool(self.card.chat))

    @property
    def greedy(self) -> bool:
        """See `Player.greedy`."""
        return self.policy.temperature == 0

    @property
    def identity(self) -> dict[str, str]:
        """See `Player.identity`: the model and how it is asked, not where it is."""
        how = [asdict(self.card), self.policy.temperature, self.policy.top_p]
        return {"model": json.dumps(self.model), "options": text_hash(json.dumps(how))}

    def check(self) -> None:
        """See `Player.check`: the server answers, and has the model."""
        _ = self.model

    def rules_for(self, rules: Rules) -> Rules:
        """The evaluation's rules, with what was given for this agent only."""
        return card_rules(changed_rules(rules, dict(self.policy.rules)), self.card)

    def notes(self, rules: Rules) -> list[str]:
        """See `Player.notes`."""
        own = self.rules_for(rules)
        api = "chat" if self.card.chat else "completions"
        notes = [
            f"{self.name}: the {api} API of model {self.model.get('id', 'without a name')!r}, protocol "
            f"{own.protocol.name!r}, {own.max_turns} turns that may search, {own.top_k} documents, "
            f"{self._turn_tokens(own.protocol)} tokens per turn."
        ]
        if ignored := [name for name, _ in self.policy.format if name in WITHOUT_EFFECT]:
            notes.append(f"{self.name}: {', '.join(ignored)} has no effect on a model behind an endpoint.")
        return notes

    def begin(self, episode: Episode, engine: Engine, instance: contextlib.ExitStack) -> PlayTurn:
        """See `ConcurrentPlayer.begin`."""
        card, protocol = self.card, episode.rules.protocol
        system, messages = _opening(episode, card.system)
        tokens = 0

        def prompt() -> Prompt:
            *history, (_, text) = messages if card.chat else [("user", episode.text)]
            return Prompt(
                text,
                mix(episode.seed, len(episode.turns)),
                self._turn_tokens(protocol),
                self.policy.temperature,
                self.policy.top_p,
                stop=protocol.stop_strings,
                system=system,
                prefill=card.prefill,
                history=tuple(history),
            )

        def play_turn() -> None:
            nonlocal tokens
            if card.context_tokens is not None and tokens >= card.context_tokens:
                episode.stop(StopReason.CONTEXT_LIMIT)
                return
            done = self._complete(prompt())
            if done.failure is not None:
                if done.too_long and episode.turns:
                    episode.stop(StopReason.CONTEXT_LIMIT)
                    return
                raise AgentError(f"{self._where(episode)}, turn {len(episode.turns) + 1}: {done.failure}")
            read, written = done.prompt_tokens or 0, done.completion_tokens or 0
            tokens = read + written
            if tokens:
                before = episode.tokens or (0, 0)
                episode.tokens = (before[0] + read, before[1] + written)
            text = card.prefill + with_stop_string(done, protocol)
            thought = shown_thought(done.reasoning, episode.rules.max_action_chars - len(text))
            outcome = episode.advance(thought + text)
            step = outcome if isinstance(outcome, Step) else episode.observe(run_searches(engine, episode.requests))
            said = episode.turns[-1].context_text.removeprefix(thought)
            messages.extend([("assistant", said), ("user", _as_message(step))])

        return play_turn

    def interrupt(self) -> None:
        """See `ConcurrentPlayer.interrupt`: pending requests are cancelled, which may take minutes otherwise."""
        for future in tuple(self._pending):
            future.cancel()

    def close(self) -> None:
        """See `Player.close`."""
        self.backend.close()
        if self._cache is not None:
            self._cache.close()

    def _turn_tokens(self, protocol: Protocol) -> int:
        return self.card.turn_tokens or protocol.turn_tokens

    def _complete(self, prompt: Prompt) -> Completion:
        """The completion of a prompt, from the cache if it is there; it does not depend on the address."""
        cache = self._cache
        if cache is None:
            return self._ask(prompt)
        key = cache_key("completion", self.identity, asdict(prompt))
        if found := cache.get_many([key]).get(key):
            return Completion(**json.loads(found[0].text))
        done = self._ask(prompt)
        if done.failure is None:
            cache.put_many(self.backend.name, {key: [Document("", json.dumps(asdict(done)), self.backend.name)]})
        return done

    def _ask(self, prompt: Prompt) -> Completion:
        future = self.backend.loop.submit(self.backend.acomplete(prompt))
        self._pending.add(future)
        try:
            done = future.result()
        except BaseException:
            future.cancel()  # Ctrl-C
            raise
        finally:
            self._pending.discard(future)
        count_completions([done])
        return done


def count_completions(completions: Iterable[Completion]) -> None:
    """Count in `WORK` what a server has answered: requests, tokens, and completions without token counts."""
    for done in completions:
        read, written = done.prompt_tokens, done.completion_tokens
        unknown = done.failure is None and (read is None or written is None)
        WORK.add(tokens=written or 0, read=read or 0, requests=done.attempts, uncounted=int(unknown))


def endpoint_backend(
    source: str, card: AgentCard, *, concurrency: int, timeout_s: float | None = None, api_key_env: str | None = None
) -> OpenAIBackend:
    """The backend of a model behind an endpoint.

    Args:
        source: `"openai:URL[,URL...][#MODEL]"`.
        card: how it is asked: `chat` and `thinking`.
        concurrency: maximum number of requests at the same time.
        timeout_s: limit of a request with all retries, in seconds; None: `TIMEOUT_S`.
        api_key_env: the environment variable with the key; None: `OPENAI_API_KEY`, if set.

    Raises:
        ConfigError: an address or an option is invalid.
    """
    limit_s = timeout_s or TIMEOUT_S
    # Templates call the switch by one of these names, and take no notice of the other.
    switch = {"chat_template_kwargs": {"enable_thinking": card.thinking, "thinking": card.thinking}}
    return make_endpoint(
        source.partition(":")[2],
        api_key_env=api_key_env,
        api="chat" if card.chat else "completions",
        extra_body=None if card.thinking is None else switch,
        http={"concurrency": concurrency, "attempts": _ATTEMPTS, "read_s": limit_s, "total_s": limit_s},
    )


def served_model(backend: OpenAIBackend, name: str, *, chat: bool = True) -> Model:
    """What identifies the model behind an endpoint, from the server's list. The model is asked for one token.

    Args:
        backend: the endpoint.
        name: name of the agent, for error messages.
        chat: whether it is asked through a chat template.

    Raises:
        ConfigError: no server can be reached, or the model is not there; see `OpenAIBackend.check`.
    """
    try:
        entry = backend.check()
    except ConfigError as cause:
        hint = " A model without a chat template plays with chat=off." if chat and "template" in str(cause) else ""
        raise ConfigError(f"agent {name!r}: {cause}{hint}") from cause
    return {field: entry[field] for field in _LISTED if field in entry}


def _opening(episode: Episode, system: str | None) -> tuple[str | None, list[tuple[str, str]]]:
    """The system message of a conversation, if it has one, and its first messages; a row's own system message wins."""
    (role, text), *others = [(str(message["role"]), str(message["content"])) for message in episode.messages]
    return (text, others) if role == "system" else (system, [(role, text), *others])


def _as_message(step: Step) -> str:
    """An observation as the content of a user message, as a chat template shows it (`TurnEncoder.observations`)."""
    return step.observation.removeprefix("\n") if step.messages else step.observation.strip()


def with_stop_string(done: Completion, protocol: Protocol) -> str:
    """The text of a turn, with the stop string that the server has cut off.

    Args:
        done: the server's completion.
        protocol: the protocol with which it stopped.
    """
    text, stops = done.text, protocol.stop_strings
    if done.truncated or any(stop in text for stop in stops):
        return text  # a server that stops had cut the first one off
    if done.stop in stops:
        return f"{text}{done.stop}"
    return close_action(text, protocol)


def shown_thought(reasoning: str, room: int) -> str:
    """What a model thought, as a transcript shows it. Nothing in it is read as an action.

    Args:
        reasoning: the thought; "": none.
        room: how many characters the turn may still have; a longer thought is cut.
    """
    thought = defuse_tags(reasoning.strip())
    opening, closing = "<think>\n", "\n</think>\n\n"
    room = max(0, room - len(opening) - len(closing))
    return f"{opening}{thought[:room]}{closing}" if thought else ""
