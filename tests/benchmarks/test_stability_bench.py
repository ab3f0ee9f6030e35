from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from zerosearch_agents.config.train import dump_config
from zerosearch_agents.policy.files import policy_path
from zerosearch_agents.policy.policy import load_policy
from zerosearch_agents.processes.workers import Workers
from zerosearch_agents.sft.rows import Row
from zerosearch_agents.tiny import pretrain
from zerosearch_agents.training import loss as objective
from zerosearch_agents.training import trainer
from zerosearch_agents.training.trainer import build_learner, train_step
from zerosearch_benchmarks.learning.stability import bench as stability
from zerosearch_benchmarks.learning.stability import faults as stability_faults
from zerosearch_benchmarks.learning.stability import start as stability_start
from zerosearch_benchmarks.learning.stability import table as stability_table
from zerosearch_env.datasets.world.make import WorldConfig

QUESTIONS = 6


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The benchmark's configuration of a run on a policy and a world that take no time."""
    folder = tmp_path_factory.mktemp("stability")
    start = tiny.tiny_train_config(folder)
    setting = stability.Setting("tried", "A try.", stability.BEHAVIOURS, "shipped", 2, 3e-3, 0.001)
    config = stability.train_config(setting, None, 0, folder / "run")
    data = replace(config.data, world=WorldConfig(passages=200, questions=40, hops=(1,)))
    return replace(config, policy=start.policy, data=data)


@pytest.fixture(scope="module")
def played(small):
    """A learner, and the rollouts of its first step."""
    learner = build_learner(small, Workers())
    return learner, [one for group in train_step(learner, 0)[1] for one in group]


def test_a_setting_decides_the_configuration(small):
    assert (small.steps, small.optimizer.learning_rate, small.algorithm.kl_coefficient) == (2, 3e-3, 0.001)
    assert (small.curriculum.start, small.curriculum.end) == (0.0, 0.0)
    assert small.algorithm.recompute_logprobs
    assert {one.start for one in stability.SETTINGS} <= {"shipped", *stability_start.STARTS}
    assert all(one.behaviours[0] == "ours" for one in stability.SETTINGS)
    faults = {name for one in stability.SETTINGS for name in one.behaviours}
    assert faults == set(stability.BEHAVIOURS)


@pytest.mark.slow
def test_documents_are_let_into_the_loss(played):
    _, rollouts = played
    for one in rollouts:
        first = int(np.argmax(one.loss_mask))
        mask = stability_faults.with_documents(one).loss_mask
        assert not mask[:first].any()
        assert mask[first:].all()
    assert any(stability_faults.with_documents(one).sampled_tokens > one.sampled_tokens for one in rollouts)


def test_text_survives_encoding_again_and_special_tokens_do_not(played):
    learner, rollouts = played
    tokenizer = learner.policy.tokenizer
    for one in rollouts:
        again = stability_faults.retokenised(learner, one)
        texts = [tokenizer.decode(x.token_ids[x.loss_mask].tolist(), skip_special_tokens=True) for x in (one, again)]
        assert texts[0] == texts[1]
        assert again.token_ids[~again.loss_mask].tolist() == one.token_ids[~one.loss_mask].tolist()
        assert tokenizer.eos_token_id not in again.token_ids[again.loss_mask]
    changed = [
        stability_faults.retokenised(learner, one).token_ids.tolist() != one.token_ids.tolist() for one in rollouts
    ]
    assert any(changed)
    assert stability_faults.share_changed(tokenizer, rollouts) == pytest.approx(np.mean(changed))


def test_the_share_of_changed_episodes_counts_an_episode_once():
    tokenizer = tiny.tiny_tokenizer()
    merged = tokenizer(" author", add_special_tokens=False)["input_ids"]
    single = [tokenizer.convert_tokens_to_ids(letter) for letter in ("Ġ", "a", "u", "t", "h", "o", "r")]
    assert len(merged) < len(single)
    assert stability_faults.encoded_again(tokenizer, single) == merged

    def episode(*turns):
        ids = [token for turn in turns for token in [7, *turn]]
        mask = [part for turn in turns for part in [False, *[True] * len(turn)]]
        return SimpleNamespace(token_ids=np.array(ids), loss_mask=np.array(mask))

    rollouts = [episode(merged, merged), episode(single, single), episode(merged, single), episode(merged)]
    assert stability_faults.sampled_turns(rollouts[3]) == [(1, 1 + len(merged))]
    assert stability_faults.share_changed(tokenizer, rollouts) == 0.5


