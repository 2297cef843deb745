"""A sandbox's life: made whole or not at all, stopped, started, destroyed."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Protocol

from backend.errors import (
    ArchitectureUnsupported,
    DuplicateName,
    FluidError,
    ImageNotFound,
    InvalidValue,
    LimitReached,
    SandboxNotFound,
    SnapshotNotFound,
    SourceNotFound,
    WrongState,
)
from backend.fleet.core import LIVE, undone
from backend.fleet.host import Host, guest_image
from backend.fleet.placement import Placement, refusal
from backend.fleet.sizes import Sizes, allow
from backend.fleet.snapshots import snapshot_files
from backend.fleet.turns import Place
from backend.hypervisor import DomainInfo, GuestImage, Template, beyond_source, make_identity
from backend.hypervisor import Identity as DomainIdentity
from backend.images import BuiltImage
from backend.models import (
    PUBLIC,
    BranchSandbox,
    CreateSandbox,
    Identity,
    Phase,
    QueuePlace,
    Role,
    Sandbox,
    Snapshot,
    SourceView,
    check_name,
    new_id,
    now,
)
from backend.steps import operation, reached
from backend.store import Seen

log = logging.getLogger(__name__)
READY_TIMEOUT_S = 120
BEGUN = ("reason", "queue", "network", "ip_address", "mac", "machine_id", "host_key", "ca")
"""What is new of one whose turn has come."""
MADE = (
    "phase", "reason", "domain", "uuid", "created_by", "steps", "ca", "memory_file", "ready_s",
    "last_activity_at", "queue",
)  # fmt: skip
"""What is new of one that was made or handed out."""
OPERATIONS = {"rehearsal": "twin", "stock": "stock"}  # what their making is called in steps
BRANCH_OF = "fluid.branch_of"  # the label that names the snapshot a sandbox was branched from
Boot = Callable[[Sandbox], Awaitable[tuple[DomainInfo, str]]]
"""Makes a sandbox's domain, and says by what way."""


class AgentStatus(Protocol):
    """``planning, working, testing, blocked, done, error`` and a note."""

    @property
    def status(self) -> str: ...
    @property
    def note(self) -> str: ...


