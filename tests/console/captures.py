"""Prints every screen of the console as text, at two sizes: ``python -m tests.console.captures``."""

from __future__ import annotations

import asyncio
import os

from fluid_tui import app
from tests.console.conftest import running
from tests.console.looks import SCREENS, opened

SIZES = ((80, 24), (160, 48))


async def main() -> None:
    for width, height in SIZES:
        async with running(width, height) as seen:
            for name in SCREENS:
                await opened(seen, name)
                print(f"\n=== {name}, {width}x{height}")
                print("\n".join(line.rstrip() for line in seen.lines()), flush=True)


if __name__ == "__main__":
    os.environ["TERM"] = "xterm-256color"
    app.PANIC_S = 60.0  # a machine that is busy
    asyncio.run(main())
