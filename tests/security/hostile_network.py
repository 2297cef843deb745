"""A host with a hostile guest, a neighbour and a make-believe world: run in a network of its own, with no
route out (``unshare --net --mount``).

Arguments: a scratch folder, the image's name, and the guards to take out one by one. Prints one report a
scan, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import libvirt

from backend.egress import EgressPolicy, EgressProxy
from backend.errors import FluidError
from backend.fleet.host import guest_image
from backend.guests import GuestForwards
from backend.hypervisor import Identity, NetworkSpec
from backend.hypervisor.domain_xml import tap_name
from backend.hypervisor.network_xml import FILTER_NAME, filter_xml
from backend.images import Images
from backend.paths import Paths
from tests.fix_guests import GuestHost, guest_of, here, opened
from tests.security.hostile_guest import (
    ACK,
    EVERY_PROTOCOL,
    IPV4,
    MARK,
    RCVBUFFORCE,
    SYN,
    TCP_PORTS,
    TCP_PROTOCOL,
    UDP_PORTS,
)
from tests.security.two_libvirtds import own_network

PREFIX = "fluid-hostile"
NETWORK = NetworkSpec(f"{PREFIX}-net", "flhostile", "10.233.0.0/24")
NEAR = {
    "metadata": "169.254.169.254/32",
    "lan-a": "192.168.0.1/16",
    "lan-b": "10.0.0.1/8",
    "lan-c": "172.16.0.1/12",
}
"""Addresses of the host's own, each on a bridge without a port."""
PRODUCTION, BEYOND = "198.51.100.1/24", "198.51.100.10"
"""A cable to production: the host's end, and a machine at the far end that is never there."""
PROGRAM = Path(__file__).with_name("hostile_guest.py")
SSH_LIMIT_S, SCAN_LIMIT_S, SETTLE_S, WORK_LIMIT_S = 60, 180, 0.5, 10
DONE = b"HOSTILE-DONE"
LOOK_S = 0.2  # a guest's console is a file that nobody announces
END_LISTENING = """pkill -f '[h]ostile.py listen'
while pgrep -f '[h]ostile.py listen' >/dev/null; do sleep 0.1; done; tail -n1 /root/count"""
OUTGOING = 4  # packet(7), PACKET_OUTGOING
LABEL = re.compile(re.escape(MARK) + rb"([^|]{1,80})\|")
EAR_BYTES = 1 << 25


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def make_world() -> None:
    for name, address in NEAR.items():
        run("ip", "link", "add", name, "type", "bridge")
        run("ip", "address", "add", address, "dev", name)
        run("ip", "link", "set", name, "up")
    run("ip", "link", "add", "prod0", "type", "veth", "peer", "name", "prod1")
    run("ip", "address", "add", PRODUCTION, "dev", "prod0")
    for end in ("prod0", "prod1"):
        run("ip", "link", "set", end, "up")
    # Known beforehand, so that a packet that is forwarded is on the cable, and not only a question for it.
    run("ip", "neighbour", "add", BEYOND, "lladdr", "02:00:00:00:00:10", "dev", "prod0", "nud", "permanent")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def count_what_passes(bridge: str) -> None:
    """After libvirt's rules: the security table's hooks come behind the filter table's."""
    for chain in ("INPUT", "FORWARD"):
        run(
            *("iptables", "-w", "-t", "security", "-A", chain, "-i", bridge),
            *("-m", "conntrack", "!", "--ctstate", "ESTABLISHED"),
        )


def passed() -> dict[str, int]:
    """Packets from the bridge that no answer of a guest explains, by chain; counted anew from now on."""
    found = {}
    for chain in ("INPUT", "FORWARD"):
        rows = run("iptables", "-w", "-t", "security", "-L", chain, "-v", "-x", "-n").splitlines()
        found[chain] = sum(int(row.split()[0]) for row in rows if NETWORK.bridge in row)
    run("iptables", "-w", "-t", "security", "-Z")
    return found


