"""The path of one change, run for real once a session, and kept for the tests that look at it.

Nothing is mocked: the demo as a user runs it, under a name of its own, so a demo of yours is left alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backend.client import Fluid

NAME = "fluid-test"
CHECKOUT = Path(__file__).parents[1]
DEMO_TIMEOUT_S = 1500
COMMAND_TIMEOUT_S = 120
FIXED_SEED = 4
STOCK_LIMIT_S = 120


@dataclass(frozen=True)
class Demo:
    """A demo under the tests' own name."""

    home: Path
    env: dict[str, str]

    def run(
        self, *words: str, seed: int | None = None, report: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``fluid demo WORDS``, its transcript captured."""
        argv = [sys.executable, "-m", "backend.cli", "demo", "--yes", *words]
        if seed is not None:
            argv += ["--seed", str(seed)]
        if report is not None:
            argv += ["--json", str(report)]
        return subprocess.run(
            argv,
            cwd=CHECKOUT,
            env=self.env,
            text=True,
            capture_output=True,
            timeout=DEMO_TIMEOUT_S,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The same, in the background, its transcript in ``home/../transcript``."""
        return subprocess.Popen(
            [sys.executable, "-m", "backend.cli", "demo", "--yes", *words],
            cwd=CHECKOUT,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def fluid(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``fluid WORDS`` as the demo's operator."""
        return subprocess.run(
            [sys.executable, "-m", "backend.cli", *words],
            cwd=CHECKOUT,
            env={**self.env, "FLUID_HOME": str(self.home)},
            text=True,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    @property
    def operator_socket(self) -> Path:
        return self.home / "run" / "operator.sock"

    @property
    def agent_socket(self) -> Path:
        return self.home / "run" / "agent.sock"


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """A clean start and a clean end."""
    env = {**os.environ, "FLUID_DEMO_NAME": NAME, "PYTHONPATH": str(CHECKOUT)}
    env.pop("FLUID_HOME", None)
    made = Demo(Path("/var/lib") / NAME, env)
    made.run("--clean")
    yield made
    cleaned = made.run("--clean")
    assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr


@dataclass(frozen=True)
class Told:
    """One whole run: the report, and what it printed."""

    report: dict[str, Any]
    transcript: str
    code: int


def play(demo: Demo, seed: int, folder: Path) -> Told:
    """Run the demo unattended with a seed."""
    file = folder / f"report-{seed}.json"
    done = demo.run("--unattended", seed=seed, report=file)
    transcript = done.stdout + done.stderr
    assert file.exists(), f"seed {seed} wrote no report:\n{transcript}"
    return Told(json.loads(file.read_text()), transcript, done.returncode)


@pytest.fixture(scope="session")
def told(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The fixed seed's run, once a session."""
    return play(demo, FIXED_SEED, tmp_path_factory.mktemp("fixed"))


@pytest.fixture(scope="session")
def operator(told: Told, demo: Demo) -> Fluid:
    """The operator door of the demo that has run."""
    return Fluid(demo.operator_socket)


def until_parked(operator: Fluid) -> None:
    """The demo's one fork of stock is there: nothing is made in the background any more."""
    deadline = time.monotonic() + STOCK_LIMIT_S
    while operator.hosts()[0].stock < 1:
        assert time.monotonic() < deadline, "no stock was made"
        time.sleep(0.5)
