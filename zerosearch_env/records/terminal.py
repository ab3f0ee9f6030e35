"""Human-readable transcripts: terminal text and rich renderables from the same record.

Records come from `transcripts.transcript_record`. Gold answers are shown only after the end of the episode. Text from
policies and documents is untrusted: control characters never reach the terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..types import JsonObject, StopReason
from .html import clean, no_documents
from .transcripts import search_groups

if TYPE_CHECKING:
    from rich.console import Console, Group

Record = JsonObject

# The escape sequence and the name in rich of each style.
_STYLES = {
    "head": ("\x1b[1m", "bold"),
    "rule": ("\x1b[2m", "dim"),
    "policy": ("", ""),
    "query": ("\x1b[36m", "cyan"),
    "title": ("\x1b[1m", "bold"),
    "text": ("", ""),
    "noisy": ("\x1b[33m", "yellow"),
    "note": ("\x1b[2m", "dim"),
    "good": ("\x1b[32m", "green"),
    "bad": ("\x1b[31m", "red"),
}
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Line:
    """One paragraph of terminal output."""

    style: str
    """A key of `_STYLES`."""
    text: str
    """The text, without control characters; it may have line breaks."""
    indent: int = 0
    """Number of columns by which every wrapped line is indented."""


Block = list[Line]


def blocks(record: Record, *, show_noise: bool = True) -> list[Block]:
    """The transcript as blocks: the question, one block per turn, and the result if the episode is over.

    Args:
        record: a record from `transcript_record`.
        show_noise: mark noisy documents and show the noise level.
    """
    parts = [_head(record, show_noise)]
    parts += [turn_block(turn, show_noise=show_noise) for turn in record["turns"]]
    if record["stop_reason"] is not None:
        parts.append(result_block(record))
    return parts


def _head(record: Record, show_noise: bool) -> Block:
    question = record["question"]
    note = f"{record['protocol']} · {question['id']}"
    if show_noise:
        note += f" · noise level {record['noise_level']:.2f}"
    return [Line("head", f"Question: {clean(question['text'])}"), Line("note", clean(note))]


def turn_block(turn: JsonObject, *, show_noise: bool = True) -> Block:
    """One turn: the policy's text, and the documents or the notice that it received."""
    lines = [Line("rule", f"── turn {turn['turn']} · {turn['action']}"), Line("policy", clean(turn["action_text"]), 2)]
    if turn["action"] != "search":
        if turn["observation"]:
            lines.append(Line("note", clean(turn["observation"].strip()), 2))
        return lines
    return lines + documents_block(turn, show_noise=show_noise)


def documents_block(turn: JsonObject, *, show_noise: bool = True) -> Block:
    """Each query of a turn and its documents; noisy ones are marked."""
    lines: Block = []
    for search in search_groups(turn):
        lines.append(Line("query", f"? {clean(search['query'])}", 2))
        for number, (document, noisy) in enumerate(zip(search["documents"], search["noisy"], strict=True), 1):
            marked = noisy and show_noise
            title = f"[{number}] {clean(document['title'])}" + (" (noisy)" if marked else "")
            lines.append(Line("noisy" if marked else "title", title, 4))
            lines.append(Line("text", clean(document["text"]), 8))
        if not search["documents"]:
            lines.append(Line("note", clean(search["message"] or no_documents(turn)), 4))
    return lines


def result_block(record: Record) -> Block:
    """The result of an episode: the stop reason, the answer, the gold answers and the scores."""
    lines = [Line("rule", f"── end · {record['stop_reason']}")]
    if record["error"]:
        who = "agent" if record["stop_reason"] == StopReason.AGENT_ERROR else "engine"
        lines.append(Line("bad", clean(f"{who} failed: {record['error']}"), 2))
    scores = record["scores"]
    if scores is None:
        return lines
    prediction = "no answer" if scores["prediction"] is None else clean(scores["prediction"])
    searches = f"{scores['searches']} {'search' if scores['searches'] == 1 else 'searches'}"
    if scores["em"] is None:  # a question without gold answers
        return [*lines, Line("head", f"answer: {prediction}", 2), Line("note", searches, 2)]
    style = "good" if scores["em"] == 1.0 else "bad"
    figures = f"EM {scores['em']:.0f} · F1 {scores['f1']:.2f} · subEM {scores['subem']:.0f}"
    return [
        *lines,
        Line(style, f"answer: {prediction}", 2),
        Line("note", "gold: " + clean(" | ".join(record["answers"])), 2),
        Line(style, f"{figures} · reward {scores['reward']:g} · {searches}", 2),
    ]


def render_ansi(record: Record) -> str:
    """The transcript as a string with terminal colours, wrapped at 100 columns.

    Args:
        record: a record from `transcript_record`.

    Returns:
        Lines that end with a line break. The only escape sequences are colours.
    """
    return "".join(_ansi_line(line) for block in blocks(record) for line in block)


def _ansi_line(line: Line) -> str:
    pad = " " * line.indent
    wrapped = [
        piece
        for paragraph in line.text.expandtabs(4).split("\n")
        for piece in textwrap.wrap(paragraph, _WIDTH - line.indent, break_on_hyphens=False) or [""]
    ]
    colour = _STYLES[line.style][0]
    end = "\x1b[0m" if colour else ""
    return "".join(f"{pad}{colour}{piece}{end}\n" if piece else "\n" for piece in wrapped)


def rich_block(block: Sequence[Line]) -> Group:
    """A block as a rich renderable."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    texts = [Text(line.text, style=_STYLES[line.style][1], overflow="fold") for line in block]
    return Group(*(Padding(text, (0, 0, 0, line.indent)) for text, line in zip(texts, block, strict=True)))


def render_rich(record: Record, *, show_noise: bool = True) -> Group:
    """The transcript as a rich renderable, for `rich.print`.

    Args:
        record: a record from `transcript_record`.
        show_noise: mark noisy documents and show the noise level.
    """
    from rich.console import Group

    return Group(*(rich_block(block) for block in blocks(record, show_noise=show_noise)))


def make_console() -> Console:
    """A rich console on the current standard output that prints every string literally."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def print_new(record: Record, shown: int, *, title: str | None = None, show_noise: bool = True) -> int:
    """Print the blocks of a transcript that have not been printed yet.

    Args:
        record: a record from `transcript_record`.
        shown: number of blocks printed before.
        title: printed above the new blocks, to distinguish several episodes.
        show_noise: mark noisy documents and show the noise level.

    Returns:
        Number of blocks printed so far.
    """
    parts = blocks(record, show_noise=show_noise)
    if shown < len(parts):
        console = make_console()
        if title is not None:
            console.print(rich_block([Line("rule", f"══ {title}")]))
        for part in parts[shown:]:
            console.print(rich_block(part))
    return len(parts)
