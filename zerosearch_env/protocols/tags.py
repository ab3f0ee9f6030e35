r"""The tag grammars: which element of a turn decides, and what it says.

The rules, for every protocol:

- Tags are matched exactly as the protocol spells them; `<Search>` or `< search >` is ordinary text. (A sampler stops
  at the exact string too; what it would run past cannot be an action.)
- `<think>` to the next `</think>` is a thought: nothing in it acts, thoughts do not nest, and a `</think>` that closes
  nothing is ignored. A thought that is never closed reaches to the end of the turn.
- The first *complete* element outside thoughts decides: the earliest closing tag whose opening tag came before it,
  together with the nearest such opening tag. So text after the deciding element never changes the decision, and a
  sampler that stops at the closing tag and one that runs on give the same action.
- When the element that decides is empty, the turn is invalid; later elements are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..drafts import draft_of
from .base import INVALID, ParsedAction
from .hygiene import clean_query, visible

ActionDraft = draft_of(ParsedAction)
THINK, THINK_END = "<think>", "</think>"


@dataclass(frozen=True)
class Grammar:
    """The elements of one protocol, compiled."""

    pattern: re.Pattern[str]
    """Finds the next tag, `<think>` included."""
    tags: Mapping[str, tuple[str, bool]]
    """Tag to (element name, True for its opening tag)."""
    usual: re.Pattern[str]
    """Matches, in one go, the turns that are an optional thought and one element with no other `<` before its end; the
    group that took part has the element's name."""
    open_thought_acts: bool
    """True where the protocol's own prompt opens the thought and searches happen inside it (r1-searcher): a
    `<think>` that is never closed then hides nothing."""


def make_grammar(elements: Mapping[str, tuple[str, str]], *, open_thought_acts: bool = False) -> Grammar:
    """Compile a grammar from element names (identifiers) and their (opening, closing) tags."""
    tags = {tag: (name, i == 0) for name, pair in elements.items() for i, tag in enumerate(pair)}
    pairs = "|".join(
        f"{re.escape(opening)}(?P<{name}>[^<]*+){re.escape(closing)}" for name, (opening, closing) in elements.items()
    )
    usual = re.compile(rf"[^<]*+(?:<think>[^<]*+</think>[^<]*+)?+(?:{pairs})")
    return Grammar(re.compile("|".join(map(re.escape, (THINK, *tags)))), tags, usual, open_thought_acts)


def scan_elements(grammar: Grammar, text: str) -> tuple[str, str] | None:
    """Name and raw content of the element that decides, or None when no complete one stands outside thoughts."""
    search, tags = grammar.pattern.search, grammar.tags
    opened: dict[str, int] = {}
    closable = True
    position = 0
    while found := search(text, position):
        position = found.end()
        tag = found[0]
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
            content = text[opened[name] : found.start()]
            return name, without_thoughts(content, keep_open=True)
    return None


def without_thoughts(text: str, *, keep_open: bool = False) -> str:
    """`text` without its thoughts; one that is never closed reaches to the end, or stays as text (`keep_open`)."""
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
    """A search for the cleaned content, or an invalid turn when nothing is left of it."""
    query = clean_query(content)
    if not query:
        return INVALID
    action = ActionDraft("search", query)
    action.__class__ = ParsedAction
    return action


def answer_action(content: str) -> ParsedAction:
    """An answer with the stripped content, or an invalid turn when nothing visible is in it."""
    answer = content.strip()
    if not answer or not (answer.isprintable() or visible(answer).strip()):
        return INVALID
    action = ActionDraft("answer", answer)
    action.__class__ = ParsedAction
    return action


def boxed_action(content: str) -> ParsedAction:
    r"""An answer with the last `\boxed{}` of the content, or an invalid turn when there is none."""
    return answer_action(last_boxed(content) or "")


def parse_tags(
    grammar: Grammar,
    actions: Mapping[str, Callable[[str], ParsedAction]],
    text: str,
) -> ParsedAction:
    """Parse one turn: the action that its deciding element names, applied to the element's content."""
    usual = grammar.usual.match(text)
    if usual is not None:
        return actions[usual.lastgroup or ""](usual[usual.lastindex or 0])
    element = scan_elements(grammar, text)
    return INVALID if element is None else actions[element[0]](element[1])


_BRACE = re.compile(r"\\boxed\s{0,8}\{|\\[{}]|[{}]")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s{0,8}\{([^{}]*)\}")


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` with balanced braces, or None.

    The last by its beginning, so the inner one of two that are nested. `\{` and `\}` are no braces. A content that is
    `\text{...}` (or `\textbf`, `\mathrm`, `\mathbf`) as a whole is unwrapped.
    """
    stack: list[int] = []
    best_start, best = -1, None
    for found in _BRACE.finditer(text):
        token = found[0]
        if token == "}":
            start = stack.pop() if stack else -1
            if start > best_start:
                best_start, best = start, text[start : found.start()]
        elif token == "{":
            stack.append(-1)
        elif len(token) > 2:
            stack.append(found.end())
    if best is None:
        return None
    wrapped = _LATEX_TEXT.fullmatch(best.strip())
    return wrapped[1] if wrapped else best


def render_element(opening: str, closing: str, content: str) -> str:
    """A well-formed action text around cleaned content."""
    return f"{opening}{clean_query(content)}{closing}"


def render_boxed(content: str) -> str:
    r"""`\boxed{content}` with cleaned content; braces that do not balance are left out."""
    content = clean_query(content).replace("\\", "")
    depth = lowest = 0
    for mark in content:
        depth += (mark == "{") - (mark == "}")
        lowest = min(lowest, depth)
    if depth or lowest < 0:
        content = content.replace("{", "").replace("}", "")
    return f"\\boxed{{{content}}}"
