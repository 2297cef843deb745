"""A real backend in a home of its own: PostgreSQL, libvirtd and tmux are its own too, and all of it goes.

Without a cache of images no guest runs: sandboxes are rows, and domains that nobody started.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sys
import tempfile
import uuid
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import libvirt
import yaml

from backend.errors import BackendDown
from backend.fleet import object_prefix
from backend.hypervisor import GuestImage, Hypervisor, PrivateLibvirt, kvm_works
from backend.hypervisor.domain_xml import DomainSpec, domain_xml, loose_nic
from backend.hypervisor.nouns import Machine
from backend.models import Phase, Sandbox, now
from backend.paths import Paths
from backend.store import Database, EmbeddedPostgres, Store, migrate
from backend.tmux import TmuxServer
from tests.fix_database import RUN_AS

CHECKOUT = Path(__file__).resolve().parents[2]
READY_S = 60.0
DEFINE_S = 600.0
INSERTED_AT_ONCE = 50
TTL = timedelta(hours=20)
IMAGE = GuestImage(
    name="debian-12",
    sha256="0" * 64,
    disk=Path("/nonexistent/disk"),
    kernel=Path("/nonexistent/kernel"),
    initrd=Path("/nonexistent/initrd"),
    cmdline="root=/dev/vda",
)


def sandbox_id(number: int) -> str:
    return f"SBX-{number:08x}"


def name_of(number: int) -> str:
    return f"bench-{number:04}"


class Stage:
    """``async with Stage() as stage: await stage.fill(1000); await stage.start()``."""

    def __init__(self, cache: Path | None = None, **config: Any) -> None:
        """``cache``: where guest images are; without it there is none, and no guest runs. ``config`` is added
        to the backend's."""
        self._cache, self._config = cache, config
        self._ends = AsyncExitStack()
        self._backend: Process | None = None
        self.paths: Paths
        self.prefix: str
        self.environment: dict[str, str]
        self._postgres: EmbeddedPostgres
        self._libvirt: str

    async def __aenter__(self) -> Stage:
        async with AsyncExitStack() as ends:
            home = Path(tempfile.mkdtemp(prefix="fluid-bench-"))
            ends.callback(shutil.rmtree, home)
            home.chmod(0o711)
            self.environment = {**os.environ, "FLUID_HOME": str(home), "PYTHONPATH": str(CHECKOUT)}
            self.environment |= {"FLUID_CACHE": str(self._cache or home / "cache"), "TERM": "dumb"}
            self.paths = Paths.under(home)
            self.paths.make()
            self.prefix = object_prefix(self.paths)
            await self._open_libvirt(ends)
            await self._open_postgres(ends)
            ends.push_async_callback(TmuxServer(self.paths.tmux_socket).kill_server)
            ends.push_async_callback(self.kill)
            self._ends = ends.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            assert not (bugs := self._bugs()), f"the backend met errors of its own:\n{bugs}"
        finally:
            await self._ends.aclose()

    def _bugs(self) -> str:
        """The tracebacks of requests that were answered with 500, from the backend's log."""
        if not self._log.exists():
            return ""
        entries = re.split(
            r"^(?=\d{4}-\d\d-\d\d )", self._log.read_text(errors="replace"), flags=re.MULTILINE
        )
        return "".join(entry for entry in entries if " ERROR backend.api.gate request " in entry)

    async def _open_postgres(self, ends: AsyncExitStack) -> None:
        self._postgres = EmbeddedPostgres(self.paths.database, RUN_AS)
        ends.push_async_callback(self._postgres.stop)
        await self._postgres.start()

    async def _open_libvirt(self, ends: AsyncExitStack) -> None:
        cache = Paths.default().cache
        cache.mkdir(parents=True, exist_ok=True)
        probed = cache / "kvm-probe.json"
        probe = await kvm_works(cache=probed)
        daemon = PrivateLibvirt(self.paths.state / "libvirt", hide_kvm=not probe.works)
        ends.push_async_callback(daemon.stop)
        self._libvirt = await daemon.start()
        ends.push_async_callback(self._remove_ours)
        self.configure(**self._config)
        if not self._cache and probed.exists():  # the backend boots a probe otherwise, for ten seconds
            shutil.copy(probed, self.environment["FLUID_CACHE"])

    def configure(self, *, stock: Mapping[str, int] | None = None, **config: Any) -> None:
        """What the next start reads. Stock is made beside whatever keeps the processors busy here."""
        base = {
            "embedded": {"run_as": RUN_AS},
            "hosts": [{"name": "local", "uri": self._libvirt}],
            "stock": {"busy_percent": 100, **(stock or {})},
        }
        self.paths.config_file.write_text(yaml.safe_dump(base | config))

    @property
    def libvirt(self) -> str:
        """The URI of its libvirtd."""
        return self._libvirt

    async def _remove_ours(self) -> None:
        host = Hypervisor(self._libvirt, folder=self.paths.domains, virt_type="qemu", prefix=self.prefix)
        await host.open()
        for domain in await host.list_ours():
            await host.destroy(domain.name)
        for network in await host.our_networks():
            await host.remove_network(network)
        await host.close()

    # --- the backend ----------------------------------------------------------------------------------

    async def start(self, module: str = "backend.cli") -> float:
        """Start the backend, one that runs killed with -9; the seconds until its doors are open (sd_notify).
        PostgreSQL, libvirtd and tmux live on. ``module serve`` is what runs."""
        await self.kill()
        address = self.paths.run / "ready.sock"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, self._log.open("ab") as log:
            told.bind(str(address))
            told.setblocking(False)
            began = perf_counter()
            self._backend = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", module, "serve"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, "NOTIFY_SOCKET": str(address)},
                start_new_session=True,
            )
            ready = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(told, 64))
            died = asyncio.ensure_future(self._backend.wait())
            try:
                await asyncio.wait({ready, died}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
                if not ready.done():
                    raise BackendDown(f"the backend did not start: {self.last_words()}")
            finally:
                ready.cancel()
                died.cancel()
            return perf_counter() - began

    @property
    def is_dead(self) -> bool:
        """Whether a backend that was started has ended."""
        return self._backend is not None and self._backend.returncode is not None

    async def died(self) -> int:
        """The exit status of a backend that ends by itself; negative: the signal."""
        assert self._backend is not None
        async with asyncio.timeout(READY_S):
            return await self._backend.wait()

    async def kill(self) -> None:
        """kill -9, if it runs."""
        if self._backend and self._backend.returncode is None:
            self._backend.kill()
            await self._backend.wait()

    @property
    def pid(self) -> int:
        """The backend's."""
        assert self._backend is not None
        return self._backend.pid

    @property
    def _log(self) -> Path:
        return self.paths.log / "backend.log"

    def last_words(self, lines: int = 3) -> str:
        """The end of the backend's log."""
        return " / ".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    # --- what it finds --------------------------------------------------------------------------------

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """The backend's own database, beside it."""
        database = Database(self._postgres.dsn)
        await database.open()
        try:
            await migrate(database)
            yield Store(database)
        finally:
            await database.close()

    async def fill(self, count: int, first: int = 0) -> None:
        """So many stopped sandboxes, those before ``first`` are there: rows, and domains in libvirt."""
        sandboxes = [self._sandbox(number) for number in range(first, count)]
        async with self.store() as store:
            for at in range(0, len(sandboxes), INSERTED_AT_ONCE):
                async with asyncio.TaskGroup() as group:
                    for sandbox in sandboxes[at : at + INSERTED_AT_ONCE]:
                        group.create_task(store.sandboxes.insert(sandbox))
        async with asyncio.timeout(DEFINE_S):
            await asyncio.to_thread(self._define, sandboxes)

    async def open_panes(self, numbers: Iterable[int], argv: Sequence[str]) -> None:
        """A terminal for each of these sandboxes, in the backend's tmux: ``argv`` runs there, not a guest."""
        tmux = TmuxServer(self.paths.tmux_socket)
        await tmux.start()
        try:
            for number in numbers:
                await tmux.create_pane(
                    argv, owner=str(os.getuid()), sandbox=sandbox_id(number), session=name_of(number)
                )
        finally:
            await tmux.close()

    def _sandbox(self, number: int) -> Sandbox:
        id, at = sandbox_id(number), now()
        return Sandbox(
            id=id,
            sandbox_name=name_of(number),
            agent_id=f"agent-{number % 20}",
            base_image=IMAGE.name,
            network="guests",
            ip_address=f"10.{number >> 8}.{number & 255}.10",
            ttl_seconds=int(TTL.total_seconds()),
            expires_at=at + TTL,
            host_address="localhost",
            created_at=at,
            updated_at=at,
            phase=Phase.STOPPED,
            owner_uid=os.getuid(),
            owner_name="bench",
            domain=f"{self.prefix}-{id.lower()}",
            uuid=str(uuid.uuid4()),
            mac=f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}",
            host_key=f"ssh-ed25519 {'A' * 68}",
            machine_id=f"{number:032x}",
            created_by="fork",
            ready_s=2.5,
            last_command="systemctl reload nginx",
            commands=41,
        )

    def _define(self, sandboxes: list[Sandbox]) -> None:
        connection = libvirt.open(self._libvirt)
        try:
            for sandbox in sandboxes:
                folder = self.paths.domains / "domains" / sandbox.domain
                spec = DomainSpec(
                    name=sandbox.domain,
                    uuid=sandbox.uuid,
                    machine=Machine("qemu"),
                    cpu=2,
                    memory_mb=1024,
                    disk=folder / "disk-0.qcow2",
                    console=folder / "console.log",
                    metadata={"role": "sandbox", "sandbox": sandbox.id},
                    nic=loose_nic(sandbox.mac),
                )
                connection.defineXML(domain_xml(spec, IMAGE))
        finally:
            connection.close()
