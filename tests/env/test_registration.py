from __future__ import annotations

import doctest
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
from env_fakes import make_dataset
from gymnasium.envs.registration import EnvSpec

import zerosearch_env
import zerosearch_env.envs.infos
import zerosearch_env.envs.single
import zerosearch_env.envs.spaces
import zerosearch_env.envs.vector
import zerosearch_env.records.transcripts
from zerosearch_env.envs.options import EnvOptions


def test_the_id_is_registered_with_both_entry_points_as_strings() -> None:
    spec = gym.spec("ZeroSearch-v0")
    assert spec.entry_point == "zerosearch_env.envs.single:ZeroSearchEnv"
    assert spec.vector_entry_point == "zerosearch_env.envs.vector:ZeroSearchVectorEnv"


def test_import_is_light_and_lazy() -> None:
    code = (
        "import sys, gymnasium, time; start = time.perf_counter(); import zerosearch_env; "
        "taken = time.perf_counter() - start; import json; "
        "print(json.dumps([taken, sorted(name for name in sys.modules if not name.startswith('_'))]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken, modules = json.loads(answer.stdout)
    heavy = {
        "torch",
        "transformers",
        "rich",
        "tyro",
        "bm25s",
        "openai",
        "vllm",
        "stable_baselines3",
        "pandas",
        "pyarrow",
    }
    assert heavy.isdisjoint(modules)
    assert "zerosearch_env.envs.single" not in modules
    assert taken < 0.5  # measured: 0.01; the machines that run this share their cores


def test_every_public_name_loads_and_is_listed() -> None:
    for name in zerosearch_env.__all__:
        assert getattr(zerosearch_env, name) is not None, name
        assert name in dir(zerosearch_env)
    with pytest.raises(AttributeError, match="no attribute 'ZeroSerchEnv'"):
        _ = zerosearch_env.ZeroSerchEnv


def test_the_constructor_has_the_names_and_defaults_of_the_options() -> None:
    parameters = list(inspect.signature(zerosearch_env.ZeroSearchEnv).parameters.values())
    assert {p.name: p.default for p in parameters} == vars(EnvOptions())
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == ["dataset", "split"]


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_an_unknown_argument_suggests_the_nearest_name(make: Callable[..., Any]) -> None:
    with pytest.raises(zerosearch_env.ConfigError, match=r"unknown argument .* 'noise_levle'.* mean 'noise_level'\?"):
        make("ZeroSearch-v0", noise_levle=0.5)


def test_every_argument_is_in_the_reference() -> None:
    text = inspect.getdoc(zerosearch_env.ZeroSearchEnv) or ""
    for name in inspect.signature(EnvOptions).parameters:
        assert f"\n    {name}: " in text, name


def test_the_spec_survives_json() -> None:
    arguments = {
        "dataset": "world",
        "split": "test",
        "world": {"seed": 1, "passages": 400, "hops": [1]},
        "search_engine": {"kind": "corpus"},
        "noise_schedule": "exp",
        "noise_end": 0.75,
        "max_turns": 3,
        "top_k": 2,
        "protocol": "search-r1",
        "render_mode": "ansi",
    }
    env = gym.make("ZeroSearch-v0", **arguments)
    again = EnvSpec.from_json(env.spec.to_json()).make()
    assert again.spec.kwargs == arguments == env.spec.kwargs
    observation, info = env.reset(seed=3)
    assert again.reset(seed=3) == (observation, info)
    search = "<search>who was born</search>"
    assert again.step(search) == env.step(search)


def test_the_vector_spec_survives_json() -> None:
    envs = gym.make_vec("ZeroSearch-v0", num_envs=2, world={"passages": 400}, autoreset_mode="SameStep")
    assert type(envs) is zerosearch_env.ZeroSearchVectorEnv
    again = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert again.num_envs == 2
    assert again.metadata["autoreset_mode"] is gym.vector.AutoresetMode.SAME_STEP
    assert again.reset(seed=1)[0] == envs.reset(seed=1)[0]


def test_importing_by_the_id_works() -> None:
    env = gym.make(
        "zerosearch_env:ZeroSearch-v0", dataset=make_dataset(), search_engine=zerosearch_env.ConstantEngine()
    )
    assert isinstance(env.unwrapped, zerosearch_env.ZeroSearchEnv)


@pytest.mark.parametrize(
    "module",
    [
        zerosearch_env.envs.infos,
        zerosearch_env.envs.single,
        zerosearch_env.envs.vector,
        zerosearch_env.envs.spaces,
        zerosearch_env.records.transcripts,
    ],
)
def test_the_examples_in_the_docstrings_run(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.attempted > 0
    assert outcome.failed == 0
