"""A run of everything that was stopped goes on: ``./fluid test --full`` names the file of what has passed and
stands as it stood. Files of tests are left out whole, or not at all: one may stand on the one before."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Set
from pathlib import Path

import pytest

FILE = os.environ.get("FLUID_TEST_PASSED")
_broken: set[str] = set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if FILE:
        done = whole_files([item.nodeid for item in items], set(Path(FILE).read_text().splitlines()))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]


def whole_files(tests: list[str], passed: Set[str]) -> set[str]:
    """Those of the files of which each one has passed. Tests by their node ids."""
    files = defaultdict[str, set[str]](set)
    for test in tests:
        files[test.partition("::")[0]].add(test)
    return {test for mine in files.values() if mine <= passed for test in mine}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """It has passed once its clean-up has, too."""
    if not report.passed:
        _broken.add(report.nodeid)
    if FILE and report.when == "teardown" and report.nodeid not in _broken:
        with Path(FILE).open("a") as passed:
            passed.write(f"{report.nodeid}\n")
