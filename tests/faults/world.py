"""A backend that is killed and started again, and what must hold afterwards.

Rows, domains, files, processes and interfaces agree, and what is somebody else's is as it was.
"""

from __future__ import annotations

import asyncio
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import libvirt

from backend.client import Fluid
from backend.errors import FluidError
from backend.fleet.stock import is_parked
from backend.models import Phase, Sandbox
from tests.bench.stage import Stage
from tests.fix_hosts import RealHost
from tests.leftovers import left_of
from tests.processes import argv_of, naming

AGREE_S = 60.0
WAIT_S = 180.0
LIVE = [phase for phase in Phase if phase is not Phase.DESTROYED]
LOOK_S = 0.2
FOREIGN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"""


class World:
    """One stage and the operator's view of it."""

    def __init__(self, stage: Stage, **settings: object) -> None:
        """``settings``: what every start reads."""
        self.stage, self._settings = stage, settings
        self.prefix = stage.prefix
        self.fluid = Fluid(stage.paths.operator_socket)
        self.foreign = ("somebody-elses", f"{self.prefix}-sbx-00000000")  # the second by its name only
        self._foreign_xml: list[str] = []

    def configure(self, **more: object) -> None:
        """What the next start reads beside the settings."""
        self.stage.configure(**self._settings, **more)

    async def start(self, kill_at: str = "") -> None:
        """Start the backend; with ``kill_at`` it dies at that step, which may come before anybody asks."""
        self.stage.environment["FLUID_KILL_AT"] = kill_at
        await self.stage.start()
        await asyncio.to_thread(
            self.until,
            lambda: (
                (kill_at and self.stage.is_dead) or any(one.template_ready for one in self.fluid.sources())
            ),
        )

    async def settle_foreign(self) -> None:
        """Domains that are not ours, one of them named as if it were."""
        await asyncio.to_thread(self._settle_foreign)

    @property
    def libvirt(self) -> str:
        """The URI of the libvirtd that holds the sandboxes."""
        return self.stage.libvirt

    def _settle_foreign(self) -> None:
        connection = libvirt.open(self.libvirt)
        for name in self.foreign:
            connection.defineXML(FOREIGN.format(name=name))
        self._foreign_xml = [connection.lookupByName(name).XMLDesc() for name in self.foreign]
        connection.close()

    def remove_foreign(self) -> None:
        connection = libvirt.open(self.libvirt)
        for name in self.foreign:
            connection.lookupByName(name).undefine()
        connection.close()

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait; what the backend refuses meanwhile is not yet."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                if holds():
                    return
            except FluidError:
                pass
            assert time.monotonic() < deadline, f"not within three minutes; {self.stage.last_words(9)}"
            time.sleep(LOOK_S)

    def rows(self) -> list[Sandbox]:
        return [row for row in self.fluid.fleet().sandboxes if row.purpose == "agent"]

    # --- what must hold -------------------------------------------------------------------------------

    async def agree(self) -> None:
        """Everything agrees, at the latest a minute after the start."""
        deadline = time.monotonic() + AGREE_S
        while found := await self._differences():
            assert time.monotonic() < deadline, found
            await asyncio.sleep(LOOK_S)

    async def _differences(self) -> list[str]:
        async with self.stage.store() as store:
            rows, _ = await store.sandboxes.list({"phase": LIVE})
        return await asyncio.to_thread(self.differences, rows)

    def differences(self, rows: list[Sandbox]) -> list[str]:
        """What does not agree with the rows, in words."""
        try:
            report = self.fluid.leftovers()
            points = {row.domain: {point.name for point in self.fluid.snapshots(row.id)} for row in rows}
        except FluidError as error:
            return [f"the backend: {error.message}"]
        wrong = [f"{one.kind} {one.name}: {one.why}" for one in left_of(report)]
        wrong += [f"{row.sandbox_name} is {row.phase} {row.reason}" for row in rows if _is_unwell(row)]
        wrong += [f"{row.sandbox_name} is still at {row.doing!r}" for row in rows if row.doing]
        named = {row.domain for row in rows}
        wrong += _differ("domains", self._domains(), named)
        wrong += _differ("files", self._folders(), named)
        running = {row.domain for row in rows if row.phase in (Phase.RUNNING, Phase.PAUSED)}
        wrong += _differ("QEMU processes", self._processes(), running)
        macs = {f"fl{row.mac.replace(':', '')}" for row in rows if row.domain in running}
        wrong += _differ("taps", self._taps() & (macs | self._known_taps), macs)
        self._known_taps |= macs
        wrong += _differ("network ports", self._network_ports(), running)
        wrong += _differ("filters on an interface", self._filtered(), running)
        for domain, names in points.items():
            wrong += _differ(f"snapshots of {domain}", self._marks(domain), names)
            wrong += _differ(f"memories of {domain}", self._files(domain, ".memory"), names)
        suspended = {row.domain for row in rows if row.memory_file}
        for domain in named:
            wanted = {"parked"} if domain in suspended else set()
            wrong += _differ(f"saved memories of {domain}", self._files(domain, ".save"), wanted)
        if self._foreign_now() != self._foreign_xml:
            wrong.append("a foreign domain was altered")
        return wrong

    _known_taps: set[str] = set()  # noqa: RUF012 - of all worlds: taps of others are not ours to judge

    def _domains(self) -> set[str]:
        connection = libvirt.open(self.libvirt)
        try:
            names = {domain.name() for domain in connection.listAllDomains()}
        finally:
            connection.close()
        return {name for name in names if name.startswith(f"{self.prefix}-sbx-")} - set(self.foreign)

    def _network_ports(self) -> set[str]:
        """The sandboxes that hold a port of a libvirt network."""
        connection = libvirt.open(self.libvirt)
        try:
            return self._owners(port for net in connection.listAllNetworks() for port in net.listAllPorts())
        finally:
            connection.close()

    def _filtered(self) -> set[str]:
        """The sandboxes for whose interface a filter stands."""
        connection = libvirt.open(self.libvirt)
        try:
            return self._owners(connection.listAllNWFilterBindings())
        finally:
            connection.close()

    def _owners(self, held: Iterable[Any]) -> set[str]:
        """Which sandboxes hold these ports, or bindings of a filter; others' are not ours to judge."""
        names = {ET.fromstring(one.XMLDesc()).findtext("owner/name", "") for one in held}
        return {name for name in names if name.startswith(f"{self.prefix}-sbx-")} - set(self.foreign)

    def _foreign_now(self) -> list[str]:
        connection = libvirt.open(self.libvirt)
        try:
            return [connection.lookupByName(name).XMLDesc() for name in self.foreign if self._foreign_xml]
        finally:
            connection.close()

    def _folders(self) -> set[str]:
        return {path.name for path in (self.stage.paths.domains / "domains").iterdir()}

    def _files(self, domain: str, suffix: str) -> set[str]:
        folder = self.stage.paths.domains / "domains" / domain
        return {path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}")}

    def _marks(self, domain: str) -> set[str]:
        return self._files(domain, ".layer")

    def _processes(self) -> set[str]:
        named = f"guest={self.prefix}-sbx-"
        argvs = map(argv_of, naming(named))
        words = [word for argv in argvs for word in argv.split(b"\0") if word.startswith(named.encode())]
        return {word.removeprefix(b"guest=").split(b",")[0].decode() for word in words}

    def _taps(self) -> set[str]:
        return {path.name for path in Path("/sys/class/net").iterdir()}


