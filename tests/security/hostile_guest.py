"""What root inside a hostile guest tries: run in the guest, with the standard library of its Python.

Frames of its own making carry ``FLUID-HOSTILE LABEL|``, so that whoever meets one can say which it was.
``scan JSON`` prints what was sent and what was heard; ``listen MAC`` counts what comes of it until it is
told to end. Where a guard is missing the network may fail on the way: neither needs it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

MARK = b"FLUID-HOSTILE "
NIC = "eth0"
EVERYBODY = b"\xff" * 6
ARP, IPV4, IPV6, VLAN, QINQ, LLDP, EAPOL, PPPOE = (
    *(0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8, 0x88CC, 0x888E, 0x8863),
)
ICMP_PROTOCOL, IGMP_PROTOCOL, TCP_PROTOCOL, UDP_PROTOCOL = 1, 2, 6, 17
SYN, ACK, FIN = 0x02, 0x10, 0x01
EVERY_PROTOCOL = 3  # packet(7), ETH_P_ALL
SOL_PACKET, IGNORE_OUTGOING = 263, 23
RCVBUFFORCE, EAR_BYTES = 33, 1 << 24  # socket(7), SO_RCVBUFFORCE
REPEAT = 3
ANSWER_S = 2.0
PROXY_S = 20.0
RESOLVE_S = 5.0
SSH_PORT, PROXY_PORT = 22, 3128
TCP_PORTS, UDP_PORTS = (22, 53, 80, 443, 5432, 8080, 16509), (53, 67, 123, 514, 8080)


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(to: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    return (to + source + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def arp(operation: int, sender: tuple[bytes, str], target: tuple[bytes, str]) -> bytes:
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    return head + b"".join(mac + socket.inet_aton(address) for mac, address in (sender, target))


def ip(source: str, to: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton(to)
    fields = (0x45, 0, 20 + len(payload), random.getrandbits(16), fragment, 64, protocol)
    head = struct.pack("!BBHHHBBH", *fields, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(ports: tuple[int, int], data: bytes) -> bytes:
    return struct.pack("!HHHH", *ports, 8 + len(data), 0) + data


def tcp(ends: tuple[str, str], ports: tuple[int, int], flags: int, data: bytes) -> bytes:
    body = struct.pack("!HHIIBBHHH", *ports, random.getrandbits(32), 1, 0x50, flags, 1024, 0, 0) + data
    pseudo = b"".join(map(socket.inet_aton, ends)) + struct.pack("!BBH", 0, TCP_PROTOCOL, len(body))
    return body[:16] + struct.pack("!H", checksum(pseudo + body)) + body[18:]


def echo(data: bytes) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, random.getrandbits(16), 1) + data
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


class Attacker:
    """Who it is, whom it knows of, and a card to speak through."""

    def __init__(self, told: dict) -> None:
        self.host, self.neighbour = told["host"], told["neighbour"]
        self.neighbour_mac = mac_bytes(told["neighbour_mac"])
        self.others = told["others"]
        self.own = told["own"]
        self.mac = mac_bytes(Path(f"/sys/class/net/{NIC}/address").read_text().strip())
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.raw.bind((NIC, 0))
        self.host_mac = self.resolve()
        self.sent: dict[str, int] = {}

    def resolve(self) -> bytes:
        """The host's hardware address, by a word to it: that much a guest must be able to learn."""
        deadline = time.monotonic() + RESOLVE_S
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as word, contextlib.suppress(OSError):
                word.sendto(b"", (self.host, 9))
            for line in Path("/proc/net/arp").read_text().splitlines()[1:]:
                address, _, flags, mac = line.split()[:4]
                if address == self.host and int(flags, 16) & 2:
                    return mac_bytes(mac)
            time.sleep(0.1)
        raise SystemExit("the host does not answer ARP: the guest could not even answer it")

    def send(self, label: str, frame: bytes) -> None:
        """``frame`` with its mark at the end, a few times."""
        self.repeat(label, frame + MARK + label.encode() + b"|")

    def repeat(self, label: str, frame: bytes) -> None:
        for _ in range(REPEAT):
            self.raw.send(frame)
            self.sent[label] = self.sent.get(label, 0) + 1

    def packet(self, label: str, to: str, kind: str, **change: object) -> None:
        """An IPv4 packet that carries the mark as its data. ``change`` is what is false about it."""
        source = str(change.get("source", self.own))
        mark = MARK + label.encode() + b"|"
        ports = (int(change.get("sport", random.randint(20000, 60000))), int(change.get("port", 80)))
        if kind == "udp":
            protocol, body = UDP_PROTOCOL, udp(ports, mark)
        elif kind == "icmp":
            protocol, body = ICMP_PROTOCOL, echo(mark)
        else:
            flags = int(change.get("flags", SYN))
            protocol, body = TCP_PROTOCOL, tcp((source, to), ports, flags, mark)
        inner = ip(source, to, protocol, body, int(change.get("fragment", 0)))
        tags = bytes(change.get("tags", b""))
        ends = bytes(change.get("to_mac", self.host_mac)) + bytes(change.get("from_mac", self.mac))
        self.repeat(label, ends + tags + struct.pack("!H", IPV4) + inner)

    # --- the tries -------------------------------------------------------------------------------------

    def lie_about_addresses(self) -> None:
        me, nobody = (self.mac, self.own), b"\0" * 6
        for address in (self.neighbour, *self.others):
            self.send(
                f"arp who has {address}",
                ethernet(EVERYBODY, self.mac, ARP, arp(1, me, (nobody, address))),
            )
        for whose, address in (("the host", self.host), ("the neighbour", self.neighbour)):
            for operation, word in ((1, "asks"), (2, "says")):
                claim = arp(operation, (self.mac, address), (self.host_mac, self.host))
                self.send(f"arp {word} as {whose}", ethernet(EVERYBODY, self.mac, ARP, claim))
        claim = arp(2, (self.neighbour_mac, self.own), (self.host_mac, self.host))
        self.send("arp with another's hardware", ethernet(self.host_mac, self.mac, ARP, claim))
        ask = arp(1, me, (nobody, self.host))
        self.send("arp in another's frame", ethernet(EVERYBODY, self.neighbour_mac, ARP, ask))
        self.send(
            "arp to the neighbour",
            ethernet(
                self.neighbour_mac, self.mac, ARP, arp(2, (self.mac, self.host), (nobody, self.neighbour))
            ),
        )

    def knock_with_packets(self) -> None:
        for kind in ("tcp", "udp", "icmp"):
            self.packet(f"{kind} to the host", self.host, kind)
            self.packet(f"{kind} to the neighbour", self.neighbour, kind, to_mac=self.neighbour_mac)
            self.packet(f"{kind} to the neighbour by the host", self.neighbour, kind)
            for address in self.others:
                self.packet(f"{kind} to {address}", address, kind)
            for whose, address in (("the neighbour", self.neighbour), ("nobody", "203.0.113.7")):
                self.packet(f"{kind} as {whose}", self.host, kind, source=address)
            self.packet(f"{kind} in another's frame", self.host, kind, from_mac=self.neighbour_mac)
            self.packet(f"{kind} to everybody", "255.255.255.255", kind, to_mac=EVERYBODY)
            self.packet(
                f"{kind} as the host to the neighbour",
                self.neighbour,
                kind,
                source=self.host,
                to_mac=self.neighbour_mac,
            )
        self.packet("tcp from the port of ssh", self.host, "tcp", sport=SSH_PORT, port=22)
        self.packet("tcp ack of no connection", self.host, "tcp", flags=ACK, sport=SSH_PORT)
        self.packet("tcp fin of no connection", self.host, "tcp", flags=FIN | ACK)
        self.packet("udp in fragments", self.host, "udp", fragment=0x2000)
        self.packet("dns to everybody by multicast", "224.0.0.251", "udp", to_mac=mac_bytes("01005e0000fb"))
        for port in range(1, 1025):
            self.packet("tcp to every port of the host", self.host, "tcp", port=port)

    def speak_other_tongues(self) -> None:
        me, rest = self.mac, b"\0" * 46
        link_local = bytes.fromhex("fe80000000000000") + me[:3] + b"\xff\xfe" + me[3:]
        for name, kind, group in (
            ("router solicitation", 133, "02"),
            ("neighbour solicitation", 135, "01"),
            ("neighbour advertisement", 136, "01"),
            ("listener report", 143, "16"),
        ):
            to = bytes.fromhex("ff02" + "00" * 13 + group)
            body = struct.pack("!BBHI", kind, 0, 0, 0) + to
            head = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + link_local + to
            self.send(f"ipv6 {name}", ethernet(b"\x33\x33" + to[12:], me, IPV6, head + body))
        discover = struct.pack("!BBBBI", 1, 1, 6, 0, 7).ljust(28, b"\0") + me.ljust(208, b"\0")
        dhcp = discover + bytes.fromhex("63825363350101ff")
        asked = ip("0.0.0.0", "255.255.255.255", UDP_PROTOCOL, udp((68, 67), dhcp))  # noqa: S104
        self.send("dhcp discover", ethernet(EVERYBODY, me, IPV4, asked))
        report = struct.pack("!BBH4s", 0x16, 0, 0, socket.inet_aton("224.0.0.251"))
        self.send(
            "igmp report",
            ethernet(mac_bytes("01005e0000fb"), me, IPV4, ip(self.own, "224.0.0.251", IGMP_PROTOCOL, report)),
        )
        for kind in ("tcp", "udp"):
            self.packet(f"{kind} in vlan 1", self.host, kind, tags=struct.pack("!HH", VLAN, 1))
            both = struct.pack("!HHHH", QINQ, 7, VLAN, 1)
            self.packet(f"{kind} in two vlans", self.host, kind, tags=both)
        ask = arp(1, (me, self.own), (b"\0" * 6, self.host))
        self.send("arp in vlan 0", ethernet(EVERYBODY, me, VLAN, struct.pack("!HH", 0, ARP) + ask))
        tree = bytes.fromhex("424203") + rest
        self.send("spanning tree", mac_bytes("0180c2000000") + me + struct.pack("!H", len(tree)) + tree)
        for name, kind, to in (
            ("lldp", LLDP, "0180c200000e"),
            ("802.1x", EAPOL, "0180c2000003"),
            ("pppoe", PPPOE, "ffffffffffff"),
            ("an unknown protocol", 0x88B5, "ffffffffffff"),
        ):
            self.send(name, ethernet(mac_bytes(to), me, kind, rest))

    def knock_with_sockets(self) -> list[str]:
        """What the guest's own kernel reaches when all of the world is said to be behind the host."""
        subprocess.run(["ip", "route", "replace", "default", "via", self.host], check=True)
        subprocess.run(["ip", "address", "add", f"{self.neighbour}/24", "dev", NIC], check=True)
        waiting: dict[socket.socket, str] = {}
        tries = [(socket.SOCK_STREAM, port, "") for port in TCP_PORTS]
        tries += [(socket.SOCK_STREAM, port, self.neighbour) for port in TCP_PORTS]
        tries += [(socket.SOCK_DGRAM, port, "") for port in UDP_PORTS]
        for address in (self.host, *self.others):
            for kind, port, source in tries:
                word = "udp" if kind == socket.SOCK_DGRAM else "tcp"
                label = f"{word} {address}:{port}{' as the neighbour' * bool(source)}"
                waiting[self.begin(kind, address, port, source)] = label
        answered = self.wait(waiting)
        subprocess.run(["ip", "address", "del", f"{self.neighbour}/24", "dev", NIC], check=True)
        subprocess.run(["ip", "route", "del", "default"], check=True)
        return answered

    def begin(self, kind: int, address: str, port: int, source: str) -> socket.socket:
        one = socket.socket(socket.AF_INET, kind)
        one.setblocking(False)
        if source:
            one.bind((source, 0))
        one.connect_ex((address, port))
        if kind == socket.SOCK_DGRAM:
            with contextlib.suppress(OSError):
                one.send(MARK + b"udp by a socket|")
        return one

    def wait(self, waiting: dict[socket.socket, str]) -> list[str]:
        """A refusal is an answer too."""
        answered = []
        deadline = time.monotonic() + ANSWER_S
        while waiting and (left := deadline - time.monotonic()) > 0:
            streams = [one for one in waiting if one.type == socket.SOCK_STREAM]
            readable, writable, _ = select.select(list(waiting), streams, [], left)
            for one in {*readable, *writable}:
                label, code = waiting.pop(one), one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code not in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT):
                    answered.append(f"{label} {errno.errorcode.get(code, 'answers')}")
                one.close()
        return sorted(answered)


