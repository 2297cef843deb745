"""A million events through PostgreSQL and the event stream, and the memory of backend and console meanwhile;
beside the console, that of a stock table that follows the same events.

``python -m tests.bench.events serve`` is a backend that publishes so many more for each SIGUSR1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from time import perf_counter

from backend import daemon
from backend.api import Services
from backend.background import Background
from backend.models import Phase
from backend.store import EventBus, Store
from tests.bench.figures import Bar, Figure, figure
from tests.bench.stage import Stage, sandbox_id
from tests.bench.terminal import Terminal
from tests.processes import memory_mb

SANDBOXES, PANES = 1_000, 100
POINTS, EVENTS = 10, 100_000
SETTLED_S = 5.0
CONSOLE = (sys.executable, "-P", "-m", "backend.cli")
STOCK = (sys.executable, "-P", "-m", "tests.bench.stock", "fleet")
IDLE = ("cat", "-")


async def measure() -> list[Figure]:
    async with Stage() as stage:
        await stage.fill(SANDBOXES)
        await stage.start("tests.bench.events")
        await stage.open_panes(range(SANDBOXES - PANES, SANDBOXES), IDLE)
        stock = (*STOCK, str(stage.paths.operator_socket))
        with ExitStack() as ends:
            consoles = [
                ends.enter_context(Terminal(argv, stage.environment, 160, 48)) for argv in (CONSOLE, stock)
            ]
            for seen in consoles:
                await asyncio.to_thread(seen.until, b"bench-")
            reading = asyncio.gather(*map(_read, consoles), return_exceptions=True)
            stream = await _Stream.open(stage)
            pids = [stage.pid, *(seen.pid for seen in consoles)]
            points = [await _settled(pids)]
            took = []
            for _ in range(POINTS):
                began = perf_counter()
                os.kill(stage.pid, signal.SIGUSR1)
                await stream.passes(EVENTS)
                took.append(EVENTS / (perf_counter() - began))
                points.append(await _settled(pids))
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    return _figures(points, took)


def _figures(points: list[list[float]], took: list[float]) -> list[Figure]:
    events = f"{POINTS * EVENTS:,} events"
    ours, console, stock = zip(*points, strict=True)
    on = f"{SANDBOXES:,} sandboxes, {PANES} panes, a console and a stock table at 160x48"

    def grown(samples: Sequence[float]) -> tuple[float, str]:
        each = " ".join(f"{one:.0f}" for one in samples)
        how = f"VmRSS, the most less that before; MB before and at each tenth: {each}"
        return max(samples) - samples[0], how

    growth, told = grown(ours)
    console_growth, console_told = grown(console)
    stock_growth, stock_told = grown(stock)
    return [
        figure(
            "backend: memory after the events", [ours[-1]], "MB", f"VmRSS after {events}, {on}", Bar(p50=200)
        ),
        figure(f"backend: growth over {events}", [growth], "MB", f"{told}; {on}", Bar(p50=10)),
        figure(f"console: growth over {events}", [console_growth], "MB", console_told),
        figure(f"stock table: growth over {events}", [stock_growth], "MB", stock_told),
        figure("events through the stream", took, "events/s", f"kept in PostgreSQL and read as SSE, {on}"),
    ]


async def _read(seen: Terminal) -> None:
    """A terminal takes what is written."""
    while True:
        await asyncio.to_thread(seen.count, 0.5)


async def _settled(pids: Iterable[int]) -> list[float]:
    await asyncio.sleep(SETTLED_S)
    return [memory_mb(pid) for pid in pids]


class _Stream:
    """The events as an operator's program reads them, by their numbers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._last: int | None = None

    @classmethod
    async def open(cls, stage: Stage) -> _Stream:
        reader, writer = await asyncio.open_unix_connection(stage.paths.operator_socket)
        writer.write(b"GET /v1/events HTTP/1.1\r\nhost: fluid\r\naccept: text/event-stream\r\n\r\n")
        await reader.readuntil(b": beat")
        return cls(reader, writer)

    async def passes(self, count: int) -> None:
        """So many more, each with the number after the one before."""
        while count:
            line = await self._reader.readline()
            if not line.startswith(b"id: "):
                continue
            number = int(line[4:])
            if number == self._last:
                continue  # one that is not kept: of somebody's looking
            assert self._last in (None, number - 1), f"{number} after {self._last}"
            self._last = number
            count -= 1


# --- the backend that publishes -----------------------------------------------------------------------------


class _Loud(daemon._Backend):
    async def _services(self, stack: AsyncExitStack, store: Store, background: Background) -> Services:
        services = await super()._services(stack, store, background)
        background.keep("publish", partial(_publish, services.events))
        return services


async def _publish(events: EventBus) -> None:
    asked = asyncio.Semaphore(0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, asked.release)
    while True:
        await asked.acquire()
        for number in range(EVENTS):
            id = sandbox_id(number % SANDBOXES)
            data = {"phase": Phase.STOPPED}
            await events.publish("sandbox.changed", "sandbox", id, sandbox_id=id, data=data)


if __name__ == "__main__":
    from backend.cli import main

    daemon._Backend = _Loud  # type: ignore[misc]
    main()
