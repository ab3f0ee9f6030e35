"""Transfer of weights to vLLM servers: through a shared folder, or by vLLM's own broadcast between GPUs.

Written for vLLM 0.28 to 0.32: earlier versions use other names on the trainer's side of the broadcast.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor

from zerosearch_env.errors import ConfigError, EngineError, require, sentence
from zerosearch_env.llm.http.client import JsonClient, StatusError
from zerosearch_env.llm.http.loop import LoopThread
from zerosearch_env.llm.http.options import HttpOptions

from .weights import drop_old_weights, named_weights, write_weights

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import TrainerInitInfo

_log = logging.getLogger(__name__)

WORKER_EXTENSION = "zerosearch_agents.sampling.vllm.worker.LearnerWeights"
OPTION = """--weight-transfer-config '{"backend": "nccl"}'"""


class WeightSync(Protocol):
    """Transfers the learner's weights to servers, one at a time or all in parallel."""

    def prepare(self, *, leader: bool) -> None:
        """Do the work common to all servers; every process of the learner calls this.

        Raises:
            TrainingError: if it fails.
        """
        ...

    async def give(self, url: str, control: JsonClient) -> None:
        """Transfer the weights to one server; only the leader calls this, after `prepare`.

        Args:
            url: the server's address.
            control: a client for this server only.

        Raises:
            EngineError: if the server could not load the weights.
        """
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