def test_tokens_taken_apart_spell_the_same_text():
    tokenizer = tiny.tiny_tokenizer()
    parts = stability_start.merge_parts(tokenizer)
    text = "<search> the author of a book</search>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert not parts.keys() & {tokenizer.eos_token_id, *map(tokenizer.convert_tokens_to_ids, ("<search>", "</search>"))}

    def apart(rate, seed=0):
        return stability_start.taken_apart(ids, parts, rate, np.random.default_rng(seed))

    assert apart(0.0) == ids
    assert len(apart(1.0)) == len(text) - len("<search></search>") + 2  # every byte alone, the tags whole
    assert apart(0.5) == apart(0.5)
    assert len(ids) < np.mean([len(apart(0.5, seed)) for seed in range(20)]) < len(apart(1.0))
    for rate in (0.1, 0.5, 1.0):
        assert tokenizer.decode(apart(rate)) == text


def test_only_what_is_trained_on_is_taken_apart():
    tokenizer = tiny.tiny_tokenizer()
    ids = tokenizer(" the author", add_special_tokens=False)["input_ids"]
    row = Row([*ids, *ids], [False] * len(ids) + [True] * len(ids))
    new = stability_start.respelled(row, stability_start.merge_parts(tokenizer), 1.0, np.random.default_rng(0))
    assert new.ids[: len(ids)] == ids
    assert new.trained == [False] * len(ids) + [True] * len(" the author")
    assert tokenizer.decode(new.ids) == " the author the author"


def test_a_text_ends_within_a_turn():
    begin, end = 90, 91
    row = Row([1, begin, 2, 3, 4, begin, begin, 5], [False, *[True] * 4, False, True, True])

    def cut(share, seed=0):
        return stability_start.ended_early(row, begin, end, share, np.random.default_rng(seed))

    assert cut(0.0) == row
    found = [cut(1.0, seed) for seed in range(40)]
    for one in found:
        assert one.ids[-1] == end
        assert one.trained[-1]
        assert (one.ids[:-1], one.trained[:-1]) == (row.ids[: len(one.ids) - 1], row.trained[: len(one.ids) - 1])
    assert {len(one.ids) - 1 for one in found} == {2, 3, 4, 5}  # every place within the first turn
    lengths = {len(cut(0.5, seed).ids) for seed in range(60)}
    assert {8, 9} & lengths  # the second turn: the document's token before it begins none
    assert 7 not in lengths
    text = Row([1, 2], [False, True])
    assert stability_start.ended_early(text, begin, end, 1.0, np.random.default_rng(0)) == text


