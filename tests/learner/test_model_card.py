"""What a saved policy folder tells others: the tokens that end a turn, and the model card."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chat_templates import CLOSING, FAMILIES, family_tokenizer
from tiny import tiny_dataset, tiny_policy
from transformers import AutoModelForCausalLM, GenerationConfig

from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.policy.card import AgentCard
from zerosearch_agents.policy.model_card import Provenance, base_on_hub, model_card
from zerosearch_agents.policy.policy import Policy, load_policy, new_model, save_policy, tiny_config
from zerosearch_env import make_rules
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.identity import folder_hash
from zerosearch_env.llm.chat import end_ids
from zerosearch_env.types import Question

EMMA = "Who wrote the novel Emma?"


def chat_policy(family: str, **card) -> Policy:
    """A random model with the tokenizer of a family."""
    tokenizer = family_tokenizer(family)
    config = tiny_config(len(tokenizer), hidden=16, layers=1, heads=2, mlp=16)
    return Policy(new_model(config, seed=1), tokenizer, AgentCard(turn_tokens=12, context_tokens=2048, **card))


def python_blocks(folder: Path) -> Iterator[str]:
    yield from re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text("utf-8"), re.M | re.S)


# The tokens that end a turn


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_elsewhere_ends_where_a_turn_ends_here(family: str, tmp_path: Path) -> None:
    policy = chat_policy(family)
    folder = save_policy(policy, tmp_path / "policy")
    listed = GenerationConfig.from_pretrained(folder).eos_token_id
    ends = {listed} if isinstance(listed, int) else set(listed)
    tokenizer = policy.tokenizer
    assert ends == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(CLOSING[family])}
    loaded = load_policy(folder)
    assert end_ids(loaded.model, loaded.tokenizer, len(tokenizer)) == ends
    assert policy.model.generation_config.eos_token_id is None  # the policy that was saved is unchanged


def test_generate_stops_at_the_end_of_a_chat_turn_without_being_told(tmp_path: Path) -> None:
    policy = chat_policy("gemma3")
    end = torch.tensor([policy.tokenizer.convert_tokens_to_ids("<end_of_turn>")])
    model = AutoModelForCausalLM.from_pretrained(save_policy(policy, tmp_path / "policy"))
    model.get_output_embeddings().register_forward_hook(lambda module, args, logits: logits.index_fill(-1, end, 99.0))
    prompt = policy.tokenizer("x", return_tensors="pt").input_ids
    assert model.generate(prompt, max_new_tokens=9)[0].tolist() == [*prompt[0].tolist(), *end.tolist()]


def test_a_configuration_that_is_complete_is_kept(tmp_path: Path) -> None:
    policy = tiny_policy()
    settings = policy.model.generation_config
    settings.eos_token_id, settings.pad_token_id, settings.temperature, settings.do_sample = [7, 1], 5, 0.6, True
    saved = json.loads((save_policy(policy, tmp_path / "policy") / "generation_config.json").read_text())
    given = {"eos_token_id": [7, 1], "pad_token_id": 5, "temperature": 0.6, "do_sample": True}
    assert {name: saved[name] for name in given} == given
    again = save_policy(load_policy(tmp_path / "policy"), tmp_path / "again")
    assert json.loads((again / "generation_config.json").read_text()) == saved


# The model card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "card"),
    [
        (None, {}),
        ("gemma3", {"protocol": "search-r1"}),
        ("qwen3", {"protocol": "hermes", "thinking": False}),
        ("smollm2", {"protocol": "research", "system": "Be brief.", "prefill": "<think>"}),
        ("gemma3", {"protocol": "zerosearch", "chat": False, "prompt_template": 'Say "{question}"\n\tnow\\n'}),
    ],
)
def test_its_lines_for_transformers_generate_the_turn_that_is_played_here(
    family: str | None, card: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny_policy() if family is None else chat_policy(family, **card)
    folder = save_policy(policy, tmp_path / "policy")
    player = PolicyPlayer(str(folder))
    episode = Episode(Question("q", EMMA, ("k",)), player.rules_for(make_rules()))
    player.play([episode], CorpusEngine(tiny_dataset().passages))
    monkeypatch.chdir(folder)
    block, _ = python_blocks(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, {})
    generated = printed.getvalue().removesuffix("\n")
    played = episode.turns[0].action_text.removeprefix(policy.card.prefill)
    assert generated.removesuffix(CLOSING.get(family, "<|eos|>")) == played
    assert len(played) > 3


@pytest.mark.parametrize(
    ("card", "shown"),
    [
        (AgentCard(prompt_template="dataset"), "comes with its own prompt"),
        (AgentCard(chat=True), "The prompt cannot be shown: chat is on"),
    ],
)
def test_a_prompt_that_cannot_be_shown_is_explained(card: AgentCard, shown: str, tmp_path: Path) -> None:
    folder = save_policy(replace(tiny_policy(), card=card), tmp_path / "policy")
    assert shown in (folder / "README.md").read_text("utf-8")
    assert list(python_blocks(folder)) == []


def test_it_says_what_the_caller_knows_and_keeps_secrets_and_folders() -> None:
    facts = {"Questions": "/home/me/data/q.jsonl, runs/a|b.jsonl", "Engine": "retrieve:http://me:word@host:80/v1/s"}
    policy = tiny_policy()
    parts = policy.model, policy.tokenizer, policy.card
    text = model_card(*parts, Provenance("Org/Model@v2", facts, {"EM at noise 0.5": 0.43219, "Seeds": 2}))
    assert "\nbase_model: Org/Model\n" in text
    assert "| Questions | q.jsonl, runs/a\\|b.jsonl |" in text
    assert "| Engine | retrieve:http://***@host:80/v1/s |" in text
    assert "| EM at noise 0.5 | 0.4322 |\n| Seeds | 2 |" in text
    assert not re.search("home|word@", text)
    assert "## Training" not in model_card(*parts)


def test_the_base_model_is_handed_down(tmp_path: Path) -> None:
    first = save_policy(tiny_policy(), tmp_path / "first", provenance=Provenance("Org/Model@v2"))
    second = save_policy(tiny_policy(), tmp_path / "second", provenance=Provenance(str(first)))
    assert base_on_hub(str(second)) == "Org/Model"
    assert folder_hash(first) == folder_hash(second)  # what is said about a policy does not change its identity
    for text in ("no front matter", "---\n: [\n---\n", "---\nbase_model: [a/b, c/d]\n---\n", "---\n- x\n---\n"):
        (second / "README.md").write_text(text)
        assert base_on_hub(str(second)) == ""
    assert [base_on_hub(name) for name in ("", "tiny", str(tmp_path / "none"))] == ["", "", ""]
