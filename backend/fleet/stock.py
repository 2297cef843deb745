"""Stock: forks made ahead that have no owner yet, parked in memory with their login kept open, or suspended
to disk where memory is short.

A row of purpose ``stock`` is being made or moved (``creating``), parked (``paused``), or suspended
(``stopped``, with its ``memory_file``). One statement in the database gives it its owner: no two callers get
the same, whatever dies in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from backend.errors import FluidError, NoSpace, WrongState
from backend.fleet.core import FleetParts
from backend.fleet.following import Following
from backend.fleet.host import Host
from backend.fleet.placement import Placement, refusal
from backend.images import BuiltImage
from backend.models import Phase, Sandbox, new_id, now
from backend.steps import Trail, operation, reached

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 15.0
STOCK = "stock"
PARKED = (Phase.PAUSED, Phase.STOPPED)  # in memory; with its memory on the disk
MADE = (
    "id", "host_name", "host_address", "placement", "network", "ip_address", "domain", "uuid", "mac",
    "host_key", "machine_id", "ca", "memory_file",
)  # fmt: skip
"""What a parked fork has already; all else is its new owner's wish."""


class Stock(Following):
    """A lifecycle whose new sandboxes come from stock where there is any."""

    def __init__(self, parts: FleetParts) -> None:
        super().__init__(parts)
        self._moves = 0
        self._moved = asyncio.Event()

    def _stir(self) -> None:
        """There is something to do for the stock, perhaps: nobody waits for the next turn."""
        self._moves += 1
        self._moved.set()

    async def warm(self, host: Host) -> None:
        await super().warm(host)
        self._stir()

    async def obtain(self, wanted: Sandbox, image: BuiltImage) -> Sandbox:
        """A parked fork at once, else a new one; the id is that of what was handed out."""
        claimed = await self._claim(wanted, image)
        if claimed is None:
            return await super().obtain(wanted, image)
        self._stir()
        try:
            with operation("hand out") as trail:
                return await self._hand_out(claimed, image, trail)
        except FluidError as error:
            log.warning("%s could not be handed out, forking another: %s", claimed.id, error.message)
        finally:
            self.host_of(claimed).promised.pop(wanted.id, None)
        return await super().obtain(wanted, image)

    async def keep_stock(self) -> None:
        """Until cancelled: on each host as many parked forks of each source as the config asks for, made one
        at a time while the host is idle enough; those of another image or size go. A host that hangs holds up
        its own stock alone."""
        tended: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._moved.clear()
                for host in self._hosts:
                    if host.up and (host.name not in tended or tended[host.name].done()):
                        tended[host.name] = group.create_task(self._tend(host))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self._moved.wait()

    async def _tend(self, host: Host) -> None:
        """Once, and again while there is more to do."""
        seen = None
        while seen != self._moves:
            seen = self._moves
            with self._parts.background.turn(f"the stock of {host.name}"):
                await self._replenish(host)

    async def _replenish(self, host: Host) -> None:
        images = {image.sha256: image for image in self._parts.images.list()}
        wanted = dict.fromkeys(images, 0 if host.draining else self._config.stock.per_source)
        for found in await self._stock(host, Phase.RUNNING, Phase.STOPPED, Phase.ERROR):
            if not is_parked(found):
                await self.discard(found)  # somebody woke it or switched it off, or it died
        for parked in await self._stock(host, *PARKED):
            if wanted.get(parked.image_sha256, 0) and self._is_usual(parked):
                wanted[parked.image_sha256] -= 1
            elif await self._withdraw(parked):
                log.info("%s left the stock: its image or size is not asked for any more", parked.id)
        await self._give_way(host)
        for suspended in await self._stock(host, Phase.STOPPED):
            if await self._has_room(host) and await self._move(suspended, Phase.PAUSED):
                log.info("%s is parked in memory again", suspended.id)
        for sha256, count in wanted.items():
            for _ in range(count):
                if sha256 in host.warm and await self._has_room(host, self._config.guests.memory_mb):
                    await self._park(host, images[sha256])

    async def _give_way(self, host: Host) -> None:
        """Where others took of the memory that stock never takes, parked forks are suspended to disk, the
        oldest first, until it is there again; where the disk is at its reserve, they go."""
        for suspended in await self._stock(host, Phase.STOPPED):
            free_mb = (await host.look(max_age_s=0)).disk_free_mb  # what is promised may be written already
            if free_mb >= self._config.limits.disk_reserve_mb:
                break
            if await self._withdraw(suspended):
                log.info("%s left the stock: the disk of %s is at its reserve", suspended.id, host.name)
        for parked in await self._stock(host, Phase.PAUSED):
            free_mb = (await host.look(max_age_s=0)).memory_free_mb
            if free_mb >= self._config.stock.memory_reserve_mb:
                return
            if await self._has_disk(host, parked.memory_mb):
                moved, how = await self._move(parked, Phase.STOPPED), "is suspended to disk"
            else:
                moved, how = await self._withdraw(parked), "left the stock"
            if moved:
                log.info("%s %s: %s has %d MB of memory free", parked.id, how, host.name, free_mb)

    async def _move(self, parked: Sandbox, to: Phase) -> bool:
        """To the disk (``stopped``) or into memory again (``paused``); its login stays open. False where
        somebody just got it; when it fails, nothing of it is left."""
        host = self.host_of(parked)
        promised = host.promised_disk if to is Phase.STOPPED else host.promised
        promised[parked.id] = parked.memory_mb
        try:
            taken = await self._take_out(parked, _nobodys)
            if taken is None:
                return False
            with operation("move"):
                async with self.making(taken), self.exclusive(taken.id):
                    if to is Phase.STOPPED:
                        taken.memory_file = str(await self.machine(taken).suspend(taken.domain))
                    else:
                        await self._recall(taken)
                    taken.phase = to
                    await self.save(taken)
        finally:
            del promised[parked.id]
        self._young.pop(taken.id, None)
        return True

    async def _recall(self, suspended: Sandbox) -> None:
        await self.machine(suspended).recall(suspended.domain, Path(suspended.memory_file))
        suspended.memory_file = ""

    async def _has_room(self, host: Host, disk_mb: int = 0) -> bool:
        """Stock is for idle times: not while something is made or rehearsed there, not while the host's
        processors are busy with whose work ever, and not of memory that it needs."""
        await self.need_space(host, disk_mb)
        facts = await host.look()
        needed_mb = self._config.guests.memory_mb + self._config.stock.memory_reserve_mb
        busy = (host.busy_percent or 0) > self._config.stock.busy_percent
        idle = not busy and host.name not in self._young.values()
        return idle and facts.memory_free_mb > needed_mb

    async def _park(self, host: Host, image: BuiltImage) -> None:
        guests = self._config.guests
        fork = Sandbox(
            id=new_id("SBX"),
            sandbox_name=f"stock-{uuid.uuid4().hex[:8]}",
            base_image=image.name,
            image_sha256=image.sha256,
            purpose=STOCK,
            cpu=guests.cpu,
            memory_mb=guests.memory_mb,
            created_at=now(),
            updated_at=now(),
        )
        self.settle(fork, Placement(host.name, "stock of this host"))
        fork = await self.make(fork, image)
        async with self.making(fork), self.exclusive(fork.id):
            self._guests.hold(fork.id)
            await self.machine(fork).pause(fork.domain)
            fork.phase = Phase.PAUSED
            await self.save(fork)
        self._young.pop(fork.id, None)
        log.info("%s is parked: %s, ready after %.1f s", fork.id, image.name, fork.ready_s or 0)

    async def _stock(self, host: Host, *phases: Phase) -> list[Sandbox]:
        """Oldest first."""
        rows, _ = await self._store.sandboxes.list(
            {"purpose": STOCK, "phase": phases, "host_name": host.name}, limit=1000, oldest_first=True
        )
        return rows

    async def retire(self, image: str) -> None:
        """Destroy the parked forks of an image that goes away; one that is just handed out stays."""
        for row in await self.all_live():
            if row.base_image == image and is_parked(row):
                await self._withdraw(row)

    def _is_usual(self, row: Sandbox) -> bool:
        return _size(row) == (self._config.guests.cpu, self._config.guests.memory_mb)

    # --- handing out ----------------------------------------------------------------------------------

    async def _claim(self, wanted: Sandbox, image: BuiltImage) -> Sandbox | None:
        """The oldest fit one on a host that takes more, one in memory before one on the disk, now ``wanted``
        in all but what it is made of; None when there is none."""

        def give(row: Sandbox) -> Sandbox:
            return wanted.model_copy(update={name: getattr(row, name) for name in MADE})

        full: set[str] = set()
        for host, parked in await self._fitting(wanted, image):
            if host.name in full:
                continue
            if not await self._can_wake(parked, wanted):
                full.add(host.name)  # nor another of its forks
                continue
            claimed = None
            try:
                if claimed := await self._take_out(parked, give):
                    return claimed
            finally:
                if claimed is None:
                    host.promised.pop(wanted.id, None)
        return None

    async def _fitting(self, wanted: Sandbox, image: BuiltImage) -> list[tuple[Host, Sandbox]]:
        """Each host is asked for once: first what lies in memory, on whichever, then what is on the disk."""
        found = [
            (host, parked)
            for host in self._hosts
            if host.up and not host.draining
            for parked in await self._stock(host, *PARKED)
            if parked.image_sha256 == image.sha256 and _size(parked) == _size(wanted)
        ]
        return sorted(found, key=lambda one: PARKED.index(one[1].phase))

    async def _can_wake(self, parked: Sandbox, wanted: Sandbox) -> bool:
        """Asked only where there is something to hand out: a host that hangs costs a create nothing else.
        What is suspended needs memory as a new one does, and has it promised then."""
        host = self.host_of(parked)
        try:
            if not parked.memory_file:
                return await self._has_disk(host)
            room = await host.room(parked.image_sha256, max_age_s=0)
        except FluidError:
            return False
        if refusal(room, self.need(parked)):
            return False
        host.promised[wanted.id] = parked.memory_mb
        return True

    async def _has_disk(self, host: Host, extra_mb: int = 0) -> bool:
        try:
            await self.need_space(host, extra_mb)
        except NoSpace:
            return False
        return True

    async def _withdraw(self, parked: Sandbox) -> bool:
        """Destroy one that is not wanted, unless somebody just got it."""
        taken = await self._take_out(parked, _nobodys)
        if taken is not None:
            await self.discard(taken)
        return taken is not None

    async def _take_out(self, parked: Sandbox, edit: Callable[[Sandbox], Sandbox]) -> Sandbox | None:
        """Out of stock, as ``edit`` makes it, and young until the caller is done with it. None where somebody
        else got it."""
        if parked.id in self._young:
            return None

        def take(row: Sandbox) -> Sandbox:
            if not is_parked(row):
                raise WrongState(f"{row.id} is no stock any more", remedy="take another one")
            return edit(row)

        self._young[parked.id] = parked.host_name
        try:
            return await self._store.sandboxes.change(parked.id, take)
        except BaseException as error:
            self._young.pop(parked.id, None)
            if isinstance(error, WrongState):
                return None
            raise

    async def _hand_out(self, sandbox: Sandbox, image: BuiltImage, trail: Trail) -> Sandbox:
        """It wakes with the time of now, fresh randomness and its name; root's first command has worked."""
        started = time.monotonic()
        async with self.making(sandbox):
            reached("claimed row")
            if sandbox.memory_file:
                await self._recall(sandbox)
            keys = self._parts.authority.trusted
            await self.machine(sandbox).hand_out(
                sandbox.domain,
                hostname=sandbox.sandbox_name,
                metadata=self.metadata(sandbox),
                ca_public=keys.text,
            )
            sandbox.ca = keys.mark
            reached("woken")
            await self.grow(sandbox, image)
            self._guests.release(sandbox.id)
            await self._log_in(sandbox)
            if not self._parts.forwards.keeps(sandbox.id):
                await self.open_egress(sandbox)
            sandbox.created_by, sandbox.steps = STOCK, trail.steps
            await self._is_ready(sandbox, started)
            reached("ready")
        return sandbox


def is_parked(row: Sandbox) -> bool:
    """Whether it waits for an owner."""
    suspended = row.phase is Phase.STOPPED and row.memory_file
    return row.purpose == STOCK and (row.phase is Phase.PAUSED or bool(suspended))


def _nobodys(row: Sandbox) -> Sandbox:
    """Being made: if this process dies, it goes."""
    return row.model_copy(update={"phase": Phase.CREATING})


def _size(row: Sandbox) -> tuple[int, int]:
    return row.cpu, row.memory_mb
