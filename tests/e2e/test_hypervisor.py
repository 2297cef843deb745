"""Real guests on a libvirtd of our own: fork, life, isolation, snapshots, and what is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from backend.errors import Conflict, DuplicateName, HypervisorFailed, SnapshotNotFound
from backend.fleet.host import guest_image
from backend.hypervisor import (
    DomainEvent,
    ForkWay,
    GuestImage,
    Hypervisor,
    Identity,
    Template,
    merging,
)
from backend.hypervisor.nouns import WayName
from backend.images import Images
from backend.paths import Paths
from tests.fix_guests import GuestHost, guest_of, here, opened, own_network
from tests.processes import qemu_of

PREFIX = "fluid-e2e"
NETWORK = own_network(PREFIX, "fle2e")
EVENT_LIMIT_S = 30
GAP_LIMIT_S = 1.0


@dataclass(frozen=True)
class Lab(GuestHost):
    """With a template."""

    template: Template

    async def fork(self, identity: Identity, **metadata: str) -> None:
        """A guest that root has logged in to."""
        began = time.monotonic()
        await self.host.fork(
            self.template,
            identity,
            NETWORK.name,
            metadata={"role": "sandbox", **metadata},
            login=partial(self.ssh, identity, "true"),
        )
        print(f"fork to root's first command: {time.monotonic() - began:.2f} s")


@pytest.fixture(scope="module")
async def image() -> GuestImage:
    return guest_image(await Images(Paths.default().images).build(progress=print))


@pytest.fixture(scope="module")
async def lab(image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    folder = tmp_path_factory.mktemp("hv")
    daemon, host = await here(folder, PREFIX)
    async with opened(host, daemon, NETWORK, PREFIX, folder) as there:
        both = [host.ensure_template(image, cpu=2, memory_mb=1024) for _ in range(2)]
        template, same = await asyncio.gather(*both)
        assert template == same
        yield Lab(**vars(there), template=template)


@pytest.fixture(scope="module")
async def guest(lab: Lab) -> AsyncIterator[Identity]:
    """One fork that several tests look at."""
    identity = await lab.identity("one", 11)
    await lab.fork(identity)
    yield identity
    await lab.host.destroy(identity.name)


async def test_a_fork_is_somebody_of_its_own(lab: Lab, guest: Identity) -> None:
    said = await lab.ssh(
        guest,
        "hostname; cat /etc/machine-id; hostname -I; ip route | wc -l; date +%s; head -c8 /dev/urandom|od",
    )
    hostname, machine_id, address, routes, clock, random = said.splitlines()[:6]
    assert (hostname, machine_id, address.strip()) == (guest.hostname, guest.machine_id, guest.address)
    assert routes == "1"  # its own network, no default route
    assert abs(int(clock) - time.time()) < 10
    other = await lab.identity("two", 12)
    await lab.fork(other)
    try:
        theirs = (await lab.ssh(other, "hostname; head -c8 /dev/urandom | od")).splitlines()
        assert theirs[0] == other.hostname and theirs[1] != random
        assert (await lab.ssh(guest, "hostname")).strip() == guest.hostname
        await assert_isolated(lab, guest, other)
    finally:
        await lab.host.destroy(other.name)


REACH = """
import socket, sys
def opens(address, port):
    try:
        socket.create_connection((address, int(port)), 1).close()
        return True
    except OSError:
        return False
