"""Twenty terminals that print a hundred lines a second each, followed by the console and by stock widgets."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from time import perf_counter

from tests.bench.figures import Bar, Figure, figure
from tests.bench.stage import Stage, name_of
from tests.bench.terminal import Terminal
from tests.processes import cpu_s

SANDBOXES, PANES = 1_000, 20
WATCHED_S, TIMES = 5.0, 4
KEYS = 100
SETTLED_S, PAUSE_S = 3.0, 0.12
CONSOLE = (sys.executable, "-P", "-m", "backend.cli")
STOCK = (sys.executable, "-P", "-m", "tests.bench.stock")
PRINTS = """
from itertools import count
from time import monotonic, sleep
began = monotonic()
for number in count():
    path = f"/shop/{number * 37 % 9973}"
    print(f"\\33[3{number % 6 + 1}m{number:8}\\33[0m GET {path} 200", number * 7919 % 99991)
    sleep(max(0, began + number / 100 - monotonic()))
"""
PRINTER = (sys.executable, "-I", "-S", "-u", "-c", PRINTS)
BUSY = f"{PANES} terminals that print 100 lines a second each"


@dataclass
class _Seen:
    """What was written, and the share of one core that was taken, in each of the stretches."""

    bytes_s: list[float]
    paints_s: list[float]
    cpu: list[float]
    backend_cpu: list[float]


async def measure() -> list[Figure]:
    async with Stage() as stage:
        await stage.fill(SANDBOXES)
        await stage.start()
        await stage.open_panes(range(SANDBOXES - PANES, SANDBOXES), PRINTER)
        return await asyncio.to_thread(_all, stage)


def _all(stage: Stage) -> list[Figure]:
    door = str(stage.paths.operator_socket)
    with Terminal(CONSOLE, stage.environment, 80, 24) as seen:
        seen.until(b"bench-")
        unfollowed = _watch(stage, seen).backend_cpu
        seen.press(b"t")
        one = _watch(stage, seen)
    with Terminal(CONSOLE, stage.environment, 160, 48) as seen:
        seen.until(b"bench-")
        seen.press(b"w")
        seen.until(f"{PANES} live terminals".encode())
        wall = _watch(stage, seen)
        keys = _keys(seen)
    with Terminal((*STOCK, "1", door), stage.environment, 80, 24) as seen:
        seen.until(b"GET")
        stock_one = _watch(stage, seen)
    with Terminal((*STOCK, str(PANES), door), stage.environment, 160, 48) as seen:
        seen.until(b"GET")
        stock_wall = _watch(stage, seen)
    following = "followed full size, 80x24, 16 colours, 100 lines a second"
    wall_how, core = f"the wall at 160x48, {BUSY}", "of one core"
    return [
        figure("console: bytes of a busy pane", one.bytes_s, "B/s", following, Bar(p50=10_000)),
        figure("stock static: bytes of a busy pane", stock_one.bytes_s, "B/s", following),
        figure("console: paints of a busy pane", one.paints_s, "a second", following, Bar(p50=4)),
        figure(
            f"console: key to paint, {PANES} panes",
            keys,
            "ms",
            f"a key typed until the next terminal is marked, {wall_how}, {SANDBOXES:,} sandboxes",
            Bar(p95=50),
        ),
        figure(f"console: bytes, {PANES} panes", wall.bytes_s, "B/s", wall_how),
        figure(f"stock static: bytes, {PANES} panes", stock_wall.bytes_s, "B/s", wall_how),
        figure(f"console: processor, {PANES} panes", wall.cpu, "%", f"{core}, {wall_how}"),
        figure(f"stock static: processor, {PANES} panes", stock_wall.cpu, "%", f"{core}, {wall_how}"),
        figure(
            f"backend: processor, {PANES} panes",
            wall.backend_cpu,
            "%",
            f"{core}, recorded, and all on {wall_how}",
        ),
        figure("backend: processor, none followed", unfollowed, "%", f"{core}, recorded only, {BUSY}"),
    ]


def _watch(stage: Stage, seen: Terminal) -> _Seen:
    seen.count(SETTLED_S)
    found = _Seen([], [], [], [])
    for _ in range(TIMES):
        began, paints, ours, backend = perf_counter(), seen.paints, cpu_s(seen.pid), cpu_s(stage.pid)
        written = seen.count(WATCHED_S)
        seconds = perf_counter() - began
        found.bytes_s.append(written / seconds)
        found.paints_s.append((seen.paints - paints) / seconds)
        found.cpu.append(100 * (cpu_s(seen.pid) - ours) / seconds)
        found.backend_cpu.append(100 * (cpu_s(stage.pid) - backend) / seconds)
    return found


def _keys(seen: Terminal) -> list[float]:
    took = []
    for number in range(1, KEYS + 1):
        seen.count(PAUSE_S)
        marked = name_of(SANDBOXES - 1 - number % PANES).encode()
        took.append(seen.since(seen.press(b"l"), marked) * 1000)
    return took
