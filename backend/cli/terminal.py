"""A sandbox's terminal on this one: rows as the backend draws them, keys as they are typed.

Rows are sanitised by the backend and again here; nothing that the guest sends reaches this terminal raw.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator, Sequence

from backend.client import AsyncFluid
from backend.errors import BadRequest
from backend.text import PLAIN, Spans, Style, screen

LEAVE = 0x1D  # ctrl+]
READ_BYTES = 4096
HOME_AND_CLEAR = "\x1b[H\x1b[2J"
RESET = "\x1b[0m"
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


def attach(address: str, sandbox_id: str) -> int:
    """Type into a new pane of the sandbox until ctrl+]; then the pane is closed."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise BadRequest("a terminal needs a terminal", remedy="use `fluid sandboxes exec` in a script")
    asyncio.run(_attach(address, sandbox_id))
    return 0


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


async def _attach(address: str, sandbox_id: str) -> None:
    async with AsyncFluid(address) as fluid:
        pane = await fluid.open_pane(sandbox_id)
        try:
            with raw_terminal():
                drawing = asyncio.create_task(_draw(fluid, pane.pane_id))
                typing = asyncio.create_task(_type(fluid, pane.pane_id))
                await asyncio.wait({drawing, typing}, return_when=asyncio.FIRST_COMPLETED)
                for task in (drawing, typing):
                    task.cancel()
                ended = await asyncio.gather(drawing, typing, return_exceptions=True)
        finally:
            await fluid.close_pane(pane.pane_id)
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def _draw(fluid: AsyncFluid, pane_id: str) -> None:
    async for rows in fluid.pane_stream(pane_id):
        height = os.get_terminal_size().lines
        sys.stdout.write(HOME_AND_CLEAR + "\r\n".join(painted(screen(rows))[-height:]))
        sys.stdout.flush()


def painted(rows: Sequence[Spans]) -> list[str]:
    """The rows of a screen down to its last text: their words made visible, their colours written by us."""
    lines = [
        "".join(f"{_sgr(style)}{text}{RESET}" if style != PLAIN else text for text, style in runs)
        for runs in rows
    ]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _sgr(style: Style) -> str:
    codes = [code for name, code in _SWITCHED_ON.items() if getattr(style, name)]
    for plane, colour in (("38", style.fg), ("48", style.bg)):
        if isinstance(colour, int):
            codes.append(f"{plane};5;{colour}")
        elif colour is not None:
            codes.append(f"{plane};2;{';'.join(map(str, colour))}")
    return f"\x1b[{';'.join(codes)}m"


async def _type(fluid: AsyncFluid, pane_id: str) -> None:
    typed: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()
    loop.add_reader(stdin, lambda: typed.put_nowait(os.read(stdin, READ_BYTES)))
    try:
        while LEAVE not in (keys := await typed.get()):
            for kind, what in split_keys(keys):
                if kind == "key":
                    await fluid.send_keys(pane_id, key=what)
                else:
                    await fluid.send_keys(pane_id, what)
    finally:
        loop.remove_reader(stdin)


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Each key as it is pressed; the terminal as it was afterwards, and empty."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    try:
        tty.setraw(stdin)
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        sys.stdout.write(HOME_AND_CLEAR)