@pytest.mark.slow
def test_a_start_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "PretrainConfig", partial(pretrain.PretrainConfig, batch_tokens=512, dtype="float32"))
    kind = stability_start.Start(apart=0.5, early=0.5, tokens=1, learning_rate=1e-3)
    first = stability_start.make_start(tmp_path, kind)
    weights = (first / "model.safetensors").stat()
    assert stability_start.make_start(tmp_path, kind) == first
    assert (first / "model.safetensors").stat() == weights
    assert load_policy(first).card == load_policy(policy_path("tiny")).card
    assert len({one.folder for one in stability_start.STARTS.values()}) == len(stability_start.STARTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", stability.BEHAVIOURS)
def test_a_fault_lasts_as_long_as_its_run(small, tmp_path, name):
    before = objective.kl_loss, trainer.compute_logprobs
    config = replace(small, output=str(tmp_path / "run"))
    row = stability.run_one(name, config, QUESTIONS)
    assert (objective.kl_loss, trainer.compute_logprobs) == before
    assert (row["behaviour"], row["ended"], len(row["steps"])) == (name, "finished", 2)
    assert all(0 <= step["changed"] <= 1 for step in row["steps"])
    assert {decoding: found["n"] for decoding, found in row["held_out"].items()} == dict.fromkeys(
        ("sampled", "greedy"), QUESTIONS
    )
    if name != "ours":
        return  # what follows does not depend on the behaviour
    assert stability.run_one(name, config, QUESTIONS) == row  # what is finished stays
    other = stability.run_one(name, replace(config, steps=1), QUESTIONS)
    assert len(other["steps"]) == 1  # another configuration starts anew


def test_a_killed_run_leaves_no_row_of_the_run_that_it_replaced(small, tmp_path, monkeypatch):
    def killed(config, *, overwrite):
        raise KeyboardInterrupt

    config = replace(small, output=str(tmp_path))
    (tmp_path / "config.toml").write_text(dump_config(replace(config, steps=1)))
    (tmp_path / "row.json").write_text("{}")
    monkeypatch.setattr(trainer, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        stability.run_one("ours", config, QUESTIONS)
    assert not (tmp_path / "row.json").exists()


def test_the_figures_of_a_start_are_kept(small, tmp_path):
    found = stability.start_held_out(small, QUESTIONS, tmp_path)
    assert found["greedy"]["n"] == QUESTIONS
    (file,) = tmp_path.iterdir()
    file.write_text('{"greedy": {"n": 1}}')
    assert stability.start_held_out(small, QUESTIONS, tmp_path) == {"greedy": {"n": 1}}


def test_the_wrong_sign_changes_the_sign():
    with stability.behaviour("kl-subtracted"):
        wrong = objective.kl_loss(np.ones(3), np.ones(3), 0.5)
    assert wrong == -objective.kl_loss(np.ones(3), np.ones(3), 0.5) == -1.5


def record_of(rows):
    setting = stability.Setting("tried", "A try.", ("ours", "kl-subtracted"), "shipped", 4, 4e-4, 0.2)
    settings = json.loads(json.dumps([vars(setting)]))
    start = {"sampled": interval(0.1), "greedy": interval(0.2)}
    return {"questions": 200, "settings": settings, "starts": {"shipped": start}, "runs": rows}


def interval(mean):
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": 200}


def row(name, seed, rewards, em, ended="finished", alarms=()):
    steps = [{"step": i, "reward": reward, "kl": 0.5, "changed": 0.25} for i, reward in enumerate(rewards, start=1)]
    held_out = None if em is None else {"sampled": interval(em), "greedy": interval(em + 0.1)}
    common = {"setting": "tried", "behaviour": name, "seed": seed, "ended": ended, "alarms": list(alarms)}
    return common | {"steps": steps, "held_out": held_out}


def test_the_table_shows_every_seed():
    rows = [row("ours", 0, [0.2, 0.4, 0.6, 0.8], 0.6), row("ours", 1, [0.3] * 4, 0.7)]
    rows.append(row("kl-subtracted", 0, [0.6] * 3 + [0.0] * 5, 0.2, alarms=["reward fell"]))
    rows.append(row("kl-subtracted", 1, [0.6] * 3, None, "stopped: gradient"))
    table = stability_table.markdown(record_of(rows))
    assert "| (the start) | 10 (5-15) | - | 20 (15-25) | - | - | - | - | - | 25 | - |" in table
    ours = "| ours | 60 (55-65) 70 (65-75), **65** | - | 70 (65-75) 80 (75-85), **75** | 0.50 0.30 | 0.50 0.30 |"
    assert f"{ours} - - | - - | 0.5 0.5 | 25 25 | 0 of 2 |" in table
    assert "| kl-subtracted | 20 (15-25) -, **20** | 40 - | 30 (25-35) -, **30** | 0.22 0.60 | 0.00 0.60 |" in table
    assert "1 of 2 |" in table
    assert "- kl-subtracted, seed 1, after 3 steps: stopped: gradient" in table
    columns = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert columns == {12}


def test_the_plot_shows_every_seed_and_every_mean():
    rows = [row("ours", 0, [0.2, 0.4], 0.6), row("ours", 1, [0.3, 0.3], 0.7), row("kl-subtracted", 0, [0.6], 0.2)]
    (chart,) = stability_table.charts(record_of(rows))
    assert chart.title == "Reward. A try."
    assert [(line.name, line.faint) for line in chart.series] == [
        *[("ours", True), ("ours", True), ("kl-subtracted", True)],
        *[("ours", False), ("kl-subtracted", False)],
    ]
    assert [point.y for point in chart.series[3].points] == pytest.approx([0.25, 0.35])