print([opens(*pair.split(":")) for pair in sys.argv[1:]])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.sendto(b"x", tuple(sys.argv[1].split(":")[:1]) + (int(sys.argv[1].split(":")[1]),))
"""


async def assert_isolated(lab: Lab, guest: Identity, other: Identity) -> None:
    """From inside, neither the host nor a neighbour answers, by TCP or UDP, also from a stolen address.

    The tap's name is the card's own: with one of libvirt's, another libvirtd can take the filter away.
    """
    taps = {path.name for path in Path("/sys/class/net").iterdir()}
    assert {f"fl{one.mac.replace(':', '')}" for one in (guest, other)} <= taps
    with socket.create_server((NETWORK.host_address, 0)) as listener:
        port = listener.getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((NETWORK.host_address, port))
        udp.settimeout(1)
        places = f"{NETWORK.host_address}:{port} {other.address}:22"
        said = await lab.ssh(guest, f"python3 -c '{REACH}' {places}")
        assert said.strip() == "[False, False]"
        with pytest.raises(TimeoutError):
            udp.recv(1)
        udp.close()
    await lab.ssh(
        guest, f"ip addr add {other.address}/24 dev eth0; ping -c1 -W1 {NETWORK.host_address}; true"
    )
    assert (await lab.ssh(other, "hostname", again=True)).strip() == other.hostname
    await lab.ssh(guest, f"ip addr del {other.address}/24 dev eth0")


async def test_a_template_of_another_size_is_what_its_guest_sees_and_goes_when_nobody_asks(
    lab: Lab, image: GuestImage
) -> None:
    small = await lab.host.ensure_template(image, cpu=1, memory_mb=512)
    identity = await lab.identity("small", 13)
    metadata = {"role": "sandbox"}
    await lab.host.fork(small, identity, NETWORK.name, metadata=metadata)
    try:
        cpus, memory_kb = (
            await lab.ssh(identity, "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo")
        ).split()
        assert cpus == "1" and 400_000 < int(memory_kb) < 512 * 1024
        usual = [(image, 2, 1024)]
        assert await lab.host.age_templates(usual, 0) == [], "a guest stands on it"
    finally:
        await lab.host.destroy(identity.name)
    assert await lab.host.age_templates(usual, 3600) == []
    assert await lab.host.age_templates([*usual, (image, 1, 512)], 0) == []
    assert await lab.host.age_templates(usual, 0) == [small.key]
    assert not small.disk.exists() and lab.template.disk.exists()


async def test_a_snapshot_keeps_processes_alive_and_files_as_they_were(lab: Lab, guest: Identity) -> None:
    await lab.ssh(
        guest, "echo before > /root/mark; sleep 100000 </dev/null >/dev/null 2>&1 & echo $! > /root/pid"
    )
    taken = await lab.host.snapshot(guest.name, "s1")
    assert taken.quiesced and taken.memory_file is not None and taken.memory_file.stat().st_size > 1 << 20
    assert taken.disk_layers[-1].name.startswith("debian-") or len(taken.disk_layers) == 3
    assert (await lab.host.disk_layers(guest.name))[1:] == list(taken.disk_layers)
    await lab.ssh(guest, "echo after > /root/mark; kill $(cat /root/pid); sync")
    before = taken.disk_layers[0].stat().st_mtime_ns
    await lab.host.restore(guest.name, taken)
    said = await lab.ssh(
        guest, "cat /root/mark; kill -0 $(cat /root/pid) && echo alive; date +%s; touch /root/new", again=True
    )
    mark, alive, clock = said.split()
    assert (mark, alive) == ("before", "alive")
    assert abs(int(clock) - time.time()) < 10
    await lab.ssh(guest, "sync")
    assert taken.disk_layers[0].stat().st_mtime_ns == before  # frozen: nothing writes to it again
    with pytest.raises(DuplicateName):
        await lab.host.snapshot(guest.name, "s1")


async def test_a_deleted_snapshot_gives_its_space_back_and_the_others_are_whole(
    lab: Lab, guest: Identity
) -> None:
    await lab.ssh(guest, "echo root > /root/mark")
    first = await lab.host.snapshot(guest.name, "below")
    await lab.ssh(guest, "echo leaf > /root/mark")
    second = await lab.host.snapshot(guest.name, "above")
    assert first.memory_file is not None
    freed = await lab.host.delete_snapshot(guest.name, "below")
    assert freed > 10 << 20 and not first.memory_file.exists()
    assert first.disk_layers[0].exists()  # the other one stands on it
    with pytest.raises(SnapshotNotFound):
        await lab.host.delete_snapshot(guest.name, "below")
    with pytest.raises(SnapshotNotFound):
        await lab.host.restore(guest.name, first)
    await lab.ssh(guest, "echo later > /root/mark; sync")  # it was not touched
    await lab.host.restore(guest.name, second)
    assert (await lab.ssh(guest, "cat /root/mark", again=True)).strip() == "leaf"


@pytest.mark.full
async def test_looks_and_deleted_snapshots_make_no_chain_that_grows(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is merged under a guest that writes all the time, and under a snapshot, reads the same."""
    box = await lab.identity("looked-at", 14)
    await lab.fork(box)
    try:
        await lab.ssh(box, "(while :; do date +%s%N >> /root/ticks; done) </dev/null >/dev/null 2>&1 &")
        started = len(await lab.host.disk_layers(box.name))
        monkeypatch.setattr(merging, "MANY_LAYERS", started + 10)
        for number in range(3):
            await look_at(lab, box, number)
        kept = await lab.host.snapshot(box.name, "kept")
        for number in range(3, 9):
            assert await lab.host.to_merge(box.name) == []
            await look_at(lab, box, number)
        layers = await lab.host.disk_layers(box.name)
        assert len(layers) == started + 10
        found = await lab.host.to_merge(box.name)
        assert [one.layers for one in found] == [tuple(layers[1:7]), tuple(layers[8:11])]
        assert all(one.size > BULK for one in found)
        sums = await lab.ssh(box, SUMS)
        assert await lab.host.merge(box.name, found) > 5 * BULK
        stay = [layers[number] for number in (0, 6, 7, 10)]
        assert await lab.host.disk_layers(box.name) == [*stay, *layers[11:]]
        assert [layer for layer in layers[:11] if layer.exists()] == stay
        assert await lab.host.to_merge(box.name) == []
        assert await lab.ssh(box, SUMS) == sums
        now_kept = replace(kept, disk_layers=tuple(await lab.host.layers_below(kept.disk_layers[0])))
        assert now_kept.disk_layers == (layers[7], layers[10], *layers[11:])
        branch = await lab.identity("of-merged", 15)
        await lab.host.branch(now_kept, branch, NETWORK.name, metadata={"role": "sandbox"})
        assert (await lab.ssh(branch, SUMS)).splitlines() == sums.splitlines()[:3]
        await lab.host.destroy(branch.name)
        await lab.host.restore(box.name, now_kept)
        assert (await lab.ssh(box, SUMS, again=True)).splitlines() == sums.splitlines()[:3]
        assert await lab.host.stop(box.name)
        await lab.host.start(box.name)
        assert (await lab.ssh(box, SUMS, again=True)).splitlines() == sums.splitlines()[:3]
    finally:
        await lab.host.destroy(box.name)