def ear() -> socket.socket:
    """A socket that hears what comes to the card, and not what leaves it."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL))
    made.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, EAR_BYTES)
    made.bind((NIC, EVERY_PROTOCOL))
    made.setblocking(False)
    return made


class Ear:
    """What the card hears, besides its host's ARP and SSH."""

    def __init__(self, attacker: Attacker) -> None:
        self.attacker = attacker
        self.socket = ear()

    def heard(self) -> list[str]:
        found: set[str] = set()
        deadline = time.monotonic() + ANSWER_S
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.socket], [], [], left)[0]:
                break
            with contextlib.suppress(BlockingIOError):
                while True:
                    if words := self.strange(self.socket.recv(65535)):
                        found.add(words)
        return sorted(found)

    def strange(self, frame: bytes) -> str:
        (kind,) = struct.unpack_from("!H", frame, 12)
        own, host = (socket.inet_aton(text) for text in (self.attacker.own, self.attacker.host))
        if kind == ARP and len(frame) >= 42:
            sender, target = frame[28:32], frame[38:42]
            if (sender, target) == (host, own):
                return ""
            return f"arp of {socket.inet_ntoa(sender)} to {socket.inet_ntoa(target)}"
        if kind != IPV4:
            return f"ethertype {kind:04x}"
        protocol, source = frame[23], frame[26:30]
        if protocol == TCP_PROTOCOL and source == host and frame[36:38] == struct.pack("!H", SSH_PORT):
            return ""
        return f"ip protocol {protocol} from {socket.inet_ntoa(source)}"