class FarWorld(World):
    """The same where the only host is behind SSH: its files are the volumes of a pool."""

    def __init__(self, stage: Stage, far: RealHost, **settings: object) -> None:
        super().__init__(stage, hosts=[far.settings], **settings)
        self.far = far

    @property
    def libvirt(self) -> str:
        return self.far.root_uri

    def _volumes(self) -> list[list[str]]:
        """What lies in our pool, each name as its parts: the domain, and what it is of it."""
        pool = self.far.folder / "lib" / "images" / self.prefix
        return [path.name.split(".") for path in pool.iterdir()]

    def _folders(self) -> set[str]:
        return {name[0] for name in self._volumes() if name[0].startswith(f"{self.prefix}-sbx-")}

    def _files(self, domain: str, suffix: str) -> set[str]:
        """``DOMAIN.NAME.memory``."""
        mine = [name for name in self._volumes() if name[0] == domain]
        return {name[1] for name in mine if suffix == f".{name[-1]}"}

    def _taps(self) -> set[str]:
        return set(self.far.exec(["ls", "/sys/class/net"]).decode().split())


def _is_unwell(row: Sandbox) -> bool:
    return row.phase is not Phase.RUNNING and not is_parked(row)


def _differ(what: str, found: set[str], wanted: set[str]) -> list[str]:
    words = []
    if more := found - wanted:
        words.append(f"{what} too many: {sorted(more)}")
    if fewer := wanted - found:
        words.append(f"{what} missing: {sorted(fewer)}")
    return words
