"""The console in a real terminal on a real backend: how soon it shows and answers, and what it writes.

Beside it, in turns, run a bare Textual application and one of stock widgets.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import localtime, perf_counter

from tests.bench import panes, slow
from tests.bench.api import Door
from tests.bench.figures import Bar, Figure, figure
from tests.bench.stage import Stage, sandbox_id
from tests.bench.terminal import Terminal

SANDBOXES = 1_000
FEWER, MORE = 10, 10_000
STARTS = 9
KEYS, STOCK_KEYS, BUSY_KEYS, EVENTS = 200, 50, 150, 20
IDLE_S = 20.0
SETTLED_S = 1.0
PAUSE_S = 0.12
CHANGES_A_SECOND = 10
LAST_MINUTE_STEP_S = 11  # the clock is looked at every ten seconds
ROW, CURSOR, PAINT = b"bench-", "▌".encode(), b"\x1b["
CONSOLE = (sys.executable, "-P", "-m", "backend.cli")
STOCK = (sys.executable, "-P", "-m", "tests.bench.stock", "fleet")
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
    figures = []
    async with Stage() as stage:
        for there, count in itertools.pairwise((0, FEWER, SANDBOXES, MORE)):
            await stage.fill(count, there)
            await stage.start()
            figures += await asyncio.to_thread(_with, stage, count)
    figures += await panes.measure()
    return figures + await asyncio.to_thread(slow.measure)


def _with(stage: Stage, count: int) -> list[Figure]:
    ours, stock = ("console", CONSOLE), ("stock table", (*STOCK, str(stage.paths.operator_socket)))
    figures = _first_paint(stage, stock[1]) if count == SANDBOXES else []
    with _opened(stage, CONSOLE, 80, 24) as seen:
        figures.append(_keys(ours[0], seen, (b"j", b"k"), CURSOR, KEYS, count, Bar(p95=20)))
        if count == SANDBOXES:
            figures += [_idle(ours[0], seen, Bar(p50=0)), _busy_keys(stage, seen)]
    with _opened(stage, stock[1], 80, 24) as seen:
        figures.append(_keys(stock[0], seen, (b"\x1b[B", b"\x1b[A"), PAINT, STOCK_KEYS, count, None))
        if count == SANDBOXES:
            figures.append(_idle(stock[0], seen, None))
    if count == SANDBOXES:
        bars = (Bar(p50=250), Bar(p50=600)), (None, None)
        for (name, argv), (soon, few) in zip((ours, stock), bars, strict=True):
            with _opened(stage, argv, 160, 48) as seen:
                figures += _event(name, stage, seen, soon, few)
    return figures


@contextmanager
def _opened(stage: Stage, argv: tuple[str, ...], width: int, height: int) -> Iterator[Terminal]:
    with Terminal(argv, stage.environment, width, height) as seen:
        seen.until(ROW)
        seen.settle(SETTLED_S)
        yield seen


def _first_paint(stage: Stage, stock: tuple[str, ...]) -> list[Figure]:
    """The three take turns, so that all meet the same machine."""
    bare, first, settled, stock_first, stock_settled = [], [], [], [], []
    for _ in range(1 + STARTS):
        with Terminal((sys.executable, "-P", "-c", BARE), stage.environment, 80, 24) as seen:
            bare.append(seen.until(b"ready"))
        for argv, shown, written in ((CONSOLE, first, settled), (stock, stock_first, stock_settled)):
            with Terminal(argv, stage.environment, 80, 24) as seen:
                shown.append(seen.until(ROW))
                seen.settle(SETTLED_S)
                written.append(float(seen.written))
    for samples in (bare, first, settled, stock_first, stock_settled):
        del samples[0]  # it compiled and cached what the others found
    plain = statistics.median(bare)
    how = f"start of the process until the first sandbox stands on the screen, {FLEET}"
    against = f"that, over the median of a bare Textual application in the same run ({plain:.2f} s)"
    ratios = [one / plain for one in first]
    bytes_how = f"all that is written until a second of silence, {FLEET}"
    return [
        figure("console: first useful paint", first, "s", how, Bar(p50=1.0)),
        figure("console: first useful paint, ratio", ratios, "x", against, Bar(p50=1.6)),
        figure("stock table: first useful paint", stock_first, "s", how),
        figure("console: bytes of the first paint", settled, "B", bytes_how, Bar(p50=10_000)),
        figure("stock table: bytes of the first paint", stock_settled, "B", bytes_how),
    ]


def _idle(name: str, seen: Terminal, bar: Bar | None) -> Figure:
    while not LAST_MINUTE_STEP_S < localtime().tm_sec < 59 - IDLE_S:
        seen.count(1.0)
    how = f"written in {IDLE_S:g} s between two steps of the clock, {FLEET}"
    return figure(f"{name}: bytes while nothing changes", [seen.count(IDLE_S)], "B", how, bar)


def _keys(
    name: str,
    seen: Terminal,
    keys: tuple[bytes, bytes],
    marker: bytes,
    times: int,
    count: int,
    bar: Bar | None,
) -> Figure:
    """Down the list as far as it goes, and up again."""
    steps = min(count - 1, times // 2)
    walk = itertools.cycle([keys[0]] * steps + [keys[1]] * steps)
    took = [_press(seen, key, marker) for key in itertools.islice(walk, times)]
    shown = "the cursor stands on" if marker == CURSOR else "the first byte is written of"
    how = f"a key typed until {shown} the next row, {count:,} sandboxes on a real backend, 80x24"
    return figure(f"{name}: key to paint, {count:,} sandboxes", took, "ms", how, bar)


def _busy_keys(stage: Stage, seen: Terminal) -> Figure:
    with _changes(stage):
        keys = itertools.islice(itertools.cycle((b"j", b"k")), BUSY_KEYS)
        busy = [_press(seen, key, CURSOR) for key in keys]
    seen.settle(SETTLED_S)
    how = (
        f"a key typed until the cursor stands on the next row, {FLEET}, {CHANGES_A_SECOND} changing a second"
    )
    return figure("console: key to paint, busy", busy, "ms", how, Bar(p95=50))


def _press(seen: Terminal, key: bytes, marker: bytes) -> float:
    seen.count(PAUSE_S)
    return seen.since(seen.press(key), marker) * 1000


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
    door.ask("POST", f"/v1/sandboxes/{sandbox_id(SANDBOXES - 1 - row)}/extend", {"seconds": seconds})


def _event(name: str, stage: Stage, seen: Terminal, soon: Bar | None, few: Bar | None) -> list[Figure]:
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
        figure(f"{name}: event to screen", took, "ms", how, soon),
        figure(f"{name}: bytes of a changed row", sizes, "B", "160x48, 16 colours", few),
    ]
