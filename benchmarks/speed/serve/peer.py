"""A plain server of searches, as people write one: FastAPI and bm25s, one search per request in a thread pool.

Where FastAPI is not installed, Starlette takes its place, which does the same without FastAPI's own cost. It skips
everything that `zerosearch serve` does besides: batches, checks, dialects, noise, limits, counters. Its answers have
the form of Search-R1's server.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

Texts = Sequence[tuple[str, str]]
"""Titles and texts of passages."""

Search = Callable[[dict[str, Any]], list[Any]]
"""The body of a request -> one list of scored passages per query."""

FRAMEWORK = "FastAPI" if importlib.util.find_spec("fastapi") else "Starlette"
"""The framework of the peer."""


def serve_plainly(pipe: Connection, texts: Texts) -> None:
    """Serve the passages on a free port, which is sent through the pipe, until SIGTERM."""
    import bm25s
    import uvicorn

    passages = [{"id": str(i), "contents": f'"{title}"\n{text}'} for i, (title, text) in enumerate(texts)]
    index = bm25s.BM25()
    contents = [passage["contents"] for passage in passages]
    index.index(bm25s.tokenize(contents, stopwords=None, show_progress=False), show_progress=False)

    def search(body: dict[str, Any]) -> list[Any]:
        tokens = bm25s.tokenize(body["queries"], stopwords=None, return_ids=False, show_progress=False)
        numbers, scores = index.retrieve(tokens, k=body["topk"], show_progress=False, n_threads=0)
        return [
            [{"document": passages[n], "score": float(score)} for n, score in zip(row, values, strict=True)]
            for row, values in zip(numbers, scores, strict=True)
        ]

    app = _fastapi(search) if FRAMEWORK == "FastAPI" else _starlette(search)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after its own shutdown
    # asyncio sets TCP_NODELAY only if the protocol is named.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        pipe.send(listener.getsockname()[1])
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def _fastapi(search: Search) -> Any:
    from fastapi import FastAPI

    def retrieve(body: dict[str, Any]) -> Any:
        return {"result": search(body)}

    app = FastAPI()
    app.post("/retrieve")(retrieve)
    return app


def _starlette(search: Search) -> Any:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def retrieve(request: Request) -> JSONResponse:
        body = json.loads(await request.body())
        return JSONResponse({"result": await run_in_threadpool(search, body)})

    return Starlette(routes=[Route("/retrieve", retrieve, methods=["POST"])])
