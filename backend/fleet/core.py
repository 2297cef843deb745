"""What every part of the fleet shares: its collaborators, who may touch what, and how a change is told."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from weakref import WeakValueDictionary

from backend.ansible import SshKey, TargetHost
from backend.audit import Audit, Step
from backend.background import Background
from backend.changes import Asker, BlobStore, Differ, Manifests
from backend.config import Config
from backend.disks import DiskReader
from backend.egress import EgressProxy
from backend.errors import Conflict, FluidError, NotFound, SandboxNotFound, WrongState
from backend.fleet.host import Host
from backend.fleet.hosts import Hosts
from backend.fleet.placement import Need, no_memory, no_space
from backend.fleet.states import Verdict, before, judge
from backend.guests import (
    CertificateAuthority,
    Guest,
    GuestCommands,
    GuestConnections,
    GuestFiles,
    GuestForwards,
    TrustedKeys,
    make_client_key,
)
from backend.guests.forwards import Reader, Writer
from backend.hypervisor import DomainInfo, Hypervisor
from backend.images import Images
from backend.models import KEPT_FOR, Identity, Phase, Role, Sandbox, now
from backend.policy import Policy
from backend.steps import operation, reached
from backend.store import EventBus, Store

log = logging.getLogger(__name__)
RUN_CERTIFICATE_S = 600
SSH_PORT = 22
WAY_OUT = {
    Phase.CREATING: "wait until it runs: fluid sandboxes show {id}",
    Phase.RUNNING: "stop it first: fluid sandboxes stop {id}",
    Phase.PAUSED: "resume it: fluid sandboxes resume {id}",
    Phase.STOPPED: "start it: fluid sandboxes start {id}",
    Phase.DESTROYED: "create another",
    Phase.ERROR: "start it again; if that fails, destroy it: fluid sandboxes destroy {id}",
    Phase.LOST: "wait until its host answers: fluid hosts list",
}
"""What may be done with a sandbox that is not in the phase that was wanted."""
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
    hosts: Hosts
    guests: GuestConnections
    commands: GuestCommands
    files: GuestFiles
    authority: CertificateAuthority
    reader: DiskReader
    blobs: BlobStore
    differ: Differ
    asker: Asker
    manifests: Manifests
    background: Background
    strategy: Callable[[], str]
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
        self._hosts = parts.hosts
        self._guests = parts.guests
        self._commands = parts.commands
        self._files = parts.files
        # Each for as long as somebody has it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # The host of each that this very process makes and has not handed out: no crash left them half made.
        self._young: dict[str, str] = {}
        # Asked for, until the answer: they count before they have a row.
        self._asked: list[Sandbox] = []
        # Half made or half destroyed, because the database or libvirt went away meanwhile.
        self._torn: set[str] = set()
        self._under_way: Counter[str] = Counter()
        self._readers: Counter[str] = Counter()
        self._merging: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._refuse_new: Callable[[], None] | None = None
        self._worked_at: dict[str, datetime] = {}

    def heed(self, refuse: Callable[[], None]) -> None:
        """``refuse`` raises for as long as nothing new may run: what is being made then is undone."""
        self._refuse_new = refuse

    def exclusive(self, sandbox_id: str) -> asyncio.Lock:
        """Held while one operation takes a domain down and up: two never meet, and libvirt's own events of
        that domain are the operation's business meanwhile."""
        return self._locks.setdefault(sandbox_id, asyncio.Lock())

    def is_at_work_on(self, sandbox: Sandbox) -> bool:
        """Whether an operation holds :meth:`exclusive`."""
        return self.exclusive(sandbox.id).locked()

    @property
    def differ(self) -> Differ:
        """For rehearsals, which compare their own disks."""
        return self._parts.differ

    @property
    def asker(self) -> Asker:
        """For what machines tell of themselves."""
        return self._parts.asker

    @property
    def blobs(self) -> BlobStore:
        """Contents of changed files."""
        return self._parts.blobs

    def strategy(self) -> str:
        """The Ansible strategy of rehearsal and apply alike."""
        return self._parts.strategy()

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

    async def held_images(self) -> dict[str, str]:
        """SHA-256 of an image → why it stays, whoever stands on it: an apply may still be rolled back, and
        that is rehearsed on it."""
        return {
            source.rpartition("@")[2]: f"a roll back of {approval} needs it until {at + KEPT_FOR:%Y-%m-%d}"
            for source, (approval, at) in (await self._store.uses.applied(KEPT_FOR)).items()
        }

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
        self.must_be(sandbox, Phase.RUNNING)
        self._worked_at[sandbox.id] = now()
        return sandbox

    @contextmanager
    def at_work(self, sandbox_id: str) -> Iterator[None]:
        """A sandbox is not idle for the time of the block."""
        self._under_way[sandbox_id] += 1
        try:
            yield
        finally:
            self._under_way[sandbox_id] -= 1
            self._worked_at[sandbox_id] = now()

    def worked_at(self, sandbox: Sandbox) -> datetime:
        """When somebody last did something in it; while a command runs that is now. What was only read is
        forgotten with this process."""
        if self._under_way[sandbox.id]:
            return now()
        known = (sandbox.created_at, sandbox.last_activity_at, self._worked_at.get(sandbox.id))
        return max(at for at in known if at)

    def must_be(self, sandbox: Sandbox, *phases: Phase) -> None:
        """WrongState, with the way out of the phase that it is in, unless it is in one of ``phases``."""
        if sandbox.phase not in phases:
            why = f" ({sandbox.reason})" if sandbox.reason else ""
            raise WrongState(
                f"{sandbox.sandbox_name} is {sandbox.phase}{why}, not {' or '.join(phases)}",
                remedy=WAY_OUT[sandbox.phase].format(id=sandbox.id),
            )

    def host_of(self, sandbox: Sandbox) -> Host:
        """Where it lives. Raises HostNotFound when the config does not list that host any more."""
        return self._hosts.named(sandbox.host_name)

    def machine(self, sandbox: Sandbox) -> Hypervisor:
        """The hypervisor that holds it. Raises HypervisorDown: why it does not answer."""
        return self.host_of(sandbox).require()

    async def need_space(self, host: Host, extra_mb: int = 0) -> None:
        """NoSpace if ``extra_mb`` more, beside what is promised of the disk, would touch the host's
        reserve."""
        free_mb = (await host.look(max_age_s=0)).disk_free_mb - sum(host.promised_disk.values())
        needed_mb = self._config.limits.disk_reserve_mb + extra_mb
        if free_mb < needed_mb:
            raise no_space(host.name, free_mb, needed_mb)

    @asynccontextmanager
    async def space_for(self, what: str, host: Host, extra_mb: int) -> AsyncIterator[None]:
        """So much of the host's disk is promised to ``what`` for the time of the block.

        Raises:
            NoSpace: it would touch the host's reserve. Nothing was begun.
        """
        await self.need_space(host, extra_mb)
        host.promised_disk[what] = extra_mb
        try:
            yield
        finally:
            host.promised_disk.pop(what, None)

    def need(self, wanted: Sandbox, *, disk_mb: int = 0) -> Need:
        """What it asks of a host."""
        limits = self._config.limits
        return Need(wanted.memory_mb, limits.memory_reserve_mb, limits.disk_reserve_mb, disk_mb)

    def need_anew(self, wanted: Sandbox) -> Need:
        """The same of one that is made: a copy of the memory that it begins with lies there meanwhile."""
        return self.need(wanted, disk_mb=wanted.memory_mb)

    @asynccontextmanager
    async def memory_for(self, sandbox: Sandbox) -> AsyncIterator[None]:
        """What one that is off takes once it runs is promised to it for the time of the block.

        Raises:
            NoSpace: it would touch the host's reserve. Nothing was begun.
        """
        host, need = self.host_of(sandbox), self.need(sandbox)
        free_mb = (await host.look(max_age_s=0)).memory_free_mb - sum(host.promised.values())
        if why := no_memory(host.name, free_mb, need):
            raise why
        host.promised[sandbox.id] = need.memory_mb
        try:
            yield
        finally:
            host.promised.pop(sandbox.id, None)

    @asynccontextmanager
    async def alone(self, sandbox: Sandbox, *phases: Phase) -> AsyncIterator[None]:
        """One operation at a time on one sandbox, which is here as it stands when its turn comes.

        Raises:
            SandboxNotFound, WrongState: it was destroyed meanwhile, or is in none of ``phases``.
        """
        async with self.exclusive(sandbox.id):
            row = living(await self.load(sandbox.id))
            if phases:
                self.must_be(row, *phases)
            _become(sandbox, row)
            yield

    @asynccontextmanager
    async def reading(self, sandbox_id: str) -> AsyncIterator[None]:
        """The disk layers of a sandbox and of its points stay as they are for the time of the block."""
        async with self._merging.setdefault(sandbox_id, asyncio.Lock()):
            self._readers[sandbox_id] += 1
        try:
            yield
        finally:
            self._readers[sandbox_id] -= 1
            if not self._readers[sandbox_id]:
                del self._readers[sandbox_id]

    async def merge_layers(self, sandbox: Sandbox) -> None:
        """Where its disk has many layers, those that nothing stands on become one, unless somebody is
        :meth:`reading`. For who is :meth:`alone`, and holds nobody up: it is tried again the next time."""
        async with self._merging.setdefault(sandbox.id, asyncio.Lock()):
            if self._readers[sandbox.id]:
                return
            machine, host = self.machine(sandbox), self.host_of(sandbox)
            try:
                if found := await machine.to_merge(sandbox.domain):
                    room_mb = sum(one.size for one in found) >> 20
                    async with self.space_for(f"merge of {sandbox.id}", host, room_mb):
                        with operation("merge"):
                            await machine.merge(sandbox.domain, found)
            except FluidError as error:
                log.warning("the layers of %s were not merged: %s", sandbox.id, error.message)

    @asynccontextmanager
    async def step(
        self, actor: Identity, action: str, sandbox: Sandbox, *phases: Phase, **data: object
    ) -> AsyncIterator[Step]:
        """An audited operation, :meth:`alone`."""
        async with self.alone(sandbox, *phases), self.audited(actor, action, sandbox, **data) as step:
            yield step

    @asynccontextmanager
    async def audited(
        self, actor: Identity, action: str, sandbox: Sandbox, **data: object
    ) -> AsyncIterator[Step]:
        """An operation of who is :meth:`alone`. After one that failed the row is true."""
        async with self._audit.step(
            actor, action, "sandbox", sandbox.id, sandbox_id=sandbox.id, **data
        ) as step:
            try:
                yield step
            except BaseException:
                await undone(self._look_again(sandbox.id))
                raise

    @asynccontextmanager
    async def ahead(
        self, sandbox: Sandbox, what: str, name: str = "", *, step: Step | None = None
    ) -> AsyncIterator[None]:
        """Write down what is about to be done with its disk; a process that dies in the block leaves that
        word, and the next one finishes or undoes it (:mod:`backend.fleet.recovery`). ``step`` tells in the
        audit where the time went."""
        with operation(what) as trail:
            sandbox.doing = f"{what} {name}".strip()
            await self._store.sandboxes.change(sandbox.id, partial(_doing, sandbox.doing))
            reached("ahead")
            try:
                yield
                reached("done")
                if step:
                    step.data["steps"] = trail.steps
            finally:
                sandbox.doing = ""
                await undone(self._store.sandboxes.change(sandbox.id, partial(_doing, "")))

    async def _look_again(self, sandbox_id: str) -> bool:
        """Keep what its host shows of it now, for the holder of its lock. False where that is no news."""
        sandbox = await self.load(sandbox_id)
        host = self._hosts.find(sandbox.host_name)
        return host is not None and await self.see(sandbox, await self.domain_of(host, sandbox))

    async def domain_of(self, host: Host, sandbox: Sandbox) -> DomainInfo | None:
        """Its domain, also one that somebody renamed or undefined meanwhile; None when there is none."""
        name, hypervisor, info = host.domain_name(sandbox.id), host.require(), None
        with suppress(NotFound, Conflict):
            info = await hypervisor.info(name)
        if (info is None or not info.persistent) and sandbox.uuid:
            info = await hypervisor.take_back(name, sandbox.uuid)
        return info

    async def see(self, sandbox: Sandbox, info: DomainInfo | None) -> bool:
        """Keep what libvirt shows of a sandbox's domain (None: there is none). False where that is no news,
        or where the row was changed meanwhile."""
        verdict = await self._judged(sandbox, info)
        if (verdict.phase, verdict.reason) == (sandbox.phase, sandbox.reason):
            return False
        try:
            return await self._believe(sandbox, verdict)
        finally:  # who waits for an answer from it is told now, and finds the reason in the row
            if verdict.phase in (Phase.STOPPED, Phase.ERROR):
                await self.hang_up(sandbox)

    async def _judged(self, sandbox: Sandbox, info: DomainInfo | None) -> Verdict:
        ran = before(sandbox).phase in (Phase.RUNNING, Phase.PAUSED)
        if info is None or info.state not in ("shutoff", "crashed") or not ran:
            return judge(sandbox, info)
        host = self.host_of(sandbox)
        died_of = "unknown"
        if info.why == "died":
            ran_at = sandbox.last_activity_at or sandbox.created_at
            died_of = await host.require().why_died(info.name, ran_at)
        return judge(sandbox, info, died_of=died_of, booted_at=await host.booted_at())

    async def _believe(self, sandbox: Sandbox, verdict: Verdict) -> bool:
        """The row says so from now on, and who listens is told why. False if it was changed meanwhile."""
        try:
            row = await self._store.sandboxes.change(sandbox.id, partial(_as_seen, sandbox, verdict))
        except WrongState:
            return False
        sandbox.phase, sandbox.reason, sandbox.updated_at = row.phase, row.reason, row.updated_at
        sandbox.lost_phase, sandbox.lost_reason = row.lost_phase, row.lost_reason
        sandbox.last_activity_at = row.last_activity_at
        await self._changed(sandbox)
        if sandbox.reason:
            log.info("%s (%s): %s", sandbox.id, sandbox.sandbox_name, sandbox.reason)
            kind, data = f"sandbox.{sandbox.phase}", {"reason": sandbox.reason}
            await self._events.publish(kind, "sandbox", sandbox.id, sandbox_id=sandbox.id, data=data)
        return True

    async def save(self, sandbox: Sandbox) -> Sandbox:
        """Keep the whole row, which nobody else writes, and tell who listens. Raises SandboxNotFound: it was
        destroyed."""

        def whole(row: Sandbox) -> Sandbox:
            living(row)
            return sandbox

        return await self.edit(sandbox, whole)

    async def change(self, sandbox: Sandbox, **fields: object) -> Sandbox:
        """Keep these fields alone, and tell who listens; ``sandbox`` is the row then. Raises SandboxNotFound:
        it was destroyed."""
        return await self.edit(sandbox, lambda row: living(row).model_copy(update=fields))

    async def edit(self, sandbox: Sandbox, edit: Callable[[Sandbox], Sandbox]) -> Sandbox:
        """Change the row as it stands, under its lock, and tell who listens; ``sandbox`` is the row then."""

        def edited(row: Sandbox) -> Sandbox:
            return edit(row).model_copy(update={"updated_at": now()})

        _become(sandbox, await self._store.sandboxes.change(sandbox.id, edited))
        await self._changed(sandbox)
        return sandbox

    async def woken(self, sandbox: Sandbox, keys: TrustedKeys) -> Sandbox:
        """Somebody's doing: it runs, was given ``keys``, and left behind what was saved of its memory."""
        awake = {"phase": Phase.RUNNING, "reason": "", "memory_file": ""}
        return await self.change(sandbox, **awake, ca=keys.mark, last_activity_at=now())

    async def _changed(self, sandbox: Sandbox) -> None:
        data = {"phase": sandbox.phase}
        await self._events.publish("sandbox.changed", "sandbox", sandbox.id, sandbox_id=sandbox.id, data=data)

    def guest(self, sandbox: Sandbox) -> Guest:
        """Where SSH finds it, and the only host key it may show. By its id: stock gets its name later."""
        return Guest(
            name=sandbox.id,
            called=sandbox.sandbox_name,
            address=sandbox.ip_address or "",
            port=SSH_PORT,
            host_key_public=sandbox.host_key,
            via=sandbox.host_name if self.host_of(sandbox).way.link else "",
        )

    async def open_egress(self, sandbox: Sandbox) -> None:
        """The guest's only way out: our proxy, on its own loopback, over the connection that we hold."""

        async def handle(reader: Reader, writer: Writer) -> None:
            await self._parts.proxy.serve(reader, writer, client=sandbox.id)

        await self._parts.forwards.keep(self.guest(sandbox), handle)

    async def hang_up(self, sandbox: Sandbox) -> None:
        """The guest is about to go away."""
        await self._parts.forwards.drop(sandbox.id)
        await self._guests.drop(sandbox.id)

    @asynccontextmanager
    async def ansible_access(self, sandbox: Sandbox) -> AsyncIterator[tuple[TargetHost, SshKey]]:
        """How a rehearsal reaches a twin: a key of its own with a certificate of ten minutes. A twin on
        another machine has a port here meanwhile; the runner has no login there."""
        link = self.host_of(sandbox).way.link
        async with AsyncExitStack() as stack:
            address, port = sandbox.ip_address or "", SSH_PORT
            if link:
                address, port = await stack.enter_async_context(link.forward_local(address, port))
            yield self._access(sandbox, address, port)

    def _access(self, sandbox: Sandbox, address: str, port: int) -> tuple[TargetHost, SshKey]:
        private, public = make_client_key()
        certificate = self._parts.authority.certify(
            public, principals=["root"], ttl_s=RUN_CERTIFICATE_S, key_id=f"rehearsal {sandbox.id}"
        )
        host = TargetHost(
            name="rehearsal",
            address=address,
            port=port,
            user="root",
            become=False,
            host_key=" ".join(sandbox.host_key.split()[:2]),  # without ssh-keygen's comment
        )
        return host, SshKey(private=private.encode(), certificate=certificate.encode())