class Ears:
    """Listens at interfaces, and counts the hostile guest's frames by their mark.

    ``ways`` says of each interface whether what the host sends there (to a guest, to production) or what it
    gets from there counts.
    """

    def __init__(self, attacker: Identity, ways: dict[str, bool]) -> None:
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in ways}
        self.mac = bytes.fromhex(attacker.mac.replace(":", ""))
        self.sockets = []
        for name, sent in ways.items():
            ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL))
            ear.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, EAR_BYTES)
            ear.bind((name, EVERY_PROTOCOL))
            ear.setblocking(False)
            asyncio.get_running_loop().add_reader(ear, self.hear, ear, name, sent)
            self.sockets.append(ear)

    def hear(self, ear: socket.socket, name: str, sent: bool) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, place = ear.recvfrom(65535)
                if (place[2] == OUTGOING) == sent:
                    self.count(name, frame)

    def count(self, name: str, frame: bytes) -> None:
        if found := LABEL.search(frame):
            self.counts[name][found[1].decode()] += 1
        elif frame[6:12] == self.mac and not _is_ssh(frame):
            self.counts[name][f"unmarked {_kind(frame)}"] += 1

    def close(self) -> None:
        for ear in self.sockets:
            asyncio.get_running_loop().remove_reader(ear)
            ear.close()


def _is_ssh(frame: bytes) -> bool:
    """An answer of the guest's sshd: from its port, and no first word."""
    return (
        frame[12:14] == IPV4.to_bytes(2, "big")
        and frame[23] == TCP_PROTOCOL
        and int.from_bytes(frame[34:36], "big") == 22
        and frame[47] & (SYN | ACK) != SYN
    )


def _kind(frame: bytes) -> str:
    kind = int.from_bytes(frame[12:14], "big")
    if kind == IPV4:
        to = socket.inet_ntoa(frame[30:34])
        where = "the host" if to == NETWORK.host_address else to
        return f"ip protocol {frame[23]} to {where}"
    return "arp" if kind == 0x0806 else f"ethertype {kind:04x}"


class Services(asyncio.DatagramProtocol):
    """What the host serves on every address of its own, and who came."""

    def __init__(self) -> None:
        self.visitors: list[str] = []
        self._ends: list[asyncio.AbstractServer | asyncio.BaseTransport] = []

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        for port in TCP_PORTS:
            self._ends.append(await asyncio.start_server(self.meet, "0.0.0.0", port))  # noqa: S104
        for port in UDP_PORTS:
            end, _ = await loop.create_datagram_endpoint(lambda: self, ("0.0.0.0", port))  # noqa: S104
            self._ends.append(end)

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        self.visitors.append(f"tcp {writer.get_extra_info('sockname')[1]}")
        writer.close()

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.visitors.append(f"udp from {address[0]}: {data[:40]!r}")

    def close(self) -> None:
        for end in self._ends:
            end.close()


@dataclass
class Work:
    """How long each command took, in seconds, and how many failed."""

    times: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass
class Report:
    """One scan: what was tried and what came of it, by label."""

    guard: str
    sent: dict[str, int]
    tried: dict[str, int]
    bridge: dict[str, int]
    neighbour: dict[str, int]
    production: dict[str, int]
    passed: dict[str, int]
    visitors: list[str]
    answered: list[str]
    heard: list[str]
    listens: list[int]
    proxy: dict[str, str]
    inside_neighbour: int
    neighbour_commands: int
    neighbour_failed: int
    neighbour_slowest_s: float
    neighbour_is: str
    neighbour_mac: str
    took_s: float = field(default=0.0)


