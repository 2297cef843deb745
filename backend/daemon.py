"""The composition root: builds every room over the one below, opens the doors, and takes it all down again.

Crash-only: there is no shutdown that matters. Whatever a start finds half done, it finishes or undoes.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import logging
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path

from backend import __version__
from backend.ansible import Runner
from backend.api import Door, Roles, Services, admit, bind_tcp, peer_of, refuse_served, serve_doors
from backend.approvals import ApprovalBook, Approvals, Asks, Onlookers, Panic, Pipeline, WaysBack
from backend.audit import Audit, AuditReport
from backend.background import COMPONENT, Background, Chore
from backend.changes import LIMITS, Asker, BlobStore, Differ, Manifests, NoiseProfile, forget_unused
from backend.config import DAY_S, LOCAL, Config, ListenAddress, listen_address
from backend.disks import DiskReader
from backend.egress import EgressPolicy, EgressProxy, EgressRecord, default_allow, split_authority
from backend.errors import EXIT_OK, AlreadyRunning, ConfigError, FluidError, NoSpace
from backend.fleet import (
    DomainSources,
    Fleet,
    FleetParts,
    Guard,
    Host,
    Hosts,
    Sources,
    Trust,
    object_prefix,
)
from backend.guests import (
    CertificateAuthority,
    GuestCommands,
    GuestConnections,
    GuestFiles,
    GuestForwards,
    GuestTelling,
    shell_argv,
    sweep_keys,
)
from backend.images import Images
from backend.models import Component, Identity, Sandbox
from backend.panes import Panes, Recorder, Recordings, Shelf
from backend.paths import Paths
from backend.playbooks import Playbooks, Rehearser, Runs
from backend.policy import Policy
from backend.store import Database, EmbeddedPostgres, EventBus, Keys, Store, dsn_of, migrate
from backend.targets import Keeper, Targets
from backend.tmux import TmuxServer
from backend.whole_files import write_lasting

log = logging.getLogger("fluid")

MIB = 1024**2
KEY_BYTES = 32
START_MB = 128  # a new cluster takes half of it; PostgreSQL stops for good where it cannot write
MINUTE_S = 60.0
AUDIT_VERIFY_S = MINUTE_S
AUDIT_WHOLE_EVERY = 1_440  # verifications: once a day the old rows too
EVENTS_KEPT = 100_000
ANSWERS_KEPT_S = DAY_S
MANIFESTS_KEPT_S = 3_600  # without a snapshot: its row comes within seconds, or never


def serve(config: Config, paths: Paths) -> int:
    """Run the backend until SIGTERM or SIGINT, its log on standard output. Returns the exit code.

    Raises:
        FluidError: why it cannot start; nothing is left of the attempt.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stdout
    )
    failure: Exception | None = None
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # 1,024 is for programs that select(2)
    paths = paths.placed(images=config.storage.images, domains=config.storage.domains)
    try:
        paths.make()
        asyncio.run(_Backend(config, paths).run())
    except* Exception as group:
        failure = _told(_first(group))
    if failure is not None:
        raise failure
    return EXIT_OK


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _told(error: Exception) -> Exception:
    """A file that the system refuses is the reader's to mend. What nobody foresaw is in the log whole."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "the disk"
        return NoSpace(f"{where}: {error.strerror}", remedy="free space there, then start again")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "run as the user who owns it, or set FLUID_HOME"
        return ConfigError(f"{error.filename or 'a file'}: {error.strerror}", remedy=remedy)
    if not isinstance(error, FluidError):
        log.error("the backend ends", exc_info=error)
    return error


@dataclass
class _Backend:
    """One run. ``parts`` tells how each part came up."""

    config: Config
    paths: Paths
    parts: dict[str, Callable[[], Awaitable[Component]]] = field(default_factory=dict)
    audited: AuditReport = field(default_factory=lambda: AuditReport(True, 0))

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, stop.set)
        async with AsyncExitStack() as stack:
            self._claim(stack)
            self._foresee()
            tcp = self._bind_tcp(stack)  # a port that cannot be had ends the start with nothing done
            async with Background() as background:  # ends first: it restarts what ends under it
                store = await self._store(stack, background)
                services = await self._services(stack, store, background)
                doors = self.paths.agent_socket, self.paths.operator_socket
                log.info("fluid %s serves %s and %s", __version__, *doors)
                background.start("tell systemd", partial(_ready, self.paths.operator_socket))
                await serve_doors(services, self.config, self.paths, stop, tcp)

    def _claim(self, stack: AsyncExitStack) -> None:
        """One backend an installation: it holds the lock of the pid file, which ends with its process."""
        file = stack.enter_context(self.paths.pid_file.open("a+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise AlreadyRunning(
                f"a backend runs already, pid {file.read().strip()}", remedy="use it, or stop it first"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        stack.callback(file.truncate, 0)

    def _foresee(self) -> None:
        """What would end a start half-way is seen before anything is begun."""
        for door in (self.paths.agent_socket, self.paths.operator_socket):
            refuse_served(door)
        TmuxServer(self.paths.tmux_socket).require()
        free_mb = shutil.disk_usage(self.paths.state).free // MIB
        if free_mb < START_MB:
            raise NoSpace(
                f"{free_mb} MB are free in {self.paths.state}, {START_MB} are needed",
                remedy="free space there, then start again",
            )
        log.info("what is ours in libvirt is named %s-…", object_prefix(self.paths))

    def _bind_tcp(self, stack: AsyncExitStack) -> socket.socket | None:
        if self.config.server.listen is None:
            return None
        door = stack.enter_context(closing(bind_tcp(listen_address(self.config.server.listen))))
        where = ListenAddress(*door.getsockname()[:2])  # port 0 has become a real one
        log.info("the TCP door is http://%s", where)

        async def component() -> Component:
            return Component(name="tcp door", status="ok", message=f"http://{where}, agents of this machine")

        self.parts["tcp door"] = component
        return door

    # --- floor by floor -------------------------------------------------------------------------------

    async def _store(self, stack: AsyncExitStack, background: Background) -> Store:
        if self.config.database is None:
            cluster = EmbeddedPostgres(self.paths.database, self.config.embedded.run_as)
            stack.push_async_callback(cluster.stop)
            dsn = await cluster.start()
            background.keep("keep PostgreSQL", cluster.keep)
        else:
            dsn = dsn_of(self.config.database)
        database = Database(dsn)
        await database.open()
        stack.push_async_callback(database.close)
        for name in await migrate(database):
            log.info("migrated the database: %s", name)

        async def component() -> Component:
            await database.ping()
            return Component(name="postgresql", status="ok", message=database.where)

        self.parts["postgresql"] = component
        return Store(database)

    async def _services(self, stack: AsyncExitStack, store: Store, background: Background) -> Services:
        paths = self.paths
        events = EventBus(store.events)
        await events.open()
        audit = Audit(store, paths.state / "spool", paths.secrets / "audit.key", paths.audit_head)
        await audit.absorb()
        hosts = Hosts(self.config, paths, store)
        stack.push_async_callback(hosts.close)
        await hosts.open()
        authority = CertificateAuthority(paths.secrets)
        fleet = self._fleet(stack, store, events, audit, background, hosts, authority)
        panes, recorder, recordings = await self._panes(stack, events, audit, fleet, authority)
        trust = Trust(authority, audit, fleet.all_live, fleet.teach)
        panic = Panic(paths.state / "panic.json", fleet, trust.revoke, audit, events)
        self.parts["panic"] = panic.component
        playbooks, runs, targets, approvals, keeper = self._approvals(
            store, events, audit, background, fleet, panic
        )
        guard = Guard(self.config, store, events, hosts, fleet, panes.last_output, background)
        keys = Keys(store.database, _key(paths.secrets / "answers.key"))
        await keys.forget_unfinished()
        images = Sources(self.config, Images(paths.images), audit, fleet, hosts)
        sources = DomainSources(
            self.config,
            paths.state,
            Images(paths.images),
            audit,
            fleet,
            images,
            hosts,
            targets.production,
            background,
        )
        sources.recover()  # first: a machine of production may stand still
        await fleet.reconcile_all()
        await images.recover()
        await runs.end_forsaken()  # before its successor begins
        await approvals.resume()
        for host in hosts:
            background.keep(f"follow {host.name}", partial(fleet.follow, host))
        chores = (
            Chore("end what outlived its time", fleet.expire),
            Chore("end forsaken runs", runs.end_forsaken),
            Chore("expire approvals", approvals.expire),
            Chore("record again", recorder.try_again),
            Chore("age the templates", fleet.age_templates, MINUTE_S),
            Chore("age the folders of runs", runs.age, MINUTE_S),
            Chore("age the recordings", recordings.age, 10 * MINUTE_S),
            Chore("age the diffs", partial(forget_unused, fleet.blobs, store.uses), DAY_S),
            Chore("age what was kept of targets", keeper.age, 10 * MINUTE_S),
            Chore("prune the manifests", partial(store.manifests.prune, MANIFESTS_KEPT_S), MINUTE_S),
            Chore("prune the events", partial(store.events.prune, EVENTS_KEPT), MINUTE_S),
            Chore("prune the answers", partial(keys.prune, ANSWERS_KEPT_S), MINUTE_S),
        )
        for name, work in (
            ("sign the audit's head", audit.run),
            ("verify the audit", partial(self._verify, audit)),
            ("watch the panes", panes.run),
            ("keep the stock", fleet.keep_stock),
            ("guard the hosts", guard.run),
            ("keep the CA's keys", trust.run),
            ("housekeeping", partial(background.keep_house, chores)),
        ):
            background.keep(name, work)
        self.parts[COMPONENT] = background.component
        policy = Policy(self.config.limits)
        return Services(
            fleet=fleet,
            playbooks=playbooks,
            approvals=approvals,
            asks=Asks(store, events, audit, fleet, self.config.limits),
            runs=runs,
            panes=panes,
            onlookers=Onlookers(events),
            recordings=recordings,
            panic=panic,
            audit=audit,
            events=events,
            images=images,
            sources=sources,
            targets=targets,
            trust=trust,
            keys=keys,
            components=partial(self._components, hosts),
            audit_seen=lambda: self.audited,
            policy=lambda _: policy.describe(),
        )

    def _fleet(
        self,
        stack: AsyncExitStack,
        store: Store,
        events: EventBus,
        audit: Audit,
        background: Background,
        hosts: Hosts,
        authority: CertificateAuthority,
    ) -> Fleet:
        config, paths = self.config, self.paths
        connections = GuestConnections(authority, hosts.links)
        stack.push_async_callback(connections.close)
        commands = GuestCommands(connections)
        reader, blobs = DiskReader(), BlobStore(paths.blobs)
        manifests = Manifests(reader, store.manifests)
        key = _key(paths.secrets / "fingerprint.key")
        return Fleet(
            FleetParts(
                config=config,
                store=store,
                events=events,
                audit=audit,
                policy=Policy(config.limits),
                images=Images(paths.images),
                hosts=hosts,
                guests=connections,
                authority=authority,
                commands=commands,
                files=GuestFiles(connections, commands, limit_bytes=config.limits.file_bytes),
                forwards=GuestForwards(connections),
                proxy=self._egress_proxy(audit),
                reader=reader,
                blobs=blobs,
                differ=Differ(reader, blobs, key, NoiseProfile.load(paths.noise_file)),
                asker=Asker(GuestTelling(commands), manifests, blobs, key, LIMITS),
                manifests=manifests,
                background=background,
                strategy=partial(self._strategy, hosts),
                versions=_versions(),
            )
        )

    def _approvals(
        self, store: Store, events: EventBus, audit: Audit, background: Background, fleet: Fleet, panic: Panic
    ) -> tuple[Playbooks, Runs, Targets, Approvals, Keeper]:
        config = self.config
        runner = Runner(self.paths.runs, run_as=config.ansible.run_as)
        runs = Runs(store, events, audit, runner, timeout_s=config.ansible.timeout_s)
        playbooks = Playbooks(store, audit, fleet)
        targets = Targets(config.targets)
        book = ApprovalBook(store, events)
        rehearser = Rehearser(store, fleet, runs)
        keeper = Keeper(targets, self.paths.kept, _key(self.paths.secrets / "kept.key"))
        back = WaysBack(store, audit, fleet, playbooks, keeper)
        roles = Roles.of(config)
        pipeline = Pipeline(
            config,
            store,
            book,
            audit,
            fleet,
            playbooks,
            rehearser,
            runs,
            targets,
            back,
            background,
            panic.refuse,
            lambda uid: admit(Door.OPERATOR, peer_of(uid), roles),
        )
        approvals = Approvals(
            config, store, book, pipeline, audit, fleet, playbooks, runs, targets, back, panic.refuse
        )
        return playbooks, runs, targets, approvals, keeper

    async def _panes(
        self,
        stack: AsyncExitStack,
        events: EventBus,
        audit: Audit,
        fleet: Fleet,
        authority: CertificateAuthority,
    ) -> tuple[Panes, Recorder, Recordings]:
        """Terminals on a tmux server of our own, which outlives us, and what they show."""
        tmux = TmuxServer(self.paths.tmux_socket)
        await tmux.start()
        stack.push_async_callback(tmux.leave)
        folder = self.paths.run / "shells"
        sweep_keys(folder)

        async def shell(sandbox: Sandbox) -> list[str]:
            through = fleet.host_of(sandbox).way.ssh
            return await shell_argv(
                authority, fleet.guest(sandbox), folder / secrets.token_hex(8), through=through
            )

        config, shelf = self.config.recordings, Shelf(self.paths.recordings)
        recorder = Recorder(tmux, shelf, audit, config, self.config.limits.disk_reserve_mb)
        self.parts["recordings"] = recorder.component
        panes = Panes(tmux, events, audit, fleet, shell, self.config.limits, recorder)
        return panes, recorder, Recordings(shelf, recorder, audit, config)

    def _egress_proxy(self, audit: Audit) -> EgressProxy:
        egress = self.config.egress
        allow = default_allow() if egress.allow is None else egress.allow
        policy = EgressPolicy(
            allow=tuple(allow),
            ports=frozenset(egress.ports),
            bytes_per_sandbox=egress.bytes_per_sandbox,
            rate_bytes_s=egress.rate_bytes_s,
        )
        upstream = None if egress.upstream is None else split_authority(egress.upstream)
        if egress.upstream is not None and upstream is None:
            raise ConfigError(
                f"egress.upstream: {egress.upstream!r} is not HOST:PORT",
                remedy="write proxy.example.org:3128",
            )
        return EgressProxy(policy, on_request=_record(audit), upstream=upstream)

    def _strategy(self, hosts: Hosts) -> str:
        if self.config.ansible.strategy != "auto":
            return self.config.ansible.strategy
        return "mitogen_linear" if any(host.virt_type == "qemu" for host in hosts) else "linear"

    async def _verify(self, audit: Audit) -> None:
        for turn in itertools.count():
            try:
                self.audited = await audit.verify(whole=turn % AUDIT_WHOLE_EVERY == 0)
            except FluidError as error:
                log.warning("the audit cannot be verified: %s", error.message)
            await asyncio.sleep(AUDIT_VERIFY_S)

    async def _components(self, hosts: Hosts) -> list[Component]:
        """All asked at once, hosts too: one that hangs holds up the answer by its time limit, once."""
        parts = self.parts | {_part_name(host): partial(_host_component, host) for host in hosts}
        return list(await asyncio.gather(*(_component(name, ask) for name, ask in parts.items())))


async def _component(name: str, ask: Callable[[], Awaitable[Component]]) -> Component:
    try:
        return await ask()
    except FluidError as error:
        return Component(name=name, status="down", message=error.message, remedy=error.remedy)


def _part_name(host: Host) -> str:
    return "libvirt" if host.name == LOCAL else f"libvirt {host.name}"


async def _host_component(host: Host) -> Component:
    facts = await host.look()
    how = "KVM" if host.virt_type == "kvm" else "emulated"
    return Component(
        name=_part_name(host),
        status="ok",
        message=f"libvirt {facts.libvirt_version}, QEMU {facts.qemu_version}, {how}",
    )


def _record(audit: Audit) -> Callable[[EgressRecord], Awaitable[None]]:
    """Every request of a guest, allowed or refused, is in the audit: host and sizes, never a path."""

    async def record(seen: EgressRecord) -> None:
        await audit.note(
            Identity.system(),
            "egress.request",
            "sandbox",
            seen.client,
            sandbox_id=seen.client,
            method=seen.method,
            host=seen.host,
            port=seen.port,
            status=seen.status,
            allowed=seen.allowed,
            rule=seen.rule,
            bytes_up=seen.bytes_up,
            bytes_down=seen.bytes_down,
        )

    return record


async def _ready(door: Path) -> None:
    """sd_notify(3): ``READY=1`` once the doors are open, to whoever started us with NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address is None:
        return
    while True:
        try:
            _, knock = await asyncio.open_unix_connection(door)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            knock.close()
            break
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as tell:
        tell.sendto(b"READY=1", address.replace("@", "\0", 1))


def _versions() -> dict[str, str]:
    """What generated and ran is part of the evidence."""
    named = ("ansible-core", "ansible-runner", "mitogen")
    return {"fluid": __version__, **{name: metadata.version(name) for name in named}}


def _key(file: Path) -> bytes:
    """The installation's HMAC key, made on first use. Raises ConfigError for one that is not whole."""
    if not file.exists():
        write_lasting(file, secrets.token_bytes(KEY_BYTES))
    key = file.read_bytes()
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{file} holds {len(key)} bytes of a key's {KEY_BYTES}",
            remedy="restore it from a backup (`fluid help keeping`); "
            "without one remove it: what it vouched for is lost",
        )
    return key
