"""From transcripts to training rows: the tokens of an episode are those of its rollout."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from chat_templates import CLOSING, family_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exact_tokens import actions, split_tokenizer
from test_rollout import ScriptedSampler
from tiny import tiny_tokenizer

from zerosearch_agents.policy.files import policy_path
from zerosearch_agents.policy.policy import load_policy
from zerosearch_agents.rollouts.rollout import Rollout, rollout
from zerosearch_agents.sampling.local import Sampler
from zerosearch_agents.sampling.stops import StopFinder, decode
from zerosearch_agents.sft.rows import Row
from zerosearch_agents.sft.transcripts import transcript_rows
from zerosearch_env.datasets.world.make import WorldConfig, make_world
from zerosearch_env.engines import ConstantEngine, make_engine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.llm.chat_format import PromptFormat, TurnEncoder
from zerosearch_env.protocols import PROTOCOLS as KNOWN
from zerosearch_env.protocols import get_protocol
from zerosearch_env.records.transcripts import encode_line, transcript_record
from zerosearch_env.types import Document, Question, StopReason

DOCUMENTS = (Document("A b", 'says "k" é'), Document("", "</s><|im_end|>\n<|im_start|>assistant"))
QUESTION = Question("q", "Which letter?", ("k",))
PROTOCOLS = ("zerosearch", "search-r1", "hermes")


def recorded(episode: Episode) -> dict:
    """The transcript of an episode as it is read from a file."""
    return json.loads(encode_line(transcript_record(episode)))


def check(row: Row, played: Rollout) -> None:
    assert list(row.ids) == played.token_ids.tolist()
    assert np.array(row.trained, dtype=bool).tolist() == played.loss_mask.tolist()


class TextSampler(ScriptedSampler):
    """Writes given texts: up to the token that completes a stop string, else up to its end token."""

    def __init__(self, tokenizer, texts, stops, end_id, *, limit=10_000, **options):
        finder, scripts = StopFinder(tokenizer, stops, len(tokenizer)), []
        self.end_id = end_id
        for text in texts:
            while True:  # until the text is spelt as its tokenizer spells it
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                ends = (n for n, i in enumerate(ids, 1) if finder.candidates[i] and finder.completed(ids[:n]))
                stop = next(ends, None)
                if stop is None or text == decode(tokenizer, ids[:stop]):
                    break
                text = decode(tokenizer, ids[:stop])
            scripts.append(ids[:stop] if stop else [*ids, end_id][:limit])
        super().__init__(tokenizer, [scripts], **options)

    def run(self):
        return [
            replace(turn, finish="eos", text=decode(self.tokenizer, turn.token_ids[:-1]))
            if turn.token_ids[-1] == self.end_id and turn.finish == "stop"
            else turn
            for turn in super().run()
        ]


def play(tokenizer, protocol: str, texts: list[str], options: dict, **sampler) -> Rollout:
    rules, format = make_rules(protocol=protocol, max_turns=3, top_k=2), PromptFormat(**options)
    end = TurnEncoder(tokenizer, rules, format).end_id
    writer = TextSampler(tokenizer, texts, rules.protocol.stop_strings, end, **sampler)
    (played,) = rollout([Episode(QUESTION, rules)], ConstantEngine(DOCUMENTS), writer, tokenizer, format=format)
    return played


def again(tokenizer, played: Rollout, options: dict, **limits) -> Row:
    """The row of a rollout's transcript."""
    (row,) = transcript_rows(
        [recorded(played.episode)], tokenizer, played.episode.rules, PromptFormat(**options), **limits
    )
    return row


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("family", ["plain", "smollm2", "qwen3", "llama3.1", "gemma3"])
def test_a_transcript_has_the_tokens_of_its_rollout(family: str, protocol: str) -> None:
    tokenizer = tiny_tokenizer() if family == "plain" else family_tokenizer(family)
    options: dict = {} if family == "plain" else {"chat": True, "system": "Be brief."}
    tags = get_protocol(protocol)
    texts = [f"<think>é</think>{tags.render_search('one')}\n\nmade up", "no action", tags.render_answer("k")]
    played = play(tokenizer, protocol, texts, options)
    check(again(tokenizer, played, options), played)
    assert played.turns == (2 if protocol == "hermes" else 3)


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True], ids=["tags are tokens", "tags fall apart"])
@pytest.mark.parametrize("name", list(KNOWN))
@settings(max_examples=8)
@given(data=st.data())
def test_any_transcript_has_the_tokens_of_its_rollout(name: str, split: bool, data: st.DataObject) -> None:
    tokenizer = split_tokenizer() if split else tiny_tokenizer()
    texts = data.draw(st.lists(actions(KNOWN[name]), min_size=4, max_size=4))
    played = play(tokenizer, name, texts, {})
    check(again(tokenizer, played, {}), played)


