"""`zerosearch plan`: counts compared with real models, closed forms, presets that load, and the dry run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers

from zerosearch_agents.config.train import ScaleConfig, load_preset, preset_names, with_algorithm
from zerosearch_agents.plan.cli import find_architecture, main
from zerosearch_agents.plan.dry_run import dry_run, shrunken_config
from zerosearch_agents.plan.estimate import (
    MODELS,
    Architecture,
    Hardware,
    Load,
    activation_bytes,
    forward_flops,
    make_plan,
    memory,
    read_architecture,
    step_seconds,
    transformers_config,
)
from zerosearch_agents.policy.policy import tiny_config
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_env.errors import ConfigError

pytestmark = pytest.mark.slow

PUBLISHED = {
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
}
LARGE = [name for name in preset_names() if name.endswith("-zerosearch")]
DRY = ["llama-3.2-3b-zerosearch", "qwen2.5-7b-zerosearch", "qwen3-4b-zerosearch"]
LOAD = Load(gpus=1, episode_tokens=1000, sampled_tokens=250)


def on_meta(config) -> int:
    """Number of parameters of a real model, built without allocating memory."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_real_model(name):
    model = MODELS[name]
    assert on_meta(transformers_config(model)) == model.parameters
    assert model.parameters == PUBLISHED.get(name, model.parameters)
    assert read_architecture(transformers_config(model).to_dict(), name) == model


@pytest.mark.parametrize("name", ["Qwen2.5-3B", "Qwen2.5-7B", "Qwen3-8B", "Llama-3.2-3B"])
def test_parameters_of_small_models(name):
    config = shrunken_config(MODELS[name], 320)
    assert read_architecture(config.to_dict(), "x").parameters == on_meta(config)
    assert config.tie_word_embeddings is MODELS[name].tied


def test_what_is_no_known_architecture_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'gpt2'"):
        read_architecture({"model_type": "gpt2"}, "x")
    with pytest.raises(ConfigError, match="no 'hidden_size'"):
        read_architecture({"model_type": "llama", "num_attention_heads": 2}, "x")
    with pytest.raises(ConfigError, match="--model NAME"):
        find_architecture("Qwen9-1B")
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(64, hidden=16, layers=1, mlp=16).to_dict()))
    assert find_architecture(str(tmp_path)).hidden == 16
    assert find_architecture("/models/Qwen3-4B") == MODELS["Qwen3-4B"]


