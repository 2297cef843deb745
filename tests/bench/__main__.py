"""``./fluid bench``: measures, says what it saw, keeps it where asked.

A bar that does not hold fails nothing: these are figures, not tests.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import signal
import sys
from pathlib import Path

from backend.cli.guard import guarded
from tests.bench.figures import into_page, load, save, show

BENCHES = ("fleet", "changes", "api", "console", "events")
"""Each a module here whose ``measure()`` gives its figures; ``events`` takes half an hour."""
CHECKOUT = Path(__file__).resolve().parents[2]
README, PAGE = CHECKOUT / "README.md", CHECKOUT / "backend/docs/figures.md"
IN_README = (
    "create: cold boot",
    "create: fork",
    "create: from stock",
    "memory of a fork",
    "disk of a fork",
    "snapshot and manifest",
    "snapshot: the guest stands still",
    "restore",
    "fluid status",
    "console: first useful paint",
    "backend: memory",
)
"""What users ask for; all figures stand on a page of their own."""


def main() -> int:
    asked = _words()
    if asked.readme:
        figures = load(asked.readme)
        PAGE.write_text(into_page(PAGE.read_text(), figures))
        README.write_text(into_page(README.read_text(), figures, IN_README))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as where it is installed: modules are compiled once
    figures = []
    for name in BENCHES if "all" in asked.names else asked.names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures += asyncio.run(importlib.import_module(f"tests.bench.{name}").measure())
    show(figures)
    if asked.json:
        save(figures, asked.json)
    return 0


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser("./fluid bench")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, "all"], metavar="NAME", default="all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--readme", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(guarded(main))
