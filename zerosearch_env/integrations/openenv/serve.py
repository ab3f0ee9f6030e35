"""`zerosearch serve --openenv`: the process around the server."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from typing import Any

import uvicorn

from ...checks import check_number
from ...datasets.sources import includes_world
from ...engines.base import try_engine
from ...envs.sessions import SessionSource
from ...errors import ConfigError
from ...llm.http.options import is_loopback
from ...serve.access import address_of, is_local, is_token, open_socket
from ...serve.command import ServeConfig, read_token, run_server, warn_if_open
from .environment import make_app

_SAME = ("split", "noise_level", "noise_schedule", "noise_start", "noise_end", "noise_base", "top_k", "on_bad_row")
"""Options that have the names of the environment's arguments."""
_OTHERS = ("engine", "host", "port", "dataset", "world", "noise_kind", "columns", "grace_s", "token")

# Any: an application, in the terms of ASGI
App = Callable[[Any, Any, Any], Awaitable[None]]


def serve_openenv(config: ServeConfig, more: str | None = None) -> int:
    """Serve episodes until SIGINT or SIGTERM.

    Args:
        config: the options.
        more: further arguments of the environment, as JSON.

    Returns:
        Exit code: 0.

    Raises:
        ConfigError: an option is invalid, or is one for searches alone.
        DataError: a data file is missing or invalid.
    """
    check_number("grace_s", config.grace_s, above=0, most=math.inf)
    arguments, token = environment_arguments(config, more), read_token(config)
    with open_socket(config.host, config.port) as listener:
        source = SessionSource(**arguments)
        try:
            try_engine(source.engine, source.dataset.questions, source.rules.top_k)
            warn_if_open(config.host, token)
            print(f"zerosearch serve: OpenEnv at {address_of(listener)} (Ctrl-C stops it)", flush=True)
            app = guarded(make_app(source), token, local=is_loopback(config.host))
            run_server(make_server(app, grace_s=config.grace_s), listener)
        finally:
            source.close()
    return 0


def make_server(app: App, *, grace_s: float = 20.0) -> uvicorn.Server:
    """The server of an application; `server.serve(sockets=[...])` runs it.

    Args:
        app: the application.
        grace_s: maximum time for pending requests to finish at the end, in seconds.
    """
    options = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws_per_message_deflate=False,  # texts are short, and clients are usually near
        timeout_graceful_shutdown=math.ceil(grace_s),
    )
    return uvicorn.Server(options)


# Any: `EnvOptions` gives each argument its type
def environment_arguments(config: ServeConfig, more: str | None) -> dict[str, Any]:
    """The arguments of the environment that the options of the command describe.

    Raises:
        ConfigError: an option is one for searches alone, or `more` is not a JSON object.
    """
    for option in fields(ServeConfig):
        changed = getattr(config, option.name) != option.default and option.name not in (*_SAME, *_OTHERS)
        if changed:
            flag = option.name.replace("_", "-")
            raise ConfigError(f"--{flag} is about searches, not about episodes: leave it out with --openenv")
    if config.dataset is None:
        raise ConfigError("episodes need questions: give a --dataset with --openenv")
    try:
        further = {} if more is None else json.loads(more)
    except json.JSONDecodeError as cause:
        raise ConfigError(f'--env is not JSON ({cause}): expected for example \'{{"reward": "f1"}}\'') from cause
    if not isinstance(further, dict):
        raise ConfigError(f'--env must be a JSON object such as \'{{"reward": "f1"}}\', got {more:.200}')
    world = asdict(config.world) if includes_world(config.dataset) else None
    return {
        "dataset": config.dataset,
        "world": world,
        "search_engine": config.engine,
        "noise_kind": list(config.noise_kind),
        "columns": config.column_names,
        **{name: getattr(config, name) for name in _SAME},
        **further,
    }


def guarded(app: App, token: str | None, *, local: bool) -> App:
    """Let only requests through that `zerosearch serve` would answer, also those that open a WebSocket.

    Args:
        app: the application.
        token: what clients must send as a bearer token; None: nothing. `/health` needs none.
        local: whether the server listens on a loopback address, so that requests must name this machine.
    """

    # Any: ASGI
    def refusal(scope: Any) -> int | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if local and not is_local(headers.get("host", "")):
            return 421
        authorized = token is None or scope["path"] == "/health" or is_token(headers.get("authorization", ""), token)
        return None if authorized else 401

    # Any: ASGI
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        status = None if scope["type"] == "lifespan" else refusal(scope)
        if status is None:
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the client gets status 403
        else:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    return answer
