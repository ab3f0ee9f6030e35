"""`zerosearch serve`: the process around the application: options, socket, signals and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..checks import check_number, check_whole_number
from ..command_line import signals_handled
from ..datasets.options import ReadingOptions
from ..datasets.world.make import WorldConfig
from ..engines import engine_name, make_engine
from ..engines.base import SearchEngine, engine_parts, try_engine
from ..engines.kinds import add_noise_kinds
from ..errors import ConfigError, require
from ..game.noise import choose_noise
from ..game.noise_kinds import read_noise_kinds
from ..llm.http.options import is_loopback
from ..retrieve_api.dialects import get_dialect
from .access import address_of, open_socket
from .app import CUT_OFF, Limits, Service, make_app
from .metrics import Metrics
from .search_queue import SearchQueue
from .searches import RequestDefaults

TOKEN_VARIABLE = "ZEROSEARCH_SERVE_TOKEN"
TOP_K = 3
"""Documents per query by default, as in Search-R1's server."""

_KEEP_ALIVE_S = 75
"""How long an idle connection stays open. Longer than the pauses of a training loop, because a client that sends on a
connection that is being closed gets an error, and few clients retry a POST."""


@dataclass(frozen=True)
class ServeConfig(ReadingOptions):
    """Serve any search engine over every /retrieve dialect (Search-R1, verl, SkyRL, GEM, ZeroSearch, ...)."""

    engine: str = "corpus"
    """The search engine: "corpus", "corpus:FILE", your own file.py:attribute or module:attribute, or with options as
    JSON: '{"kind": "serper", "cache": "pages.sqlite", "budget": 500}'."""
    host: str = "127.0.0.1"
    """Address to listen on. Use a token with anything other than a loopback address."""
    port: int = 8000
    """Port to listen on; 0 picks a free one and prints it."""
    dialect: str | None = None
    """Dialect of /retrieve, for requests that fit several (docs/serve.md). None detects it from each request."""
    top_k: int | None = None
    """Documents per query, for requests that do not specify it. None: 3."""
    max_top_k: int = 100
    """Maximum number of documents per query that a request may ask for."""
    dataset: str | None = "world"
    """Dataset: an embedded engine searches its passages, and requests for its questions need not send answers. The
    built-in "world", a data file, or a Hugging Face Hub name."""
    split: str = "train"
    """Split of the dataset."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Size and seed of the built-in world."""
    noise_level: float | None = None
    """Probability in [0, 1] that a search is noisy, unless its request specifies it. Default: 0 without a schedule."""
    noise_schedule: str | None = None
    """A curriculum ("exp", "linear", "constant", or your own file.py:function) instead of a fixed level; it progresses
    with the searches served."""
    noise_start: float = 0.0
    """Noise level at the start of a schedule."""
    noise_end: float = 0.5
    """Noise level at the end of a schedule."""
    noise_base: float = 4.0
    """Base of the "exp" schedule."""
    noise_kind: tuple[str, ...] = ("distractor",)
    """What noisy searches return (docs/noise.md): a kind such as "counterfactual", or a mixture such as
    "distractor=0.5,empty=0.5". Several are stages over `curriculum_searches` searches."""
    curriculum_searches: int = 10_000
    """Number of searches until a schedule reaches its end."""
    seed: int = 0
    """Seed of the noise and of the engine's random choices."""
    max_batch: int = 256
    """Maximum number of searches per engine call."""
    max_wait_ms: float = 3.0
    """How long a search waits for the other clients of the last batch, in milliseconds. A lone client never waits."""
    max_calls: int = 1
    """Maximum number of concurrent engine calls. More than 1 helps an engine that waits for another machine."""
    max_waiting: int = 20_000
    """Maximum number of searches waiting for the engine, and of queries per request; more are rejected."""
    max_body_bytes: int = 8 * 1024 * 1024
    """Maximum size of a request's body, in bytes; longer ones are rejected with status 413."""
    request_timeout_s: float = 300.0
    """Maximum time a request may wait for its results before status 504, in seconds."""
    grace_s: float = 20.0
    """Maximum time for pending requests to finish after SIGINT or SIGTERM, in seconds."""
    token: str | None = field(default=None, repr=False)
    """Token that requests must carry (Authorization: Bearer TOKEN). None uses ZEROSEARCH_SERVE_TOKEN, if set."""


def serve(config: ServeConfig) -> int:
    """Serve searches until SIGINT or SIGTERM.

    Args:
        config: the options.

    Returns:
        Exit code: 0 after SIGINT or SIGTERM, 1 if requests had to be cut off.

    Raises:
        ZeroSearchError: an option is invalid, or a library is missing.
    """
    require("uvicorn")
    listener = open_socket(config.host, config.port)
    with listener:
        service = make_service(config)
        warn_if_open(config.host, service.token)
        address = address_of(listener)
        print(f"zerosearch serve: {service.engine} at {address} (Ctrl-C stops it)", flush=True)
        return run(service, listener, grace_s=config.grace_s)