BULK = 300_000
SUMS = "sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /root/bulk-*"


async def look_at(lab: Lab, box: Identity, number: int) -> None:
    """As the fleet looks at a disk as it is: a frozen layer that no snapshot keeps."""
    await lab.ssh(box, f"head -c {BULK} /dev/urandom > /root/bulk-{number}; sync")
    await lab.host.snapshot(box.name, f"look-{number}", memory=False)
    await lab.host.delete_snapshot(box.name, f"look-{number}")


async def test_a_guest_that_does_not_freeze_is_labelled(lab: Lab, guest: Identity) -> None:
    await lab.ssh(guest, "systemctl stop fluid-guestd")
    try:
        began = time.monotonic()
        taken = await lab.host.snapshot(guest.name, "unquiesced", memory=False, quiesce_timeout_s=1)
        assert time.monotonic() - began < 5  # nobody waits long for a guest that is silent
    finally:
        await lab.ssh(guest, "systemctl start fluid-guestd")
    assert not taken.quiesced and taken.memory_file is None


async def test_pause_and_resume(lab: Lab, guest: Identity) -> None:
    await lab.host.pause(guest.name)
    assert (await lab.host.info(guest.name)).state == "paused"
    await lab.host.resume(guest.name)
    assert (await lab.ssh(guest, "hostname")).strip() == guest.hostname


