"""`Any` switches the type checker off for users: a public signature has it only where a comment says why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "zerosearch_env"
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def _has_any(annotation: ast.expr | None) -> bool:
    """Whether `Any` occurs, other than in `Coroutine[Any, Any, T]`, the usual spelling of what `async def` returns."""
    if annotation is None:
        return False
    text = ast.unparse(annotation).replace("Coroutine[Any, Any, ", "Coroutine[")
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(text)))


def _public(node: ast.AST, lines: list[str], explained: bool = False) -> Iterator[tuple[int, str]]:
    """Line and name of every public function and field with an unexplained `Any`.

    A comment `# Any: why` counts if it is on the line above the definition, inside the signature, or above the class.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _public(child, lines, explained or "# Any:" in lines[_first(child) - 2])
        elif isinstance(child, _Function) and (
            not child.name.startswith("_") or child.name in ("__init__", "__call__")
        ):
            arguments = child.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            annotations = [child.returns, *(argument.annotation for argument in every if argument is not None)]
            signature = "\n".join(lines[_first(child) - 2 : child.body[0].lineno])
            if any(map(_has_any, annotations)) and not explained and "# Any:" not in signature:
                yield child.lineno, child.name
        elif isinstance(child, ast.AnnAssign) and isinstance(node, ast.ClassDef) and _has_any(child.annotation):
            name = ast.unparse(child.target)
            comment = "\n".join(lines[child.lineno - 2 : child.lineno])
            if not name.startswith("_") and not explained and "# Any:" not in comment:
                yield child.lineno, name


def _first(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


@pytest.mark.slow
def test_public_signatures_explain_any() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(PACKAGE).parts):
            continue
        source = path.read_text("utf-8")
        wrong += [
            f"{path.relative_to(PACKAGE.parent)}:{line} {name}: give it a type, or write '# Any: why' above it"
            for line, name in _public(ast.parse(source), source.splitlines())
        ]
    assert not wrong, "\n".join(wrong)


def test_the_check_finds_what_it_looks_for() -> None:
    source = """
class Public:
    field: dict[str, Any]
    # Any: the caller's own value
    explained: Any

    def method(self, *args: Any) -> None: ...

    def typed(self, coroutine: Coroutine[Any, Any, int]) -> int: ...

# Any: signatures of a base class
class Explained:
    def method(self) -> Any: ...

def _private(value: Any) -> None: ...

def function(value: int) -> Any: ...
"""
    assert [name for _, name in _public(ast.parse(source), source.splitlines())] == [
        "field",
        "method",
        "function",
    ]
