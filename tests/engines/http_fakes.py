"""Servers that answer by a script, and answers that no honest server gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from zerosearch_benchmarks.chat_server import Call, Reply


class Script:
    """One reply after the other, the last one for ever."""

    def __init__(self, *replies: Reply | Callable[[Call], Any]) -> None:
        self.replies, self.calls = list(replies), 0

    async def __call__(self, call: Call) -> Reply | None:
        self.calls += 1
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Reply):
            return reply
        result: Reply | None = await reply(call)
        return result


async def stall(call: Call) -> None:
    call.writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"result": [[')
    await call.writer.drain()
    await asyncio.sleep(30)


async def cut(call: Call) -> None:
    call.writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"organic": [')
    await call.writer.drain()


async def huge(call: Call) -> None:
    call.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        call.writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await call.writer.drain()
