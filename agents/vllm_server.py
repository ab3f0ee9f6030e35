"""vLLM servers as a turn engine: completions of token ids, and weights through a folder that the servers can read.

Only what every vLLM since 0.28 has is used: `/v1/completions`, and with `VLLM_SERVER_DEV_MODE=1` the routes
`/collective_rpc`, `/reset_prefix_cache`, `/update_weight_version` and `/weight_info`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zerosearch_env.errors import EngineError
from zerosearch_env.llm.client import JsonClient, StatusError
from zerosearch_env.llm.loop import LoopThread
from zerosearch_env.llm.options import HttpOptions

from .engine_sampler import TurnLimits, TurnReply, TurnRequest, as_floats
from .team import Team
from .vllm_weights import drop_old_weights, write_weights

_log = logging.getLogger(__name__)
_ATTEMPTS = 4
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Waits for turns that were cancelled to leave a server's cache."""

WORKER_EXTENSION = "zerosearch_agents.vllm_worker.LearnerWeights"


@dataclass(frozen=True)
class _Failed:
    error: EngineError


class VLLMServers:
    """See `TurnEngine`. Requests that fail are tried again, on another server where there is one.

    Args:
        urls: addresses of the servers, without "/v1"; all serve the learner's model.
        model: the learner's model, whose weights are sent.
        limits: how turns are sampled.
        folder: where weights are written; the servers must see it under the same name.
        concurrency: turns on their way at once.
        timeout_s: longest time of a turn or of a loading of weights, in seconds.
        team: of the learner; only worker 0 talks to the servers about weights.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: torch.nn.Module,
        limits: TurnLimits,
        *,
        folder: Path,
        concurrency: int,
        timeout_s: float,
        team: Team | None = None,
    ) -> None:
        self.urls = tuple(urls)
        self._model = model
        self._limits = limits
        self._run = secrets.token_hex(4)  # what another learner sends, or an earlier run has left, is not ours
        self._folder = folder / self._run
        self._loads = 0
        self._team = team or Team()
        self._options = HttpOptions(concurrency=max(concurrency, 1), read_s=timeout_s, total_s=timeout_s)
        self._loop = LoopThread("zerosearch-vllm")
        self._live = self.urls  # those that have the newest weights
        self._client = self._connect(self.urls)
        self._controls = {url: self._connect([url], attempts=_ATTEMPTS) for url in self.urls}
        self._replies: queue.SimpleQueue[tuple[int, TurnReply | _Failed | None]] = queue.SimpleQueue()
        self._futures: dict[int, concurrent.futures.Future[None]] = {}
        self._label = ""  # of the weights that the servers have; empty: those that they were started with
        self._extended: dict[str, bool] = {}  # whether a server has our worker extension, where that is known

    def submit(self, number: int, request: TurnRequest) -> None:
        """See `TurnEngine.submit`."""
        self._futures[number] = self._loop.submit(self._turn(number, request))

    def wait(self) -> list[tuple[int, TurnReply]]:
        """See `TurnEngine.wait`."""
        found: list[tuple[int, TurnReply]] = []
        woken = False
        while not found and not woken:
            items = [self._replies.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    items.append(self._replies.get_nowait())
            for number, reply in items:
                if reply is None:
                    woken = True
                elif self._futures.pop(number, None) is None:
                    continue  # cancelled, and answered all the same: nobody waits for it
                elif isinstance(reply, _Failed):
                    raise reply.error
                else:
                    found.append((number, reply))
        return found

    def wake(self) -> None:
        """See `TurnEngine.wake`."""
        self._replies.put((-1, None))

    def cancel(self, number: int) -> None:
        """See `TurnEngine.cancel`."""
        future = self._futures.pop(number, None)
        if future is not None:
            future.cancel()

    def load(self, version: int) -> None:
        """See `TurnEngine.load`: a new folder, then every server reads it.

        A server that cannot is left out until the next time, with a warning: it would sample with old weights. With
        several workers all of them must call this.
        """
        leader = self._team.rank == 0
        path = write_weights(self._model, self._folder, self._loads, leader=leader)
        label = f"{self._run}-{self._loads}-{version}"
        self._loads += 1
        failures: dict[str, str] = {}
        if leader:
            failures = self._loop.run(self._load_everywhere(path, label))
            drop_old_weights(self._folder)
        failures, label = self._team.gather((failures, label))[0]
        if len(failures) == len(self.urls):
            raise EngineError(
                f"no server could take over the learner's weights. {_ADVICE} {'; '.join(failures.values())}"
            )
        for url, failure in failures.items():
            _log.warning("%s is left out until the next update of the weights: %s", url, failure)
        live = tuple(url for url in self.urls if url not in failures)
        if live != self._live:
            self._live, self._client = live, self._connect(live)
        self._label = label

    def check(self) -> None:
        """Checks that every server that answers still has the weights it was given: one that was restarted has not.

        Raises:
            EngineError: a server has sampled with other weights.
        """
        if self._label and self._team.rank == 0:
            self._loop.run(self._check_versions())

    def rest(self) -> None:
        """See `check`; there is nothing to free."""
        self.check()

    def close(self) -> None:
        """See `TurnEngine.close`; the folders with weights are removed."""
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _turn(self, number: int, request: TurnRequest) -> None:
        body = {
            "model": "",
            "prompt": list(request.prompt_ids),
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "temperature": self._limits.temperature,
            # Absent fields would be taken from the model's generation config.
            **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
            **{"presence_penalty": 0.0, "frequency_penalty": 0.0, "n": 1},
            **{"logprobs": 0, "return_token_ids": True},
            "stop": list(self._limits.stop_strings),
            "stop_token_ids": list(self._limits.end_ids),
            # Stop strings are matched in the text as our own decoding gives it.
            **{"include_stop_str_in_output": True, "skip_special_tokens": False},
            "spaces_between_special_tokens": False,
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
        client = JsonClient(urls, replace(self._options, **changes))
        client.on_connect = self._loop.on_close
        return client

    async def _load_everywhere(self, path: Path, label: str) -> dict[str, str]:
        """What went wrong, by server."""
        results = await asyncio.gather(*(self._load_one(url, path, label) for url in self.urls), return_exceptions=True)
        failures: dict[str, str] = {}
        for url, result in zip(self.urls, results, strict=True):
            if isinstance(result, EngineError):
                failures[url] = str(result)
            elif result is not None:
                raise result
        return failures

    async def _load_one(self, url: str, path: Path, label: str) -> None:
        control = self._controls[url]
        if self._extended.get(url) is not False:
            body: dict[str, Any] = {"method": "zerosearch_load_folder", "args": [str(path)]}
            try:
                # 500 is what a server without the extension answers; there is no use in asking again.
                await control.request("POST", "/collective_rpc", body=body, final=(500,))
                self._extended[url] = True
            except EngineError as error:
                refusal = error.__cause__
                if self._extended.get(url) or not (isinstance(refusal, StatusError) and refusal.status == 500):
                    raise
                _log.warning("%s runs without --worker-extension-cls %s; its own reload is used", url, WORKER_EXTENSION)
                self._extended[url] = False
        if self._extended[url] is False:
            body = {"method": "reload_weights", "kwargs": {"weights_path": str(path)}}
            await control.request("POST", "/collective_rpc", body=body, final=(500,))
        await self._empty_cache(url)
        await control.request("POST", "/update_weight_version", body={"new_version": label})

    async def _empty_cache(self, url: str) -> None:
        for pause_s in (*_PAUSES_S, 0.0):
            reply = await self._controls[url].request("POST", "/reset_prefix_cache")
            success = reply.data.get("success") if isinstance(reply.data, dict) else None
            if success is True:
                return
            if success is not False:
                break
            await asyncio.sleep(pause_s)
        raise EngineError(f"{url} could not empty its prefix cache, which holds results of old weights; is it busy?")

    async def _check_versions(self) -> None:
        for url in self._live:
            try:
                reply = await self._controls[url].request("GET", "/weight_info")
            except EngineError as error:
                _log.warning("%s does not answer any more: %s", url, error)
                continue  # the others have taken over; the next update of the weights leaves it out
            got = reply.data.get("weight_version") if isinstance(reply.data, dict) else None
            if got != self._label:
                raise EngineError(
                    f"{url} has the weights {got!r} instead of {self._label!r}: it was restarted, or somebody else has "
                    "changed them. What it sampled cannot be trained on; resume the run."
                )


_ADVICE = (
    "They must run with VLLM_SERVER_DEV_MODE=1 and see the folder vllm.sync_folder under the same name as this machine."
)


def parse_completion(data: Any) -> TurnReply:
    """The turn in the answer of `/v1/completions` with `return_token_ids` and `logprobs`.

    Raises:
        ValueError: it has another shape.
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