def test_memory_in_closed_form():
    model = Architecture("llama", 8, 2, 2, 1, 4, 16, 100, True)
    attention, mlp = 8 * (8 + 4 + 4 + 8), 3 * 8 * 16
    assert model.parameters == 2 * (attention + mlp + 16) + 800 + 8
    config = load_preset("tiny")
    config = replace(config, rollout=replace(config.rollout, context_tokens=1000, slots=3))
    whole = model.parameters
    parts = memory(model, config, LOAD)
    assert [parts[name] for name in ("weights", "gradients", "optimizer (AdamW)")] == [4 * whole, 4 * whole, 8 * whole]
    assert parts["sampler's cache"] == 2 * 2 * 4 * 3 * 1000 * 4  # keys and values, layers, width, slots, tokens, bytes
    assert "reference" not in parts
    assert "sampler's whole copy" not in parts
    with_kl = memory(model, with_algorithm(config, "grpo"), replace(LOAD, gpus=4))
    assert with_kl["reference"] == with_kl["weights"] == 4 * -(-whole // 4)
    assert with_kl["sampler's whole copy"] == 4 * whole
    short = replace(config, scale=ScaleConfig(sampler_dtype="bfloat16"))
    assert memory(model, short, replace(LOAD, gpus=4))["sampler's whole copy"] == 2 * whole
    critic = memory(model, with_algorithm(config, "ppo"), replace(LOAD, gpus=2))["critic with its optimizer"]
    assert critic == 16 * -(-whole // 2)


def test_activations_grow_with_tokens_and_shrink_with_checkpointing():
    model = MODELS["Qwen2.5-3B"]
    plain = activation_bytes(model, 4096, bf16=False, checkpointing=False)
    assert plain == 2 * activation_bytes(model, 2048, bf16=False, checkpointing=False)
    assert activation_bytes(model, 4096, bf16=True, checkpointing=False) < 0.6 * plain
    assert activation_bytes(model, 4096, bf16=False, checkpointing=True) < plain / 15


def test_the_estimate_of_activations_is_near_what_autograd_keeps():
    config = tiny_config(64, hidden=64, layers=3, heads=4, kv_heads=2, mlp=192)
    model = transformers.AutoModelForCausalLM.from_config(config)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = model.base_model(input_ids=torch.zeros(1, 512, dtype=torch.int64), use_cache=False)
    estimate = activation_bytes(read_architecture(config.to_dict(), "x"), 512, bf16=False, checkpointing=False)
    assert alive is not None
    assert sum(kept.values()) == pytest.approx(estimate, rel=0.3)


def test_operations_and_seconds_in_closed_form():
    model = MODELS["Qwen3-4B"]
    products = model.layers * (model.layer_parameters - 2 * model.hidden)
    assert forward_flops(model, 10, 0, 0) == 20 * products
    assert forward_flops(model, 0, 0, 1) == 2 * model.vocab * model.hidden
    assert forward_flops(model, 1, 100, 0) - 2 * products == 2 * model.layers * model.queries * 100
    config = load_preset("qwen3-4b-zerosearch")
    one = step_seconds(model, config, Hardware(), LOAD)
    assert one["update"] == pytest.approx(1.5 * one["scoring"])  # forward and backward; policy and reference
    assert step_seconds(model, config, Hardware(), replace(LOAD, gpus=8))["update"] == pytest.approx(one["update"] / 8)
    again = step_seconds(model, config, Hardware(), replace(LOAD, checkpointing=True))
    assert again["update"] == pytest.approx(4 / 3 * one["update"])
    assert step_seconds(model, config, Hardware(mfu=0.2), LOAD)["update"] == pytest.approx(2 * one["update"])


def test_whether_it_fits_follows_the_memory():
    model, config = MODELS["Qwen2.5-3B"], load_preset("qwen2.5-3b-zerosearch")
    load = replace(LOAD, gpus=4, checkpointing=True)
    assert make_plan(model, config, Hardware(), load).fits
    assert not make_plan(model, config, Hardware(memory_gb=24), load).fits
    with pytest.raises(ConfigError, match="gpus must be a whole number of at least 1"):
        make_plan(model, config, Hardware(), replace(load, gpus=0))
    with pytest.raises(ConfigError, match="at most the context"):
        make_plan(model, config, Hardware(), replace(load, episode_tokens=9000))


def test_the_command_prints_the_table(capsys):
    assert main(["qwen2.5-7b-zerosearch", "--gpus", "8", "16", "--memory-gb", "141"]) == 0
    out = capsys.readouterr().out
    for part in ("7,615,616,512", "fits 141 GB", "optimizer (AdamW)", "tokens per second", "with activation"):
        assert part in out
    assert main(["quickstart", "--model", "Qwen3-0.6B", "--gpus", "1"]) == 0
    with pytest.raises(ConfigError, match="Did you mean"):
        main(["qwen2.5-7b-zerosearc"])


def test_large_presets_differ_in_model_and_noise_alone():
    """Therefore one dry run for each kind of model is enough."""
    presets = {name: load_preset(name) for name in LARGE}
    (first, *others) = presets.values()
    for config in others:
        rollout = replace(config.rollout, slots=first.rollout.slots)
        changes = {name: getattr(first, name) for name in ("policy", "output", "curriculum")}
        assert replace(config, rollout=rollout, **changes) == first
    assert {MODELS[presets[name].policy].kind for name in DRY} == {
        MODELS[config.policy].kind for config in presets.values()
    }
    assert {MODELS[presets[name].policy].tied for name in DRY} == {True, False}


@pytest.mark.parametrize("preset", DRY)
def test_a_preset_runs_dry(preset, tmp_path):
    config = load_preset(preset)
    rollout, environment = replace(config.rollout, group_size=3), replace(config.environment, max_turns=2)
    config = replace(config, rollout=rollout, environment=environment)
    result = dry_run(config, find_architecture(config.policy), tmp_path)
    rows = read_metrics(result.output / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["updates"] == 1 and row["kl"] >= 0 for row in rows)
    assert result.policy.model.config.model_type == MODELS[config.policy].kind
    assert not result.policy.model.training


def test_the_dry_run_of_the_command_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["tiny", "--gpus", "1", "--dry-run"]) == 0
    assert "dry run: 2 steps with a shrunken qwen3 model" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
