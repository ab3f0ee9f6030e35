"""Pretraining on a small scale: the loss falls, stages can be run apart, bad input is told apart; the shipped base."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from zerosearch_agents.forward.attention import use_block_attention
from zerosearch_agents.policy.card import AgentCard
from zerosearch_agents.policy.files import policy_path
from zerosearch_agents.policy.policy import load_policy, save_policy
from zerosearch_agents.sft import fit as fit_module
from zerosearch_agents.sft import step as step_module
from zerosearch_agents.sft.fit import FitOptions, fit, one_thread
from zerosearch_agents.sft.loss import loss_sum
from zerosearch_agents.tiny import pretrain as module
from zerosearch_agents.tiny.pretrain import PROMPT, PretrainConfig, Writer, main, pretrain
from zerosearch_agents.tiny.reading import open_library
from zerosearch_agents.tiny.tokenizer import TAGS
from zerosearch_env import cli
from zerosearch_env.errors import CheckpointError, ConfigError, MissingExtraError, TrainingError

pytestmark = pytest.mark.slow

SMALL = PretrainConfig(
    hidden=64, layers=3, heads=4, mlp=48, vocab_size=1000, base_tokens=900, warm_tokens=400, batch_tokens=600
)
OPTIONS = ["--hidden=64", "--layers=3", "--mlp=48", "--vocab-size=1000", "--batch-tokens=600"]
SHIPPED = policy_path("tiny")


@pytest.fixture(autouse=True, scope="module")
def _small_libraries():
    """Worlds are small here, and a step has two rows at most."""
    config, draw_rows = module.WorldConfig, module._draw_rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_library", lambda seed, passages: open_library(seed, 200))
        # The questions are drawn from the same world.
        patch.setattr(module, "WorldConfig", lambda seed, passages, questions: config(seed, 200, 200))
        patch.setattr(module, "_draw_rows", lambda *drawn: draw_rows(*drawn[:3], min(drawn[3], 2), drawn[4]))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages in one command."""
    output = tmp_path_factory.mktemp("pretrain") / "tiny"
    assert main([f"--output={output}", *OPTIONS, "--base-tokens=900", "--warm-tokens=400"]) == 0
    return output


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_policy(path).model.state_dict()


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_command_leaves_the_policy_and_its_stages(whole: Path) -> None:
    assert sorted(path.name for path in whole.parent.iterdir()) == ["tiny", "tiny-base", "tiny-warm"]
    policy = load_policy(whole)
    assert policy.card == AgentCard(
        protocol="zerosearch", prompt_template=PROMPT, turn_tokens=64, context_tokens=2048, chat=False
    )
    assert len(policy.tokenizer) == 1000
    assert policy.model.config.num_hidden_layers == 3
    assert policy.model.config._attn_implementation == "sdpa"  # how it was trained is no part of it
    assert same(whole, whole.parent / "tiny-warm")
    assert not same(whole, whole.parent / "tiny-base")


def test_the_loss_of_base_falls(whole: Path, tmp_path: Path) -> None:
    short = replace(SMALL, start=str(whole), learning_rate=4e-2, base_demonstrations=0.0, warm_tokens=0)
    base = pretrain(replace(short, output=str(tmp_path / "tiny"), dtype="float32", base_tokens=6000))
    held_out = Writer(load_policy(whole).tokenizer, replace(SMALL, seed=5)).rows(24, progress=0.0, demonstrations=0.0)
    with torch.inference_mode():
        before, after = (float(loss_sum(load_policy(path).model, held_out)) for path in (whole, base))
    assert after < before - 0.4 * sum(sum(row.trained) for row in held_out)