class Lifecycle(Sizes):
    """Create, start, stop, pause, destroy."""

    async def create(self, actor: Identity, request: CreateSandbox) -> Sandbox:
        """A sandbox whose root has run its first command. On any failure nothing is left.

        Raises:
            SourceNotFound, DuplicateName, InvalidName, LimitReached, NoSpace: before anything was made.
        """
        point = await self._point(actor, request)
        if point is None:
            image = self._source(request.source_vm_name)
        else:
            image = self.image_of(await self.load(point.sandbox_id))
        wanted = await self._draft(actor, request, image, point)
        async with (
            self._admitted(wanted),
            self._audit.step(
                actor, "sandbox.create", "sandbox", wanted.id, sandbox_id=wanted.id, source=image.name
            ) as step,
        ):
            if point is None:
                sandbox = await self.obtain(wanted, image)
            else:
                sandbox = await self._branched(wanted, point)
            step.id = step.sandbox_id = sandbox.id  # what stock hands out has its id already
            step.data.update(
                created_by=sandbox.created_by,
                ready_s=sandbox.ready_s,
                host=sandbox.host_name,
                placement=sandbox.placement,
            )
        return sandbox

    async def branch(self, actor: Identity, sandbox_id: str, name: str, request: BranchSandbox) -> Sandbox:
        """A new sandbox from a point of another one, which goes on undisturbed."""
        origin = await self.get(actor, sandbox_id)
        point = await self._store.snapshots.find({"sandbox_id": origin.id, "name": name})
        if point is None:
            raise SnapshotNotFound(
                f"{origin.sandbox_name} has no snapshot {name!r}", remedy=f"fluid snapshots list {origin.id}"
            )
        return await self.create(
            actor,
            CreateSandbox(
                source_vm_name=origin.base_image,
                agent_id=request.agent_id or origin.agent_id,
                vm_name=request.vm_name,
                ttl_seconds=request.ttl_seconds,
                labels=request.labels,
                from_snapshot=point.id,
            ),
        )

    async def obtain(self, wanted: Sandbox, image: BuiltImage) -> Sandbox:
        """A running sandbox as ``wanted``, on the host that suits it best. On any failure nothing is left."""
        self.settle(wanted, await self._hosts.place(self.need_anew(wanted), image.sha256))
        return await self.make(wanted, image)

    async def make(self, wanted: Sandbox, image: BuiltImage) -> Sandbox:
        """As :meth:`obtain`, on the host where it is settled."""
        return await self._begin(wanted, partial(self._boot, image=image))

    def settle(self, sandbox: Sandbox, where: Placement) -> None:
        """It will live there: what it takes is promised at once, so that no two count on the same room."""
        host = self._hosts.named(where.name)
        need = self.need_anew(sandbox)
        host.promised[sandbox.id], host.promised_disk[sandbox.id] = need.memory_mb, need.disk_mb
        sandbox.host_name, sandbox.host_address = host.name, host.address
        sandbox.placement = where.reason

    async def warm(self, host: Host) -> None:
        """Freeze a running template of each image in the usual size, so that the first agent need not wait
        for a boot. Where that fails, creates boot cold and say so."""
        size = {"cpu": self._config.guests.cpu, "memory_mb": self._config.guests.memory_mb}
        tried: set[tuple[str, str]] = set()

        def untried() -> BuiltImage | None:
            images = self._parts.images.list()
            return next((one for one in images if (one.name, one.sha256) not in tried), None)

        # Asked again after each one: an image may be made or go away meanwhile.
        while image := untried():
            tried.add((image.name, image.sha256))
            try:
                await self._template(host, guest_image(image), **size)
            except FluidError as error:
                if isinstance(error, ArchitectureUnsupported):
                    host.cannot[image.sha256] = error
                log.warning("no template of %s on %s: %s", image.name, host.name, error.message)
            else:
                host.cannot.pop(image.sha256, None)
                host.warm.add(image.sha256)

    async def _template(self, host: Host, image: GuestImage, *, cpu: int, memory_mb: int) -> Template:
        """The frozen running template, made if it is missing; its room is promised meanwhile. Raises NoSpace:
        the host's reserve would go for it."""
        machine = host.require()
        async with AsyncExitStack() as building:

            async def has_room() -> None:
                copied = 0 if machine.is_local else (await asyncio.to_thread(image.disk.stat)).st_size
                what = f"template of {image.sha256}, {cpu} processors, {memory_mb} MB"
                await building.enter_async_context(self.space_for(what, host, memory_mb + (copied >> 20)))

            return await machine.ensure_template(image, cpu=cpu, memory_mb=memory_mb, before=has_room)

    def warm_soon(self, host: Host) -> None:
        """The same in the background; nothing happens while it is under way."""
        self._parts.background.start(warming(host), partial(self.warm, host))

    def is_warming(self) -> bool:
        """Whether templates are being made in the background."""
        return any(self._parts.background.running(warming(host)) for host in self._hosts)

    async def fork_twin(self, sandbox: Sandbox, *, purpose: str) -> Sandbox:
        """A pristine fork of the same source and size, owned by the system, that the agent never touched.

        Raises:
            WrongState: below its own layer there is something else than the frozen source; it is gone again.
        """
        image = self.image_of(sandbox)
        twin = Sandbox(
            id=new_id("SBX"),
            sandbox_name=f"{purpose}-{uuid.uuid4().hex[:8]}",
            base_image=image.name,
            image_sha256=image.sha256,
            purpose=purpose,
            cpu=sandbox.cpu,
            memory_mb=sandbox.memory_mb,
            disk_gb=sandbox.disk_gb,
            created_at=now(),
            updated_at=now(),
        )
        twin = await self.obtain(twin, image)
        async with self.making(twin):
            await self._must_stand_apart(twin, image)
        return twin

    async def _must_stand_apart(self, twin: Sandbox, image: BuiltImage) -> None:
        """What it shares with the sandbox, and with anybody, is the frozen source."""
        layers = await self.machine(twin).disk_layers(twin.domain)
        if shared := beyond_source(layers, image.sha256):
            raise WrongState(
                f"{twin.sandbox_name} stands on {shared[0]}, which is no frozen layer of {image.name}",
                remedy="a rehearsal shares nothing else with the sandbox: see who made that layer",
            )

    async def discard(self, sandbox: Sandbox) -> None:
        """Destroy without a question: twins, and what failed half-way."""
        try:
            await self.hang_up(sandbox)
            self._parts.proxy.forget(sandbox.id)
            # On a host that is not listed any more it stays, and goes when that one is listed again.
            if host := self._hosts.find(sandbox.host_name):
                await host.require().destroy(host.domain_name(sandbox.id), uuid=sandbox.uuid)
                host.give_back(sandbox.ip_address)
            await self._store.snapshots.forget(sandbox.id)
            await self.edit(sandbox, partial(_destroyed, sandbox.reason))
        except BaseException:
            self._torn.add(sandbox.id)
            raise
        finally:  # not before: libvirt's events of one that is young are its maker's business
            self._young.pop(sandbox.id, None)
        self._torn.discard(sandbox.id)

    async def _begin(self, sandbox: Sandbox, boot: Boot, called: str = "create") -> Sandbox:
        """Its row, then its machine when its turn comes. A crash leaves the row in ``creating``, which
        reconcile undoes."""
        host = self.host_of(sandbox)
        self._young[sandbox.id] = sandbox.host_name
        try:
            await self._keep_row(sandbox)
            async with self.making(sandbox), host.turns.turn(partial(self._waits, sandbox)):
                with operation(OPERATIONS.get(sandbox.purpose, called)) as trail:
                    reached("row")
                    self._must_be_wanted()
                    sandbox.reason, sandbox.queue, started = "", None, time.monotonic()
                    info, sandbox.created_by = await boot(sandbox)
                    sandbox.domain, sandbox.uuid = info.name, info.uuid
                    await self.open_egress(sandbox)
                    reached("egress")
                    sandbox.steps = trail.steps
                    await self._is_ready(sandbox, started)
                    reached("ready")
        finally:
            host.promised.pop(sandbox.id, None)
            host.promised_disk.pop(sandbox.id, None)
        return sandbox

    async def _keep_row(self, sandbox: Sandbox) -> None:
        try:
            await self._store.sandboxes.insert(sandbox)
        except BaseException:
            self._young.pop(sandbox.id, None)
            raise

    async def _waits(self, sandbox: Sandbox, place: Place) -> None:
        queue = QueuePlace(before=place.before, about_s=round(place.about_s, 1))
        reason = f"waits for its turn on {sandbox.host_name}: {place}"
        await self.change(sandbox, reason=reason, queue=queue)

    async def _branched(self, wanted: Sandbox, point: Snapshot) -> Sandbox:
        """Where the snapshot's files are: nowhere else can it be run."""
        origin = await self.load(point.sandbox_id)
        where = Placement(origin.host_name, f"{point.name} lies there")
        room = await self.host_of(origin).room(wanted.image_sha256, max_age_s=0)
        if why := refusal(room, self.need_anew(wanted)):
            raise why
        self.settle(wanted, where)
        return await self._begin(wanted, partial(self._branch, point=point), "branch")

    @asynccontextmanager
    async def making(self, sandbox: Sandbox) -> AsyncIterator[None]:
        """When the block fails, nothing of the sandbox is left."""
        try:
            yield
        except BaseException as error:
            sandbox.reason = error.message if isinstance(error, FluidError) else repr(error)
            await undone(self.discard(sandbox))
            raise
        if sandbox.purpose == "agent":
            self._young.pop(sandbox.id, None)

    async def _is_ready(self, sandbox: Sandbox, started: float) -> None:
        sandbox.phase, sandbox.ready_s = Phase.RUNNING, round(time.monotonic() - started, 3)
        sandbox.last_activity_at = now()
        await self._keep(sandbox, *MADE)
        # Last: who refuses since then has seen it run.
        self._must_be_wanted()

    def _must_be_wanted(self) -> None:
        if self._refuse_new:
            self._refuse_new()

    async def _keep(self, sandbox: Sandbox, *fields: str) -> None:
        """As :meth:`change`, to what is in ``sandbox``: what its agent says meanwhile stays."""
        await self.change(sandbox, **{name: getattr(sandbox, name) for name in fields})

    async def _point(self, actor: Identity, request: CreateSandbox) -> Snapshot | None:
        """The snapshot to branch from, of a sandbox that the actor may touch."""
        if request.from_snapshot is None:
            return None
        point = await self._store.snapshots.get(request.from_snapshot)
        origin = await self.get(actor, point.sandbox_id)
        size = (origin.cpu, origin.memory_mb, origin.disk_gb)
        asked = (request.cpu or size[0], request.memory_mb or size[1], request.disk_gb or size[2])
        if (asked, request.source_vm_name) != (size, origin.base_image):
            raise InvalidValue(
                f"a branch of {origin.sandbox_name} has its size and source",
                remedy=f"leave cpu, memory_mb and disk_gb out, and name {origin.base_image}",
            )
        request.cpu, request.memory_mb, request.disk_gb = size
        return point

    @asynccontextmanager
    async def _admitted(self, wanted: Sandbox) -> AsyncIterator[None]:
        """Its name is free and its owner may have one more, those counted that are asked for at this moment.

        Raises:
            DuplicateName, LimitReached: nothing was begun.
        """
        rows = [*await self.all_live(), *self._asked]
        owners = {row.sandbox_name: row.owner_uid for row in rows}
        if wanted.sandbox_name in owners:
            raise DuplicateName(f"a sandbox {wanted.sandbox_name} exists", remedy="choose another vm_name")
        theirs = sum(uid == wanted.owner_uid for uid in owners.values())
        if theirs >= self._config.limits.sandboxes_per_owner:
            raise LimitReached(f"you have {theirs} sandboxes", remedy="destroy one first")
        self._asked.append(wanted)
        try:
            yield
        finally:
            self._asked.remove(wanted)

    async def _draft(
        self, actor: Identity, request: CreateSandbox, image: BuiltImage, point: Snapshot | None
    ) -> Sandbox:
        """A sandbox as it is wanted, after every check that needs no machine."""
        name = check_name(request.vm_name or f"sbx-{uuid.uuid4().hex[:8]}", "sandbox name")
        guests = self._config.guests
        ttl = request.ttl_seconds or min(guests.ttl_seconds, self._config.limits.ttl_max_s)
        allow(self._policy.check_ttl(ttl))
        return Sandbox(
            id=new_id("SBX"),
            sandbox_name=name,
            agent_id=request.agent_id,
            base_image=image.name,
            image_sha256=image.sha256,
            owner_uid=actor.uid,
            owner_name=actor.name,
            cpu=request.cpu or guests.cpu,
            memory_mb=request.memory_mb or guests.memory_mb,
            disk_gb=await self.disk_gb(request, image),
            ttl_seconds=ttl,
            expires_at=now() + timedelta(seconds=ttl),
            labels={**request.labels, **({BRANCH_OF: point.id} if point else {})},
            created_at=now(),
            updated_at=now(),
        )

    async def _boot(self, sandbox: Sandbox, image: BuiltImage) -> tuple[DomainInfo, str]:
        """A fork of the frozen template; a cold boot where forking does not work on this host."""
        host, size = self.host_of(sandbox), {"cpu": sandbox.cpu, "memory_mb": sandbox.memory_mb}
        hypervisor = host.require()
        identity = await self._identify(sandbox)
        network, metadata = host.network.name, self.metadata(sandbox)
        source, how = guest_image(image), "fork"
        try:
            template = await self._template(host, source, **size)
            login = partial(self._log_in, sandbox)
            info = await hypervisor.fork(template, identity, network, metadata=metadata, login=login)
        except FluidError as error:
            log.warning("forking %s failed, booting cold: %s", sandbox.id, error.message)
            await hypervisor.destroy(identity.name)
            info = await hypervisor.cold_boot(source, identity, network, metadata=metadata, **size)
            await self._log_in(sandbox)
            how = "cold"
        sandbox.domain = info.name
        await self.grow(sandbox, image)
        return info, how

    async def _branch(self, sandbox: Sandbox, point: Snapshot) -> tuple[DomainInfo, str]:
        """The memory of a snapshot as a machine of its own."""
        host = self.host_of(sandbox)
        identity = await self._identify(sandbox)
        async with self.exclusive(point.sandbox_id):  # the snapshot stays meanwhile
            files, metadata = await snapshot_files(host.require(), point), self.metadata(sandbox)
            info = await host.require().branch(files, identity, host.network.name, metadata=metadata)
        await self._log_in(sandbox)
        return info, "branch"

    async def _log_in(self, sandbox: Sandbox) -> None:
        """Root's first command has worked."""
        await self._guests.ready(self.guest(sandbox), timeout_s=READY_TIMEOUT_S)
        reached("login")

    async def _identify(self, sandbox: Sandbox) -> DomainIdentity:
        """An address, names and keys of its own, in the row before the machine has them."""
        host = self.host_of(sandbox)
        here = [row for row in await self.all_live() if row.host_name == host.name]
        sandbox.ip_address = await host.take_address({row.ip_address for row in here if row.ip_address})
        keys = self._parts.authority.trusted
        identity = await make_identity(
            host.domain_name(sandbox.id),
            hostname=sandbox.sandbox_name,
            address=sandbox.ip_address,
            prefix=host.prefix,
            gateway=host.network.host_address,
            ca_public=keys.text,
        )
        sandbox.mac, sandbox.machine_id = identity.mac, identity.machine_id
        sandbox.host_key, sandbox.ca = identity.host_key_public, keys.mark
        sandbox.network = host.network.name
        await self._keep(sandbox, *BEGUN)
        reached("identity made")
        return identity

    def metadata(self, sandbox: Sandbox) -> dict[str, str]:
        """What the domain says of itself, so that a crash leaves no riddle."""
        role = "sandbox" if sandbox.purpose == "agent" else sandbox.purpose
        return {"role": role, "sandbox": sandbox.id}

    def _source(self, name: str) -> BuiltImage:
        """Raises SourceNotFound, InvalidName; ImageBroken for one that is there and cannot be used."""
        try:
            return self._parts.images.get(name)
        except ImageNotFound as error:
            raise SourceNotFound(
                f"no source {name!r}",
                remedy="GET /v1/sources lists them; `fluid images build`, `fluid sources prepare` make one",
            ) from error

    def image_of(self, sandbox: Sandbox) -> BuiltImage:
        """What it was forked from, whatever has the name now. Raises ImageNotFound, ImageBroken."""
        if sandbox.image_sha256:
            return self._parts.images.of(sandbox.base_image, sandbox.image_sha256)
        image = self._source(sandbox.base_image)  # a row of an older version
        if image.built_at > sandbox.created_at:
            raise ImageNotFound(
                f"{image.name} was built anew since {sandbox.sandbox_name} was forked from it",
                remedy="create the sandbox again",
            )
        return image

    def source_digest(self, sandbox: Sandbox) -> str:
        """``name@sha256`` of what it was forked from."""
        image = self.image_of(sandbox)
        return f"{image.name}@{image.sha256}"

    # --- on, off, away --------------------------------------------------------------------------------

    async def start(self, actor: Identity, sandbox_id: str) -> Sandbox:
        sandbox = await self.get(actor, sandbox_id)
        if sandbox.phase is Phase.RUNNING:
            return sandbox
        self.must_be(sandbox, Phase.STOPPED, Phase.ERROR)
        by_now = (Phase.STOPPED, Phase.ERROR, Phase.RUNNING)  # somebody else may have started it
        async with self.step(actor, "sandbox.start", sandbox, *by_now), self.memory_for(sandbox):
            keys = self._parts.authority.trusted
            await self.domain_of(self.host_of(sandbox), sandbox)  # it has its name again
            await self.machine(sandbox).start(sandbox.domain, ca_public=keys.text)
            await self._guests.ready(self.guest(sandbox), timeout_s=READY_TIMEOUT_S)
            await self.open_egress(sandbox)
            await self.woken(sandbox, keys)
        await self._events.publish("sandbox.started", "sandbox", sandbox.id, sandbox_id=sandbox.id)
        return sandbox

    async def stop(self, actor: Identity, sandbox_id: str, *, reason: str = "") -> Sandbox:
        """``reason``: why, when nobody asked for it."""
        sandbox = await self.get(actor, sandbox_id)
        if sandbox.phase is Phase.STOPPED:
            return sandbox
        self.must_be(sandbox, Phase.RUNNING, Phase.PAUSED)
        by_now = (Phase.RUNNING, Phase.PAUSED, Phase.STOPPED)  # somebody else may have stopped it
        async with self.step(actor, "sandbox.stop", sandbox, *by_now, **why(reason)):
            await self.hang_up(sandbox)
            await self.machine(sandbox).stop(sandbox.domain)
            return await self.change(sandbox, phase=Phase.STOPPED, reason=reason)

    async def pause(self, actor: Identity, sandbox_id: str, *, reason: str = "") -> Sandbox:
        """``reason``: why, when nobody asked for it."""
        return await self._pause(actor, await self.get(actor, sandbox_id), reason)

    async def _pause(self, actor: Identity, sandbox: Sandbox, reason: str) -> Sandbox:
        async with self.step(actor, "sandbox.pause", sandbox, Phase.RUNNING, **why(reason)):
            self._guests.hold(sandbox.id)
            await self.machine(sandbox).pause(sandbox.domain)
            return await self.change(sandbox, phase=Phase.PAUSED, reason=reason)

    async def halt(self, actor: Identity, sandbox: Sandbox, *, reason: str) -> bool:
        """Pause one that must not go on, and wait for nobody who is at work on it. False: somebody is; its
        row does not say it yet (:meth:`halted`)."""
        if self.is_at_work_on(sandbox):
            await self.machine(sandbox).pause(sandbox.domain)
            self._guests.hold(sandbox.id)
            return False
        await self._pause(actor, sandbox, reason)  # nothing is awaited before it is alone
        return True

    async def halted(self, actor: Identity, sandbox: Sandbox, *, reason: str) -> bool:
        """When its turn comes: whether one that was halted so still stands still. Its row says why then."""
        async with self.alone(sandbox):
            info = await self.machine(sandbox).info(sandbox.domain)
            if info.state != "paused":
                self._guests.release(sandbox.id)
                return False
            async with self.audited(actor, "sandbox.pause", sandbox, **why(reason)):
                await self.change(sandbox, phase=Phase.PAUSED, reason=reason)
            return True

    async def stand_still(self) -> tuple[list[str], dict[str, str]]:
        """Pause every sandbox that runs as libvirt has it, without the database: rows follow once it is back.
        The ids of what was paused, and by the name of a host or a domain why not."""
        paused, failed = list[str](), dict[str, str]()

        async def pause(host: Host, info: DomainInfo) -> None:
            try:
                await host.require().pause(info.name)
            except FluidError as error:
                failed[info.name] = error.message
            else:
                self._guests.hold(info.metadata["sandbox"])
                paused.append(info.metadata["sandbox"])

        async def pause_all(host: Host) -> None:
            try:
                found = await host.require().list_ours()
            except FluidError as error:
                failed[host.name] = error.message
                return
            for info in found:
                if info.metadata.get("role") == "sandbox" and info.state == "running":
                    await pause(host, info)

        await asyncio.gather(*map(pause_all, self._hosts))
        return paused, failed

    async def resume(self, actor: Identity, sandbox_id: str) -> Sandbox:
        """Raises NoSpace for one that was paused for its host's disk, until there is room."""
        sandbox = await self.get(actor, sandbox_id)
        self.must_be(sandbox, Phase.PAUSED)
        if sandbox.reason:  # whoever pauses it on purpose leaves none
            await self.need_space(self.host_of(sandbox))
        async with self.step(actor, "sandbox.resume", sandbox, Phase.PAUSED):
            keys = self._parts.authority.trusted
            await self.machine(sandbox).resume(sandbox.domain, ca_public=keys.text)
            self._guests.release(sandbox.id)
            return await self.woken(sandbox, keys)

    async def destroy(self, actor: Identity, sandbox_id: str) -> Sandbox:
        """Domain, disks, memory files, snapshots: nothing is left but the record."""
        sandbox = await self.get(actor, sandbox_id)
        if self._hosts.find(sandbox.host_name):
            self.machine(sandbox)  # a host that is lost is told at once, and nothing is promised
        async with self.alone(sandbox):
            await self._destroy(actor, sandbox)
        return sandbox

    async def _destroy(self, actor: Identity, sandbox: Sandbox) -> None:
        """For who is :meth:`alone`."""
        async with (
            self.audited(actor, "sandbox.destroy", sandbox) as step,
            self.ahead(sandbox, "destroy", step=step),
        ):
            await self.discard(sandbox)

    async def extend(self, actor: Identity, sandbox_id: str, seconds: int) -> Sandbox:
        """It ends ``seconds`` from now. Raises PolicyDenied, naming the rule."""
        sandbox = await self.get(actor, sandbox_id)
        allow(self._policy.check_ttl(seconds))
        async with self.step(actor, "sandbox.extend", sandbox, seconds=seconds):
            end = now() + timedelta(seconds=seconds)
            return await self.change(sandbox, expires_at=end, ttl_seconds=seconds, expiry_told_s=None)

    # --- lists ----------------------------------------------------------------------------------------

    async def list(self, actor: Identity, *, limit: int = 100) -> tuple[Sequence[Sandbox], int]:
        """The sandboxes of :meth:`seen`. Never change one."""
        rows, total = await self.seen(actor, limit=limit)
        return [row.noun for row in rows], total

    async def seen(
        self, actor: Identity, *, limit: int = 100, offset: int = 0, **filters: str | None
    ) -> tuple[Sequence[Seen[Sandbox]], int]:
        """Live sandboxes, newest first; agents see their own. Filters: fields of the noun, ``vm_name``."""
        wanted: dict[str, object] = {"purpose": "agent", "phase": LIVE}
        if actor.role is Role.AGENT:
            wanted["owner_uid"] = actor.uid
        given = {field: value for field, value in filters.items() if value}
        if name := given.pop("vm_name", None):
            wanted["name"] = name
        if state := given.pop("state", None):
            wanted["phase"] = [phase for phase in LIVE if PUBLIC[phase] == state]
        return await self._store.sandboxes.seen(wanted | given, limit=limit, offset=offset)

    async def sources(self, actor: Identity) -> Sequence[SourceView]:
        """What may be forked. Sandboxes, stock and targets never are."""
        warm = {sha256 for host in self._hosts for sha256 in host.warm}
        return [
            SourceView(
                name=image.name,
                kind="domain" if image.kind == "domain" else "image",
                arch=image.arch,
                template_ready=image.sha256 in warm,
            )
            for image in self._parts.images.list()
        ]

    async def status(self, actor: Identity, said: AgentStatus) -> None:
        """What an agent says of itself, shown with its age on all its sandboxes."""
        for sandbox in await self.all_live():
            if sandbox.owner_uid == actor.uid and sandbox.purpose == "agent":
                with suppress(SandboxNotFound):
                    await self.change(sandbox, status=said.status, status_note=said.note, status_at=now())


def _destroyed(reason: str, row: Sandbox) -> Sandbox:
    return row.model_copy(update={"phase": Phase.DESTROYED, "reason": reason, "deleted_at": now()})


def why(reason: str) -> dict[str, str]:
    """A reason as the audit has it: none where somebody asked."""
    return {"reason": reason} if reason else {}


def warming(host: Host) -> str:
    """What the making of a host's templates is called in the background."""
    return f"warm the templates of {host.name}"
