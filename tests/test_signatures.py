"""Public functions and records give the shape of every tensor: ``Float[Tensor, "B L"]`` and not ``Tensor``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHAPED = {"Bool", "Float", "Int", "Shaped", "UInt8"}


def has_bare_tensor(hint: ast.AST) -> bool:
    """Whether a type hint contains ``Tensor`` without a shape."""
    if isinstance(hint, ast.Subscript) and ast.unparse(hint.value) in SHAPED:
        return False
    if ast.unparse(hint) in ("Tensor", "torch.Tensor"):
        return True
    return any(has_bare_tensor(part) for part in ast.iter_child_nodes(hint))


def hints(body: list[ast.stmt]) -> Iterator[tuple[int, ast.expr]]:
    """Yields the line and the hint of each parameter, result and field of the public functions and classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name.endswith("__")):
            given = node.args
            for one in (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg):
                if one is not None and one.annotation is not None:
                    yield one.lineno, one.annotation
            if node.returns is not None:
                yield node.lineno, node.returns
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from hints(node.body)
            yield from ((field.lineno, field.annotation) for field in node.body if isinstance(field, ast.AnnAssign))


def bare_tensors(source: str) -> list[int]:
    """Returns the lines of public hints with a tensor without a shape."""
    return [line for line, hint in hints(ast.parse(source).body) if has_bare_tensor(hint)]


def test_every_public_tensor_has_a_shape():
    files = [file for folder in ("unigrpo", "rewards") for file in sorted((ROOT / folder).rglob("*.py"))]
    assert [f"{file.relative_to(ROOT)}:{line}" for file in files for line in bare_tensors(file.read_text())] == []


@pytest.mark.parametrize(
    "source",
    [
        "def f(x: Tensor): ...",
        "def f(*x: Tensor | None): ...",
        "def f() -> dict[str, torch.Tensor]: ...",
        "class A:\n    def f(self, x: Callable[[Tensor], None]): ...",
        "class A:\n    x: Tensor | None = None",
    ],
)
def test_the_check_sees_a_tensor_without_a_shape(source):
    assert len(bare_tensors(source)) == 1


def test_the_check_lets_shapes_and_private_names_pass():
    assert bare_tensors('def f(x: Float[Tensor, "B L"]) -> int: ...\ndef _g(x: Tensor): ...') == []
