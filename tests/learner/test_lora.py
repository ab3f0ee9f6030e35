"""Low-rank adapters: what is trained, what the reference and the sampler see, what is saved."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import tiny
import torch

from zerosearch_agents.config.algorithms import AlgorithmConfig
from zerosearch_agents.config.lora import LoraShape
from zerosearch_agents.config.train import TrainConfig
from zerosearch_agents.policy.lora import make_adapter
from zerosearch_agents.policy.policy import load_policy
from zerosearch_agents.runs.checkpoint import checkpoint_paths, load_checkpoint
from zerosearch_agents.training.trainer import train
from zerosearch_env.errors import ConfigError

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed (extra lora)")
LORA = LoraShape(rank=4, alpha=8.0)
IDS = torch.arange(3, 30)[None]


def adapted(seed=0, **changes):
    """A policy's model, its logits before it had adapters, and adapters that do something."""
    model = tiny.tiny_policy().model
    before = model(IDS).logits.detach()
    adapter = make_adapter(model, TrainConfig(lora=replace(LORA, **changes)))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2, generator=generator)
    return model, before, adapter


@torch.no_grad()
def test_switched_off_the_model_is_the_initial_policy_to_the_bit():
    model, before, adapter = adapted()
    adapter.merge()
    assert not torch.equal(model(IDS).logits, before)
    with adapter.switched_off():
        assert torch.equal(model(IDS).logits, before)


@torch.no_grad()
def test_the_merged_model_computes_what_the_adapted_one_does_and_shares_the_rest():
    model, _, adapter = adapted()
    adapter.merge()
    merged = adapter.merged
    torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert merged.get_input_embeddings().weight is model.get_input_embeddings().weight
    assert merged.get_output_embeddings().weight is model.get_output_embeddings().weight


def test_only_adapters_are_trained_and_targets_choose_them():
    model, _, _ = adapted(targets=("q_proj", "v_proj"))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)


def test_a_layer_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match=r"lora\.targets nowhere"):
        adapted(targets=("nowhere",))


def weights_of(policy):
    return {name: value.numpy() for name, value in policy.model.state_dict().items()}


@pytest.mark.slow
def test_a_run_trains_saves_the_merged_policy_and_goes_on_to_the_same_bits(tmp_path):
    algorithm = AlgorithmConfig(minibatches=2, kl_coefficient=0.01, recompute_logprobs=True)
    config = tiny.tiny_train_config(tmp_path, steps=2, lora=LORA, algorithm=algorithm)
    whole = train(config, dataset=tiny.tiny_dataset())
    base, saved = weights_of(load_policy(config.policy)), weights_of(load_policy(whole.output / "policy"))
    assert saved.keys() == base.keys()
    changed = {name for name in base if not np.array_equal(base[name], saved[name])}
    assert changed
    assert all("proj" in name for name in changed)
    names = load_checkpoint(checkpoint_paths(whole.output / "checkpoints")[-1])[1]
    assert names
    assert all("lora_" in name for name in names)
    merged = weights_of(load_policy(checkpoint_paths(whole.output / "checkpoints")[-1]))
    for name, value in saved.items():
        np.testing.assert_array_equal(merged[name], value, err_msg=name)

    def stop(report):
        if report.step == 1:
            raise KeyboardInterrupt

    cut = replace(config, output=str(tmp_path / "cut"))
    with pytest.raises(KeyboardInterrupt):
        train(cut, dataset=tiny.tiny_dataset(), callback=stop)
    train(cut, dataset=tiny.tiny_dataset(), resume=True)
    again = weights_of(load_policy(tmp_path / "cut" / "policy"))
    for name, value in saved.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
