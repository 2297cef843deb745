"""Hosts that an operator adds and removes while the backend runs: real sshds, of which only the key that a
person compared is believed, also by the next backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.audit import Audit
from backend.background import Background
from backend.config import Config
from backend.errors import Conflict, DatabaseDown, DuplicateName, HostNotFound, InvalidValue, WrongState
from backend.fleet import Fleet, FleetParts, Host, Hosts
from backend.fleet import hosts as hosts_module
from backend.guests import make_host_key
from backend.models import HostView, Identity, Phase, Role, Sandbox, now
from backend.paths import Paths
from backend.policy import Policy
from backend.store import EventBus, Store
from tests.fix_sshd import LOOPBACK, HostSshd, make_sshd

__all__ = ["make_sshd"]

OPERATOR = Identity(uid=1000, name="op", role=Role.OPERATOR)
LIMIT_S, LOOK_S = 20.0, 0.05
LISTED = {"name": "listed", "address": LOOPBACK, "port": 9}  # nobody answers there
UNKNOWN = "a host key that no file of known hosts holds"
MakeSshd = Callable[[str], HostSshd]


class Backend:
    """Its hosts and what follows them. Another one on the same folder and database is the next backend."""

    def __init__(self, store: Store, bus: EventBus, folder: Path) -> None:
        self.paths = Paths.under(folder)
        self.paths.make()
        config = Config.model_validate({"hosts": [LISTED]})
        self.store, self.background, self.hosts = store, Background(), Hosts(config, self.paths, store)
        parts = SimpleNamespace(
            config=config,
            store=store,
            events=bus,
            audit=Audit(store, folder / "spool", folder / "audit.key", folder / "audit.head"),
            policy=Policy(config.limits),
            hosts=self.hosts,
            images=SimpleNamespace(list=list),
            background=self.background,
            **dict.fromkeys(("guests", "commands", "files")),
        )
        self.fleet = Fleet(cast("FleetParts", parts))

    async def __aenter__(self) -> Backend:
        await self.background.__aenter__()
        await self.hosts.open()
        for host in self.hosts:
            self.background.keep(f"follow {host.name}", lambda host=host: self.fleet.follow(host))
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.background.__aexit__(*error)
        await self.hosts.close()

    async def view(self, name: str) -> HostView:
        return next(view for view in await self.fleet.hosts() if view.name == name)

    async def until(self, holds: Callable[[HostView], bool], name: str = "far") -> None:
        async with asyncio.timeout(LIMIT_S):
            while not holds(await self.view(name)):
                await asyncio.sleep(LOOK_S)

    async def add(self, server: HostSshd) -> None:
        """As `fluid hosts add` does, a person having compared the key. No libvirt is behind it."""
        shown = await self.shown(server)
        await self.fleet.add_host(OPERATOR, settings_of(server), shown)

    async def shown(self, server: HostSshd) -> str:
        """The line of its key; sshd takes a moment to listen."""
        async with asyncio.timeout(LIMIT_S):
            while not (server.folder / "sshd.log").read_text().count("Server listening"):
                await asyncio.sleep(LOOK_S)
        return (await self.fleet.host_key(OPERATOR, LOOPBACK, server.port)).line


def settings_of(server: HostSshd) -> dict[str, Any]:
    none = server.folder / "no-libvirt"
    uri = f"qemu+ssh://root@{LOOPBACK}:{server.port}/system?socket={none}"
    return {"name": "far", "uri": uri, "key": str(server.folder / "key")}


def logins(server: HostSshd) -> int:
    return server.log.count("Accepted publickey")


@pytest.fixture
async def backend(store: Store, bus: EventBus, open_folder: Path) -> AsyncIterator[Backend]:
    async with Backend(store, bus, open_folder) as made:
        yield made


async def test_a_start_waits_for_no_other_machine_also_where_that_stands_first(
    store: Store, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: Host) -> bool:
        return bool(await asyncio.Event().wait())

    monkeypatch.setattr(hosts_module, "OPEN_PATIENCE_S", 0.1)
    monkeypatch.setattr(Host, "open", hang)
    paths = Paths.under(open_folder)
    paths.make()
    async with asyncio.timeout(LIMIT_S):
        await Hosts(Config.model_validate({"hosts": [LISTED]}), paths, store).open()


async def test_only_the_key_that_a_person_compared_is_believed_also_by_the_next_backend(
    backend: Backend, store: Store, bus: EventBus, open_folder: Path, make_sshd: MakeSshd
) -> None:
    server = make_sshd("far")
    await backend.add(server)
    await backend.until(lambda view: f"{server.folder}/no-libvirt does not open" in view.last_error)
    await backend.fleet.drain(OPERATOR, "far", True)
    await backend.__aexit__(None, None, None)

    before = logins(server)
    async with Backend(store, bus, open_folder) as later:
        await later.until(lambda view: logins(server) > before)
        view = await later.view("far")
        assert view.draining, "what an operator decided outlives the backend"
        assert UNKNOWN not in view.last_error

    server.stop()
    (server.folder / "host_key").write_text(make_host_key()[0])
    server.start()
    before = logins(server)
    async with Backend(store, bus, open_folder) as later:
        await later.until(lambda view: UNKNOWN in view.last_error)
    assert logins(server) == before, "nobody logged in"
    await backend.__aenter__()


async def test_what_is_no_other_machine_is_refused_before_anybody_is_asked(
    backend: Backend, make_sshd: MakeSshd
) -> None:
    with pytest.raises(InvalidValue, match=r"'ops@192\.0\.2\.7' is not an address: name the user apart"):
        await backend.fleet.host_key(OPERATOR, "ops@192.0.2.7", None)
    with pytest.raises(InvalidValue, match="localhost is this machine"):
        await backend.fleet.host_key(OPERATOR, "localhost", None)
    server = make_sshd("far")
    shown = await backend.shown(server)
    with pytest.raises(InvalidValue, match="name: 'Kvm_02' does not match"):
        await backend.fleet.add_host(OPERATOR, {**settings_of(server), "name": "Kvm_02"}, shown)
    with pytest.raises(DuplicateName, match="there is a host 'listed'"):
        await backend.fleet.add_host(OPERATOR, {**settings_of(server), "name": "listed"}, shown)
    assert [host.name for host in backend.hosts] == ["listed"]
    assert logins(server) == 0


async def test_a_host_is_forgotten_once_it_holds_nothing_and_only_if_it_was_added(
    backend: Backend, store: Store, bus: EventBus, open_folder: Path, make_sshd: MakeSshd
) -> None:
    server = make_sshd("far")
    await backend.add(server)
    with pytest.raises(Conflict, match=r"listed stands in config\.yaml"):
        await backend.fleet.remove_host(OPERATOR, "listed")
    row = Sandbox(
        id="SBX-00000001", sandbox_name="web", base_image="i", host_name="far", phase=Phase.LOST,
        created_at=now(), updated_at=now(),
    )  # fmt: skip
    await store.sandboxes.insert(row)
    with pytest.raises(WrongState, match="far holds 1 sandboxes"):
        await backend.fleet.remove_host(OPERATOR, "far")
    await store.sandboxes.save(row.model_copy(update={"phase": Phase.DESTROYED}))
    await backend.fleet.remove_host(OPERATOR, "far")
    with pytest.raises(HostNotFound, match="no host 'far'"):
        backend.hosts.named("far")
    assert list(backend.paths.links.iterdir()) == []
    async with asyncio.timeout(LIMIT_S):
        while server.programs() != {"sshd"} or len(server.pids()) > 1:  # we hung up
            await asyncio.sleep(LOOK_S)
    async with Backend(store, bus, open_folder) as later:
        assert [host.name for host in later.hosts] == ["listed"]


async def test_a_host_that_the_database_does_not_forget_stays_connected(
    backend: Backend, make_sshd: MakeSshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(name: str) -> bool:
        raise DatabaseDown(f"{name} stays", remedy="wait")

    await backend.add(make_sshd("far"))
    await backend.until(lambda view: "no-libvirt does not open" in view.last_error)
    monkeypatch.setattr(backend.store.hosts, "delete", fail)
    with pytest.raises(DatabaseDown):
        await backend.hosts.remove("far")
    assert backend.hosts.links["far"].up


async def test_an_operator_who_drains_a_silent_host_waits_for_its_answer_and_a_list_does_not(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, waited = backend.hosts.named("listed"), []

    async def answer(*, patient: bool = False) -> None:
        waited.append(patient)
        raise TimeoutError

    monkeypatch.setattr(host, "require", lambda: None)
    monkeypatch.setattr(host._asked, "answer", answer)
    assert (await backend.view("listed")).status == "lost"
    for draining in (True, False):
        assert (await backend.fleet.drain(OPERATOR, "listed", draining)).draining is draining
    assert waited == [False, True, True]
