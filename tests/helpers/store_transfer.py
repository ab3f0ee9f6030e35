"""A way of weights for machines without GPUs, put into vLLM's own weight transfer beside NCCL.

Both sides are vLLM's: its registries, its routes, its life cycle of an update, its group of processes. Only the wire is
another one: tensors go through the group's store, one by one. Servers learn of it by
`--worker-extension-cls store_transfer.Weights`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory

from zerosearch_agents.sampling.vllm.worker import mend_tied_head


@dataclass
class StoreInit(WeightTransferInitInfo):
    master_address: str
    master_port: int
    world_size: int
    rank_offset: int


@dataclass
class StoreUpdate(WeightTransferUpdateInfo):
    names: list[str]


@dataclass
class StoreTrainer(TrainerInitInfo):
    backend: ClassVar[str] = "store"
    master_address: str
    master_port: int
    world_size: int


class StoreEngine(WeightTransferEngine):
    init_info_cls, update_info_cls = StoreInit, StoreUpdate
    group: Any = None

    def init_transfer_engine(self, init_info: StoreInit) -> None:
        place = (init_info.master_address, init_info.master_port)
        self.group = StatelessProcessGroup.create(*place, init_info.rank_offset, init_info.world_size)

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        mend_tied_head(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))  # vLLM's own then waits for a GPU

    def receive_weights(self, update_info: StoreUpdate) -> None:
        for number, name in enumerate(update_info.names):
            if number == 3 and os.environ["STORE_TRANSFER_BREAKS"]:
                raise RuntimeError("the connection is lost")
            self.model.load_weights([(name, self.group.broadcast_obj(None, 0))])

    def shutdown(self) -> None:
        self.group = None


class StoreTrainerEngine(TrainerWeightTransferEngine):
    init_info_cls = StoreTrainer
    group: Any = None

    @classmethod
    def trainer_init(cls, init_info: StoreTrainer, *, client: Any, source: Any = None) -> StoreTrainerEngine:
        engine = cls(client=client, source=source)
        place = (init_info.master_address, init_info.master_port)
        worker = StoreInit(*place, init_info.world_size, 1)
        with ThreadPoolExecutor(1) as pool:
            met = pool.submit(client.init_weight_transfer_engine, asdict(worker))
            engine.group = StatelessProcessGroup.create(*place, 0, init_info.world_size)
            met.result()
        return engine

    def send_weights(self) -> None:
        names = [meta.name for meta in self.source.metadata()]
        self.client.start_weight_update()
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(self.client.update_weights, asdict(StoreUpdate(names)))
            for _, tensor in self.source:
                self.group.broadcast_obj(tensor.detach().cpu().to(torch.float32), 0)
            taken.result()
        self.client.finish_weight_update()


class Weights:
    """vLLM imports this before it makes the engine of the transfer."""


WeightTransferEngineFactory.register_engine("store", StoreEngine)
WeightTransferTrainerFactory.register_engine("store", StoreTrainerEngine)
