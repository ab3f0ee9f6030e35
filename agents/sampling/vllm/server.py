"""vLLM servers as a turn engine: completions of token ids, with weights transferred by `sync`.

It uses only routes that exist since vLLM 0.28: `/v1/completions`, and with `VLLM_SERVER_DEV_MODE=1` the routes
`/pause`, `/resume`, `/collective_rpc`, `/reset_prefix_cache`, `/update_weight_version`, `/weight_info` and those of the
weight transfer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zerosearch_env.errors import EngineError
from zerosearch_env.llm.http.client import JsonClient, StatusError
from zerosearch_env.llm.http.loop import LoopThread
from zerosearch_env.llm.http.options import HttpOptions

from ...processes.workers import Workers
from ..engine import TurnLimits, TurnReply, TurnRequest, as_floats
from .parameters import vllm_parameters
from .sync import TransferHangsError, WeightSync

_log = logging.getLogger(__name__)
_ATTEMPTS = 4


@dataclass(frozen=True)
class _Failed:
    error: EngineError


class VLLMServers:
    """See `TurnEngine`. Failed requests are retried, on another server if there is one.

    Args:
        urls: addresses of the servers, without "/v1"; all serve the learner's model.
        limits: sampling settings.
        sync: makes the weight transfer, given a name unique to this learner and the event loop of the requests. None:
            the servers keep their weights, and need no more than `/v1/completions`.
        concurrency: maximum turns in progress.
        timeout_s: timeout for a turn or for loading weights, in seconds.
        workers: the learner's processes; only worker 0 sends weights to the servers.

    Raises:
        EngineError: if a server lacks a required route.
    """

    def __init__(
        self,
        urls: Sequence[str],
        limits: TurnLimits,
        *,
        sync: Callable[[str, LoopThread], WeightSync] | None,
        concurrency: int,
        timeout_s: float,
        workers: Workers | None = None,
    ) -> None:
        self.urls = tuple(urls)
        self._limits = limits
        self._run = secrets.token_hex(4)  # distinguishes our weights from those of other learners and earlier runs
        self._loads = 0
        self._workers = workers or Workers()
        self._options = HttpOptions(concurrency=max(concurrency, 1), read_s=timeout_s, total_s=timeout_s)
        self._loop = LoopThread("zerosearch-vllm")
        self._sync = None if sync is None else sync(self._run, self._loop)
        self._live = self.urls  # servers with the newest weights
        self._client = self._connect(self.urls)
        self._controls = {url: self._connect([url], attempts=_ATTEMPTS) for url in self.urls}
        self._replies: queue.SimpleQueue[tuple[int, TurnReply | _Failed | None]] = queue.SimpleQueue()
        self._futures: dict[int, concurrent.futures.Future[None]] = {}
        self._label = ""  # names the weights on the servers; empty: the ones they started with
        if self._sync is not None and self._workers.rank == 0:
            for url in self.urls:
                self._loop.run(self._resume(url))

    def submit(self, number: int, request: TurnRequest) -> None:
        """See `TurnEngine.submit`."""
        self._futures[number] = self._loop.submit(self._turn(number, request))

    def wait(self) -> list[tuple[int, TurnReply]]:
        """See `TurnEngine.wait`."""
        finished: list[tuple[int, TurnReply]] = []
        woken = False
        while not finished and not woken:
            items = [self._replies.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    items.append(self._replies.get_nowait())
            for number, reply in items:
                if reply is None:
                    woken = True
                elif self._futures.pop(number, None) is None:
                    continue  # a reply to a cancelled turn is not needed
                elif isinstance(reply, _Failed):
                    raise reply.error
                else:
                    finished.append((number, reply))
        return finished

    def wake(self) -> None:
        """See `TurnEngine.wake`."""
        self._replies.put((-1, None))

    def cancel(self, number: int) -> None:
        """See `TurnEngine.cancel`."""
        future = self._futures.pop(number, None)
        if future is not None:
            future.cancel()

    def load(self, version: int) -> None:
        """See `TurnEngine.load`: every server loads the weights.

        A server that fails would sample with old weights, so it is excluded until the next update, with a warning.
        With several workers, all of them must call this method.
        """
        assert self._sync is not None, "without a weight transfer nothing is loaded"
        leader = self._workers.rank == 0
        self._workers.gather(None)  # wait until no worker has turns in progress
        self._sync.prepare(leader=leader)
        label = f"{self._run}-{self._loads}-{version}"
        self._loads += 1
        failures: dict[str, str] = {}
        if leader:
            failures = self._loop.run(self._load_everywhere(label))
        failures, label = self._workers.gather((failures, label))[0]
        if len(failures) == len(self.urls):
            raise EngineError(f"no server could load the learner's weights. {_ADVICE} {'; '.join(failures.values())}")
        for url, failure in failures.items():
            _log.warning("%s is not used until the next weight update: %s", url, failure)
        live = tuple(url for url in self.urls if url not in failures)
        if live != self._live:
            self._live, self._client = live, self._connect(live)
        self._label = label

    def check(self) -> None:
        """Check that every server that answers still has the weights it was given; a restarted one does not.

        Raises:
            EngineError: if a server has sampled with other weights.
        """
        if self._label and self._workers.rank == 0:
            self._loop.run(self._check_versions())

    def before_training(self) -> None:
        """See `check`; there is no memory to free."""
        self.check()

    def close(self) -> None:
        """See `TurnEngine.close`."""
        self._loop.close()
        if self._sync is not None:
            self._sync.close()

    async def _turn(self, number: int, request: TurnRequest) -> None:
        body = {
            "model": "",
            "prompt": list(request.prompt_ids),
            "return_token_ids": True,
            **vllm_parameters(self._limits, request),
        }
        home = self._live[request.home % len(self._live)]
        try:
            reply = await self._client.request("POST", "/v1/completions", body=body, prefer=home)
            item: TurnReply | _Failed = parse_completion(reply.data)
        except EngineError as error:
            item = _Failed(error)
        except ValueError as error:
            item = _Failed(EngineError(f"{reply.url}/v1/completions: {error}", attempts=reply.attempts))
        self._replies.put((number, item))

    def _connect(self, urls: Sequence[str], **changes: int) -> JsonClient:
        return JsonClient(urls, replace(self._options, **changes), loop=self._loop)

    async def _load_everywhere(self, label: str) -> dict[str, str]:
        """Load the weights on all servers; returns the error messages by server."""
        results = await asyncio.gather(*(self._load_one(url, label) for url in self.urls), return_exceptions=True)
        failures: dict[str, str] = {}
        for url, result in zip(self.urls, results, strict=True):
            if isinstance(result, EngineError) and not isinstance(result, TransferHangsError):
                failures[url] = str(result)
            elif result is not None:
                raise result
        return failures

    async def _load_one(self, url: str, label: str) -> None:
        control = self._controls[url]
        # Cancelled turns may still be running there; none may run while the weights change.
        await control.request("POST", "/pause", params={"mode": "abort"})
        try:
            assert self._sync is not None
            await self._sync.give(url, control)
            reply = await control.request("POST", "/reset_prefix_cache")
            if not isinstance(reply.data, dict) or reply.data.get("success") is not True:
                raise EngineError(f"{url} could not empty its prefix cache, which holds results of old weights")
            await control.request("POST", "/update_weight_version", body={"new_version": label})
        except BaseException:
            with contextlib.suppress(EngineError):  # if the server is gone, the first error is more useful
                await control.request("POST", "/resume")
            raise
        await control.request("POST", "/resume")

    async def _resume(self, url: str) -> None:
        """Resume a server: a learner that was killed while sending weights leaves its servers paused."""
        try:
            await self._controls[url].request("POST", "/resume")
        except EngineError as error:
            if isinstance(error.__cause__, StatusError) and error.__cause__.status == 404:
                raise EngineError(f"{url} has no route /resume. {_ADVICE}") from error
            _log.warning("%s does not answer: %s", url, error)

    async def _check_versions(self) -> None:
        for url in self._live:
            try:
                reply = await self._controls[url].request("GET", "/weight_info")
            except EngineError as error:
                _log.warning("%s no longer answers: %s", url, error)
                continue  # other servers took its turns; the next weight update excludes it
            got = reply.data.get("weight_version") if isinstance(reply.data, dict) else None
            if got != self._label:
                raise EngineError(
                    f"{url} has the weights {got!r} instead of {self._label!r}: it was restarted, or something else "
                    "changed them. Its turns cannot be used for training; resume the run."
                )


_ADVICE = (
    'Servers must run with VLLM_SERVER_DEV_MODE=1 and, with vllm.sync = "folder", see vllm.sync_folder under the same '
    "name as this machine."
)


def parse_completion(data: Any) -> TurnReply:
    """Parse a response of `/v1/completions` with `return_token_ids` and `logprobs`.

    Raises:
        ValueError: if the response has a different form.
    """
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise ValueError(f"expected choices[0], got {str(data)[:200]}")
    ids, logprobs = choice.get("token_ids"), choice.get("logprobs")
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise ValueError(f"expected choices[0].token_ids (vLLM with return_token_ids), got {ids!r:.200}")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(values, list):
        raise ValueError(f"expected choices[0].logprobs.token_logprobs, got {logprobs!r:.200}")
    finish = choice.get("finish_reason")
    if finish not in ("stop", "length"):
        raise ValueError(f"expected the finish reason 'stop' or 'length', got {finish!r}")
    return TurnReply(tuple(ids), as_floats(values), finish == "stop")
