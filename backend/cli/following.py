"""An agent's terminal as plain lines, for screen readers and pipes: rows as they come to rest, no escapes.

The backend tells of screens, not of lines: at each that has come to rest the pane's history is read, and what
is new of it told. Where the history does not reach back to what was told, it is said so. Blank rows are left
out.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from difflib import SequenceMatcher

from backend.cli.terminal import newest_pane
from backend.client import AsyncFluid
from backend.client.door import DoorAddress
from backend.errors import EXIT_OK
from backend.models import PaneScreen
from backend.text import screen, visible

REST_S = 0.4
"""The backend looks four times a second: a row that did not change for longer has come to rest."""
LATEST_S = 1.0
"""Of a terminal that never rests, finished rows are told after so long."""
LOOK_S = 2.0
"""Of one that is silent, whether it still lives."""
HISTORY_LINES = 1_000
KEPT_ROWS = 200
ANCHOR_ROWS = 3
"""So many rows on end that were told tell where to go on; a single one, such as a prompt, may be chance."""


def follow(address: str | DoorAddress, sandbox_id: str, pane_id: str) -> int:
    """Until the terminal ends, or ctrl+c; an exit code. Raises PaneNotFound: the agent has opened none."""
    asyncio.run(_follow(address, sandbox_id, pane_id))
    return EXIT_OK


async def _follow(address: str | DoorAddress, sandbox_id: str, pane_id: str) -> None:
    async with AsyncFluid(address) as fluid:
        pane = newest_pane(await fluid.panes(), sandbox_id, pane_id)
        _note(f"the terminal {pane.pane_id} of {pane.sandbox_name}; ctrl+c leaves")
        before = rows_of(await fluid.read_pane(pane.pane_id, HISTORY_LINES))
        in_sight = rows_of(await fluid.read_pane(pane.pane_id))
        lines = Lines(before[: len(before) - len(in_sight)])
        async with contextlib.aclosing(_screens(fluid, pane.pane_id)) as screens:
            async for shown, rests in screens:
                rows = await fluid.read_pane(pane.pane_id, HISTORY_LINES)
                unfinished = "" if rests else written_at(shown)
                new = lines.new_of(rows_of(rows), unfinished, whole=len(rows) < HISTORY_LINES)
                if new is None:
                    _note("more went by than its history holds: this is its screen now")
                for row in rows_of(shown.rows) if new is None else new:
                    print(row, flush=True)
        _note("the terminal has ended")


def _note(words: str) -> None:
    """Our own words are apart from the agent's."""
    print(visible(f"fluid: {words}"), file=sys.stderr, flush=True)


async def _screens(fluid: AsyncFluid, pane_id: str) -> AsyncGenerator[tuple[PaneScreen, bool]]:
    """Screens, each with whether it has come to rest, until the terminal ends."""
    loop = asyncio.get_running_loop()
    stream = aiter(fluid.pane_screens(pane_id))
    upcoming: asyncio.Task[PaneScreen | None] = asyncio.ensure_future(_next(stream))
    untold: PaneScreen | None = None
    told_at = loop.time()
    try:
        while True:
            await asyncio.wait({upcoming}, timeout=LOOK_S if untold is None else REST_S)
            if not upcoming.done():
                if untold is not None:
                    yield untold, True
                    untold, told_at = None, loop.time()
                elif not await _lives(fluid, pane_id):
                    return
            elif (shown := upcoming.result()) is None:
                if untold is not None:
                    yield untold, True
                return
            else:
                untold, upcoming = shown, asyncio.ensure_future(_next(stream))
                if loop.time() - told_at > LATEST_S:
                    yield untold, False
                    told_at = loop.time()
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)


async def _next(stream: AsyncIterator[PaneScreen]) -> PaneScreen | None:
    return await anext(stream, None)


async def _lives(fluid: AsyncFluid, pane_id: str) -> bool:
    return any(one.pane_id == pane_id and one.alive for one in await fluid.panes())


def rows_of(rows: Sequence[str]) -> list[str]:
    """A guest's rows as plain text, made harmless; blank ones are left out."""
    plain = ("".join(text for text, _ in runs).rstrip() for runs in screen(rows))
    return [row for row in plain if row]


def written_at(shown: PaneScreen) -> str:
    """The row that is still being written: where the cursor stands; empty if nothing is there."""
    if shown.cursor is None or shown.cursor[1] >= len(shown.rows):
        return ""
    return "".join(rows_of(shown.rows[shown.cursor[1] : shown.cursor[1] + 1]))


class Lines:
    """What was told of a terminal, and what is new of its history with its screen. Of rows that are all alike
    nobody can tell how many have come."""

    def __init__(self, told: Sequence[str] = ()) -> None:
        self._told = list(told)[-KEPT_ROWS:]

    def new_of(self, rows: Sequence[str], unfinished: str = "", *, whole: bool = True) -> list[str] | None:
        """The rows that were not told yet, and are from now on; ``unfinished`` is left for later. None: rows
        that are not the ``whole`` history do not reach back to what was told."""
        kept = list(rows)
        if unfinished in kept and unfinished not in self._told:
            del kept[len(kept) - 1 - kept[::-1].index(unfinished)]
        told, self._told = self._told, kept[-KEPT_ROWS:]
        start = _joint(told, kept)
        if start is None and not whole:
            return None
        new = kept[start or 0 :]
        codes = SequenceMatcher(None, told, new, autojunk=False).get_opcodes()
        return [row for tag, _, _, first, end in codes if tag != "equal" for row in new[first:end]]


def _joint(told: Sequence[str], rows: Sequence[str]) -> int | None:
    """Where the last of the longest runs of told rows begins in ``rows``."""
    found = SequenceMatcher(None, told[::-1], rows[::-1], autojunk=False).find_longest_match()
    return len(rows) - found.b - found.size if found.size >= ANCHOR_ROWS else None