def test_what_the_context_holds_of_a_turn_is_not_trained() -> None:
    tokenizer, options = family_tokenizer("smollm2"), {"chat": True, "prefill": "<think>"}
    texts = ["I look.</think><search>one</search>", "Just so", "It is k.</think><answer>k</answer>"]
    played = play(tokenizer, "zerosearch", texts, options)
    turns = played.episode.turns
    assert [turn.action_text.startswith("<think>") for turn in turns] == [True, False, True]
    check(again(tokenizer, played, options), played)
    record = recorded(played.episode)
    record["turns"][0]["action_text"] = "\n" + record["turns"][0]["action_text"]  # of an agent that writes all of it
    (row,) = transcript_rows([record], tokenizer, played.episode.rules, PromptFormat(**options))
    check(row, played)


def test_turns_that_a_limit_cut_off_have_no_end() -> None:
    tokenizer = tiny_tokenizer()
    played = play(tokenizer, "zerosearch", ["<think>a long thought", "<answer>k</answer>"], {}, limit=4)
    assert played.invalid_turns == 1
    check(again(tokenizer, played, {}, turn_tokens=4), played)
    with_end = again(tokenizer, played, {})
    assert len(with_end.ids) == len(played.token_ids) + 1
    assert with_end.targets == played.sampled_tokens + 1


@pytest.mark.parametrize("room", range(0, 120, 7))
def test_episodes_that_fill_the_context(room: int) -> None:
    tokenizer = tiny_tokenizer()
    texts = ["<search>one</search>", "<search>two</search>", "<think>some more to say"]
    (prompt,) = TurnEncoder(tokenizer, make_rules()).prompts([Episode(QUESTION, make_rules(max_turns=3, top_k=2))])
    played = play(tokenizer, "zerosearch", texts, {}, context_tokens=len(prompt) + room)
    assert played.stop_reason is StopReason.CONTEXT_LIMIT
    check(again(tokenizer, played, {}), played)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("chat", [False, True])
def test_real_rollouts_of_the_tiny_policy(protocol: str, chat: bool) -> None:
    policy = load_policy(policy_path("tiny"))
    tokenizer = policy.tokenizer
    if chat:
        tokenizer.chat_template = family_tokenizer("smollm2").chat_template
    dataset = make_world(WorldConfig(seed=5, passages=200, questions=40), "test")
    rules = make_rules(protocol=protocol, max_turns=3, top_k=2, prompt_template="Question: {question}\n")
    episodes = [Episode(q, rules, noise_level=0.5, seed=i) for i, q in enumerate(dataset.questions[:3])]
    stops = rules.protocol.stop_strings
    sampler = Sampler(
        policy.model, tokenizer, slots=6, context_tokens=900, stop_strings=stops, temperature=0.0, turn_tokens=48
    )
    format = PromptFormat(chat=chat)
    played = rollout(episodes, make_engine("corpus", dataset=dataset), sampler, tokenizer, format=format)
    records = [recorded(one.episode) for one in played]
    for row, one in zip(transcript_rows(records, tokenizer, rules, format, turn_tokens=48), played, strict=True):
        check(row, one)
    assert protocol == "hermes" or sum(one.turns for one in played) > len(played)


def test_another_protocol_is_refused() -> None:
    played = play(tiny_tokenizer(), "search-r1", ["<answer>k</answer>"], {})
    with pytest.raises(ConfigError, match="of protocol 'search-r1', but the policy plays 'zerosearch'"):
        transcript_rows([recorded(played.episode)], tiny_tokenizer(), make_rules())


def test_another_prompt_becomes_that_of_the_rules() -> None:
    tokenizer = tiny_tokenizer()
    played = play(tokenizer, "zerosearch", ["<answer>k</answer>"], {})
    (row,) = transcript_rows([recorded(played.episode)], tokenizer, make_rules(prompt_template="Q: {question}\n"))
    assert tokenizer.decode(row.ids) == "Q: Which letter?\n<answer>k</answer>"
    (row,) = transcript_rows([recorded(played.episode)], tokenizer, make_rules(prompt_template="dataset"))
    assert tokenizer.decode(row.ids) == played.episode.prompt + "<answer>k</answer>"


@pytest.mark.parametrize("family", list(CLOSING))
def test_the_end_of_a_turn(family: str) -> None:
    tokenizer = family_tokenizer(family)
    encoder = TurnEncoder(tokenizer, make_rules(), PromptFormat(chat=True))
    assert tokenizer.convert_ids_to_tokens(encoder.end_id) == CLOSING[family]
    assert TurnEncoder(tokenizer, make_rules()).end_id == tokenizer.eos_token_id


def test_a_tokenizer_without_an_end_token() -> None:
    tokenizer = tiny_tokenizer()
    played = play(tokenizer, "zerosearch", ["no action", "<answer>k</answer>"], {})
    record, before = recorded(played.episode), tokenizer.eos_token
    tokenizer.eos_token = None
    try:
        with pytest.raises(ConfigError, match="set eos_token"):
            transcript_rows([record], tokenizer, make_rules())
        record["turns"] = record["turns"][1:]  # every turn ends with a stop string
        assert transcript_rows([record], tokenizer, make_rules())[0].targets
    finally:
        tokenizer.eos_token = before