def ask_proxy(place: str) -> str:
    """What the guest's one way out says about a place."""
    with socket.create_connection(("127.0.0.1", PROXY_PORT), PROXY_S) as proxy:
        proxy.sendall(f"GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := proxy.recv(4096):
            answer += data
    return answer.decode(errors="replace")


def own_ports() -> list[int]:
    """What listens inside (proc_pid_net(5)): state 0A."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sorted({int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"})


def scan(told: dict) -> dict:
    attacker = Attacker(told)
    ear = Ear(attacker)
    attacker.lie_about_addresses()
    attacker.knock_with_packets()
    attacker.speak_other_tongues()
    answered = attacker.knock_with_sockets()
    return {
        "sent": attacker.sent,
        "answered": answered,
        "heard": ear.heard(),
        "listens": own_ports(),
        "proxy": {place: ask_proxy(place) for place in told["proxied"]},
    }


def listen(mac: bytes) -> dict:
    """How many frames came that were marked, or were from that card, until SIGTERM."""
    heard, count = ear(), 0
    signal.signal(signal.SIGTERM, lambda *_: heard.close())
    print("ready", flush=True)
    while True:
        try:
            select.select([heard], [], [])
            frame = heard.recv(65535)
        except (OSError, ValueError):  # closed
            return {"count": count}
        count += MARK in frame or frame[6:12] == mac


if __name__ == "__main__":
    operation, told = sys.argv[1:3]
    print(json.dumps(scan(json.loads(told)) if operation == "scan" else listen(mac_bytes(told))))
