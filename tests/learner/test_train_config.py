from __future__ import annotations

import dataclasses
import inspect
import json
import math
from pathlib import Path

import pytest

import zerosearch_agents.config.train as config_module
from zerosearch_agents.config.train import (
    FREE_FIELDS,
    AlgorithmConfig,
    CurriculumConfig,
    OptimizerConfig,
    RolloutConfig,
    TrainConfig,
    dump_config,
    flatten_config,
    load_preset,
    parse_config,
    preset_names,
    read_config,
)
from zerosearch_agents.policy.files import policy_path
from zerosearch_agents.runs.output import config_differences
from zerosearch_agents.training.cli import parse_command
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.errors import ConfigError


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_toml(name):
    config = load_preset(name)
    assert parse_config(dump_config(config)) == config
    assert config != TrainConfig()


def test_the_papers_setting():
    config = load_preset("qwen2.5-3b-zerosearch")
    assert (config.rollout.prompts, config.rollout.group_size, config.rollout.turn_tokens) == (64, 5, 500)
    assert (config.rollout.context_tokens, config.optimizer.learning_rate) == (4096, 1e-6)
    assert (config.algorithm.kl_coefficient, config.algorithm.kl_estimator) == (0.001, "k3")
    assert (config.curriculum.schedule, config.curriculum.start, config.curriculum.end) == ("exp", 0.0, 0.25)
    assert config.environment.reward == "f1"


def test_a_preset_of_ones_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("seed = 3\n[optimizer]\nlearning_rate = 1\n[data.world]\nhops = [2]\n")
    config = load_preset(str(file))
    assert config == read_config(file)
    assert (config.seed, config.optimizer.learning_rate, config.data.world.hops) == (3, 1.0, (2,))
    assert type(config.optimizer.learning_rate) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 1", "Did you mean 'steps'"),
        ("[rollout]\nprompt = 1", "Did you mean 'rollout.prompts'"),
        ("steps = '1'", "steps must be of type int, got '1'"),
        ("steps = true", "steps must be of type int"),
        ("seed = 1.5", "seed must be of type int"),
        ("rollout = 3", "rollout must be a table"),
        ("[algorithm]\nadvantage = 'gpro'", "Did you mean 'grpo'"),
        ("steps = ", "not valid TOML"),
        ("steps = 0", "steps must be a number above 0, got 0"),
        ("[curriculum]\nend = 1.5", "curriculum.end must be a number of at least 0 and at most 1, got 1.5"),
        ("[environment]\nnoise_kind = ['counterfactal']", "Did you mean 'counterfactual'"),
        ("[environment]\nnoise_kind = ['empty=0.5,outage=0.4']", "must add up to 1, got 0.9"),
        ("[environment]\nnoise_kind = []", "noise_kind is an empty list"),
        ("[evaluation]\nnoise_kind = 'outage:3'", "'outage' takes no number"),
        ("[optimizer]\nlearning_rate = nan", "optimizer.learning_rate must be a number above 0"),
    ],
)
def test_a_wrong_field_or_value_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


def test_values_are_checked_without_toml_too():
    with pytest.raises(ConfigError, match="workers must be a number above 0"):
        TrainConfig(workers=0)
    with pytest.raises(ConfigError, match="kl_coefficient must be a number of at least 0, got nan"):
        TrainConfig(algorithm=AlgorithmConfig(kl_coefficient=math.nan))
    with pytest.raises(ConfigError, match=r"curriculum\.start"):
        TrainConfig(curriculum=CurriculumConfig(start=-0.1))
    with pytest.raises(ConfigError, match="group_size"):
        TrainConfig(rollout=RolloutConfig(group_size=0))


def test_unknown_presets_and_missing_files(tmp_path):
    (tmp_path / "zeros.toml").write_bytes(bytes(9))
    (tmp_path / "other.toml").write_bytes(b"\xff\xfe[1")
    for name, message in (("zeros", "is not valid TOML"), ("other", "is damaged: 'utf-8' codec")):
        with pytest.raises(ConfigError, match=message):
            load_preset(str(tmp_path / f"{name}.toml"))
    with pytest.raises(ConfigError, match="Did you mean 'quickstart'"):
        load_preset("quickstat")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_preset("nowhere.toml")


def test_differences_are_named_and_free_fields_are_free():
    saved = TrainConfig()
    changed = dataclasses.replace(
        saved, output="elsewhere", workers=2, seed=1, optimizer=OptimizerConfig(learning_rate=1.0)
    )
    assert config_differences(saved, changed) == [
        "seed: 0 -> 1",
        "optimizer.learning_rate: 0.0003 -> 1.0",
    ]
    assert config_differences(saved, dataclasses.replace(saved, output="elsewhere", max_seconds=3.0)) == []
    assert set(flatten_config(saved)) >= FREE_FIELDS


def test_every_field_has_its_sentence():
    for kind in vars(config_module).values():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind is not WorldConfig:
            lines = inspect.getsource(kind).splitlines()
            fields = [i for i, line in enumerate(lines) if line.startswith("    ") and ": " in line and "=" in line]
            for field in (field for field in dataclasses.fields(kind) if field.name in kind.__annotations__):
                (place,) = [i for i in fields if lines[i].strip().startswith(f"{field.name}:")]
                assert lines[place + 1].strip().startswith('"""'), field.name


def test_names_of_policies(tmp_path):
    assert policy_path(str(tmp_path)) == tmp_path
    assert policy_path("tiny").parts[-2:] == ("assets", "tiny")


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("environment.search_engine", "trap.py:Engine"),
        ("environment.search_engine", '{"kind": "trap.py:Engine"}'),
        ("environment.reward", "trap:reward"),
        ("curriculum.schedule", "trap.py:schedule"),
    ],
)
def test_a_file_does_not_decide_which_code_is_run(table: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    saved = tmp_path / "run" / "config.toml"
    section, field = table.split(".")
    saved.write_text(f"[{section}]\n{field} = {json.dumps(value)}\n")
    option = f"--{table.replace('_', '-')}"
    for arguments in (["--resume", str(saved.parent)], ["--preset", str(saved)]):
        with pytest.raises(ConfigError, match=f"{table} names code.*add: {option}"):
            parse_command(arguments)
        for typed in ([option, value], [f"{option}={value}"]):
            command = parse_command([*arguments, *typed])
            assert flatten_config(command.config)[table] == value
    with pytest.raises(ConfigError, match="names code"):
        read_config(saved)


def test_a_schedule_is_checked_with_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"unknown noise schedule 'epx'\. Did you mean 'exp'"):
        TrainConfig(curriculum=CurriculumConfig(schedule="epx"))
    assert TrainConfig(curriculum=CurriculumConfig(schedule="own.py:f")).curriculum.end == 0.5
    for shape in ({"start": 0.1}, {"end": 0.75}, {"base": 2.0}):
        with pytest.raises(ConfigError, match="no effect on your own schedule"):
            TrainConfig(curriculum=CurriculumConfig(schedule="own.py:f", **shape))
    with pytest.raises(ConfigError, match="base must be"):
        TrainConfig(curriculum=CurriculumConfig(base=-1.0))
