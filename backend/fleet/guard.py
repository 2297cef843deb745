"""Watches what sandboxes take, and acts before a host is full, an agent is surprised, or one runs for nobody.

What it does to a sandbox says why: in its row, as an event for its agent and the operators, and in the audit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from backend.background import Background
from backend.config import Config
from backend.errors import NotFound, WrongState
from backend.fleet.host import Host
from backend.fleet.hosts import Hosts
from backend.fleet.lifecycle import Lifecycle
from backend.hypervisor import DiskUse
from backend.models import Identity, Phase, Sandbox, now
from backend.store import EventBus, Store

log = logging.getLogger(__name__)

LOOK_S = 2.0
WROTE_BYTES = 1 << 20  # who wrote less within the window did not fill the disk
WINDOW_S = 60.0  # who wrote most: within this time
SYSTEM = Identity.system()
PaneOutput = Callable[[], Awaitable[Mapping[str, datetime]]]
"""When each sandbox's terminals last showed something new, by the sandbox's id."""


@dataclass(frozen=True)
class Look:
    """How large the layers were that guests write to. ``at`` is of :func:`time.monotonic`."""

    at: float
    sizes: Mapping[str, DiskUse]


class Writers:
    """Who wrote how much lately on one host."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()

    def add(self, uses: Sequence[DiskUse], at: float) -> None:
        """Take in how it is now, and forget what is older than the window."""
        self._looks.append(Look(at, {use.domain: use for use in uses}))
        while len(self._looks) > 2 and self._looks[1].at <= at - WINDOW_S:
            self._looks.popleft()

    def grown(self) -> dict[str, int]:
        """Bytes by domain. A layer that is new since, after a snapshot or a create, counts as a whole."""
        first, last = self._looks[0].sizes, self._looks[-1].sizes
        grown = {}
        for domain, use in last.items():
            before = first.get(domain)
            known = before.size if before and before.layer == use.layer else 0
            grown[domain] = max(use.size - known, 0)
        return grown

    def forget(self, domain: str) -> None:
        """What it wrote until now counts no more."""
        last = self._looks[-1].sizes
        if domain in last:
            kept = [Look(look.at, {**look.sizes, domain: last[domain]}) for look in self._looks]
            self._looks = deque(kept)


