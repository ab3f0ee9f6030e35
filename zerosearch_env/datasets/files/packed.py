"""Lists and dicts that are stored as text: JSON, or what Python, pandas and NumPy print.

Spreadsheets and copies of datasets often hold `'["Paris", "Lutetia"]'`, `"{'target': array(['Paris'], dtype=object)}"`
or `"['Paris' 'Lutetia']"` where the original has a list or a dict. The text is only ever parsed, never evaluated.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from collections.abc import Iterator, Mapping

from ...types import Json
from .rows import RowError

_PLAIN = (str, int, float, bool)
_PAIRS = {"[": "]", "{": "}", "(": ")"}
_LITERALS = (tokenize.STRING, tokenize.NUMBER)
_SPACING = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
_DAMAGED = re.compile(r"""[\[{]\s*["'\[{]""")


def plain(value: Json) -> Json:
    """Convert NumPy arrays and scalars to plain Python values, at any depth."""
    if value is None or type(value) in _PLAIN:  # nearly all values: large files have millions of them
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def unpack(value: Json, field: str) -> Json:
    """A list or dict that may be stored as text, in plain Python values; text that is neither is returned as it is.

    Raises:
        RowError: the text begins like a list or dict but cannot be read. It may have been cut off.
    """
    value = plain(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] not in _PAIRS or (text[0] == "(" and text[1:2] not in ("'", '"')):
        return value
    if text.endswith(_PAIRS[text[0]]):
        unpacked = _from_json(text)
        if unpacked is None:
            unpacked = _from_python(text)
        if isinstance(unpacked, (list, dict, tuple)):
            return plain(unpacked)
    if _DAMAGED.match(text):
        raise RowError(field, "a whole list or dict, as JSON or as Python prints it", value)
    return value


def _from_json(text: str) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_python(text: str) -> Json:
    """The value of a Python literal, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # about backslashes in the text
            tree = ast.parse("".join(_with_commas(text)), mode="eval")
            return ast.literal_eval(_Literals().visit(tree))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        return None


def _with_commas(text: str) -> Iterator[str]:
    """The text's tokens, with the commas that NumPy leaves out; Python would join neighbouring strings instead."""
    ended = False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _SPACING:
            continue
        literal = token.type in _LITERALS
        if ended and (literal or token.string in _PAIRS):
            yield ", "
        yield f"{token.string} "
        ended = literal or token.string in _PAIRS.values()


class _Literals(ast.NodeTransformer):
    """Replaces what is printed but is not a literal: NumPy's `array(...)` and `nan`; sets, too, to keep their order."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        is_array = isinstance(node.func, ast.Name) and node.func.id == "array" and len(node.args) == 1
        return self.visit(node.args[0]) if is_array else node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(float("nan")) if node.id == "nan" else node

    def visit_Set(self, node: ast.Set) -> ast.AST:
        return ast.List([self.visit(item) for item in node.elts], ast.Load())