async def test_stock_is_handed_out_once_over_the_connection_that_was_kept(lab: Lab) -> None:
    stock = await lab.identity("stock", 13)
    await lab.fork(stock, role="stock", sandbox="SBX-1")
    await lab.ssh(stock, "date -s @1000000000")  # as if it had stood for years
    lab.guests.hold(stock.name)
    await lab.host.pause(stock.name)
    assert (await lab.host.info(stock.name)).metadata["role"] == "stock"
    owner = {"role": "sandbox", "sandbox": "SBX-1"}
    began = time.monotonic()
    info = await lab.host.hand_out(stock.name, hostname="web-1", metadata=owner)
    said = await lab.ssh(stock, "hostname; cat /etc/hostname; date +%s.%N")
    print(f"from stock to root's first command: {time.monotonic() - began:.2f} s")
    hostname, kept, clock = said.split()
    assert (hostname, kept) == ("web-1", "web-1") and abs(float(clock) - time.time()) < 2
    assert (info.state, info.metadata) == ("running", owner)
    with pytest.raises(Conflict, match="not parked"):
        await lab.host.hand_out(stock.name, hostname="web-2", metadata=owner)
    await lab.host.destroy(stock.name)


async def test_guests_outlive_libvirtd_and_the_connection_comes_back(lab: Lab, guest: Identity) -> None:
    pids = qemu_of(guest.name)
    events = lab.host.events()
    told = asyncio.create_task(anext(events))
    await asyncio.sleep(0)  # the subscription begins with the first step of the task
    os.kill(lab.daemon.pids()["libvirtd"], signal.SIGKILL)
    async with asyncio.timeout(EVENT_LIMIT_S):
        assert await told == DomainEvent("", "lost")
        assert (await lab.ssh(guest, "hostname")).strip() == guest.hostname
        await lab.daemon.start()
        while await anext(events) != DomainEvent("", "connected"):
            pass
    assert (await lab.host.info(guest.name)).state == "running"
    assert qemu_of(guest.name) == pids
    (started,) = {await lab.daemon.start() for _ in range(2)}
    assert started == lab.host.uri


async def test_a_foreign_domain_is_never_touched(lab: Lab) -> None:
    name = f"{PREFIX}-foreign"
    machine = "<memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>"
    virsh = ("virsh", "-q", "-c", lab.host.uri)
    text = f"<domain type='{lab.host.virt_type}'><name>{name}</name>{machine}</domain>"
    subprocess.run([*virsh, "create", "/dev/stdin"], input=text.encode(), check=True)
    try:
        assert name not in [domain.name for domain in await lab.host.list_ours()]
        for change in (lab.host.destroy, lab.host.pause, lab.host.stop):
            with pytest.raises(Conflict, match="left alone"):
                await change(name)
        state = subprocess.run([*virsh, "domstate", name], capture_output=True, text=True, check=True)
        assert state.stdout.strip() == "running"
    finally:
        subprocess.run([*virsh, "destroy", name], check=True)


async def test_a_create_that_is_cancelled_leaves_nothing(lab: Lab) -> None:
    identity = await lab.identity("half", 13)
    async with asyncio.timeout(EVENT_LIMIT_S):
        events = lab.host.events()
        told = asyncio.create_task(anext(events))
        making = asyncio.create_task(lab.fork(identity))
        assert (await told).domain == identity.name  # it exists, and its identity is not given yet
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
    await assert_nothing_left(lab, identity.name)


