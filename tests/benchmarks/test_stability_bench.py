from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny

from zerosearch_agents import objective, trainer
from zerosearch_agents.team import Team
from zerosearch_agents.trainer import build_learner, train_step
from zerosearch_benchmarks import stability
from zerosearch_env.datasets.world import WorldConfig


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The benchmark's setting on a policy and a world that take no time."""
    folder = tmp_path_factory.mktemp("stability")
    start = tiny.tiny_train_config(folder)
    config = stability.setting(0, folder / "run", 2, 0.2, 3e-3)
    data = replace(config.data, world=WorldConfig(passages=200, questions=40, hops=(1,)))
    return replace(config, policy=start.policy, data=data)


@pytest.fixture(scope="module")
def played(small):
    """A learner, and the rollouts of its first step."""
    learner = build_learner(small, Team())
    return learner, [one for group in train_step(learner, 0)[1] for one in group]


def test_documents_are_let_into_the_loss(played):
    _, rollouts = played
    for one in rollouts:
        first = int(np.argmax(one.loss_mask))
        mask = stability.with_documents(one).loss_mask
        assert not mask[:first].any()
        assert mask[first:].all()
    assert any(stability.with_documents(one).sampled_tokens > one.sampled_tokens for one in rollouts)


def test_text_survives_encoding_again_and_special_tokens_do_not(played):
    learner, rollouts = played
    tokenizer = learner.policy.tokenizer
    for one in rollouts:
        again = stability.retokenised(learner, one)
        texts = [tokenizer.decode(x.token_ids[x.loss_mask].tolist(), skip_special_tokens=True) for x in (one, again)]
        assert texts[0] == texts[1]
        assert again.token_ids[~again.loss_mask].tolist() == one.token_ids[~one.loss_mask].tolist()
        assert tokenizer.eos_token_id not in again.token_ids[again.loss_mask]
    assert any(stability.retokenised(learner, one).token_ids.tolist() != one.token_ids.tolist() for one in rollouts)


@pytest.mark.parametrize("name", stability.BEHAVIOURS)
def test_a_fault_lasts_as_long_as_its_run(small, tmp_path, name):
    before = objective.kl_loss, trainer.score
    config = replace(small, output=str(tmp_path / "run"))
    row = stability.run_one(name, config)
    assert (objective.kl_loss, trainer.score) == before
    assert (row["behaviour"], row["ended"], len(row["steps"])) == (name, "finished", 2)
    assert stability.run_one(name, config) == row  # what is finished stays
    longer = stability.run_one(name, replace(config, steps=3))
    assert longer["steps"][:2] == row["steps"]
    assert len(longer["steps"]) == 3


def test_the_wrong_sign_changes_the_sign():
    with stability.behaviour("kl-subtracted"):
        wrong = objective.kl_loss(np.ones(3), np.ones(3), 0.5)
    assert wrong == -objective.kl_loss(np.ones(3), np.ones(3), 0.5) == -1.5


def test_the_table_shows_every_seed():
    def row(name, seed, rewards, ended="finished", alarms=()):
        steps = [{"step": i, "reward": reward, "kl": 0.5} for i, reward in enumerate(rewards, start=1)]
        return {"behaviour": name, "seed": seed, "ended": ended, "alarms": list(alarms), "steps": steps}

    rows = [row("ours", 0, [0.2, 0.4, 0.6, 0.8]), row("ours", 1, [0.3] * 4)]
    rows.append(row("kl-subtracted", 0, [0.6, 0.6, 0.6, 0.0, 0.0, 0.0], "stopped: gradient", ["reward fell"]))
    options = {"steps": 4, "seeds": [0, 1], "kl_coefficient": 0.2, "learning_rate": 1e-3}
    table = stability.markdown({"options": options, "runs": rows})
    assert "| ours | 0.60 0.30, **0.45** | 0.60 0.30 | - - | - - | 0.5 0.5 | 0 of 2 | 4 4 |" in table
    assert "| kl-subtracted | 0.00, **0.00** | 0.60 |" in table
    assert "1 of 1 | 6 |" in table
    assert "- kl-subtracted, seed 0: stopped: gradient" in table
    image = ElementTree.fromstring(stability.plot({"options": options, "runs": rows}))
    assert len(image.findall(".//{*}path")) == 3 + 2  # every seed, and a mean for each behaviour
