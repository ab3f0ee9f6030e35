"""`OpenAIBackend`: any server with OpenAI's (chat) completions API, such as vLLM, SGLang or `transformers serve`."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..checks import check_options
from ..errors import ConfigError, EngineError, sentence, unknown_name
from ..randomness import mix
from ..types import Options
from .backend import Completion, Prompt
from .http.client import JsonClient, StatusError
from .http.deduplicate import Deduplicator
from .http.keys import Key, check_key, key_of
from .http.loop import LoopThread
from .http.options import HttpOptions

_log = logging.getLogger(__name__)

Api = Literal["chat", "completions"]
Model = Mapping[str, Any]
"""An entry of a server's list of models. Any: read from JSON, and checked where it is used."""

_PATHS: dict[str, str] = {"chat": "/chat/completions", "completions": "/completions"}
_PINNED = re.compile(r"pinned to '([^']+)'")
_UNSUPPORTED = re.compile(r"Unsupported (?:parameter|value): '(\w+)'")
_TOO_LONG = re.compile(r"(?i)context.{0,20}(length|window|size|limit)|exceeds?.{0,40}context|prompt is too long")
_CHECK_ATTEMPTS, _CHECK_S = 3, 60.0


class OpenAIBackend:
    """Completes prompts on servers that answer `POST URL/chat/completions` or `POST URL/completions`.

    Requests contain only fields that every server knows: model, messages (or prompt), max_tokens, temperature, top_p,
    seed, and stop if the prompt has stop strings. One that a model refuses (`Unsupported parameter`, as reasoning
    models of paid services answer) is left out from then on, with a warning. `transformers serve` decodes greedily
    unless the model's generation config enables sampling.

    A prompt with a prefill adds an assistant message with it and `continue_final_message`, which vLLM and SGLang know.
    A server that rejects the field fails the prompt with a message about it. One that ignores it writes a new turn.

    Args:
        urls: addresses of replicas of the same model, each usually ending in `/v1`.
        model: the model's name on the servers. If empty, the first name in `URL/models`, fetched once. A server
            without that list gets an empty name, which SGLang and vLLM resolve to their only model. `transformers
            serve MODEL` lists its whole cache but accepts only MODEL, and names it when it rejects another name; that
            name is then used.
        api_key: sent as a bearer token; a backend with it cannot be pickled. None reads an environment variable, which
            a copy in another process reads again.
        api_key_env: the environment variable with the key; None reads `OPENAI_API_KEY`, if set.
        api: `"chat"`, or `"completions"` for a model without a chat template: the prompt is sent as it is, with the
            prefill appended.
        extra_body: extra fields for every request, for example `{"chat_template_kwargs": {"enable_thinking": False}}`.
        options: limits of the HTTP client.

    Raises:
        ConfigError: an argument is invalid.
    """

    name = "openai"

    def __init__(
        self,
        urls: Sequence[str],
        *,
        model: str = "",
        api_key: str | None = None,
        api_key_env: str | None = None,
        api: Api = "chat",
        extra_body: Options | None = None,
        options: HttpOptions | None = None,
    ) -> None:
        self._urls, self._options = tuple(urls), options
        self._api_key = None if api_key is None else check_key(api_key, "api_key")
        self._api_key_env = api_key_env
        if api not in _PATHS:
            raise unknown_name("api", api, _PATHS)
        self._path = _PATHS[api]
        self._connect()
        self.model = model
        self._extra = check_options("extra_body", extra_body or {}, '{"min_p": 0.1}')
        self._served: str | None = None
        self._refused: set[str] = set()
        self._lists: Deduplicator[str] = Deduplicator()

    def _connect(self) -> None:
        """Create the client, with the key."""
        key = self._api_key
        if key is None:
            variable = self._api_key_env or "OPENAI_API_KEY"
            key = key_of(variable, "the API key", needed=self._api_key_env is not None)
        self._headers = {"Authorization": Key(f"Bearer {key}")} if key else {}
        self.loop = LoopThread("zerosearch-openai")
        self.client = JsonClient(self._urls, self._options, headers=self._headers, loop=self.loop)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connections and their key; a copy reads a key from the environment again."""
        return {name: value for name, value in self.__dict__.items() if name not in ("client", "loop", "_headers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Connect again."""
        self.__dict__.update(state)
        self._connect()

    @property
    def identity(self) -> str:
        """The model's name, or the addresses if there is none, plus the API unless it is chat, and the extra fields."""
        what = self.model or ",".join(sorted(self.client.urls))
        if self._path != _PATHS["chat"]:
            what = f"{what} {self._path}"
        return f"{what} {sorted(self._extra.items())!r}" if self._extra else what

    @property
    def concurrency(self) -> int:
        """Maximum number of concurrent prompts."""
        return self.client.options.concurrency

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Return one completion per prompt, in order. All are sent concurrently, up to the client's concurrency.

        Raises:
            EngineError: the backend is closed.
        """
        return self.loop.run(self._complete_all(prompts)) if prompts else []

    async def acomplete(self, prompt: Prompt) -> Completion:
        """Complete one prompt. Await it in `loop`."""
        try:
            return await self._ask_for(prompt, self.model or await self._served_model())
        except EngineError as error:
            refused = _status(error) in (400, 413, 422)
            hint = _NO_PREFILL if prompt.prefill and refused else ""
            too_long = refused and _TOO_LONG.search(str(error)) is not None
            return Completion(attempts=error.attempts, failure=f"{error}{hint}", too_long=too_long)

    def check(self) -> Model:
        """Ask every server for its models, and the model for one token, before anything depends on them.

        Returns:
            What the servers list about the model: `id`, and with vLLM `root` (the folder or hub name it was loaded
            from) and `max_model_len`. Empty if they list nothing about it.

        Raises:
            ConfigError: a server cannot be reached, the model is not there or refuses the request, or the servers have
                different models and none was chosen.
        """
        return self.loop.run(self._check())

    async def _check(self) -> Model:
        models = {url: await self._list(url) for url in self.client.urls}
        names = {url: [str(model.get("id")) for model in listed] for url, listed in models.items() if listed}
        listed = sorted({name for own in names.values() for name in own})
        if not self.model and len({own[0] for own in names.values()}) > 1:
            raise ConfigError(
                f"the servers have different models: {', '.join(f'{own[0]} at {url}' for url, own in names.items())}. "
                "Choose the one that all of them have: openai:URL,URL#MODEL"
            )
        done = await self.acomplete(Prompt("Hello", 0, 1, temperature=0.0, stop=("###",)))
        if done.failure is not None:
            has = f" The server lists the models {', '.join(listed)}." if self.model and listed else ""
            raise ConfigError(f"{sentence(done.failure)}{has}")
        name = self.model or self._served
        found = [model for entries in models.values() for model in entries if model.get("id") == name]
        return found[0] if found else {"id": name} if name else {}

    async def _list(self, url: str) -> list[Model]:
        """The models that one server lists; empty if it has no such list.

        Raises:
            ConfigError: it cannot be reached.
        """
        # A server that is not there shows at once, not after all the attempts of a request in the middle of a run.
        limits = self.client.options
        limits = replace(limits, attempts=min(limits.attempts, _CHECK_ATTEMPTS), total_s=min(limits.total_s, _CHECK_S))
        client = JsonClient([url], limits, headers=self._headers, loop=self.loop)
        try:
            return await _models(client)
        except EngineError as error:
            raise ConfigError(f"no model can be asked at {url}: {error}") from error
        finally:
            await client.aclose()

    async def _ask_for(self, prompt: Prompt, model: str) -> Completion:
        """Ask for a completion; again, if the server says that it has another model, or does not take a field."""
        for _ in _LEFT_OUT:
            try:
                return await self._ask(prompt, model)
            except EngineError as error:
                pinned = "" if self.model else _pinned_model(error)
                if pinned not in ("", model):
                    self._served = pinned
                    return await self._ask(prompt, pinned)
                field = _refused_field(error)
                if not field:
                    raise
                if field not in self._refused:
                    self._refused.add(field)
                    _log.warning("%s: %s %s", ", ".join(self.client.urls), field, _LEFT_OUT[field])
        return await self._ask(prompt, model)

    def _conversation(self, prompt: Prompt) -> dict[str, Any]:
        """The fields of a request that hold the texts.

        Raises:
            ConfigError: there is a system message, and the API has none.
        """
        if self._path == _PATHS["chat"]:
            before = [("system", prompt.system), *prompt.history]
            conversation = [*before, ("user", prompt.text), ("assistant", prompt.prefill or None)]
            messages = [{"role": role, "content": text} for role, text in conversation if text is not None]
            continued = {"continue_final_message": True, "add_generation_prompt": False} if prompt.prefill else {}
            return {"messages": messages, **continued}
        if prompt.system is not None:
            raise ConfigError(
                'the API "completions" has no system message: leave the option `system` out and begin the prompt with '
                'that text, or use api "chat"'
            )
        return {"prompt": "".join([text for _, text in prompt.history]) + prompt.text + prompt.prefill}

    async def _ask(self, prompt: Prompt, model: str) -> Completion:
        body = {
            "model": model,
            **self._conversation(prompt),
            "max_tokens": prompt.max_tokens,
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
            # 31 bits: the largest seed that every server accepts
            "seed": mix(prompt.seed) >> 33,
            **({"stop": list(prompt.stop)} if prompt.stop else {}),
            **self._extra,
        }
        for field in self._refused & body.keys():
            value = body.pop(field)
            if field == "max_tokens":
                body["max_completion_tokens"] = value
        reply = await self.client.request("POST", self._path, body=body)
        try:
            text, reasoning = _content(reply.data) if self._path == _PATHS["chat"] else (_text(reply.data), "")
        except ValueError as error:
            return Completion(attempts=reply.attempts, failure=f"{reply.url}{self._path}: {error}")
        choice = _choice(reply.data)
        stop = choice.get("stop_reason", choice.get("matched_stop"))  # vLLM, SGLang
        return Completion(
            text,
            truncated=choice.get("finish_reason") == "length",
            attempts=reply.attempts,
            stop=stop if isinstance(stop, str) else None,
            reasoning=reasoning,
            prompt_tokens=_tokens(reply.data, "prompt_tokens"),
            completion_tokens=_tokens(reply.data, "completion_tokens"),
        )

    def close(self) -> None:
        """Cancel pending requests and close the connections. Closing twice is allowed."""
        self.loop.close()

    async def _complete_all(self, prompts: Sequence[Prompt]) -> list[Completion]:
        return list(await asyncio.gather(*(self.acomplete(prompt) for prompt in prompts)))

    async def _served_model(self) -> str:
        """Return the first model the server lists, fetched once; empty if it lists none."""
        if self._served is None:
            self._served = await self._lists.join(b"models", self._first_listed)
        return self._served

    async def _first_listed(self) -> str:
        models = await _models(self.client)
        name = models[0].get("id") if models else None
        return name if isinstance(name, str) else ""


async def _models(client: JsonClient) -> list[Model]:
    """The models that a server lists; empty if it works but has no such list.

    Raises:
        EngineError: the server cannot be reached.
    """
    try:
        reply = await client.request("GET", "/models", final=(500, 501))
    except EngineError as error:
        if isinstance(error.__cause__, StatusError):
            return []
        raise
    listed = reply.data.get("data") if isinstance(reply.data, dict) else None
    return [model for model in listed if isinstance(model, dict)] if isinstance(listed, list) else []


_LEFT_OUT = {
    "max_tokens": "is sent as max_completion_tokens, as the model wants it",
    **dict.fromkeys(("temperature", "top_p", "seed", "stop"), "is left out, because the model does not take it"),
}
"""Fields that reasoning models of paid services refuse, and what is done instead."""
_NO_PREFILL = (
    ". The request continues an assistant turn, because the option `prefill` is set. The server may not know the field "
    '`continue_final_message`, which vLLM and SGLang have: leave `prefill` out, or use api "completions"'
)


def _status(error: EngineError) -> int | None:
    """The HTTP status with which a server has rejected a request; None if something else failed."""
    cause = error.__cause__
    return cause.status if isinstance(cause, StatusError) else None


def _refused_field(error: EngineError) -> str:
    """The field that a server does not take, one of `_LEFT_OUT`; empty if the error is another one."""
    refused = _UNSUPPORTED.search(str(error)) if _status(error) == 400 else None
    return refused[1] if refused and refused[1] in _LEFT_OUT else ""


def _pinned_model(error: EngineError) -> str:
    """Return the model a server says it is pinned to when it rejects another name; empty if it names none."""
    pinned = _PINNED.search(str(error.__cause__)) if _status(error) == 400 else None
    return pinned[1] if pinned else ""


def _choice(data: Any) -> dict[str, Any]:
    """Return the first choice of a response; an empty one if there is none."""
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def _text(data: Any) -> str:
    """Return the text of a completion.

    Raises:
        ValueError: the data has another shape.
    """
    text = _choice(data).get("text")
    if not isinstance(text, str):
        raise ValueError(f"expected a string in choices[0].text, got {str(data)[:200]}")
    return text


def _content(data: Any) -> tuple[str, str]:
    """Return the text of a chat completion, and what the model thought before it, if the server returns that apart.

    Raises:
        ValueError: the data has another shape.
    """
    message = _choice(data).get("message")
    if not isinstance(message, dict):
        raise ValueError(f"expected choices[0].message, got {str(data)[:200]}")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str | None):
        raise ValueError(f"expected a string in choices[0].message.content, got {content!r:.200}")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return content or "", reasoning if isinstance(reasoning, str) else ""


def _tokens(data: Any, name: str) -> int | None:
    """A number from a response's usage; None if the server does not count."""
    usage = data.get("usage") if isinstance(data, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else None
