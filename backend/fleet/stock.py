"""Stock: forks made ahead that have no owner yet, parked in memory with their login kept open.

A row of purpose ``stock`` is being made (``creating``) or parked (``paused``). One statement in the database
gives it its owner: no two callers get the same, whatever dies in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid

from backend.errors import FluidError, WrongState
from backend.fleet.core import FleetParts
from backend.fleet.following import Following
from backend.fleet.host import Host
from backend.fleet.placement import Placement
from backend.images import BuiltImage
from backend.models import Phase, Sandbox, new_id, now
from backend.steps import Trail, operation, reached

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 15.0
STOCK = "stock"
MADE = (
    "id", "host_name", "host_address", "placement", "network", "ip_address", "domain", "uuid", "mac",
    "host_key", "machine_id", "ca",
)  # fmt: skip
"""What a parked fork has already; all else is its new owner's wish."""


class Stock(Following):
    """A lifecycle whose new sandboxes come from stock where there is any."""

    def __init__(self, parts: FleetParts) -> None:
        super().__init__(parts)
        self._moved = asyncio.Event()

    async def warm(self, host: Host) -> None:
        await super().warm(host)
        self._moved.set()

    async def obtain(self, wanted: Sandbox, image: BuiltImage) -> Sandbox:
        """A parked fork at once, else a new one; the id is that of what was handed out."""
        claimed = await self._claim(wanted, image)
        if claimed is None:
            return await super().obtain(wanted, image)
        self._moved.set()
        try:
            with operation("hand out") as trail:
                return await self._hand_out(claimed, image, trail)
        except FluidError as error:
            log.warning("%s could not be handed out, forking another: %s", claimed.id, error.message)
            return await super().obtain(wanted, image)

    async def keep_stock(self) -> None:
        """Until cancelled: on each host as many parked forks of each source as the config asks for, made one
        at a time while the host is idle enough; those of another image or size go."""
        while True:
            self._moved.clear()
            for host in [host for host in self._hosts if host.up]:
                with self._parts.background.turn(f"the stock of {host.name}"):
                    await self._replenish(host)
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._moved.wait()
            except TimeoutError:
                continue

    async def _replenish(self, host: Host) -> None:
        images = {image.sha256: image for image in self._parts.images.list()}
        wanted = dict.fromkeys(images, 0 if host.draining else self._config.stock.per_source)
        for broken in await self._stock(host, Phase.STOPPED, Phase.ERROR):
            await self.discard(broken)
        await self._give_way(host)
        for parked in await self._stock(host, Phase.PAUSED):
            if wanted.get(parked.image_sha256, 0) and self._is_usual(parked):
                wanted[parked.image_sha256] -= 1
            elif await self._withdraw(parked):
                log.info("%s left the stock: its image or size is not asked for any more", parked.id)
        for sha256, count in wanted.items():
            for _ in range(count):
                if sha256 in host.warm and await self._has_room(host):
                    await self._park(host, images[sha256])

    async def _give_way(self, host: Host) -> None:
        """Where others took of the memory that stock never takes, parked forks go, the oldest first, until it
        is there again. What a fork would be on the disk is its template, and that stays."""
        for parked in await self._stock(host, Phase.PAUSED):
            free_mb = (await host.look(max_age_s=0)).memory_free_mb
            if free_mb >= self._config.stock.memory_reserve_mb:
                return
            if await self._withdraw(parked):
                log.info("%s left the stock: %s has %d MB of memory free", parked.id, host.name, free_mb)

    async def _has_room(self, host: Host) -> bool:
        """Stock is for idle times: not while something is made or rehearsed, and not of memory that the host
        needs."""
        await self.need_space(host)
        facts = await host.look()
        needed_mb = self._config.guests.memory_mb + self._config.stock.memory_reserve_mb
        return not self._young and facts.memory_free_mb > needed_mb

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
        self._young.discard(fork.id)
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
            if row.purpose == STOCK and row.base_image == image and row.phase is Phase.PAUSED:
                await self._withdraw(row)

    def _is_usual(self, row: Sandbox) -> bool:
        return (row.cpu, row.memory_mb) == (self._config.guests.cpu, self._config.guests.memory_mb)

    # --- handing out ----------------------------------------------------------------------------------

    async def _claim(self, wanted: Sandbox, image: BuiltImage) -> Sandbox | None:
        """The oldest fit one on a host that takes more, now ``wanted`` in all but what it is made of; None
        when there is none."""
        ready = [host for host in self._hosts if host.up and not host.draining]
        for parked in [row for host in ready for row in await self._stock(host, Phase.PAUSED)]:
            fits = (parked.cpu, parked.memory_mb) == (wanted.cpu, wanted.memory_mb)
            if not fits or parked.image_sha256 != image.sha256:
                continue
            if not await self._has_disk(self.host_of(parked)):
                continue

            def take(row: Sandbox) -> Sandbox:
                _must_be_parked(row)
                return wanted.model_copy(update={name: getattr(row, name) for name in MADE})

            self._young.add(parked.id)
            try:
                return await self._store.sandboxes.change(parked.id, take)
            except WrongState:
                self._young.discard(parked.id)
        return None

    async def _has_disk(self, host: Host) -> bool:
        """Asked only where there is something to hand out: a host that hangs costs a create nothing else."""
        try:
            await self.need_space(host)
        except FluidError:
            return False
        return True

    async def _withdraw(self, parked: Sandbox) -> bool:
        """Destroy one that is not wanted, unless somebody just got it."""

        def take(row: Sandbox) -> Sandbox:
            _must_be_parked(row)
            return row.model_copy(update={"phase": Phase.CREATING})

        try:
            await self.discard(await self._store.sandboxes.change(parked.id, take))
        except WrongState:
            return False
        return True

    async def _hand_out(self, sandbox: Sandbox, image: BuiltImage, trail: Trail) -> Sandbox:
        """It wakes with the time of now, fresh randomness and its name; root's first command has worked."""
        started = time.monotonic()
        async with self.making(sandbox):
            reached("claimed row")
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


def _must_be_parked(row: Sandbox) -> None:
    if row.purpose != STOCK or row.phase is not Phase.PAUSED:
        raise WrongState(f"{row.id} is no stock any more", remedy="take another one")
