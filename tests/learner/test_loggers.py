"""Loggers beside metrics.jsonl, and that no credential reaches any of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from zerosearch_agents.config.train import EnvironmentConfig, OutputConfig, dump_config, parse_config, shown_config
from zerosearch_agents.report.page import write_report
from zerosearch_agents.runs import loggers
from zerosearch_agents.runs.loggers import make_loggers
from zerosearch_agents.runs.metrics import MetricsLog, read_metrics
from zerosearch_agents.training.trainer import train
from zerosearch_env.cli import main
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import CheckpointError, ConfigError, MissingExtraError

SECRET = "pa55word-of-mine"
ENGINE = f"retrieve:https://me:{SECRET}@search.example:8000/retrieve?api_key={SECRET}"


class FakeWandb:
    """What a run uses of the library, and what it was given."""

    def __init__(self) -> None:
        self.inits: list[dict] = []
        self.logged: list[dict] = []
        self.finished = 0
        self.axes: list[tuple] = []

    class Settings(dict):
        """Keeps its arguments."""

    def init(self, **options):
        self.inits.append(options)
        return self

    def define_metric(self, name, *, step_metric):
        self.axes.append((name, step_metric))

    def log(self, metrics):
        self.logged.append(metrics)

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    # not into sys.modules: accelerate looks there, and would take it for the real one
    monkeypatch.setattr(loggers, "importlib", SimpleNamespace(import_module={"wandb": fake}.__getitem__))
    return fake


@pytest.mark.slow
def test_wandb_gets_every_step_and_the_same_run_again(tmp_path, wandb):
    files = OutputConfig(checkpoint_every=1, wandb=True, wandb_project="mine")
    config = tiny.tiny_train_config(tmp_path, steps=2, files=files)
    train(replace(config, max_seconds=1e-6), dataset=tiny.tiny_dataset())
    train(config, dataset=tiny.tiny_dataset(), resume=True)
    first, second = wandb.inits
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["resume"]) == ("mine", "run", "allow")
    assert first["config"]["rollout.prompts"] == 4
    assert first["settings"] == {"console": "off", "disable_code": True, "disable_git": True, "x_disable_meta": True}
    assert wandb.axes == [("*", "step")] * 2
    assert wandb.finished == 2
    assert wandb.logged == read_metrics(tmp_path / "run" / "metrics.jsonl")
    train(replace(config, max_seconds=1e-6), dataset=tiny.tiny_dataset(), overwrite=True)
    assert wandb.inits[2]["id"] != first["id"]


def test_wandb_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match="pip install wandb"):
        make_loggers(tmp_path, tiny.TrainConfig(files=OutputConfig(wandb=True)), 0)


def test_tensorboard_events_are_written(tmp_path):
    config = tiny.TrainConfig(files=OutputConfig(tensorboard=True))
    log = MetricsLog(tmp_path / "metrics.jsonl", others=make_loggers(tmp_path, config, 0))
    log.write(1, {"reward": 0.5})
    log.sync()
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"reward" in events.read_bytes()


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_credential(tmp_path, wandb):
    config = tiny.tiny_train_config(
        tmp_path,
        steps=1,
        environment=EnvironmentConfig(search_engine=ENGINE, max_turns=2, top_k=2),
        files=OutputConfig(wandb=True, tensorboard=True, checkpoint_every=1),
    )
    options = {"dataset": tiny.tiny_dataset(), "engine": ConstantEngine()}
    train(config, **options)
    write_report(config.output)
    files = [path for path in Path(config.output).rglob("*") if path.is_file()]
    assert {"config.toml", "report.html", "metrics.jsonl"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in str(wandb.inits)
    assert "search.example:8000" in wandb.inits[0]["config"]["environment.search_engine"]
    # the credentials are given again for a resume; without them the message says so, and shows none
    train(config, resume=True, **options)
    saved = parse_config(Path(config.output, "config.toml").read_text("utf-8"))
    with pytest.raises(ConfigError, match=r"environment\.search_engine is .*Give the complete value again"):
        train(saved, resume=True, **options)
    other = replace(config, environment=replace(config.environment, top_k=3, search_engine=ENGINE.replace("me:", "b:")))
    with pytest.raises(CheckpointError, match=r"different configuration: environment\.top_k: 2 -> 3\. ") as refused:
        train(other, resume=True, **options)
    assert SECRET not in str(refused.value)


def test_the_configuration_as_shown_and_as_saved(tmp_path):
    config = tiny.TrainConfig(environment=EnvironmentConfig(search_engine=ENGINE))
    for shown in (str(shown_config(config)), dump_config(config)):
        assert SECRET not in shown
    plain = tiny.TrainConfig()
    assert parse_config(dump_config(plain)) == plain


def test_an_error_on_the_command_line_shows_no_credential(tmp_path, capsys):
    dataset = f"https://me:{SECRET}@data.example/x.json"
    assert main(["train", "--output", str(tmp_path / "run"), "--workers", "1", "--data.dataset", dataset]) == 2
    assert SECRET not in capsys.readouterr().err