class Lab:
    """The host, two guests, and the world round them."""

    def __init__(self, there: GuestHost) -> None:
        self.there, self.host, self.guests = there, there.host, there.guests
        self.forwards = GuestForwards(self.guests)
        self.services = Services()
        self.scans = 0
        self.attacker: Identity
        self.neighbour: Identity

    async def populate(self, image: str) -> None:
        built = guest_image(Images(Paths.default().images).get(image))
        template = await self.host.ensure_template(built, cpu=1, memory_mb=512)
        made = []
        for name, number in (("attacker", 10), ("neighbour", 11)):
            identity = await self.there.identity(name, number)
            await self.host.fork(template, identity, NETWORK.name, metadata={"role": "sandbox"})
            await self.said(identity, "true")
            made.append(identity)
        self.attacker, self.neighbour = made
        await self.said(self.attacker, "cat >/root/hostile.py", stdin=PROGRAM.read_text())
        await self.said(self.neighbour, "cat >/root/hostile.py", stdin=PROGRAM.read_text())
        proxy = EgressProxy(EgressPolicy(allow=("mirror.example:80",)), on_request=lambda _: None)
        await self.forwards.keep(
            guest_of(self.attacker), lambda reader, writer: proxy.serve(reader, writer, client="attacker")
        )
        count_what_passes(NETWORK.bridge)
        await self.services.open()

    async def said(
        self, identity: Identity, command: str, *, stdin: str = "", limit_s: float = SSH_LIMIT_S
    ) -> str:
        connection = await self.guests.connection(guest_of(identity), timeout_s=SSH_LIMIT_S)
        async with asyncio.timeout(limit_s):
            done = await connection.run(command, input=stdin)
        if done.exit_status:
            raise SystemExit(f"{identity.name}: {command[:60]} ended with {done.exit_status}: {done.stderr}")
        return str(done.stdout)

    async def scan(self, guard: str) -> Report:
        """Let the guest try everything once, while the neighbour goes on working."""
        began = time.monotonic()
        run("ip", "neighbour", "flush", "dev", NETWORK.bridge)
        self.services.visitors.clear()
        passed()
        mine, theirs = tap_name(self.attacker.mac), tap_name(self.neighbour.mac)
        ears = Ears(self.attacker, {mine: False, NETWORK.bridge: False, theirs: True, "prod0": True})
        others = [text.partition("/")[0] for text in (*NEAR.values(), PRODUCTION)] + [BEYOND]
        places = [f"{address}:80" for address in (NETWORK.host_address, self.neighbour.address, *others)]
        told = {
            "own": self.attacker.address,
            "host": NETWORK.host_address,
            "neighbour": self.neighbour.address,
            "neighbour_mac": self.neighbour.mac,
            "others": others,
            # The connection that carries the proxy may not outlive a missing guard.
            "proxied": places if guard == NOTHING else [],
        }
        await self.begin(self.neighbour, f"listen {self.attacker.mac}", "count")
        await self.said(self.neighbour, "until grep -qs ready /root/count; do sleep 0.1; done")
        try:
            async with self.working() as work:
                await self.begin(self.attacker, f"scan {shlex.quote(json.dumps(told))}", "said")
                await self.until_done()
                await asyncio.sleep(SETTLE_S)
                known = run("ip", "neighbour", "show", self.neighbour.address, "dev", NETWORK.bridge)
        finally:
            ears.close()
        run("ip", "neighbour", "flush", "dev", NETWORK.bridge)  # what a lie did to the host ends here
        said = json.loads(await self.said_anew(self.attacker, "cat /root/said"))
        inside = await self.said_anew(self.neighbour, END_LISTENING)
        return Report(
            guard=guard,
            sent=said["sent"],
            tried=ears.counts[mine],
            bridge=ears.counts[NETWORK.bridge],
            neighbour=ears.counts[theirs],
            production=ears.counts["prod0"],
            passed=passed(),
            visitors=sorted(set(self.services.visitors)),
            answered=said["answered"],
            heard=said["heard"],
            listens=said["listens"],
            proxy=said["proxy"],
            inside_neighbour=json.loads(inside)["count"],
            neighbour_commands=len(work.times),
            neighbour_failed=work.failed,
            neighbour_slowest_s=round(max(work.times, default=0), 2),
            neighbour_is=known.split()[known.split().index("lladdr") + 1] if "lladdr" in known else known,
            neighbour_mac=self.neighbour.mac,
            took_s=round(time.monotonic() - began, 1),
        )

    async def begin(self, identity: Identity, arguments: str, out: str) -> None:
        """Run the hostile program in a guest, apart from any connection, its words in /root/``out``."""
        line = f"python3 /root/hostile.py {arguments} >/root/{out} 2>&1; echo {DONE.decode()} >/dev/ttyS0"
        apart = f"setsid -f sh -c {shlex.quote(line)} </dev/null >/dev/null 2>&1"
        await self.said(identity, f"rm -f /root/{out}; {apart}")

    async def until_done(self) -> None:
        """The attacker's console says so: a network that it broke cannot."""
        console = self.host.folder / "domains" / self.attacker.name / "console.log"
        self.scans += 1
        async with asyncio.timeout(SCAN_LIMIT_S):
            while console.read_bytes().count(DONE) < self.scans:
                await asyncio.sleep(LOOK_S)

    async def said_anew(self, identity: Identity, command: str) -> str:
        """Over a new connection, which meets the right host key or none."""
        await self.guests.drop(identity.name)
        return await self.said(identity, command)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[Work]:
        """Somebody works in the neighbour meanwhile."""
        work = Work()

        async def go_on() -> None:
            while True:
                began = time.monotonic()
                try:
                    await self.said(self.neighbour, "true", limit_s=WORK_LIMIT_S)
                    work.times.append(time.monotonic() - began)
                except (TimeoutError, OSError, asyncssh.Error, FluidError):
                    work.failed += 1
                    await self.guests.drop(self.neighbour.name)

        task = asyncio.create_task(go_on())
        try:
            yield work
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def close(self) -> None:
        self.services.close()
        await self.forwards.close()