async def test_a_branch_is_somebody_of_its_own_and_outlives_the_first(lab: Lab) -> None:
    first, branch = await lab.identity("first", 14), await lab.identity("branch", 15)
    await lab.fork(first)
    await lab.ssh(
        first, "echo old > /root/mark; sleep 100000 </dev/null >/dev/null 2>&1 & echo $! > /root/pid"
    )
    taken = await lab.host.snapshot(first.name, "point")
    await lab.ssh(first, "echo new > /root/mark; sync")
    async with knocking(first.address) as answers:
        await lab.host.branch(taken, branch, NETWORK.name, metadata={"role": "sandbox"})
        said = await lab.ssh(
            branch, "cat /root/mark; kill -0 $(cat /root/pid) && echo alive; hostname -I; date +%s"
        )
    mark, alive, address, clock = said.split()
    assert (mark, alive, address) == ("old", "alive", branch.address)
    assert abs(int(clock) - time.time()) < 10
    gaps = [later - earlier for earlier, later in itertools.pairwise(answers)]
    print(f"the first was silent for {max(gaps):.2f} s at most")
    assert max(gaps) < GAP_LIMIT_S, f"the first was silent for {max(gaps):.2f} s"
    assert (await lab.ssh(first, "hostname; cat /root/mark")).split() == [first.hostname, "new"]
    await lab.host.destroy(first.name)
    await assert_nothing_left(lab, first.name)
    await lab.host.destroy(first.name)
    await assert_it_starts_cold(lab, branch)


async def assert_it_starts_cold(lab: Lab, branch: Identity) -> None:
    await lab.ssh(branch, "echo kept > /root/kept; sync")
    assert await lab.host.stop(branch.name)
    assert (await lab.host.info(branch.name)).state == "shutoff"
    assert qemu_of(branch.name) == set()
    assert (await lab.host.start(branch.name)).state == "running"
    said = await lab.ssh(
        branch, "cat /root/mark /root/kept /etc/machine-id; hostname; hostname -I", again=True
    )
    assert said.split() == ["old", "kept", branch.machine_id, branch.hostname, branch.address]
    await lab.host.destroy(branch.name)


AT_WORK = """cat >/etc/systemd/system/flush.service <<'END'
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'for n in $(seq 15); do date >>/root/flushed; sync; sleep 1; done'
END
systemctl daemon-reload; systemctl start flush"""
STAYS = "trap '' TERM HUP; while :; do sleep 1000; done"
LATER = "(sleep 0.3; {}) >/dev/null 2>&1 &"  # the answer to this very command goes out first
ENDINGS = {  # what befalls the guest, whether it is silent then, whether it goes by itself, within how long
    "no network": (LATER.format("ip link set eth0 down"), True, True, 30),
    # Our image has no logind: the agent's own way to shut down needs it, and so does the power button.
    "no daemon": ("systemctl mask --now --runtime fluid-guestd", False, False, 40),
    "nobody to be asked": ("systemctl mask --now --runtime fluid-guestd qemu-guest-agent", False, False, 30),
    "a dead kernel": (LATER.format("echo c >/proc/sysrq-trigger"), True, False, 30),
    "a process that stays": (f'setsid sh -c "{STAYS}" >/dev/null 2>&1 </dev/null &', False, False, 40),
    "much to do": (AT_WORK, False, True, 60),
}


@pytest.mark.full
@pytest.mark.parametrize(("command", "silent", "by_itself", "limit_s"), ENDINGS.values(), ids=ENDINGS)
async def test_a_guest_goes_off_by_itself_or_is_switched_off_soon(
    lab: Lab, command: str, silent: bool, by_itself: bool, limit_s: float
) -> None:
    identity = await lab.identity("ending", 31)
    await lab.fork(identity)
    try:
        await lab.ssh(identity, command)
        async with asyncio.timeout(EVENT_LIMIT_S):
            while silent and await lab.guests.answers(guest_of(identity)):
                await asyncio.sleep(0.1)
        await lab.guests.drop(identity.name)
        began = time.monotonic()
        assert await lab.host.stop(identity.name) is by_itself
        took = time.monotonic() - began
        print(f"off in {took:.1f} s")
        assert took < limit_s
        assert (await lab.host.info(identity.name)).state == "shutoff"
    finally:
        await lab.host.destroy(identity.name)


