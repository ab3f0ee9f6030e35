"""Servers that answer by a script, and answers that no honest server gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from zerosearch_benchmarks.speed.chat_server import Call, Reply


class Script:
    """Answers with one reply after the other, the last one for ever; keeps what came in."""

    def __init__(self, *replies: Reply | Callable[[Call], Any]) -> None:
        self.replies = list(replies)
        self.calls: list[Call] = []
        self.times: list[float] = []

    async def __call__(self, call: Call) -> Reply | None:
        self.calls.append(call)
        self.times.append(time.monotonic())
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Reply):
            return reply
        result: Reply | None = await reply(call)
        return result


async def stall(call: Call) -> None:
    """Half a body, and then nothing."""
    call.writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"result": [[')
    await call.writer.drain()
    await asyncio.sleep(30)


async def cut(call: Call) -> None:
    """Half a body, and the end of the connection."""
    call.writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"organic": [')
    await call.writer.drain()


async def huge(call: Call) -> None:
    """A body without an end."""
    call.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        call.writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await call.writer.drain()