class FolderSync:
    """Writes a new folder of safetensors files per update; the servers must see it under the same path.

    Servers with our worker extension load it through the extension, others through vLLM's own reload.

    Args:
        model: the model with the weights.
        folder: the parent of the folders; nothing else may write there.
    """

    def __init__(self, model: torch.nn.Module, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._path = folder
        self._count = 0
        self._extended: dict[str, bool] = {}  # whether a server has our worker extension, if known

    def prepare(self, *, leader: bool) -> None:
        """See `WeightSync.prepare`: writes the folder, and removes folders that are no longer read."""
        self._path = write_weights(self._model, self._folder, self._count, leader=leader)
        self._count += 1
        if leader:
            drop_old_weights(self._folder)

    async def give(self, url: str, control: JsonClient) -> None:
        """See `WeightSync.give`."""
        if self._extended.get(url) is not False:
            body: dict[str, Any] = {"method": "zerosearch_load_folder", "args": [str(self._path)]}
            try:
                # A server without the extension answers 500; a retry would not help.
                await control.request("POST", "/collective_rpc", body=body, final=(500,))
                self._extended[url] = True
            except EngineError as error:
                refusal = error.__cause__
                if self._extended.get(url) or not (isinstance(refusal, StatusError) and refusal.status == 500):
                    raise
                _log.warning("%s runs without --worker-extension-cls %s; its own reload is used", url, WORKER_EXTENSION)
                self._extended[url] = False
        if self._extended[url] is False:
            body = {"method": "reload_weights", "kwargs": {"weights_path": str(self._path)}}
            await control.request("POST", "/collective_rpc", body=body, final=(500,))

    def close(self) -> None:
        """See `WeightSync.close`; the folders are removed."""
        shutil.rmtree(self._folder, ignore_errors=True)


class BroadcastSync:
    """vLLM's native weight transfer: NCCL from this process's GPU to the GPUs of each server, which must be others.

    The servers run with `OPTION`. Each server has a separate NCCL group with the learner, made when it first receives
    weights, so that a failing server does not affect the others. The servers are updated one after the other.

    Args:
        model: the model with the weights.
        loop: event loop of the requests to the servers.
        address: address at which servers reach this machine; None: the local address that routes to the server.
        timeout_s: timeout per server, in seconds.

    Raises:
        ConfigError: if the model is not on a GPU.
        MissingExtraError: if vLLM is not installed here; its trainer side is needed.
    """

    def __init__(
        self, model: torch.nn.Module, loop: LoopThread, *, address: str | None = None, timeout_s: float = 600.0
    ) -> None:
        self._device = next(model.parameters()).device
        check_device(self._device)
        require("vllm")
        self._source = _weight_source(model)
        self._loop = loop
        self._address = address
        self._timeout_s = timeout_s
        self._groups: dict[str, Any] = {}
        self._turn = asyncio.Lock()

    def prepare(self, *, leader: bool) -> None:
        """See `WeightSync.prepare`: nothing to do, the weights are sent directly from the model."""

    async def give(self, url: str, control: JsonClient) -> None:
        """See `WeightSync.give`.

        Raises:
            EngineError: if the server refused, or is not configured for the transfer.
            TransferHangsError: if the transfer timed out. It cannot be cancelled, so the run must end.
        """
        async with self._turn:
            try:
                if url not in self._groups:
                    reply = await control.request("GET", "/get_world_size")
                    routes, workers = _Routes(url, self._loop, self._timeout_s), _world_size(reply.data)
                    self._groups[url] = await self._in_thread(lambda: self._meet(routes, workers), routes)
                group = self._groups[url]
                await self._in_thread(group.send_weights, group.client)
            except BaseException:
                # After a failure the two sides may be out of step: make a new group next time.
                self._groups.pop(url, None)
                raise

    def close(self) -> None:
        """See `WeightSync.close`."""
        self._groups.clear()

    def _meet(self, routes: _Routes, workers: int) -> Any:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        address = self._address or address_towards(routes.url)
        info = trainer_info(address, free_port(address), 1 + workers)
        return WeightTransferTrainerFactory.trainer_init(info, client=routes, source=self._source)

    async def _in_thread(self, function: Callable[[], Any], routes: _Routes) -> Any:
        """Run the function in a new thread and return its result. Not in a pool's thread: it may never return."""
        # Errors are passed as values: asyncio would log an exception that is never retrieved, which happens when the
        # server's error is raised instead.
        done: concurrent.futures.Future[tuple[Any, Exception | None]] = concurrent.futures.Future()

        def work() -> None:
            try:
                if self._device.type == "cuda":
                    torch.cuda.set_device(self._device)  # the current device is per thread
                    torch.cuda.synchronize(self._device)  # the optimizer's update runs on another stream
                done.set_result((function(), None))
            except Exception as error:
                done.set_result((None, error))

        threading.Thread(target=work, name="zerosearch-weights", daemon=True).start()
        # If a server refuses, this side is alone in the collective and would wait for a long time.
        waited: list[asyncio.Future[Any]] = [asyncio.wrap_future(done), asyncio.wrap_future(routes.refused)]
        await asyncio.wait(waited, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if routes.refused.done():
            raise routes.refused.result()
        if not done.done():
            raise TransferHangsError(
                f"the broadcast of weights to {routes.url} did not end within vllm.timeout_s = {self._timeout_s:g} s: "
                "the server stopped during it, or the GPUs cannot reach each other (NCCL_DEBUG=INFO shows details). "
                "Resume the run."
            )
        result, error = done.result()
        if isinstance(error, EngineError):
            raise error
        if error is not None:  # vLLM's trainer side may raise any exception
            raise EngineError(f"weights to {routes.url}: {type(error).__name__}: {error}") from error
        return result


class TransferHangsError(EngineError):
    """A broadcast is stuck on the learner's own GPU, which cannot compute anything after it."""


class _Routes:
    """vLLM's protocol `VLLMWeightSyncClient` over HTTP. No retries: each request is one side of a collective."""

    def __init__(self, url: str, loop: LoopThread, timeout_s: float) -> None:
        self.url = url
        self.refused: concurrent.futures.Future[EngineError] = concurrent.futures.Future()
        """The error of a server that does not take part in a collective already begun here."""
        self._loop = loop
        self._client = JsonClient([url], HttpOptions(attempts=1, read_s=timeout_s, total_s=timeout_s), loop=loop)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        try:
            self._post("/init_weight_transfer_engine", {"init_info": init_info})
        except EngineError as error:
            self.refused.set_result(EngineError(f"{sentence(error)} Was it started with {OPTION}?"))
            raise

    def start_weight_update(self) -> None:
        self._post("/start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        try:
            self._post("/update_weights", {"update_info": update_info})
        except EngineError as error:
            self.refused.set_result(TransferHangsError(f"a server failed during a broadcast: {error}"))
            raise

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._post("/finish_weight_update", {"weight_version": weight_version})

    def _post(self, path: str, body: dict[str, Any]) -> None:
        self._loop.run(self._client.request("POST", path, body=body))


def trainer_info(address: str, port: int, world_size: int) -> TrainerInitInfo:
    """Settings of vLLM's trainer side: address and port of the meeting point, and number of processes with learner."""
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=world_size, rank=0)


def check_device(device: torch.device) -> None:
    """Raise `ConfigError` if the learner is not on a GPU."""
    if device.type != "cuda":
        raise ConfigError(
            'vllm.sync = "nccl" sends weights from GPU to GPU, and the learner is on the CPU: use vllm.sync = "folder".'
        )


def _weight_source(model: torch.nn.Module) -> Any:
    """A vLLM `WeightSource` with our names: as in a checkpoint, a tied head only once."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Source(WeightSource):  # type: ignore[misc]
        def metadata(self) -> list[Any]:
            return [ParamMeta(name, value.dtype, tuple(value.shape)) for name, value in named_weights(model)]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return named_weights(model)

    return Source()


def _world_size(data: Any) -> int:
    size = data.get("world_size") if isinstance(data, dict) else None
    if type(size) is not int or size < 1:
        raise EngineError(f"expected the number of a server's processes from /get_world_size, got {str(data)[:200]}")
    return size


def address_towards(url: str) -> str:
    """This machine's IPv4 address on the route to a server; vLLM's meeting point listens on it.

    Raises:
        EngineError: if there is no route.
    """
    host = urlsplit(url).hostname
    try:
        (*_, target), *_ = socket.getaddrinfo(host, 9, family=socket.AF_INET, type=socket.SOCK_DGRAM)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # sends nothing: it only selects the route
            return str(probe.getsockname()[0])
    except OSError as cause:
        raise EngineError(f"no route to {host!r}: {cause}; set this machine's address in vllm.sync_address") from cause


def free_port(address: str) -> int:
    """A free port of this machine.

    Raises:
        EngineError: if this machine does not have the address.
    """
    try:
        with socket.socket() as listener:
            listener.bind((address, 0))
            return int(listener.getsockname()[1])
    except OSError as cause:
        raise EngineError(f"vllm.sync_address {address!r} is not an address of this machine: {cause}") from cause
