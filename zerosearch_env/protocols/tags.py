r"""The tag grammars: find the element of a turn that decides the action, and parse its content.

The rules, for every protocol:

- Tags must match the protocol's spelling exactly; `<Search>` or `< search >` is ordinary text. (A sampler also stops
  only at the exact string, so a tag at which it would not stop must not be an action.)
- A thought reaches from `<think>` to the next `</think>`. Nothing inside a thought is an action. Thoughts do not nest.
  A thought that is never closed reaches to the end of the turn.
- If a turn's first `</think>` has no `<think>` before it, the prompt has opened the thought (chat templates of
  DeepSeek-R1 distills, QwQ and Qwen3-Thinking do), and everything before it is thought. Later ones are ignored.
- The first *complete* element outside thoughts decides: the earliest closing tag that has an opening tag before it,
  together with the nearest such opening tag. Text after this element never changes the action, so it does not matter
  whether a sampler stops at the closing tag or continues (except inside a thought that the prompt has opened). The text
  after it does not stay in the transcript either.
- If the deciding element is empty, the turn is invalid; later elements are ignored.

    <think>I might <search>a</search></think> <search>b</search> <answer>c</answer>
    |--------------- thought ---------------| |--- decides ----| |--- ignored ----|
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .base import INVALID, ParsedAction
from .hygiene import clean_query, visible

THINK, THINK_END = "<think>", "</think>"


@dataclass(frozen=True)
class Grammar:
    """The compiled elements of one protocol."""

    pattern: re.Pattern[str]
    """Finds the next tag, including `<think>`."""
    tags: Mapping[str, tuple[str, bool]]
    """Tag -> (element name, True if it is the opening tag)."""
    usual: re.Pattern[str]
    """Fast path: matches turns that consist of an optional thought and one element, with no other `<` before its end.
    The name of the matched group is the element's name."""
    open_thought_acts: bool
    """True if the protocol's prompt itself opens the thought and searches happen inside it (r1-searcher). A `<think>`
    that is never closed then hides nothing."""


def make_grammar(elements: Mapping[str, tuple[str, str]], *, open_thought_acts: bool = False) -> Grammar:
    """Compile a grammar from element names (identifiers) and their (opening, closing) tags."""
    tags = {tag: (name, i == 0) for name, pair in elements.items() for i, tag in enumerate(pair)}
    pairs = "|".join(
        f"{re.escape(opening)}(?P<{name}>[^<]*+){re.escape(closing)}" for name, (opening, closing) in elements.items()
    )
    usual = re.compile(rf"[^<]*+(?:<think>[^<]*+</think>[^<]*+)?+(?:{pairs})")
    return Grammar(re.compile("|".join(map(re.escape, (THINK, *tags)))), tags, usual, open_thought_acts)


def opened_thought(grammar: Grammar, text: str) -> int:
    """Number of characters that belong to a thought that the prompt has opened; 0 if it has opened none."""
    end = text.find(THINK_END)
    if end < 0 or grammar.open_thought_acts or text.find(THINK, 0, end) >= 0:
        return 0
    return end + len(THINK_END)


def scan_elements(grammar: Grammar, text: str, position: int = 0) -> tuple[str, str, int] | None:
    """The deciding element of a text from `position` on, or None if there is no complete element outside thoughts.

    Returns:
        The element's name, its raw content, and the position of its end.
    """
    search, tags = grammar.pattern.search, grammar.tags
    opened: dict[str, int] = {}
    closable = True
    while match := search(text, position):
        position = match.end()
        tag = match[0]
        if tag == THINK:
            end = text.find(THINK_END, position) if closable else -1
            if end >= 0:
                position = end + len(THINK_END)
            elif grammar.open_thought_acts:
                closable = False
            else:
                return None
            continue
        name, opening = tags[tag]
        if opening:
            opened[name] = position
        elif name in opened:
            content = text[opened[name] : match.start()]
            return name, without_thoughts(content, keep_open=True), position
    return None


def without_thoughts(text: str, *, keep_open: bool = False) -> str:
    """Remove all thoughts. One that is never closed reaches to the end, or is kept as text (`keep_open`)."""
    parts: list[str] = []
    position = 0
    while (start := text.find(THINK, position)) >= 0:
        end = text.find(THINK_END, start)
        if end < 0:
            return "".join([*parts, text[position:] if keep_open else text[position:start]])
        parts.append(text[position:start])
        position = end + len(THINK_END)
    return "".join([*parts, text[position:]])


def query_action(content: str) -> ParsedAction:
    """A search for the cleaned content, or an invalid turn if the cleaned content is empty."""
    query = clean_query(content)
    if not query:
        return INVALID
    return ParsedAction("search", query)


def answer_action(content: str) -> ParsedAction:
    """An answer with the stripped content, or an invalid turn if the content has no visible character."""
    answer = content.strip()
    if not answer or not (answer.isprintable() or visible(answer).strip()):
        return INVALID
    return ParsedAction("answer", answer)


def boxed_action(content: str) -> ParsedAction:
    r"""An answer with the last `\boxed{}` of the content, or an invalid turn if there is no `\boxed{}`."""
    return answer_action(last_boxed(content) or "")


def parse_tags(
    grammar: Grammar,
    actions: Mapping[str, Callable[[str], ParsedAction]],
    text: str,
) -> ParsedAction:
    """Parse one turn: find the deciding element and apply the action function of that name to its content."""
    start = opened_thought(grammar, text)
    usual = grammar.usual.match(text, start)
    if usual is not None:
        action, end = actions[usual.lastgroup or ""](usual[usual.lastindex or 0]), usual.end()
    elif element := scan_elements(grammar, text, start):
        action, end = actions[element[0]](element[1]), element[2]
    else:
        return INVALID
    return ParsedAction(action.kind, action.content, end)


_BRACE = re.compile(r"\\boxed\s{0,8}\{|\\[{}]|[{}]")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s{0,8}\{([^{}]*)\}")


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` with balanced braces, or None.

    "Last" means the latest start, so of two nested ones it is the inner one. `\{` and `\}` do not count as braces. If
    the whole content is `\text{...}` (or `\textbf`, `\mathrm`, `\mathbf`), it is unwrapped.
    """
    stack: list[int] = []
    best_start, best = -1, None
    for match in _BRACE.finditer(text):
        token = match[0]
        if token == "}":
            start = stack.pop() if stack else -1
            if start > best_start:
                best_start, best = start, text[start : match.start()]
        elif token == "{":
            stack.append(-1)
        elif len(token) > 2:
            stack.append(match.end())
    if best is None:
        return None
    wrapped = _LATEX_TEXT.fullmatch(best.strip())
    return wrapped[1] if wrapped else best


def render_element(opening: str, closing: str, content: str) -> str:
    """A well-formed action: the cleaned content between its tags."""
    return f"{opening}{clean_query(content)}{closing}"


def render_boxed(content: str) -> str:
    r"""`\boxed{content}` with cleaned content; if its braces do not balance, all braces are removed."""
    content = clean_query(content).replace("\\", "")
    depth = lowest = 0
    for mark in content:
        depth += (mark == "{") - (mark == "}")
        lowest = min(lowest, depth)
    if depth or lowest < 0:
        content = content.replace("{", "").replace("}", "")
    return f"\\boxed{{{content}}}"
