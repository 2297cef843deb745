"""A sandbox's terminal on this one: rows as the backend draws them, keys as they are typed. It is one of our
own, or an agent's that an operator takes over.

Rows are sanitised by the backend and again here; nothing that the guest sends reaches this terminal raw.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any

from backend.client import AsyncFluid
from backend.client.door import DoorAddress
from backend.client.taking import TakenPane
from backend.errors import EXIT_OK, BackendDown, BadRequest, Conflict, PaneNotFound
from backend.models import Pane, PaneScreen, TakeOverEnd
from backend.text import PLAIN, Spans, Style, in_sight, screen, visible

LEAVE = b"\x1d"  # ctrl+]
READ_BYTES = 4096
HOME_AND_CLEAR = "\x1b[H\x1b[2J"
RESET = "\x1b[0m"
REVERSE = "\x1b[7m"
CUT_LINES, WRAP_LINES = "\x1b[?7l", "\x1b[?7h"
MARK_PASTES, LEAVE_PASTES = "\x1b[?2004h", "\x1b[?2004l"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
_SWITCHED_ON = {"bold": "1", "dim": "2", "italic": "3", "underline": "4", "reverse": "7", "strike": "9"}
_KEYS = {
    b"\r": "Enter",
    b"\n": "Enter",
    b"\t": "Tab",
    b"\x7f": "BSpace",
    b"\x1b": "Escape",
    b"\x1b[A": "Up",
    b"\x1b[B": "Down",
    b"\x1b[C": "Right",
    b"\x1b[D": "Left",
    b"\x1b[H": "Home",
    b"\x1b[F": "End",
    b"\x1b[3~": "DC",
    b"\x1b[5~": "PPage",
    b"\x1b[6~": "NPage",
}


def attach(address: str | DoorAddress, sandbox_id: str) -> int:
    """Type into a new pane of the sandbox until ctrl+]; then the pane is closed."""
    _needs_terminal()
    asyncio.run(_attach(address, sandbox_id))
    return EXIT_OK


def take_over(address: str | DoorAddress, sandbox_id: str, pane_id: str, *, force: bool) -> int:
    """Type instead of the agent until ctrl+]; an exit code.

    Raises:
        PaneNotFound: the agent has no terminal open.
        PaneTaken: another operator types there, and ``force`` is not set.
    """
    _needs_terminal()
    return asyncio.run(_take_over(address, sandbox_id, pane_id, force))


def newest_pane(panes: Sequence[Pane], sandbox_id: str, pane_id: str = "") -> Pane:
    """The live terminal of the sandbox that printed last, or the one asked for. Raises PaneNotFound."""
    found = [one for one in panes if one.sandbox_id == sandbox_id and pane_id in ("", one.pane_id)]
    if not found:
        raise PaneNotFound(
            f"{sandbox_id} has no terminal {pane_id}".rstrip(),
            remedy="its agent has opened none; `fluid sandboxes ssh` opens one of your own",
        )
    return max(found, key=lambda one: (one.alive, one.last_output_at or one.created_at))


def _needs_terminal() -> None:
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise BadRequest("a terminal needs a terminal", remedy="use `fluid sandboxes exec` in a script")


def split_keys(typed: bytes) -> list[tuple[str, str]]:
    """What was typed as ``("key", name)`` and ``("text", words)``; unknown escape sequences are dropped."""
    if typed in _KEYS:
        return [("key", _KEYS[typed])]
    if typed.startswith(b"\x1b"):
        return []
    parts: list[tuple[str, str]] = []
    for character in typed.decode("utf-8", "replace"):
        raw = character.encode()
        if raw in _KEYS:
            parts.append(("key", _KEYS[raw]))
        elif character < " ":
            parts.append(("key", f"C-{chr(ord(character) + 0x60)}"))
        elif parts and parts[-1][0] == "text":
            parts[-1] = ("text", parts[-1][1] + character)
        else:
            parts.append(("text", character))
    return parts


async def _attach(address: str | DoorAddress, sandbox_id: str) -> None:
    async with AsyncFluid(address) as fluid:
        pane = await fluid.open_pane(sandbox_id)
        try:
            with raw_terminal():
                await _until_first(_draw(fluid, pane.pane_id, ""), _type(fluid, pane.pane_id))
        finally:
            await fluid.close_pane(pane.pane_id)


async def _take_over(address: str | DoorAddress, sandbox_id: str, pane_id: str, force: bool) -> int:
    async with AsyncFluid(address) as fluid:
        pane = newest_pane(await fluid.panes(), sandbox_id, pane_id)
        async with fluid.take_over(pane.pane_id, force=force) as hands:
            words = (
                f" you type into {pane.sandbox_name} {pane.pane_id}, its agent waits: ctrl+] hands it back "
            )
            over = asyncio.create_task(hands.over())
            try:
                with raw_terminal():
                    drawing = _draw(fluid, pane.pane_id, words)
                    await _until_first(drawing, _pass_on(hands), _ended(over))
                    with contextlib.suppress(BackendDown):  # it may have ended by itself: then it says why
                        await hands.hand_back()
                    end = await over
            finally:
                over.cancel()
    print(visible(end.words))
    return EXIT_OK if end.why == "handed_back" and not end.by else Conflict.exit_code


async def _ended(over: asyncio.Task[TakeOverEnd]) -> None:
    await asyncio.shield(over)


async def _until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Until one of these has ended; raises what one of them failed of."""
    tasks = [asyncio.create_task(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(error, Exception):
            raise error


async def _draw(fluid: AsyncFluid, pane_id: str, foot: str) -> None:
    async for shown in fluid.pane_screens(pane_id):
        width, height = os.get_terminal_size()
        sys.stdout.write(painted_screen(shown, width, height, foot))
        sys.stdout.flush()


def painted_screen(shown: PaneScreen, width: int, height: int, foot: str = "") -> str:
    """What to write for a screen and its cursor; ``foot``: words of ours in the last line."""
    rows = screen(shown.rows)
    room = max(1, height - bool(foot))
    cursor_row = shown.cursor[1] if shown.cursor else None
    seen = in_sight(rows, room, cursor_row)
    drawn = HIDE + HOME_AND_CLEAR + "\r\n".join(painted(rows[seen]))
    if foot:
        drawn += f"\x1b[{height};1H{REVERSE}{visible(foot)[:width]}{RESET}"
    if shown.cursor:
        drawn += f"\x1b[{shown.cursor[1] - seen.start + 1};{shown.cursor[0] + 1}H{SHOW}"
    return drawn


def painted(rows: Sequence[Spans]) -> list[str]:
    """The rows as text: their words made visible already, their colours written by us. With ``NO_COLOR`` not
    empty (no-color.org) there are none, as in the console: a guest's bold, underline and reverse stay."""
    if os.environ.get("NO_COLOR"):
        rows = [[(text, replace(style, fg=None, bg=None)) for text, style in runs] for runs in rows]
    return [
        "".join(f"{_sgr(style)}{text}{RESET}" if style != PLAIN else text for text, style in runs)
        for runs in rows
    ]


def _sgr(style: Style) -> str:
    codes = [code for name, code in _SWITCHED_ON.items() if getattr(style, name)]
    for plane, colour in (("38", style.fg), ("48", style.bg)):
        if isinstance(colour, int):
            codes.append(f"{plane};5;{colour}")
        elif colour is not None:
            codes.append(f"{plane};2;{';'.join(map(str, colour))}")
    return f"\x1b[{';'.join(codes)}m"


async def _type(fluid: AsyncFluid, pane_id: str) -> None:
    async with contextlib.aclosing(_typed()) as typed:
        async for keys in typed:
            for kind, what in split_keys(keys):
                if kind == "key":
                    await fluid.send_keys(pane_id, key=what)
                else:
                    await fluid.send_keys(pane_id, what)


async def _pass_on(hands: TakenPane) -> None:
    """What is typed, as it is."""
    async with contextlib.aclosing(_typed()) as typed:
        async for keys in typed:
            await hands.type(keys)


async def _typed() -> AsyncGenerator[bytes]:
    """What comes from this terminal, up to the leaving key or its end."""
    typed: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()
    loop.add_reader(stdin, lambda: typed.put_nowait(os.read(stdin, READ_BYTES)))
    try:
        while keys := await typed.get():
            before, leave, _ = keys.partition(LEAVE)
            if before:
                yield before
            if leave:
                return
    finally:
        loop.remove_reader(stdin)


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Each key as it is pressed; the terminal as it was afterwards, and empty."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    try:
        tty.setraw(stdin)
        sys.stdout.write(CUT_LINES + MARK_PASTES)
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        sys.stdout.write(HOME_AND_CLEAR + WRAP_LINES + LEAVE_PASTES + SHOW)
        sys.stdout.flush()
