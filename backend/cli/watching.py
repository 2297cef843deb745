"""``fluid approvals watch``: a line for each request or question that newly waits or is over."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import Protocol

from backend.client import AsyncFluid
from backend.client.aio import RECONNECT_MAX_S, RECONNECT_S
from backend.errors import FluidError, TimedOut, Unavailable
from backend.models import Event, FleetView
from backend.text import visible

NOUNS = frozenset({"approval", "ask", "events"})
BELL = "\a"
Told = dict[str, str]


class Tell(Protocol):
    """Prints one change."""

    def __call__(self, told: Told, *, new: bool) -> None: ...


def watch(at: AsyncFluid, *, once: bool, bell: bool, as_json: bool) -> None:
    """Until it is interrupted; with ``once`` until somebody waits."""

    def tell(told: Told, *, new: bool) -> None:
        ring = BELL if new and bell and sys.stdout.isatty() else ""
        print(json.dumps(told) if as_json else ring + _line(told), flush=True)

    async def follow() -> None:
        async with at:
            waits = Waits(tell)
            fleet = await at.fleet()
            while True:
                if waits.look(fleet) and once:
                    return
                try:
                    async for event in at.events(fleet.seq):
                        if concerns(event) and waits.look(await at.fleet()) and once:
                            return
                except (Unavailable, TimedOut) as error:
                    fleet = await _read_again(at, error)

    asyncio.run(follow())


async def _read_again(at: AsyncFluid, error: FluidError) -> FleetView:
    """The fleet, when it can be read again. That it was lost is told once, that it is back too."""
    print(visible(f"fluid: {error.message}; tried again until it answers"), file=sys.stderr)
    wait_s = RECONNECT_S
    while True:
        await asyncio.sleep(wait_s)
        try:
            fleet = await at.fleet()
        except (Unavailable, TimedOut):
            wait_s = min(wait_s * 2, RECONNECT_MAX_S)
        else:
            print("fluid: it answers again", file=sys.stderr)
            return fleet


def concerns(event: Event) -> bool:
    """Whether somebody may newly wait, or no longer."""
    return event.noun in NOUNS


class Waits:
    """Who waits, and what of it was told."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._known: dict[str, Told] = {}

    def look(self, fleet: FleetView) -> bool:
        """Tell what is new of the fleet; whether somebody newly waits."""
        seen = _all(fleet)
        waiting = {id: told for id, told in seen.items() if told["state"] == "pending"}
        for id in self._known.keys() - waiting.keys():
            self._tell(seen.get(id, self._known[id] | {"state": "gone"}), new=False)
        new = [told for id, told in waiting.items() if id not in self._known]
        for told in new:
            self._tell(told, new=True)
        self._known = waiting
        return bool(new)


def _all(fleet: FleetView) -> dict[str, Told]:
    found = {
        one.id: {
            "kind": "request",
            "id": one.id,
            "short": one.short_id,
            "state": str(one.state),
            "words": f"{one.sandbox_name} to {', '.join(one.targets)}: {one.reason}",
        }
        for one in fleet.approvals
    }
    return found | {
        one.request_id: {
            "kind": "question",
            "id": one.request_id,
            "short": one.request_id,
            "state": str(one.status),
            "words": f"{one.action_type}: {one.prompt}",
        }
        for one in fleet.asks
    }


def _line(told: Told) -> str:
    clock = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
    rest = f"waits for you: {told['words']}" if told["state"] == "pending" else f"is {told['state']}"
    return f"{clock}  {visible(told['kind'])} {visible(told['short'])} {visible(rest)}"
