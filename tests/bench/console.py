"""The console in a real terminal on a real backend: how soon it shows and answers, and what it writes."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import localtime, perf_counter, sleep

from tests.bench.api import Door
from tests.bench.figures import Bar, Figure, figure
from tests.bench.stage import Stage
from tests.bench.terminal import Terminal

SANDBOXES = 1000
STARTS = 9
KEYS, BUSY_KEYS, EVENTS = 200, 150, 20
IDLE_S = 20.0
SETTLED_S = 1.0
PAUSE_S = 0.12
CHANGES_A_SECOND = 10
LAST_MINUTE_STEP_S = 11  # the clock is looked at every ten seconds
ROW, CURSOR, PAINT = b"bench-0", "▌".encode(), b"\x1b["
CONSOLE = (sys.executable, "-P", "-m", "backend.cli")
BARE = """
from textual.app import App
from textual.widgets import Static
class Bare(App):
    def compose(self):
        yield Static("ready")
Bare().run()
"""
FLEET = f"{SANDBOXES:,} sandboxes on a real backend, 80x24 in 16 colours"


async def measure() -> list[Figure]:
    async with Stage() as stage:
        await stage.fill(SANDBOXES)
        await stage.start()
        return await asyncio.to_thread(_all, stage)


def _all(stage: Stage) -> list[Figure]:
    figures = _first_paint(stage)
    with Terminal(CONSOLE, stage.environment, 80, 24) as seen:
        seen.until(ROW)
        seen.settle(SETTLED_S)
        figures += [_idle(seen), *_keys(stage, seen)]
    with Terminal(CONSOLE, stage.environment, 160, 48) as seen:
        seen.until(ROW)
        seen.settle(SETTLED_S)
        return figures + _event(stage, seen)


def _first_paint(stage: Stage) -> list[Figure]:
    """Console and bare application take turns, so that both meet the same machine."""
    bare, first, settled = [], [], []
    for _ in range(1 + STARTS):
        with Terminal((sys.executable, "-P", "-c", BARE), stage.environment, 80, 24) as seen:
            bare.append(seen.until(b"ready"))
        with Terminal(CONSOLE, stage.environment, 80, 24) as seen:
            first.append(seen.until(ROW))
            seen.settle(SETTLED_S)
            settled.append(float(seen.written))
    del bare[0], first[0], settled[0]  # it compiled and cached what the others found
    plain = statistics.median(bare)
    how = f"start of the process until the first sandbox stands on the screen, {FLEET}"
    against = f"that, over the median of a bare Textual application in the same run ({plain:.2f} s)"
    return [
        figure("console: first useful paint", first, "s", how, Bar(p50=1.0)),
        figure(
            "console: first useful paint, ratio", [one / plain for one in first], "x", against, Bar(p50=1.6)
        ),
        figure(
            "console: bytes of the first paint",
            settled,
            "B",
            f"all that is written until a second of silence, {FLEET}",
            Bar(p50=10_000),
        ),
    ]


def _idle(seen: Terminal) -> Figure:
    while not LAST_MINUTE_STEP_S < localtime().tm_sec < 59 - IDLE_S:
        seen.count(1.0)
    how = f"written in {IDLE_S:g} s between two steps of the clock, {FLEET}"
    return figure("console: bytes while nothing changes", [seen.count(IDLE_S)], "B", how, Bar(p50=0))


def _keys(stage: Stage, seen: Terminal) -> list[Figure]:
    how = f"a key typed until the cursor stands on the next row, {FLEET}"
    idle = [_press(seen, b"j") for _ in range(KEYS)]
    seen.press(b"g")
    seen.settle(SETTLED_S)
    with _changes(stage):
        keys = itertools.cycle((b"j", b"k"))
        busy = [_press(seen, key) for key in itertools.islice(keys, BUSY_KEYS)]
    seen.settle(SETTLED_S)
    changing = f"{how}, {CHANGES_A_SECOND} of them changing a second"
    return [
        figure("console: key to paint", idle, "ms", how, Bar(p95=20)),
        figure("console: key to paint, busy", busy, "ms", changing, Bar(p95=50)),
    ]


def _press(seen: Terminal, key: bytes) -> float:
    sleep(PAUSE_S)
    seen.settle(0)
    return seen.since(seen.press(key), CURSOR) * 1000


@contextmanager
def _changes(stage: Stage) -> Iterator[None]:
    """Meanwhile sandboxes that are in sight, and not under the cursor, get other ends."""
    over = threading.Event()

    def change() -> None:
        with closing(Door(stage.paths.operator_socket)) as door:
            for number in itertools.count():
                if over.wait(1 / CHANGES_A_SECOND):
                    return
                _extend(door, 4 + number % 8, number)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        yield
    finally:
        over.set()
        changing.join()


def _extend(door: Door, row: int, number: int) -> None:
    """Give the sandbox at that row (the newest is on top) another end, in other hours than it had."""
    seconds = 3600 * (2 + number % 17) + 1800
    door.ask("POST", f"/v1/sandboxes/SBX-{SANDBOXES - 1 - row:08x}/extend", {"seconds": seconds})


def _event(stage: Stage, seen: Terminal) -> list[Figure]:
    took, sizes = [], []
    with closing(Door(stage.paths.operator_socket)) as door:
        for number in range(EVENTS):
            seen.settle(0)
            before, began = seen.written, perf_counter()
            _extend(door, 4, number)
            took.append(seen.since(began, PAINT) * 1000)
            seen.settle(SETTLED_S)
            sizes.append(float(seen.written - before))
    how = f"a change asked for until its row is painted, {SANDBOXES:,} sandboxes, 160x48"
    return [
        figure("console: event to screen", took, "ms", how, Bar(p50=250)),
        figure("console: bytes of a changed row", sizes, "B", "160x48, 16 colours", Bar(p50=600)),
    ]
