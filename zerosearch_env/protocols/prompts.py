r"""Instructions and notices of every protocol, in this package's own words.

For a checkpoint trained with another instruction, pass that instruction as `prompt_template` (a string or a file).
"""

from __future__ import annotations

import json
import os

from ..errors import ConfigError
from ..files import read_utf8
from ..types import JsonObject

PLACEHOLDER = "{question}"
"""Replaced by the question's text. All other braces in a template are ordinary text."""
DATASET_PROMPT = "dataset"
"""In place of a template: every question is asked with the prompt of its own row (`Question.prompt`)."""

_TAGGED = (
    "Find the answer to the question at the end.\n"
    "Whenever you have learnt something, reason about it between <think> and </think>. If a fact is missing, ask a "
    "search engine for it with <search>your query</search>; its best passages come back between {opening} and "
    "{closing}. You may search several times. Once you know enough, reply with {answer}, as short as possible and "
    "without an explanation.\n"
    "Question: {question}\n"
)


def _tagged(opening: str, closing: str, answer: str) -> str:
    return _TAGGED.replace("{opening}", opening).replace("{closing}", closing).replace("{answer}", answer)


ZEROSEARCH = SEARCH_R1 = _tagged("<information>", "</information>", "<answer>your answer</answer>")
RESEARCH = _tagged("<result>", "</result>", r"<answer>\boxed{your answer}</answer>")

R1_SEARCHER = (
    "A user asks a question and an assistant solves it. The assistant first reasons and then replies: its reasoning "
    "stands between <think> and </think>, its reply between <answer> and </answer>, and the reply is the bare answer. "
    "While it reasons it may look a fact up by writing <|begin_of_query|>keywords<|end_of_query|>, one fact at a time; "
    "passages are then inserted between <|begin_of_documents|> and <|end_of_documents|>, and it reasons on.\n"
    "User: {question}\n"
    "Assistant: <think>"
)

_TEXTS: JsonObject = {"type": "array", "items": {"type": "string"}}


def _tool(name: str, description: str, parameter: str, kind: JsonObject) -> JsonObject:
    parameters = {"type": "object", "properties": {parameter: kind}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _as_text(tools: tuple[JsonObject, ...]) -> str:
    return "<tools>\n" + "".join(json.dumps(tool) + "\n" for tool in tools) + "</tools>\n"


DEEPRESEARCHER_TOOLS = (
    _tool("web_search", "Search for passages.", "query", _TEXTS),
    _tool("browse_webpage", "Read pages among the results of a search.", "url_list", _TEXTS),
)
_DEEPRESEARCHER = (
    "Research the question below with the help of tools that search and read pages. Reason between <think> and "
    "</think> before each step. Then do one of two things: call a tool, or finish.\n"
)
_DEEPRESEARCHER_END = "Finish with <answer>your answer</answer>, as short as possible.\nQuestion: {question}\n"
DEEPRESEARCHER = (
    f"{_DEEPRESEARCHER}The tools:\n{_as_text(DEEPRESEARCHER_TOOLS)}"
    'Call one with <tool_call>{"name": "web_search", "arguments": {"query": ["first query", "second query"]}}'
    "</tool_call>; what it finds comes back between <tool_response> and </tool_response>.\n"
    f"{_DEEPRESEARCHER_END}"
)
DEEPRESEARCHER_WITHOUT_TOOLS = f"{_DEEPRESEARCHER}{_DEEPRESEARCHER_END}"

HERMES_TOOLS = (_tool("search", "Search for passages.", "query", {"type": "string"}),)
_HERMES_END = (
    "A reply without a call is final: it must hold the bare answer as \\boxed{your answer}.\nQuestion: {question}\n"
)
HERMES = (
    f"Answer the question below. You have a function for looking facts up:\n{_as_text(HERMES_TOOLS)}"
    "Reason between <think> and </think>. To call the function, reply with\n"
    '<tool_call>\n{"name": "search", "arguments": {"query": "your query"}}\n</tool_call>\n'
    f"and read what comes back between <tool_response> and </tool_response>. {_HERMES_END}"
)
HERMES_WITHOUT_TOOLS = (
    "Answer the question below. You have a function for looking facts up. Reason between <think> and </think>. "
    f"{_HERMES_END}"
)

# A notice names the opening tag only: policies copy what they read, and a whole element would then act.
INVALID_NOTICE = "\nThis turn did nothing. Search with a <search> element, or answer with an <answer> element.\n"
REFERENCE_INVALID_NOTICE = (
    "\nMy last step was not valid. To look something up, my query belongs between <search> and </search>. To finish, "
    "my answer belongs between <answer> and </answer>. Once more.\n"
)
"""In the first person and on one line, as in the loops of ZeroSearch and Search-R1, where it is part of the policy's
own turn."""
RESEARCH_INVALID_NOTICE = (
    " <result>\nNothing was searched: search with a <search> element, or finish with an <answer> element that holds "
    "the answer in \\boxed{}.\n</result>"
)
LAST_TURN_NOTICE = "\nNo search is left. Answer now, with an <answer> element.\n"
BOXED_LAST_TURN_NOTICE = (
    "\nNo search is left. Answer now, with an <answer> element that holds the answer in \\boxed{}.\n"
)
HERMES_LAST_TURN_NOTICE = "\nNo search is left. Answer now, in \\boxed{}.\n"


def load_few_shot(examples: str | os.PathLike[str]) -> str:
    """Return worked examples, reading them from a file if a path is given; line breaks at both ends are removed.

    Args:
        examples: the text, or the path of a UTF-8 file.

    Raises:
        ConfigError: there is no such file, it cannot be read, or there is no text.
    """
    if not isinstance(examples, (str, os.PathLike)):
        raise ConfigError(f"few_shot must be a string or a path, got {examples!r}.")
    text = os.fspath(examples)
    if "\n" not in text:
        if os.path.isfile(text):
            text = read_utf8(text, f"few_shot file {text!r}")
        elif not isinstance(examples, str) or " " not in text.strip() or text.endswith((".txt", ".md")):
            raise ConfigError(f"few_shot must be a text or the name of a file; there is no file {text[:80]!r}.")
    if not text.strip():
        raise ConfigError("few_shot is empty: give worked examples, or leave it out.")
    return text.strip("\r\n")


def load_prompt_template(template: str | os.PathLike[str]) -> str:
    """Return a prompt template, reading it from a file if a path is given.

    Args:
        template: a string that contains `{question}`, the path of a UTF-8 file that contains it, or `"dataset"`
            (`DATASET_PROMPT`; a file of that name is `"./dataset"`).

    Raises:
        ConfigError: `{question}` is missing, or the file cannot be read.
    """
    if isinstance(template, str) and (PLACEHOLDER in template or template == DATASET_PROMPT):
        return template
    if not isinstance(template, (str, os.PathLike)):
        raise ConfigError(f"prompt_template must be a string or a path, got {template!r}.")
    if not os.path.isfile(template):
        shown = str(template) if len(str(template)) <= 80 else str(template)[:77] + "..."
        raise ConfigError(
            f"prompt_template must contain {PLACEHOLDER} or name a file that does; got {shown!r}, "
            "which does not contain it and is not a file. Put {question} where the question's text belongs, or write "
            f"{DATASET_PROMPT!r} for the prompts in the rows of the dataset."
        )
    text = read_utf8(template, f"prompt_template file {os.fspath(template)!r}")
    if PLACEHOLDER not in text:
        raise ConfigError(
            f"prompt_template file {os.fspath(template)!r} does not contain {PLACEHOLDER}. "
            "Put it where the question's text belongs."
        )
    return text