class Guard:
    """One a backend; :meth:`run` is its loop."""

    def __init__(
        self,
        config: Config,
        store: Store,
        events: EventBus,
        hosts: Hosts,
        fleet: Lifecycle,
        pane_output: PaneOutput,
        background: Background,
    ) -> None:
        self._config = config
        self._store = store
        self._events = events
        self._hosts = hosts
        self._fleet = fleet
        self._pane_output = pane_output
        self._background = background
        self._writers: defaultdict[str, Writers] = defaultdict(Writers)
        self.began = now()

    async def run(self) -> None:
        """Until cancelled. A host that hangs holds up no other, and no warning."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again("warn before the end", self.warn))
            tasks.create_task(self._again("stop what is idle", self.stop_idle))
            watched: dict[Host, asyncio.Task[None]] = {}
            while True:  # hosts are added and removed meanwhile
                for gone in watched.keys() - set(self._hosts):
                    watched.pop(gone).cancel()
                for host in set(self._hosts) - watched.keys():
                    duty = self._again(f"the reserve of {host.name}", partial(self.keep_reserve, host))
                    watched[host] = tasks.create_task(duty)
                await asyncio.sleep(LOOK_S)

    async def _again(self, name: str, duty: Callable[[], Awaitable[None]]) -> None:
        """What is away (a host, the database) is waited for, and told of once."""
        while True:
            with self._background.turn(name):
                await duty()
            await asyncio.sleep(LOOK_S)

    async def keep_reserve(self, host: Host) -> None:
        """Where a host's disk is at its reserve, pause the one that wrote most; the next look sees whether
        that was enough. Who wrote next to nothing is left alone. Nobody who is at work on a sandbox is waited
        for: a start may take minutes."""
        if not host.up:
            return
        writers, reserve_mb = self._writers[host.name], self._config.limits.disk_reserve_mb
        writers.add(await host.require().disk_use(), time.monotonic())
        free_mb = (await host.look()).disk_free_mb
        if free_mb >= reserve_mb:
            return
        grown = writers.grown()
        here = [row for row in await self._fleet.all_live() if row.host_name == host.name]
        wrote = [(grown.get(row.domain, 0), row) for row in here if self._may_halt(row)]
        written, most = max(wrote, key=lambda pair: pair[0], default=(0, None))
        if most is None or written < WROTE_BYTES:
            return
        reason = (
            f"{host.name} has {free_mb} MB of disk left, {reserve_mb} are kept back, and it wrote "
            f"{written >> 20} MB within a minute; when there is room: fluid sandboxes resume {most.id}"
        )
        if await self._fleet.halt(SYSTEM, most, reason=reason):
            await self._tell(most, "sandbox.paused", reason)
        else:
            writers.forget(most.domain)  # if it goes on for all that, it writes anew
            self._background.keep(f"tell why {most.id} is paused", partial(self._halted, most, reason))

    def _may_halt(self, row: Sandbox) -> bool:
        """What runs or is just started; not what is restored: that fails half-way if its guest stands
        still."""
        starts = row.phase in (Phase.STOPPED, Phase.ERROR) and self._fleet.is_at_work_on(row)
        return (row.phase is Phase.RUNNING or starts) and not row.doing.startswith("restore")

    async def _halted(self, row: Sandbox, reason: str) -> None:
        with suppress(NotFound):  # it was destroyed
            if await self._fleet.halted(SYSTEM, row, reason=reason):
                await self._tell(row, "sandbox.paused", reason)

    async def warn(self) -> None:
        """Say once, at each time before a sandbox's end that the config names, that it comes."""
        for row in await self._fleet.all_live():
            if row.purpose != "agent" or self._due(row) is None:
                continue
            try:
                told = await self._store.sandboxes.change(row.id, self._told)
            except WrongState:
                continue
            if told.expires_at:
                left_s = round((told.expires_at - now()).total_seconds())
                reason = f"it is destroyed in {left_s} s; extend it: fluid sandboxes extend {row.id} SECONDS"
                await self._tell(told, "sandbox.expiring", reason, seconds=left_s)

    def _due(self, row: Sandbox) -> int | None:
        return due(row, self._config.guests.expiry_warnings_s, now())

    def _told(self, row: Sandbox) -> Sandbox:
        """Under the row's lock: the warning is given by this caller alone."""
        if (seconds := self._due(row)) is None:
            raise WrongState(f"{row.id} was extended", remedy="nothing is to be told")
        return row.model_copy(update={"expiry_told_s": seconds})

    async def stop_idle(self) -> None:
        """Stop what nobody has worked in for as long as the config says."""
        if not self._config.guests.idle_stop_s:
            return
        shown = await self._pane_output()
        for row in await self._fleet.all_live():
            if self._is_idle(row, shown):
                self._background.keep(f"stop {row.id}, which is idle", partial(self._stop_idle, row.id))

    def _is_idle(self, row: Sandbox, shown: Mapping[str, datetime]) -> bool:
        if row.purpose != "agent" or row.phase is not Phase.RUNNING:
            return False
        last = max(self._fleet.worked_at(row), shown.get(row.id, self.began), self.began)
        return now() - last > timedelta(seconds=self._config.guests.idle_stop_s)

    async def _stop_idle(self, sandbox_id: str) -> None:
        """By itself: one that does not stop holds up no other. Nothing to do if it was worked in since."""
        row = await self._fleet.load(sandbox_id)
        if not self._is_idle(row, await self._pane_output()):
            return
        reason = (
            f"nobody worked in it for {self._config.guests.idle_stop_s} s; its disk stays, start it again: "
            f"fluid sandboxes start {row.id}"
        )
        await self._fleet.stop(SYSTEM, row.id, reason=reason)
        await self._tell(row, "sandbox.stopped", reason)

    async def _tell(self, row: Sandbox, kind: str, reason: str, **data: object) -> None:
        log.info("%s (%s): %s", row.id, row.sandbox_name, reason)
        await self._events.publish(
            kind, "sandbox", row.id, sandbox_id=row.id, data={"reason": reason, **data}
        )


def due(row: Sandbox, warnings_s: Sequence[int], at: datetime) -> int | None:
    """The warning that is to be given now, None if there is none: the nearest before the end, if that one or
    a nearer one was not given yet, and if the sandbox was meant to live longer than that."""
    if row.expires_at is None or row.phase in (Phase.CREATING, Phase.DESTROYED):
        return None
    left_s = (row.expires_at - at).total_seconds()
    passed = [seconds for seconds in warnings_s if 0 < left_s <= seconds < (row.ttl_seconds or 0)]
    nearest = min(passed, default=None)
    if nearest is None or (row.expiry_told_s is not None and row.expiry_told_s <= nearest):
        return None
    return nearest