@contextlib.asynccontextmanager
async def knocking(address: str) -> AsyncIterator[list[float]]:
    """Knock every 100 ms at a port where nothing listens: a refusal is the guest's answer. Yields when each
    came (monotonic, s)."""
    answers: list[float] = []

    async def knock() -> None:
        while True:
            with socket.socket() as tcp:
                tcp.setblocking(False)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GAP_LIMIT_S):
                        with pytest.raises(ConnectionRefusedError):
                            await asyncio.get_running_loop().sock_connect(tcp, (address, 9))
                        answers.append(time.monotonic())
            await asyncio.sleep(0.1)

    task = asyncio.create_task(knock())
    try:
        yield answers
    finally:
        answers.append(time.monotonic())  # silence until the end is a gap too
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def assert_nothing_left(lab: Lab, name: str) -> None:
    assert name not in [domain.name for domain in await lab.host.list_ours()]
    assert name not in await lab.host.leftovers()
    assert not (lab.host.folder / "domains" / name).exists()
    assert qemu_of(name) == set()


async def test_a_cold_boot_is_reached_like_a_fork(lab: Lab, image: GuestImage) -> None:
    identity = await lab.identity("cold", 15)
    await lab.host.cold_boot(
        image, identity, NETWORK.name, cpu=2, memory_mb=1024, metadata={"role": "target"}
    )
    try:
        assert (await lab.ssh(identity, "hostname; cat /etc/machine-id")).split() == [
            identity.hostname,
            identity.machine_id,
        ]
    finally:
        await lab.host.destroy(identity.name)


@pytest.mark.full
@pytest.mark.parametrize("way", ["snapshot copy", "cold boot"])
async def test_a_host_that_cannot_go_the_fastest_way_forks_by_another(lab: Lab, way: WayName) -> None:
    slower = Hypervisor(
        lab.host.uri, folder=lab.host.folder, virt_type=lab.host.virt_type, prefix=PREFIX, fork_way=way
    )
    await slower.open()
    identity = await lab.identity("slower", 16)
    try:
        began = time.monotonic()
        login = partial(lab.ssh, identity, "true")
        await slower.fork(lab.template, identity, NETWORK.name, metadata={"role": "sandbox"}, login=login)
        print(f"fork by {way} to root's first command: {time.monotonic() - began:.2f} s")
        said = await lab.ssh(identity, "hostname; cat /etc/machine-id; hostname -I; date +%s")
        hostname, machine_id, address, clock = said.split()
        assert (hostname, machine_id, address) == (identity.hostname, identity.machine_id, identity.address)
        assert abs(int(clock) - time.time()) < 10
        taken = await slower.snapshot(identity.name, "s1")
        await lab.ssh(identity, "touch /root/later; sync")
        await slower.restore(identity.name, taken)
        assert (await lab.ssh(identity, "ls /root", again=True)).split() == []
    finally:
        await slower.destroy(identity.name)
        await slower.close()
    await assert_nothing_left(lab, identity.name)
    assert await lab.host.leftovers() == []


@pytest.mark.full
async def test_a_host_whose_fastest_way_is_refused_finds_the_next_by_itself(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk that was begun for the refused way goes, and the same create ends whole by the other way."""
    tried = []

    async def refuse(_: object, memory: Path, __: object) -> None:
        tried.append(memory)
        raise HypervisorFailed("the header is strange here", remedy="none")

    monkeypatch.setattr("backend.hypervisor.fork_ways.restore_memory", refuse)
    fresh = Hypervisor(lab.host.uri, folder=lab.host.folder, virt_type=lab.host.virt_type, prefix=PREFIX)
    await fresh.open()
    both = [await lab.identity(f"refused-{number}", 17 + number) for number in range(2)]
    try:
        assert fresh.fork_way.name == "save image"
        for identity in both:
            login = partial(lab.ssh, identity, "true")
            await fresh.fork(lab.template, identity, NETWORK.name, metadata={"role": "sandbox"}, login=login)
            said = await lab.ssh(identity, "hostname; cat /etc/machine-id; hostname -I")
            assert said.split() == [identity.hostname, identity.machine_id, identity.address]
            assert fresh.fork_way == ForkWay("snapshot copy", "no save image: the header is strange here")
        assert tried == [lab.template.memory], "the second fork does not try it again"
    finally:
        for identity in both:
            await fresh.destroy(identity.name)
        await fresh.close()
    for identity in both:
        await assert_nothing_left(lab, identity.name)
    assert await lab.host.leftovers() == []
