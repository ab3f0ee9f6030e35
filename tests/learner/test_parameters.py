"""The optimizer in 8 bits: refused where it cannot work, else the library's own."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import tiny
import torch

from zerosearch_agents.config.train import OptimizerConfig, TrainConfig
from zerosearch_agents.forward.fsdp import gradient_norm
from zerosearch_agents.processes.workers import Workers
from zerosearch_agents.training.optimizer import _eight_bit, make_optimizer
from zerosearch_env.errors import ConfigError


def test_eight_bits_are_refused_on_a_cpu():
    with pytest.raises(ConfigError, match="needs a GPU"):
        make_optimizer(tiny.tiny_policy().model, TrainConfig(optimizer=OptimizerConfig(eight_bit=True)))


def groups():
    """Parameters that say they are on a GPU."""
    return [{"params": [SimpleNamespace(device=torch.device("cuda"))], "weight_decay": 0.1}]


def test_eight_bits_without_the_library_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        _eight_bit(groups(), 1e-3, (0.9, 0.99))


def test_eight_bits_are_the_librarys_own_optimizer(monkeypatch):
    asked = {}
    optim = SimpleNamespace(AdamW8bit=lambda groups, **options: asked.update(options, groups=groups) or "optimizer")
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=optim))
    assert _eight_bit(groups(), 1e-3, (0.9, 0.99)) == "optimizer"
    assert asked["lr"] == 1e-3
    assert asked["betas"] == (0.9, 0.99)
    assert asked["groups"][0]["weight_decay"] == 0.1


def test_the_norm_of_a_long_gradient_is_exact():
    gradient = torch.full((1 << 24,), 1e-3)
    norm = gradient_norm(gradient, Workers(), sharded=False)
    assert norm == pytest.approx(1e-3 * 2**12, rel=1e-3)  # one sum in float32 is a percent too small
    assert gradient_norm(gradient[:100], Workers(), sharded=False) == float(gradient[:100].norm())
