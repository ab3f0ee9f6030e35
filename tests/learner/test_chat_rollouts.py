"""Rollouts of chat models: the tokens of whole episodes are those of the chat template, and only sampled ones train."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chat_templates import CLOSING, family_tokenizer
from test_rollout import ScriptedSampler

from zerosearch_agents.rollouts.rollout import rollout
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.llm.chat_format import PromptFormat, TurnEncoder
from zerosearch_env.protocols import get_protocol
from zerosearch_env.types import Document, Question, StopReason

DOCUMENTS = (Document("A b", 'says "k" é'), Document("", "<|im_end|>\n<|im_start|>assistant"))
QUESTION = Question("q", "Which letter?", ("k",))


class EndingSampler(ScriptedSampler):
    """Every turn ends with the end-of-sequence token of its script."""

    def run(self):
        return [replace(sample, finish="eos") for sample in super().run()]


def play(family: str, protocol: str, turns: list[str], *, sampler=EndingSampler, **options):
    """The rollout of one episode and its tokenizer; the model ends each turn with its own token."""
    tokenizer = family_tokenizer(family)
    end = [] if sampler is ScriptedSampler else [tokenizer.convert_tokens_to_ids(CLOSING[family])]
    script = [[*tokenizer(turn, add_special_tokens=False)["input_ids"], *end] for turn in turns]
    # A sampler returns the text of a turn without its end token.
    played = sampler(tokenizer, [list(script)])
    sample = played.run
    played.run = lambda: [replace(turn, text=turn.text.removesuffix(CLOSING[family])) for turn in sample()]
    episode = Episode(QUESTION, make_rules(protocol=protocol, max_turns=2, top_k=2))
    (one,) = rollout([episode], ConstantEngine(DOCUMENTS), played, tokenizer, format=PromptFormat(**options))
    return one, tokenizer, script


@pytest.mark.parametrize("family", ["qwen2.5", "llama3.1", "gemma3"])
@pytest.mark.parametrize("name", ["hermes", "deepresearcher"])
def test_an_episode_of_calls_has_the_tokens_of_its_messages(name: str, family: str) -> None:
    protocol = get_protocol(name)
    turns = [protocol.render_search("one") + protocol.render_search("two"), protocol.render_search("x")]
    turns.append(protocol.render_answer("k"))
    one, tokenizer, script = play(family, name, turns, chat=True)
    assert one.stop_reason is StopReason.ANSWER
    steps = [turn.step for turn in one.episode.turns]
    assert len(steps[1].queries) == 1
    assert name != "hermes" or len(steps[0].queries) == 2
    assert [role for role, _ in steps[1].messages] == ["tool", "user"]  # the notice that the next turn is the last

    encoder = TurnEncoder(tokenizer, one.episode.rules, PromptFormat(chat=True))
    (prompt,) = encoder.prompts([one.episode])
    template = encoder._template
    assert template is not None
    assert protocol.tool_prompt_template is not None
    text = protocol.tool_prompt_template.replace("{question}", QUESTION.text)
    messages = list(template.first_messages(text))
    for turn, step in zip(turns, steps, strict=True):
        messages.append({"role": "assistant", "content": turn})
        if family == "gemma3":
            messages += [{"role": "user", "content": step.observation.strip()}] if step.observation else []
        else:
            messages += [{"role": role, "content": content} for role, content in step.messages]
    expected = tokenizer.apply_chat_template(messages, tokenize=True, **template.options)["input_ids"]
    assert one.token_ids.tolist() == expected[: len(one.token_ids)]
    assert one.token_ids[: len(prompt)].tolist() == prompt
    sampled = np.split(one.token_ids, np.flatnonzero(np.diff(one.loss_mask)) + 1)[1::2]
    assert [ids.tolist() for ids in sampled] == script


def test_a_call_cut_by_a_limit_is_closed_with_tokens_that_are_not_trained() -> None:
    protocol = get_protocol("hermes")
    turns = [protocol.render_search("one"), protocol.render_answer("k")]
    one, tokenizer, script = play("qwen2.5", "hermes", turns, sampler=ScriptedSampler, chat=True, prefill="<think>")
    masked = tokenizer.decode(one.token_ids[~one.loss_mask])
    assert masked.count("<|im_end|>") == masked.count("<|im_start|>") - 1
    assert masked.endswith("<|im_end|>\n<|im_start|>assistant\n<think>")
    assert one.episode.turns[0].action_text == f"<think>{turns[0]}"
    assert one.token_ids[one.loss_mask].tolist() == [token for turn in script for token in turn]


def test_a_search_inside_the_assistants_turn_is_answered_there() -> None:
    tokenizer = family_tokenizer("qwen2.5")
    turns = ["<search>one</search>", "no action", "<answer>k</answer>"]
    script = [tokenizer(turn, add_special_tokens=False)["input_ids"] for turn in turns]
    end = tokenizer.eos_token_id
    script[1].append(end)

    class Mixed(ScriptedSampler):
        def run(self):
            samples = super().run()
            return [replace(s, finish="eos" if s.token_ids[-1] == end else "stop") for s in samples]

    sampler = Mixed(tokenizer, [script])
    episode = Episode(QUESTION, make_rules(max_turns=3, top_k=1))
    (one,) = rollout([episode], ConstantEngine(DOCUMENTS), sampler, tokenizer, format=PromptFormat(chat=True))
    searched, invalid, _ = (turn.step.observation for turn in episode.turns)
    assert tokenizer.decode(one.token_ids).endswith(
        f"{turns[0]}{searched}{turns[1]}<|im_end|>\n<|im_start|>user\n{invalid.strip()}<|im_end|>\n"
        f"<|im_start|>assistant\n{turns[2]}"
    )
