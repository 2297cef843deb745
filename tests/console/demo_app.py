"""The real console on the sample backend: for the test in a real terminal, and to look at."""

from __future__ import annotations

import sys

from fluid_tui.app import FluidApp
from tests.console.fake_backend import FakeBackend

if __name__ == "__main__":
    FluidApp(FakeBackend(), read_only="--read-only" in sys.argv).run()
