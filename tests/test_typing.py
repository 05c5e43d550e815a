"""Protects: whoever reads an annotation finds its axis names in one glossary."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from portrait_jax.typing import AXES

ROOT = Path(__file__).resolve().parents[1]
ARRAYS = {"Bool", "Float", "Int", "Int16", "Num", "UInt8"}
FILES = sorted(path for room in ("portrait_jax", "data") for path in (ROOT / room).rglob("*.py"))


def short_names(path: Path) -> set[str]:
    """Axis names of at most three letters in a file's array annotations."""
    shapes = [
        node.slice.elts[1].value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in ARRAYS
        if isinstance(node.slice, ast.Tuple) and isinstance(node.slice.elts[1], ast.Constant)
    ]
    return set(re.findall(r"(?<![\w{.])[A-Za-z]\w{0,2}(?!\w)", " ".join(shapes)))


def test_every_short_axis_name_stands_in_the_glossary():
    missing = {str(path.relative_to(ROOT)): sorted(short_names(path) - AXES.keys()) for path in FILES}
    assert {name: axes for name, axes in missing.items() if axes} == {}


def test_the_glossary_holds_no_name_that_nobody_uses():
    assert AXES.keys() - set().union(*map(short_names, FILES)) == set()
