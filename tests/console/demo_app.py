"""The real console on the sample backend: for the test in a real terminal, and to look at. With ``--silent``
the backend never tells its fleet."""

from __future__ import annotations

import asyncio
import sys

from backend.models import FleetView
from fluid_tui.app import FluidApp
from tests.console.fake_backend import FakeBackend


class SilentBackend(FakeBackend):
    async def fleet(self) -> FleetView:
        await asyncio.Event().wait()
        raise AssertionError


if __name__ == "__main__":
    backend = SilentBackend() if "--silent" in sys.argv else FakeBackend()
    FluidApp(backend, read_only="--read-only" in sys.argv).run()
