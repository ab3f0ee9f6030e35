"""Low-rank adapters in a policy: disabled for the reference, merged for the sampler and for saving.

The adapters are inside the policy's model. Its base weights are frozen and never change, not even by rounding:
merging writes into the sampler's model, which has its own adapted layers and shares everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

import contextlib
import copy
import warnings
from typing import Any

import torch

from zerosearch_env.checks import check_whole_number
from zerosearch_env.errors import ConfigError, require

from ..config.lora import LoraShape
from ..config.train import TrainConfig


class Adapter:
    """The low-rank adapters of a model, and a plain model with the adapters merged.

    Args:
        adapted: peft's wrapper around the model with adapters.
    """

    def __init__(self, adapted: Any) -> None:
        self._adapted = adapted
        self._layers: dict[str, Any] = {}
        tuner_layer = require("peft.tuners.lora").LoraLayer
        for name, module in adapted.get_base_model().named_modules():
            if isinstance(module, tuner_layer):
                self._layers[name] = module
        self.merged = self._plain()
        self.merge()

    def switched_off(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model computes without its adapters."""
        switched: contextlib.AbstractContextManager[None] = self._adapted.disable_adapter()
        return switched

    @torch.no_grad()
    def merge(self) -> None:
        """Update the merged model with the current adapters."""
        modules = dict(self.merged.named_modules())
        for name, layer in self._layers.items():
            weight, adapter = modules[name].weight, layer.active_adapters[0]
            torch.add(layer.get_base_layer().weight, layer.get_delta_weight(adapter).to(weight.dtype), out=weight.data)

    def unload(self) -> Any:
        """The merged model, up to date: the trained policy as an ordinary model."""
        self.merge()
        return self.merged

    def _plain(self) -> Any:
        """A copy of the model without adapters: adapted layers get their own weights, everything else is shared."""
        model = self._adapted.get_base_model()
        shared = {id(parameter): parameter for parameter in model.parameters()}
        shared |= {id(buffer): buffer for buffer in model.buffers()}
        plain = copy.deepcopy(model, shared)
        modules = dict(plain.named_modules())
        for name in self._layers:
            path, _, last = name.rpartition(".")
            layer = modules[name].get_base_layer()
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
            setattr(modules[path], last, layer)
        plain.__dict__.pop("peft_config", None)
        if hasattr(plain, "_hf_peft_config_loaded"):
            plain._hf_peft_config_loaded = False
        return plain.eval()


def make_adapter(model: Any, config: TrainConfig) -> Adapter | None:
    """Freeze the model and add adapters, if `lora.rank` is above 0; otherwise return None.

    Raises:
        ConfigError: if no layer has one of the names in `lora.targets`.
        MissingExtraError: if peft is not installed.
    """
    return Adapter(add_lora(model, config.lora, seed=config.seed)) if config.lora.rank else None


def sampled_model(model: Any, adapter: Adapter | None) -> Any:
    """The model that a sampler uses: the policy itself or, with adapters, the merged model."""
    return model if adapter is None else adapter.merged


def add_lora(model: PreTrainedModel, shape: LoraShape, *, seed: int) -> Any:
    """Freeze a model and add adapters to its linear layers in place; returns peft's wrapper around it.

    Raises:
        ConfigError: if the rank is below 1, or no layer has one of the names.
        MissingExtraError: if peft is not installed.
    """
    check_whole_number("lora.rank", shape.rank)
    torch, peft = require("torch"), require("peft")
    options = peft.LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        lora_dropout=0.0,
        target_modules=list(shape.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 uses a deprecated name in Transformers 5.2x; the user cannot act on that warning.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, options)
        except ValueError as cause:  # peft raises it when there is no such layer
            raise ConfigError(f"lora.targets {', '.join(shape.targets)} cannot be adapted: {cause}") from cause
