"""One hypervisor as the fleet uses it: connected or lost, its network, its templates, its free addresses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeVar

from backend.config import Config, HostConfig
from backend.errors import FluidError, HypervisorDown, HypervisorFailed
from backend.fleet.addresses import free_address, free_network
from backend.fleet.busy import Busy
from backend.fleet.installation import object_prefix
from backend.fleet.patience import Asked
from backend.fleet.placement import Room
from backend.fleet.turns import Turns
from backend.fleet.ways import way_to
from backend.hypervisor import (
    DomainEvent,
    ForeignNetwork,
    GuestImage,
    HostFacts,
    Hypervisor,
    NetworkSpec,
)
from backend.images import BuiltImage
from backend.models import HostView, now
from backend.paths import Paths
from backend.places import Here
from backend.whole_files import write_lasting

T = TypeVar("T")
log = logging.getLogger(__name__)
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 15.0
LOOK_TIMEOUT_S = 5.0  # a host that hangs holds up nobody for longer; libvirt's first answer may take 3
FRESH_S = 1.0
CLOCK_FRESH_S = 60.0
BOOTED_FRESH_S = 10.0  # shorter than any host takes to come back


class Host:
    """A hypervisor, by its way (:mod:`backend.fleet.ways`).

    A host that is down is a state, not the end of the backend: :meth:`require` and :meth:`view` say why.
    """

    def __init__(self, config: Config, settings: HostConfig, paths: Paths) -> None:
        self._config = config
        self._paths = paths
        self._host = settings
        self._prefix = object_prefix(paths)
        self._used: set[str] = set()
        self._allocate = asyncio.Lock()
        self.since = now()  # it came up, or was lost
        self._down = HypervisorDown("libvirt was not asked yet", remedy="fluid doctor")
        self._hypervisor: Hypervisor | None = None
        self.way = way_to(settings, paths, self._prefix, reserve_mb=config.limits.disk_reserve_mb)
        self._asked = Asked(self._ask, LOOK_TIMEOUT_S)
        self._facts: HostFacts | None = None
        self._busy = Busy()
        self._reserved_mb = 0  # of the disk's free space, root's alone
        self._looked_at = 0.0  # time.monotonic()
        self._clock_skew_s: float | None = None
        self._clock_due = 0.0  # time.monotonic()
        self._booted_at: datetime | None = None
        self._asking_boot = asyncio.Lock()
        self._booted_due = 0.0  # time.monotonic()
        self._unsettled: FluidError | None = None
        self.network: NetworkSpec | ForeignNetwork
        self.virt_type = ""
        self.draining = False
        self.turns = Turns()
        self.promised: dict[str, int] = {}  # MiB that what is being made here will take, by its id
        self.promised_disk: dict[str, int] = {}  # MiB of its disk that what is under way here may write
        self.cannot: dict[str, FluidError] = {}  # why it does not run guests of an image, by its SHA-256
        self.warm: set[str] = set()  # SHA-256 of images with a running template in the usual size

    @property
    def name(self) -> str:
        return self._host.name

    @property
    def address(self) -> str:
        return self._host.address

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return isinstance(self._host.place(), Here)

    @property
    def isolated(self) -> bool:
        """Whether its guests are on a network of ours; another's lets them see what it likes."""
        return self._host.network is None

    @property
    def up(self) -> bool:
        """Whether libvirt answers."""
        return self._hypervisor is not None and self._hypervisor.alive

    async def open(self) -> bool:
        """Connect, and make or find the network. False while nothing answers; what stood once comes back by
        itself."""
        told = self._down.message
        try:
            self._hypervisor = await self._connected()
        except FluidError as error:
            self._down = HypervisorDown(error.message, remedy=error.remedy)
        except OSError as error:
            words = str(error) or "no answer in time"
            self._down = HypervisorDown(f"the host cannot be used: {words}", remedy="fluid doctor")
        else:
            return True
        if self._down.message != told:  # it is asked again and again
            log.warning("host %s is down: %s", self.name, self._down.message)
        return False

    async def appear(self) -> None:
        """Return once libvirt has answered; asked again and again, with growing pauses. A connection that
        stood once comes back by itself."""
        pause_s = RETRY_FIRST_S
        while self._hypervisor is None and not await self.open():
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    def listening(self) -> AbstractAsyncContextManager[AsyncIterator[DomainEvent]]:
        """See :meth:`backend.hypervisor.Hypervisor.listening`. Raises HypervisorDown before the host was up
        once."""
        if self._hypervisor is None:
            raise HypervisorDown(self._down.message, remedy=self._down.remedy)
        return self._hypervisor.listening()

    async def revive(self) -> None:
        """The connection is lost: what is ours to do for its return is done."""
        await self.way.revive()

    async def _connected(self) -> Hypervisor:
        hypervisor = await self.way.hypervisor()
        try:
            self.virt_type = hypervisor.virt_type
            self.network = await self._guests_network(hypervisor)
            self._reserved_mb = await self.way.reserved_mb()
        except BaseException:
            await hypervisor.close()
            raise
        return hypervisor

    async def settle(self) -> None:
        """Its libvirt is back, perhaps with the whole host: the network stands again, and holds its guests.
        Until it does :meth:`room` says why not. Raises FluidError."""
        try:
            self.network = await self._guests_network(self.require())
        except FluidError as error:
            self._unsettled = error
            raise
        self._unsettled = None

    async def close(self) -> None:
        """Hang up. Our network goes with the last machine on a libvirtd of ours."""
        self._asked.close()
        idle = False
        if self._hypervisor:
            try:
                if self.way.link is None and self.up and (idle := await self._hypervisor.is_idle()):
                    await self._hypervisor.remove_network(self._own_name)
            except FluidError as error:
                log.warning("host %s is left as it is: %s", self.name, error.message)
            finally:
                await self._hypervisor.close()
        await self.way.leave(idle=idle)

    async def vanish(self) -> list[str]:
        """Take away what is ours there, and what is kept of it here; what had to stay there. Raises
        WrongState: a machine of ours is there."""
        left = await self.require().vanish() if self.up else [f"all that is in the pool {self._prefix}"]
        (self._paths.state / "networks" / self.name).unlink(missing_ok=True)
        return left

    async def _guests_network(self, hypervisor: Hypervisor) -> NetworkSpec | ForeignNetwork:
        if self._host.network is None:
            return await self._own_network(hypervisor)
        return await self._foreign_network(hypervisor, self._host.network)

    async def _own_network(self, hypervisor: Hypervisor) -> NetworkSpec:
        spec = await self._network()
        await hypervisor.ensure_network(spec)
        await self.way.must_hold(spec.bridge)
        return spec

    async def _foreign_network(self, hypervisor: Hypervisor, name: str) -> ForeignNetwork:
        """Raises Conflict, LimitReached: no guest could have an address there."""
        found = await hypervisor.find_network(name)
        _address_in(found, {found.host_address})
        return found

    @property
    def _own_name(self) -> str:
        return f"{self._prefix}-guests"

    async def _network(self) -> NetworkSpec:
        """Which /24 it has is chosen once and kept; no two hosts of ours have the same."""
        folder = self._paths.state / "networks"
        kept = folder / self.name
        cidr = self._config.guests.network_cidr
        if cidr is None:
            folder.mkdir(exist_ok=True)
            if not kept.exists():
                routes = await self.way.routes()
                ours = [_network_in(file) for file in folder.glob("[!.]*")]  # others' opened meanwhile, too
                write_lasting(kept, free_network([*routes, *ours]).encode())
            cidr = str(_network_in(kept))
        mark = self._prefix.removeprefix("fluid-")
        return NetworkSpec(name=self._own_name, bridge=f"fl-{mark}", cidr=cidr)

    def domain_name(self, sandbox_id: str) -> str:
        """The libvirt domain of a sandbox."""
        return f"{self._prefix}-{sandbox_id.lower()}"

    def sandbox_id(self, domain: str) -> str:
        """The inverse of :meth:`domain_name`."""
        kind, _, digits = domain.removeprefix(f"{self._prefix}-").partition("-")
        return f"{kind.upper()}-{digits}"

    def is_sandbox(self, domain: str) -> bool:
        """Whether that is how a sandbox's domain is named; templates have other names."""
        return domain.startswith(f"{self._prefix}-sbx-")

    async def take_address(self, used: set[str]) -> str:
        """A free address, reserved until :meth:`give_back`."""
        async with self._allocate:
            address = _address_in(self.network, used | self._used | {self.network.host_address})
            self._used.add(address)
            return address

    def give_back(self, address: str | None) -> None:
        if address:
            self._used.discard(address)

    @property
    def prefix(self) -> int:
        return int(self.network.cidr.partition("/")[2])

    async def look(self, max_age_s: float = FRESH_S, *, patient: bool = False) -> HostFacts:
        """How it is, not older than that; 0 asks it now, or joins who does. A host that hangs holds up who
        asks first; until it answers again the others are told at once, but for who is ``patient``.

        Raises:
            HypervisorDown, TimedOut: it does not answer, or not soon.
        """
        if self._facts is None or time.monotonic() - self._looked_at > max_age_s or not self.up:
            self.require()
            try:
                return await self._asked.answer(patient=patient)
            except TimeoutError:
                raise self._is_silent() from None
        return self._facts

    async def told(self, question: Callable[[Hypervisor], Awaitable[T]]) -> T:
        """Its answer to a question that can do without it: soon, or at once that it does not answer.

        Raises:
            HypervisorDown: it does not answer, or not soon.
        """
        await self.look(max_age_s=0)  # of what this learns all have the use
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                return await question(self.require())
        except TimeoutError:
            raise self._is_silent() from None

    def _is_silent(self) -> HypervisorDown:
        return HypervisorDown(
            f"{self.name} does not answer within {LOOK_TIMEOUT_S:g} s", remedy="fluid hosts list"
        )

    async def _ask(self) -> HostFacts:
        facts = await self.require().facts()
        free_mb = max(facts.disk_free_mb - self._reserved_mb, 0)
        self._facts, self._looked_at = replace(facts, disk_free_mb=free_mb), time.monotonic()
        self._busy.see(facts)
        self.turns.at_once = max(self._facts.cpus, 1)
        return self._facts

    @property
    def busy_percent(self) -> int | None:
        """How busy its processors were when it was last looked at, with whose work ever; None: not known
        yet."""
        return None if self._busy.share is None else round(100 * self._busy.share)

    async def _look_at_clock(self) -> None:
        """At most once a minute, however many ask; one that cannot be told is unknown until then."""
        if time.monotonic() < self._clock_due:
            return
        self._clock_due = time.monotonic() + CLOCK_FRESH_S
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                self._clock_skew_s = await self.way.clock_skew()
        except (FluidError, TimeoutError) as error:
            self._clock_skew_s = None
            log.info("the clock of %s is not known: %s", self.name, error or "no answer")

    async def booted_at(self) -> datetime | None:
        """When the host itself started; None where it does not say."""
        async with self._asking_boot:  # who comes while it is asked hears the same
            if time.monotonic() >= self._booted_due:
                self._booted_due = time.monotonic() + BOOTED_FRESH_S
                try:
                    async with asyncio.timeout(LOOK_TIMEOUT_S):
                        self._booted_at = now() - timedelta(seconds=await self.way.uptime())
                except (FluidError, OSError, ValueError, TimeoutError) as error:
                    self._booted_at = None
                    log.info("since when %s runs is not known: %s", self.name, error or "no answer")
            return self._booted_at

    async def room(self, image: str, max_age_s: float = FRESH_S) -> Room:
        """What placement weighs; ``image`` is a SHA-256."""
        if error := self._unsettled or self.cannot.get(image):
            return Room(self.name, down=error)
        try:
            facts = await self.look(max_age_s)
        except FluidError as error:
            return Room(self.name, down=error)
        return Room(
            self.name,
            draining=self.draining,
            has_template=image in self.warm,
            has_kvm=facts.virt_type == "kvm",
            memory_free_mb=facts.memory_free_mb,
            promised_mb=sum(self.promised.values()),
            disk_free_mb=facts.disk_free_mb,
            promised_disk_mb=sum(self.promised_disk.values()),
            load=len(self.promised) / self.turns.at_once,
            busy=self._busy.share,
        )

    async def view(
        self,
        sandboxes: int,
        stock: int,
        suspended: int = 0,
        templates: Sequence[str] = (),
        *,
        patient: bool = False,
    ) -> HostView:
        """How it is now; a host that does not answer is ``lost``, never an error for the caller. What is
        known of it then is from before. ``suspended``: how many of the stock lie on the disk. ``templates``:
        the names of what is ready in a second there. ``patient``: see :meth:`look`."""
        error = ""
        try:
            await asyncio.gather(self.look(patient=patient), self._look_at_clock())
        except FluidError as down:
            error = down.message
        view = HostView(
            name=self.name,
            address=self.address,
            uri=self.way.uri,
            status="lost" if error else "draining" if self.draining else "up",
            draining=self.draining,
            virt_type=self.virt_type,
            sandboxes=sandboxes,
            stock=stock,
            stock_suspended=suspended,
            isolated=self.isolated,
            clock_skew_s=None if error else self._clock_skew_s,
            templates=sorted(templates),
            creating=self.turns.under_way,
            waiting=self.turns.waiting,
            since=self.since,
            last_error=error,
        )
        if self._hypervisor:
            view.fork_way, view.fork_reason = self._hypervisor.fork_way.name, self._hypervisor.fork_way.reason
            view.virt_reason = self._hypervisor.kvm.reason if self._hypervisor.kvm else ""
        if facts := self._facts:
            view.cpus, view.memory_mb, view.memory_free_mb = facts.cpus, facts.memory_mb, facts.memory_free_mb
            view.disk_free_mb, view.busy_percent = facts.disk_free_mb, self.busy_percent
            view.libvirt_version, view.qemu_version = facts.libvirt_version, facts.qemu_version
        return view

    def require(self) -> Hypervisor:
        """The connection that stands.

        Raises:
            HypervisorDown: why there is none. Nothing was begun.
        """
        if self._hypervisor is None:
            raise HypervisorDown(self._down.message, remedy=self._down.remedy)
        if not self._hypervisor.alive:
            raise HypervisorDown(
                f"the connection to {self._hypervisor.uri} is lost",
                remedy="see that libvirtd runs there; it is tried again",
            )
        return self._hypervisor


def _network_in(file: Path) -> IPv4Network:
    try:
        return IPv4Network(file.read_text().strip())
    except ValueError:
        raise HypervisorFailed(
            f"{file} does not hold the network of that host's guests",
            remedy="write it there as `virsh net-dumpxml` tells it; remove the file if it has no guests",
        ) from None


def _address_in(network: NetworkSpec | ForeignNetwork, used: set[str]) -> str:
    if isinstance(network, NetworkSpec):
        return free_address(network.cidr, used)
    return free_address(network.cidr, used, network.reserved, name=network.name)


def guest_image(image: BuiltImage) -> GuestImage:
    """A built image as the hypervisor takes it."""
    return GuestImage(
        name=image.name,
        sha256=image.sha256,
        disk=image.disk,
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=image.cmdline,
        arch=image.arch,
    )