def living(row: Sandbox) -> Sandbox:
    """The row. Raises SandboxNotFound: it was destroyed since somebody read it."""
    if row.phase is Phase.DESTROYED:
        raise SandboxNotFound(f"{row.sandbox_name} was destroyed meanwhile", remedy=WAY_OUT[Phase.DESTROYED])
    return row


def _become(sandbox: Sandbox, row: Sandbox) -> None:
    for name in Sandbox.model_fields:
        setattr(sandbox, name, getattr(row, name))


def _as_seen(judged: Sandbox, verdict: Verdict, row: Sandbox) -> Sandbox:
    """Under the row's lock: what was judged is what is there, and it is nobody's work."""
    if row.phase is Phase.DESTROYED or (row.phase, row.reason) != (judged.phase, judged.reason):
        raise WrongState(f"{row.id} is {row.phase} by now", remedy="look again")
    was, is_lost = before(row), verdict.phase is Phase.LOST
    update = {
        "phase": verdict.phase,
        "reason": verdict.reason,
        "lost_phase": was.phase if is_lost else None,
        "lost_reason": was.reason if is_lost else "",
        "updated_at": now(),
    }
    if verdict.phase is Phase.RUNNING and was.phase is not Phase.RUNNING:
        update["last_activity_at"] = now()  # somebody started it
        update["memory_file"] = ""  # and it left behind what was saved of it
    return row.model_copy(update=update)


def _doing(what: str, row: Sandbox) -> Sandbox:
    return row.model_copy(update={"doing": what})


async def undone(work: Awaitable[object]) -> None:
    """Undo what failed half-way, whoever stops waiting. Its own failure is for the log: the first error is
    the one that is told."""
    try:
        await asyncio.shield(asyncio.ensure_future(work))
    except FluidError as error:
        log.warning("not undone: %s", error.message)