# --- guards, and the host without each ------------------------------------------------------------------


def without(root: ET.Element, tag: str, key: str, direction: str = "out") -> None:
    """One condition of what may leave is forgotten."""
    for rule in root.findall("rule"):
        if rule.get("direction") == direction and rule[0].tag == tag:
            del rule[0].attrib[key]


def without_end(root: ET.Element, tag: str) -> None:
    """What is not named passes."""
    for rule in root.findall("rule"):
        if rule.get("action") == "drop" and rule[0].tag == tag:
            root.remove(rule)


def without_all(root: ET.Element) -> None:
    for rule in root.findall("rule"):
        root.remove(rule)


GUARDS: dict[str, Callable[[ET.Element], None]] = {
    "arp: the frame is its own": lambda root: without(root, "arp", "srcmacaddr"),
    "arp: the hardware is its own": lambda root: without(root, "arp", "arpsrcmacaddr"),
    "arp: the address is its own": lambda root: without(root, "arp", "arpsrcipaddr"),
    "arp: about the host": lambda root: without(root, "arp", "arpdstipaddr"),
    "ip: the frame is its own": lambda root: without(root, "ip", "srcmacaddr"),
    "ip: the address is its own": lambda root: without(root, "ip", "srcipaddr"),
    "ip: to the host": lambda root: without(root, "ip", "dstipaddr"),
    "ip: tcp and icmp": lambda root: without(root, "ip", "protocol"),
    "frames: no others": lambda root: without_end(root, "mac"),
    "packets: answers only": lambda root: without_end(root, "all"),
    "the bridge is seen by iptables": lambda root: None,
    "the filter": without_all,
    "the filter, and the ports apart": without_all,
}
NOTHING, SYSCTL = "nothing", "the host's sysctl"
"""Scans with every guard in its place; many hosts let iptables see no bridge."""


def take_out(guard: str, connection: libvirt.virConnect, taps: list[str]) -> None:
    """The host without one guard, and with all the others."""
    root = ET.fromstring(filter_xml(uuid=connection.nwfilterLookupByName(FILTER_NAME).UUIDString()))
    if guard in GUARDS:
        GUARDS[guard](root)
    connection.nwfilterDefineXML(ET.tostring(root, encoding="unicode"))
    unseen = guard == "the bridge is seen by iptables"
    all_bridges, ours = int(not unseen and guard != SYSCTL), int(not unseen)
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text(str(all_bridges))
    Path(f"/sys/class/net/{NETWORK.bridge}/bridge/nf_call_iptables").write_text(str(ours))
    for tap in taps:
        apart = "0" if guard.endswith("the ports apart") else "1"
        Path(f"/sys/class/net/{tap}/brport/isolated").write_text(apart)


async def main(folder: Path, image: str, guards: list[str]) -> None:
    own_network(folder / "cgroup")
    make_world()
    scratch = folder / "there"
    scratch.mkdir()
    daemon, host = await here(scratch, PREFIX)
    async with opened(host, daemon, NETWORK, PREFIX, scratch) as there:
        lab = Lab(there)
        try:
            await lab.populate(image)
            taps = [tap_name(one.mac) for one in (lab.attacker, lab.neighbour)]
            for guard in (NOTHING, *guards):
                if guard != NOTHING:  # the first scan meets the host as the product makes it
                    connection = libvirt.open(host.uri)
                    await asyncio.to_thread(take_out, guard, connection, taps)
                    connection.close()
                print(json.dumps(vars(await lab.scan(guard))), flush=True)
        finally:
            await lab.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
