"""The real console on the sample backend, whose terminals print without end: each row says when it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import time

from backend.models import PaneScreen
from fluid_tui.app import FluidApp
from tests.console.fake_backend import FakeBackend

ROWS = 24
SCREENS_A_SECOND = 10


class BusyBackend(FakeBackend):
    async def pane_screens(self, pane_id: str) -> AsyncIterator[PaneScreen]:
        while True:
            yield PaneScreen(rows=[f"{time():.2f} {row:2} {'-' * 50}" for row in range(ROWS)])
            await asyncio.sleep(1 / SCREENS_A_SECOND)


if __name__ == "__main__":
    FluidApp(BusyBackend()).run()
