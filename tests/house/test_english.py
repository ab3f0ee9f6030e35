"""Plain English: words and turns of phrase that make the text hard to read stay out of it.

Checked are docstrings, comments and messages of the three packages and the examples, and the prose of README and docs/.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("zerosearch_env", "agents", "benchmarks", "zerosearch_verifiers", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What to write instead, by what is written.
INSTEAD = {
    r"\banew\b": "again, from scratch",
    r"\b(?-i:nobody)\b": "no one, nothing",
    r"\bbeside\b": "next to, besides",
    r"\bfor want of\b": "lacking",
    r"\bof one's own\b": "your own",
    r"\b(?:has|have|with) an? \w+ of (?:its|their) own\b": "has its own",
    r"\bgo(?:es)? on (?:with|from|where|when|until)\b": "continue",
    r"\bwhat announces\b": "signs of",
    r"\b(?:stands|stand) (?:in|at|beside|behind|under|above|between)\b(?! for)": "is in",
    r"(?<!there )\bis no (?!longer|more|less|different|other|need|way|such|further)[a-z]+\b": "is not a",
    r"\b(?:documents|searches|tokens|episodes|passages|questions|rollouts|turns|nats|seconds|bytes) an? "
    r"(?:search|turn|step|token|question|group|episode|rollout|query|second|update|row|batch|process)\b": "per",
}
PATTERN = {re.compile(wrong, re.IGNORECASE): right for wrong, right in INSTEAD.items()}

# Text that a model reads or that makes up the synthetic world; it is data.
DATA = {"text.py", "names.py", "prompts.py", "reading.py", "demonstrations.py", "attacks.py"}


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every comment and string of a module that holds a space: words for people."""
    source = path.read_text("utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of a page, without its blocks of code and its inline code."""
    fenced = False
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        fenced ^= line.startswith("```")
        if not fenced:
            yield number, re.sub(r"`[^`]*`", "", line)


def _assert_plain(paths: Iterable[Path], texts: Callable[[Path], Iterator[tuple[int, str]]]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match.group()!r}; write: {right}"
        for path in paths
        for line, text in texts(path)
        for pattern, right in PATTERN.items()
        for match in pattern.finditer(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_code_speaks_plain_english() -> None:
    _assert_plain((path for path in SOURCES if path.name not in DATA), _texts)


def test_pages_speak_plain_english() -> None:
    assert PAGES
    _assert_plain(PAGES, _prose)