def read_token(config: ServeConfig) -> str | None:
    """The token that requests must carry; None if there is none.

    Raises:
        ConfigError: it is empty.
    """
    token = os.environ.get(TOKEN_VARIABLE) if config.token is None else config.token
    if token is not None and not token.strip():
        raise ConfigError(f"the token is empty: give one, or omit --token and unset {TOKEN_VARIABLE}")
    return token


def warn_if_open(host: str, token: str | None) -> None:
    """Print a warning if other machines can reach the server, and no token keeps them out."""
    if token is None and not is_loopback(host):
        print(
            f"zerosearch serve: warning: {host} can be reached from other machines and there is no token; "
            f"whoever finds it can search. Set {TOKEN_VARIABLE}, or listen on 127.0.0.1",
            file=sys.stderr,
        )


def make_service(config: ServeConfig, engine: SearchEngine | None = None) -> Service:
    """Build the service from the options.

    Args:
        config: the options.
        engine: an existing engine; None builds the one named by `config.engine`.

    Raises:
        ConfigError: an option is invalid.
        DataError: a data file is missing or invalid.
    """
    if config.dialect is not None:
        get_dialect(config.dialect)
    check_whole_number("max_body_bytes", config.max_body_bytes)
    for name in ("request_timeout_s", "grace_s"):
        check_number(name, getattr(config, name), above=0, most=math.inf)
    check_number("max_wait_ms", config.max_wait_ms, least=0)
    token, top_k = read_token(config), TOP_K if config.top_k is None else config.top_k
    dataset = None if config.dataset is None else config.load(config.dataset, config.split, world=config.world)
    kinds = read_noise_kinds(config.noise_kind)
    noise = choose_noise(
        config.noise_schedule,
        config.noise_level,
        start=config.noise_start,
        end=config.noise_end,
        base=config.noise_base,
    )
    built = make_engine(config.engine, dataset=dataset) if engine is None else engine
    questions = () if dataset is None else dataset.questions
    with contextlib.ExitStack() as if_refused:
        if engine is None:
            if_refused.callback(built.close)
        built = add_noise_kinds(built, kinds, questions)
        try_engine(built, questions, top_k)
        if_refused.pop_all()
    defaults = RequestDefaults(
        top_k=top_k,
        max_top_k=max(config.max_top_k, top_k),
        noise=noise,
        noise_kinds=kinds,
        curriculum_searches=config.curriculum_searches,
        seed=config.seed,
        questions=questions,
        required=engine_parts(built).required_fields,
    )
    metrics = Metrics()
    queue = SearchQueue(
        built,
        metrics,
        max_batch=config.max_batch,
        max_wait_s=config.max_wait_ms / 1000,
        max_calls=config.max_calls,
        max_waiting=config.max_waiting,
    )
    limits = Limits(max_body_bytes=config.max_body_bytes, request_timeout_s=config.request_timeout_s)
    name = engine_name(config.engine) if engine is None else type(engine).__name__
    return Service(
        queue,
        defaults,
        metrics,
        limits,
        engine=name,
        dialect=config.dialect,
        token=token,
        local=is_loopback(config.host),
    )


def run(service: Service, listener: socket.socket, *, grace_s: float = 20.0) -> int:
    """Serve until SIGINT or SIGTERM, then finish pending requests and close the engine.

    Args:
        service: the service.
        listener: a listening socket; closed at the end.
        grace_s: maximum time for pending requests to finish, in seconds.

    Returns:
        0, or 1 if requests had to be cut off.
    """
    run_server(make_server(service, grace_s=grace_s), listener)
    return 1 if service.metrics.errors[CUT_OFF] else 0


# Any: uvicorn is not imported here
def run_server(server: Any, listener: socket.socket) -> None:
    """Run a uvicorn server until SIGINT or SIGTERM, which end it and nothing else."""
    gc.freeze()  # passages and questions stay until the end, so no garbage collection needs to look through them
    try:
        with _signals_end(server):
            asyncio.run(server.serve(sockets=[listener]))
    finally:
        gc.unfreeze()


# Any: uvicorn is not imported before it is needed
def make_server(service: Service, *, grace_s: float = 20.0) -> Any:
    """Create the uvicorn server. `await server.serve(sockets=[...])` runs it, `server.should_exit = True` ends it.

    Args:
        service: the service.
        grace_s: maximum time for pending requests to finish at shutdown, in seconds.
    """
    uvicorn = require("uvicorn")
    from .connections import Server

    config = uvicorn.Config(
        make_app(service),
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,
    )
    return Server(config, service.limits)


@contextmanager
def _signals_end(server: Any) -> Iterator[None]:
    """Make SIGINT and SIGTERM end the server, and nothing else.

    While it runs, uvicorn handles them itself; afterwards it raises them again for the previous handlers. Without
    this context a process that shut down cleanly would exit with the status of one that was killed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handled() -> None:
        server.should_exit = True

    with signals_handled(handled):
        yield
