"""Each error says what to do: a message without a remedy leaves its reader alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from backend.errors import all_errors

BACKEND = Path(__file__).parents[2] / "backend"
HELPLESS = {kind.__name__ for kind in all_errors() if not kind.usual_remedy}


def _bare(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in HELPLESS):
            continue
        if not {"remedy", None} & {word.arg for word in node.keywords}:
            yield f"{file.relative_to(BACKEND)}:{node.lineno}: {ast.unparse(node)}"


def test_no_error_is_made_without_a_remedy() -> None:
    assert [line for file in sorted(BACKEND.rglob("*.py")) for line in _bare(file)] == []