def test_stages_run_apart_are_the_single_command_bit_for_bit(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = pretrain(replace(SMALL, output=str(tmp_path / "a"), warm_tokens=0))
    assert same(base, whole.parent / "tiny-base")
    warm = pretrain(replace(SMALL, output=str(tmp_path / "b"), start=str(base), base_tokens=0))
    assert same(warm, whole)
    out = capsys.readouterr().out
    assert "base" in out
    assert "loss" in out
    assert f"wrote {warm}" in out


def test_rows_follow_the_seed_the_stage_and_the_shares(whole: Path) -> None:
    tokenizer = load_policy(whole).tokenizer

    def rows(stage: int = 0, seed: int = 0, demonstrations: float = 0.5):
        return Writer(tokenizer, replace(SMALL, seed=seed), stage).rows(6, progress=0.5, demonstrations=demonstrations)

    assert rows() == rows()
    assert rows() != rows(stage=1)
    assert rows() != rows(seed=1)
    for share in (0.0, 1.0):
        for row in rows(demonstrations=share):
            text = tokenizer.decode(row.ids)
            assert ("<answer>" in text) == bool(share)
            assert len(row.ids) == len(row.trained)
            assert 0 < sum(row.trained) < len(row.ids)
            if share:
                assert text.startswith("Question: ")
                learnt = tokenizer.decode([i for i, trained in zip(row.ids, row.trained, strict=True) if trained])
                assert learnt.startswith("<think>Find the ")
                assert learnt.endswith("</answer>")
                assert "<information>" not in learnt


def test_slips_are_not_trained_on_and_touch_nothing_else(whole: Path) -> None:
    tokenizer = load_policy(whole).tokenizer
    tags = set(tokenizer.convert_tokens_to_ids(list(TAGS)))
    writers = [Writer(tokenizer, replace(SMALL, slips=slips)) for slips in (0.0, 0.2)]
    clean, slipped = (writer.rows(20, progress=0.5, demonstrations=0.5) for writer in writers)
    played = sum("<answer>" in tokenizer.decode(row.ids) for row in clean)
    changed = kept = 0
    for number, (before, after) in enumerate(zip(clean, slipped, strict=True)):
        assert len(before.ids) == len(after.ids)
        for old, new, was, trained in zip(before.ids, after.ids, before.trained, after.trained, strict=True):
            if was and not trained:
                assert number < played  # demonstrations come first, base text is left as it is
                assert old not in tags
                changed += 1
            else:
                assert (old, was) == (new, trained)
                kept += trained and number < played and old not in tags
    assert 0.1 < changed / (changed + kept) < 0.3


def test_micro_batches_change_no_gradient(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = FitOptions("base", 1, 600, peak=1e-3, floor=0.1, dtype="float32")  # one step
    gradients = []
    for tokens in (1, 10_000):  # every row alone; all rows of the step at once
        monkeypatch.setattr(fit_module, "MICRO_BATCH_TOKENS", tokens)
        policy = load_policy(whole)
        use_block_attention(policy.model)
        fit(policy.model, partial(module._draw_rows, Writer(policy.tokenizer, SMALL), 0.5, False), options)
        gradients.append({name: parameter.grad for name, parameter in policy.model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() <= 1e-3 * gradient.abs().max(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden must be a whole number of at least 1, got 0"),
        ({"batch_tokens": 0}, "batch_tokens must be a whole number of at least 1"),
        ({"base_tokens": -1.0}, r"base_tokens must be 0 \(skip the stage\) or a number of tokens, got -1.0"),
        ({"warm_tokens": 0.5}, "warm_tokens must be 0"),
        ({"base_tokens": float("nan")}, "base_tokens must be 0"),
        ({"warm_tokens": float("inf")}, "warm_tokens must be 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"slips": -0.1}, "slips must be a number of at least 0 and at most 1"),
        ({"two_hop_share": 1.2}, "two_hop_share must be a number of at least 0 and at most 1"),
        ({"save_every_minutes": 0.0}, "save_every_minutes must be a finite number of minutes above 0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"dtype": "bfloat"}, "Did you mean 'bfloat16'"),
        ({"output": "/"}, "output must name a separate directory"),
        ({"output": ".."}, "output must name a separate directory"),
    ],
)
def test_values_that_make_no_sense(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 2}, "3 or more layers"),
        ({"heads": 3}, "must be a multiple of heads"),
        ({"hidden": 32, "heads": 2}, "head_dim 16, hidden 32"),
        ({"vocab_size": 100}, "vocab_size must be at least 266"),
    ],
)
def test_shapes_that_cannot_be(tmp_path: Path, change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(replace(SMALL, output=str(tmp_path / "new"), **change))
    assert not any(tmp_path.iterdir())


def test_what_is_no_policy_is_not_replaced(tmp_path: Path) -> None:
    keep = tmp_path / "tiny-warm" / "thesis.txt"
    keep.parent.mkdir()
    keep.write_text("years of work")
    with pytest.raises(ConfigError, match="tiny-warm exists and is not a policy"):
        pretrain(replace(SMALL, output=str(tmp_path / "tiny")))
    with pytest.raises(ConfigError, match=r"thesis.txt exists and is not a policy"):
        pretrain(replace(SMALL, output=str(keep)))
    assert keep.read_text() == "years of work"


def test_a_missing_start_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="there is no policy directory at"):
        pretrain(replace(SMALL, output=str(tmp_path / "new"), start=str(tmp_path / "nothing")))
    assert cli.main(["pretrain", "--output", str(tmp_path / "new"), "--start", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == (f"zerosearch: error: there is no policy directory at {tmp_path / 'nothing'}.\n")


@pytest.mark.parametrize("option", ["--habits.careless=7", "--layers=0", "--dtype=float16"])
def test_bad_options_end_the_command(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain", option])
    assert stop.value.code == 2
    assert option[2:].partition("=")[0] in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_what_was_saved_stays(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step = [], loss_sum

    def interrupted(model, rows, mode, **options):
        steps.append(len(rows))
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(model, rows, mode, **options)

    monkeypatch.setattr(step_module, "loss_sum", interrupted)
    monkeypatch.setattr(fit_module, "MICRO_BATCH_TOKENS", 10**6)  # one call a step
    arguments = ["pretrain", f"--output={tmp_path / 'new'}", f"--start={whole}", "--save-every-minutes=1e-9"]
    before = torch.get_num_threads()
    assert cli.main(arguments) == 130
    assert capsys.readouterr().err == "\nzerosearch: interrupted\n"
    assert torch.get_num_threads() == before
    assert [path.name for path in tmp_path.iterdir()] == ["new-base"]
    assert not same(tmp_path / "new-base", whole)


@pytest.mark.parametrize(("variable", "threads"), [(None, 1), ("3", 2)])
def test_one_thread_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, threads: int
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if variable is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", variable)
        with one_thread():
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str):
        raise MissingExtraError(f"{name!r} is needed")

    monkeypatch.setattr(module, "require", absent)
    with pytest.raises(MissingExtraError, match="'torch' is needed"):
        pretrain(replace(SMALL, output=str(tmp_path / "new")))


def test_a_loss_that_is_no_number_ends_the_run(whole: Path, tmp_path: Path) -> None:
    policy = load_policy(whole)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.fill_(float("nan"))
    save_policy(policy, tmp_path / "broken")
    with pytest.raises(TrainingError, match=r"stage base, after 0 tokens: the loss is nan, .* lower the learning rate"):
        pretrain(replace(SMALL, output=str(tmp_path / "new"), start=str(tmp_path / "broken")))


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the shipped base model has not been built into agents/assets/tiny")
def test_the_shipped_base() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) <= 8_000_000
    policy = load_policy(SHIPPED)
    assert policy.card.prompt_template == PROMPT
    assert policy.card.protocol == "zerosearch"
    for text in ("<search> Who wrote The Amber Lantern?</search>", "Zoë said: “naïve”\n\t🜁"):
        assert policy.tokenizer.decode(policy.tokenizer(text)["input_ids"]) == text
    words = open_library(1, 600).passages[0].title.split()
    assert all(len(policy.tokenizer(f" {word}")["input_ids"]) == 1 for word in words)


def test_the_shipped_model_is_a_start(tmp_path: Path) -> None:
    output = pretrain(PretrainConfig(output=str(tmp_path / "copy"), start="tiny", base_tokens=0, warm_tokens=0))
    shipped, copied = load_policy(SHIPPED), load_policy(output)
    for (name, weight), other in zip(shipped.model.named_parameters(), copied.model.parameters(), strict=True):
        assert weight.equal(other), name
