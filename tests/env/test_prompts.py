from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest

from zerosearch_env import ConstantEngine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.protocols.prompts import load_prompt_template
from zerosearch_env.types import Question

WHO = [{"question": "Who wrote it?", "answers": ["Ada"]}]


def fill(template: str, question: str, protocol: str = "zerosearch") -> str:
    return Episode(
        Question("id", question, ("answer",)), make_rules(prompt_template=template, protocol=protocol)
    ).prompt


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_instruction_shows_its_own_grammar(name: str) -> None:
    protocol = PROTOCOLS[name]
    prompt = fill(protocol.prompt_template, "Who wrote {it}?", name)
    assert prompt.count("Who wrote {it}?") == 1
    assert "{question}" not in prompt
    assert "<think>" in prompt
    for stop in protocol.stop_strings[:2]:
        assert stop in prompt
    # what the instruction shows as an example is a turn that this protocol can read
    assert protocol.parse("</think>" + prompt.replace("<think>", "").replace("</think>", "")).kind != "invalid"


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_notice_names_the_answer_but_does_not_act_when_a_policy_copies_it(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert ("boxed" if name == "hermes" else "<answer>") in protocol.last_turn_notice
    for notice in (protocol.last_turn_notice, protocol.invalid_notice or ""):
        assert protocol.parse(notice).kind == "invalid"
        assert protocol.parse(notice * 2).kind == "invalid"
        assert "{" not in notice.replace("\\boxed{}", "")


def test_questions_are_not_formatted() -> None:
    assert fill("{a} {question} {question} {}", "{question} {b} %s {0}") == (
        "{a} {question} {b} %s {0} {question} {b} %s {0} {}"
    )
    assert fill("{question}", "") == ""
    assert fill("{question}{question}", "{{question}}") == "{{question}}{{question}}"


def test_a_template_is_a_text_or_a_file(tmp_path: Path) -> None:
    assert load_prompt_template("Q: {question}\nA:") == "Q: {question}\nA:"
    file = tmp_path / "template.txt"
    file.write_text("Fräge: {question} jetzt!\n", encoding="utf-8")
    assert load_prompt_template(file) == load_prompt_template(str(file)) == "Fräge: {question} jetzt!\n"


@pytest.mark.parametrize("template", ["", "Answer the question.", "{Question}", "no/such/file.txt", "x" * 5000, "a\0b"])
def test_a_text_without_the_question_is_an_error(template: str) -> None:
    with pytest.raises(
        ConfigError, match=r"must contain \{question\} or name a file that does; got '.*not a file"
    ) as caught:
        load_prompt_template(template)
    assert len(str(caught.value)) < 400


def test_broken_template_files_are_errors(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("Answer!", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"empty\.txt' does not contain \{question\}"):
        load_prompt_template(empty)
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"\xff\xfe{question}")
    with pytest.raises(ConfigError, match=r"broken\.txt' cannot be read as UTF-8"):
        load_prompt_template(broken)
    with pytest.raises(ConfigError, match="not a file"):
        load_prompt_template(tmp_path)
    with pytest.raises(ConfigError, match="must be a string or a path, got 3"):
        load_prompt_template(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_notices_are_own_words_the_published_behaviour_none_or_a_text(name: str) -> None:
    protocol = PROTOCOLS[name]
    own = make_rules(protocol=name)
    assert (own.invalid_notice, own.last_turn_notice) == (protocol.invalid_notice, protocol.last_turn_notice)
    published = make_rules(protocol=name, invalid_notice="reference", last_turn_notice="reference")
    assert (published.invalid_notice is not None) == (name in ("zerosearch", "search-r1"))
    assert published.last_turn_notice == ""
    silent = make_rules(protocol=name, invalid_notice="none", last_turn_notice="none")
    assert (silent.invalid_notice, silent.last_turn_notice) == ("", "")
    text = make_rules(protocol=name, invalid_notice=" Try again. ", last_turn_notice="\nThe last one.\n")
    assert (text.invalid_notice, text.last_turn_notice) == (" Try again. ", "\nThe last one.\n")


def test_a_word_that_selects_no_notice_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"invalid_notice .*'refrence'.*Did you mean 'reference'"):
        make_rules(invalid_notice="refrence")
    with pytest.raises(ConfigError, match="last_turn_notice must be own, reference, none or a text, got 3"):
        make_rules(last_turn_notice=3)  # type: ignore[arg-type]


def test_a_notice_is_a_choice_of_the_environment() -> None:
    env = gym.make("ZeroSearch-v0", dataset=WHO, search_engine=ConstantEngine(), max_turns=1, invalid_notice="none")
    env.reset(seed=0)
    observation, _, terminated, _, info = env.step("no action")
    assert (observation, terminated, info["action"]) == (env.unwrapped.rules.last_turn_notice, False, "invalid")
    strict = gym.make("ZeroSearch-v0", dataset=WHO, search_engine=ConstantEngine(), protocol="r1-searcher")
    strict.reset(seed=0)
    assert strict.step("no action")[2]


EXAMPLES = "Question: Who made {question}?\n<search>maker</search>\n<answer>Bo</answer>"


def test_worked_examples_stand_before_the_instruction(tmp_path: Path) -> None:
    file = tmp_path / "shots.txt"
    file.write_text(f"\n{EXAMPLES}\n\n")
    question = Question("id", "Who wrote {it}?", ("Ada",))
    bare = Episode(question, make_rules(prompt_template="Ask: {question}")).prompt
    for given in (EXAMPLES, file, str(file)):
        rules = make_rules(few_shot=given, prompt_template="Ask: {question}")
        assert Episode(question, rules).prompt == f"{EXAMPLES}\n\n{bare}"  # their own braces are text
        assert rules.few_shot == EXAMPLES


def test_worked_examples_precede_the_prompt_of_a_row() -> None:
    row = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"})
    question = Question("id", "Who?", ("Ada",), prompt=row)
    rules = make_rules(few_shot=EXAMPLES, prompt_template="dataset")
    assert rules.messages(question) == (row[0], {"role": "user", "content": f"{EXAMPLES}\n\nWho?"})
    assert rules.prompt(question) == f"Be short.\n{EXAMPLES}\n\nWho?"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("shots.txt", "there is no file 'shots.txt'"),
        ("my shots.txt", "there is no file 'my shots.txt'"),
        ("", "no file ''"),
        (" \n ", "few_shot is empty"),
        (3, "must be a string or a path, got 3"),
        ("Q: a\n<tool_call>{}</tool_call>", "the prompt shows </tool_call>, but protocol 'zerosearch'"),
    ],
)
def test_wrong_worked_examples_are_named(given: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_rules(few_shot=given)  # type: ignore[arg-type]
