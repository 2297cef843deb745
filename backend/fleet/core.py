"""What every part of the fleet shares: its collaborators, who may touch what, and how a change is told."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass

from backend.ansible import SshKey, TargetHost
from backend.audit import Audit
from backend.background import Background
from backend.changes import BlobStore, Differ
from backend.config import Config
from backend.disks import DiskReader
from backend.egress import EgressProxy
from backend.errors import SandboxNotFound, WrongState
from backend.fleet.host import Host
from backend.guests import (
    CertificateAuthority,
    Guest,
    GuestCommands,
    GuestConnections,
    GuestFiles,
    GuestForwards,
    make_client_key,
)
from backend.guests.forwards import Reader, Writer
from backend.images import Images
from backend.models import Identity, Phase, Role, Sandbox, now
from backend.policy import Policy
from backend.store import EventBus, Store

RUN_CERTIFICATE_S = 600
LIVE = [phase for phase in Phase if phase is not Phase.DESTROYED]


@dataclass
class FleetParts:
    """The collaborators, made by the daemon."""

    config: Config
    store: Store
    events: EventBus
    audit: Audit
    policy: Policy
    images: Images
    host: Host
    guests: GuestConnections
    commands: GuestCommands
    files: GuestFiles
    authority: CertificateAuthority
    reader: DiskReader
    blobs: BlobStore
    differ: Differ
    background: Background
    strategy: str
    versions: dict[str, str]
    forwards: GuestForwards
    proxy: EgressProxy


class FleetCore:
    """Base of the fleet's parts."""

    def __init__(self, parts: FleetParts) -> None:
        self._parts = parts
        self._config = parts.config
        self._store = parts.store
        self._events = parts.events
        self._audit = parts.audit
        self._policy = parts.policy
        self._host = parts.host
        self._guests = parts.guests
        self._commands = parts.commands
        self._files = parts.files
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._warm: set[str] = set()  # images with a running template in the usual size

    def exclusive(self, sandbox_id: str) -> asyncio.Lock:
        """Held while one operation takes a domain down and up: two never meet, and libvirt's own events of
        that domain are the operation's business meanwhile."""
        return self._locks[sandbox_id]

    @property
    def differ(self) -> Differ:
        """For rehearsals, which compare their own disks."""
        return self._parts.differ

    @property
    def blobs(self) -> BlobStore:
        """Contents of changed files."""
        return self._parts.blobs

    def strategy(self) -> str:
        """The Ansible strategy of rehearsal and apply alike."""
        return self._parts.strategy

    def versions(self) -> dict[str, str]:
        """Programs whose version is part of the evidence."""
        return dict(self._parts.versions)

    async def load(self, sandbox_id: str) -> Sandbox:
        """A sandbox of anybody, also a destroyed one."""
        return await self._store.sandboxes.get(sandbox_id)

    async def named(self, name: str) -> Sandbox | None:
        """The live sandbox of that name."""
        return await self._store.sandboxes.find({"name": name, "phase": LIVE})

    async def all_live(self) -> list[Sandbox]:
        """Every sandbox that is not destroyed, rehearsal twins too."""
        rows, _ = await self._store.sandboxes.list({"phase": LIVE}, limit=100_000)
        return rows

    async def get(self, actor: Identity, sandbox_id: str) -> Sandbox:
        """A live sandbox by id or name that ``actor`` may touch: agents their own, operators all."""
        sandbox = await self._store.sandboxes.find({"id": sandbox_id}) or await self.named(sandbox_id)
        hidden = sandbox is None or (
            actor.role is Role.AGENT and (sandbox.owner_uid != actor.uid or sandbox.purpose != "agent")
        )
        if sandbox is None or hidden or sandbox.phase is Phase.DESTROYED:
            raise SandboxNotFound(f"no sandbox {sandbox_id}", remedy="`fluid sandboxes list` shows them")
        return sandbox

    async def running(self, actor: Identity, sandbox_id: str) -> Sandbox:
        """As :meth:`get`, and it runs."""
        sandbox = await self.get(actor, sandbox_id)
        if sandbox.phase is not Phase.RUNNING:
            raise WrongState(
                f"{sandbox.sandbox_name} is {sandbox.phase}",
                remedy=f"start it: fluid sandboxes start {sandbox.id}",
            )
        return sandbox

    async def save(self, sandbox: Sandbox) -> Sandbox:
        """Keep the row and tell who listens."""
        sandbox.updated_at = now()
        await self._store.sandboxes.save(sandbox)
        await self._events.publish(
            "sandbox.changed", "sandbox", sandbox.id, sandbox_id=sandbox.id, data={"phase": sandbox.phase}
        )
        return sandbox

    def guest(self, sandbox: Sandbox) -> Guest:
        """Where SSH finds it, and the only host key it may show."""
        return Guest(
            name=sandbox.sandbox_name,
            address=sandbox.ip_address or "",
            port=22,
            host_key_public=sandbox.host_key,
        )

    async def open_egress(self, sandbox: Sandbox) -> None:
        """The guest's only way out: our proxy, on its own loopback, over the connection that we hold."""

        async def handle(reader: Reader, writer: Writer) -> None:
            await self._parts.proxy.serve(reader, writer, client=sandbox.id)

        await self._parts.forwards.keep(self.guest(sandbox), handle)

    async def hang_up(self, sandbox: Sandbox) -> None:
        """The guest is about to go away."""
        await self._parts.forwards.drop(sandbox.sandbox_name)
        await self._guests.drop(sandbox.sandbox_name)

    def ansible_access(self, sandbox: Sandbox) -> tuple[TargetHost, SshKey]:
        """How a rehearsal reaches a twin: a key of its own with a certificate of ten minutes."""
        private, public = make_client_key()
        certificate = self._parts.authority.certify(
            public, principals=["root"], ttl_s=RUN_CERTIFICATE_S, key_id=f"rehearsal {sandbox.id}"
        )
        host = TargetHost(
            name="rehearsal",
            address=sandbox.ip_address or "",
            port=22,
            user="root",
            become=False,
            host_key=" ".join(sandbox.host_key.split()[:2]),  # without ssh-keygen's comment
        )
        return host, SshKey(private=private.encode(), certificate=certificate.encode())
