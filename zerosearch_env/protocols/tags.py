r"""The tag grammars: find the element of a turn that decides the action, and parse its content.

A turn is read as the published loops read it: up to the first tag at which a sampler stops. So it does not matter
whether a sampler stops there or continues, and nothing that follows stays in the transcript.

- Tags must match the protocol's spelling exactly; `<Search>` or `< search >` is ordinary text, because a sampler also
  stops only at the exact string.
- If this tag closes an element, that element decides; otherwise the turn is invalid. Without such a tag, the first
  complete element decides (`research`, whose sampler does not stop at an answer).
- `<think>` and `</think>` are ordinary text: an element acts inside a thought too, closed or not. (In the protocols
  with tool calls it does not; see `tools.py`.)
- If the deciding element is empty, the turn is invalid; later elements are ignored.

    <think>It may be <search>a</search> or <search>b</search></think> <answer>c</answer>
                     |--- decides ----| |--------------- ignored --------------------|
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
    """Finds the next tag or stop string."""
    tags: Mapping[str, tuple[str, bool]]
    """Tag -> (element name, True if it is the opening tag). Stop strings of no element have an empty name."""
    usual: re.Pattern[str]
    """Fast path: matches turns that consist of an optional thought and one element at which a sampler stops, with no
    other `<` before its end. The name of the matched group is the element's name."""
    stops: frozenset[str]
    """Strings at which a sampler stops."""
    nearest: bool
    """Whether an element begins at the nearest opening tag before its end, or at the first one."""


def make_grammar(
    elements: Mapping[str, tuple[str, str]], *, stops: tuple[str, ...] | None = None, nearest: bool = False
) -> Grammar:
    """Compile a grammar.

    Args:
        elements: element name (an identifier) -> its (opening, closing) tags.
        stops: the protocol's stop strings; None: the closing tags of all elements.
        nearest: whether an element begins at the nearest opening tag before its end, or at the first one.
    """
    tags = dict.fromkeys(stops or (), ("", False))
    tags.update({tag: (name, i == 0) for name, pair in elements.items() for i, tag in enumerate(pair)})
    ends = frozenset((closing for _, closing in elements.values()) if stops is None else stops)
    pairs = "|".join(
        f"{re.escape(opening)}(?P<{name}>[^<]*+){re.escape(closing)}"
        for name, (opening, closing) in elements.items()
        if closing in ends
    )
    usual = re.compile(rf"[^<]*+(?:<think>[^<]*+</think>[^<]*+)?+(?:{pairs})")
    return Grammar(re.compile("|".join(map(re.escape, tags))), tags, usual, ends, nearest)


def scan_elements(grammar: Grammar, text: str) -> tuple[str, str, int] | None:
    """The deciding element of a text, or None if the text has neither a complete element nor a stop string.

    Returns:
        The element's name, its raw content, and the position of its end. The name is empty if a stop string ends the
        turn without closing an element.
    """
    opened: dict[str, int] = {}
    complete: tuple[str, str, int] | None = None
    for match in grammar.pattern.finditer(text):
        name, opening = grammar.tags[match[0]]
        if opening:
            if grammar.nearest or name not in opened:
                opened[name] = match.end()
        elif name in opened:
            element = name, text[opened[name] : match.start()], match.end()
            if match[0] in grammar.stops:
                return element
            complete = complete or element
        elif match[0] in grammar.stops:
            return "", "", match.end()
    return complete


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
    usual = grammar.usual.match(text)
    if usual is not None:
        action, end = actions[usual.lastgroup or ""](usual[usual.lastindex or 0]), usual.end()
    elif element := scan_elements(grammar, text):
        name, content, end = element
        action = actions[name](content) if name else INVALID
    else:
        return INVALID
    if action is INVALID:
        return ParsedAction("invalid", "", end)
    action.end = end  # the action was made for this turn; making another one takes longer
    return action


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
