"""`OpenAIBackend`: any server with OpenAI's (chat) completions API, such as vLLM, SGLang or `transformers serve`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Literal

from ..checks import check_options
from ..errors import ConfigError, EngineError, unknown_name
from ..randomness import mix
from ..types import Options
from .backend import Completion, Prompt
from .http.client import JsonClient, StatusError
from .http.deduplicate import Deduplicator
from .http.keys import check_key, key_of
from .http.loop import LoopThread
from .http.options import HttpOptions

Api = Literal["chat", "completions"]

_PATHS: dict[str, str] = {"chat": "/chat/completions", "completions": "/completions"}
_PINNED = re.compile(r"pinned to '([^']+)'")


class OpenAIBackend:
    """Completes prompts on servers that answer `POST URL/chat/completions` or `POST URL/completions`.

    Requests contain only fields that every server knows: model, messages (or prompt), max_tokens, temperature, top_p,
    seed, and stop if the prompt has stop strings. `transformers serve` decodes greedily unless the model's generation
    config enables sampling.

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
        self._lists: Deduplicator[str] = Deduplicator()

    def _connect(self) -> None:
        """Create the client, with the key."""
        key = self._api_key
        if key is None:
            variable = self._api_key_env or "OPENAI_API_KEY"
            key = key_of(variable, "the API key", needed=self._api_key_env is not None)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.loop = LoopThread("zerosearch-openai")
        self.client = JsonClient(self._urls, self._options, headers=headers, loop=self.loop)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connections; a key from the environment is part of these."""
        return {name: value for name, value in self.__dict__.items() if name not in ("client", "loop")}

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
            model = self.model or await self._served_model()
            try:
                return await self._ask(prompt, model)
            except EngineError as error:
                pinned = "" if self.model else _pinned_model(error)
                if pinned in ("", model):
                    raise
                self._served = pinned
                return await self._ask(prompt, pinned)
        except EngineError as error:
            hint = _NO_PREFILL if prompt.prefill and _status(error) in (400, 422) else ""
            return Completion(attempts=error.attempts, failure=f"{error}{hint}")

    def _conversation(self, prompt: Prompt) -> dict[str, Any]:
        """The fields of a request that hold the texts.

        Raises:
            ConfigError: there is a system message, and the API has none.
        """
        if self._path == _PATHS["chat"]:
            roles = {"system": prompt.system, "user": prompt.text, "assistant": prompt.prefill or None}
            messages = [{"role": role, "content": text} for role, text in roles.items() if text is not None]
            continued = {"continue_final_message": True, "add_generation_prompt": False} if prompt.prefill else {}
            return {"messages": messages, **continued}
        if prompt.system is not None:
            raise ConfigError(
                'the API "completions" has no system message: leave the option `system` out and begin the prompt with '
                'that text, or use api "chat"'
            )
        return {"prompt": f"{prompt.text}{prompt.prefill}"}

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
        reply = await self.client.request("POST", self._path, body=body)
        try:
            text, finish = _content(reply.data) if self._path == _PATHS["chat"] else _text(reply.data)
        except ValueError as error:
            return Completion(attempts=reply.attempts, failure=f"{reply.url}{self._path}: {error}")
        return Completion(text, truncated=finish == "length", attempts=reply.attempts)

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
        try:
            reply = await self.client.request("GET", "/models", final=(500, 501))
        except EngineError as error:
            if isinstance(error.__cause__, StatusError):
                return ""  # the server works but has no such list
            raise
        listed = reply.data.get("data") if isinstance(reply.data, dict) else None
        first = listed[0] if isinstance(listed, list) and listed else None
        name = first.get("id") if isinstance(first, dict) else None
        return name if isinstance(name, str) else ""


_NO_PREFILL = (
    ". The request continues an assistant turn, because the option `prefill` is set. The server may not know the field "
    '`continue_final_message`, which vLLM and SGLang have: leave `prefill` out, or use api "completions"'
)


def _status(error: EngineError) -> int | None:
    """The HTTP status with which a server has rejected a request; None if something else failed."""
    cause = error.__cause__
    return cause.status if isinstance(cause, StatusError) else None


def _pinned_model(error: EngineError) -> str:
    """Return the model a server says it is pinned to when it rejects another name; empty if it names none."""
    pinned = _PINNED.search(str(error.__cause__)) if _status(error) == 400 else None
    return pinned[1] if pinned else ""


def _choice(data: Any) -> dict[str, Any]:
    """Return the first choice of a response; an empty one if there is none."""
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def _text(data: Any) -> tuple[str, str | None]:
    """Return the text and finish reason of a completion.

    Raises:
        ValueError: the data has another shape.
    """
    choice = _choice(data)
    text, finish = choice.get("text"), choice.get("finish_reason")
    if not isinstance(text, str):
        raise ValueError(f"expected a string in choices[0].text, got {str(data)[:200]}")
    return text, finish if isinstance(finish, str) else None


def _content(data: Any) -> tuple[str, str | None]:
    """Return the text and finish reason of a chat completion.

    Raises:
        ValueError: the data has another shape.
    """
    choice = _choice(data)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ValueError(f"expected choices[0].message, got {str(data)[:200]}")
    content, finish = message.get("content"), choice.get("finish_reason")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str | None):
        raise ValueError(f"expected a string in choices[0].message.content, got {content!r:.200}")
    return content or "", finish if isinstance(finish, str) else None
