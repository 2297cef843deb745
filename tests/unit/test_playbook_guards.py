"""Each guard of the grammar is needed: without it a test of the grammar fails (DESIGN §9).

A guard is an ``if`` that ends in a refusal. What a kind of value refuses stands in a table, and each argument
there has a test of its own.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TESTS = Path("tests/unit/test_playbook_grammar.py")
GUARDED = [Path(f"backend/playbooks/{name}.py") for name in ("grammar", "_arguments", "_scope", "_yaml")]
LIMIT_S = 60
PASSED, FAILED = 0, 1  # how pytest ends when tests were run
EVERY = "every guard holds"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the tests of the grammar need, to be altered."""
    shutil.copytree(CHECKOUT / "backend", tmp_path / "backend", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / TESTS).parent.mkdir(parents=True)
    for name in (TESTS, "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path / name)
    return tmp_path


def without_each(source: str) -> Iterator[tuple[str, str]]:
    """A guard's line and condition, and the source in which it never holds. The first: every guard holds."""
    tree = ast.parse(source)
    yield EVERY, ast.unparse(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
            condition, node.test = node.test, ast.Constant(False)
            yield f"{node.lineno}: {ast.unparse(condition)}", ast.unparse(tree)
            node.test = condition


def end_of_tests(copy: Path) -> int:
    return subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-x", "-p", "no:cacheprovider", TESTS],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    ).returncode


@pytest.mark.full
@pytest.mark.parametrize("file", GUARDED, ids=lambda file: file.stem)
def test_without_any_one_guard_a_test_fails(copy: Path, file: Path) -> None:
    source = (copy / file).read_text()
    ends = {}
    for guard, altered in without_each(source):
        (copy / file).write_text(altered)
        ends[guard] = end_of_tests(copy)
    assert len(ends) > 1
    assert ends == {**dict.fromkeys(ends, FAILED), EVERY: PASSED}
