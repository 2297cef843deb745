"""The guest's only way out: its own loopback, over SSH, through the proxy in this process."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backend.egress import EgressPolicy, EgressProxy, EgressRecord
from backend.errors import GuestDown
from backend.guests import CertificateAuthority, Guest, GuestCommands, GuestConnections, GuestForwards
from backend.guests.forwards import Reader, Writer

LIMIT_S = 30.0


class Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A flat apt repository on the loopback, without one package."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    packages = (
        b"Package: example\nVersion: 1\nArchitecture: all\nFilename: ./example.deb\nSize: 1\nSHA256: "
        + (hashlib.sha256(b"x").hexdigest().encode() + b"\nDescription: an example\n\n")
    )
    (folder / "Packages.gz").write_bytes(gzip.compress(packages))
    (folder / "big").write_bytes(b"z" * 4 * 1024**2)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield int(server.server_address[1]), folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
async def forwards(connections: GuestConnections) -> AsyncIterator[GuestForwards]:
    keeper = GuestForwards(connections)
    yield keeper
    await keeper.close()


def a_proxy(allow: str, records: list[EgressRecord]) -> EgressProxy:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    return EgressProxy(EgressPolicy(allow=(allow,)), on_request=records.append, resolver=resolve)


def private_apt(root: Path, source: str, port: int) -> str:
    """Options that keep apt-get inside ``root`` and behind the forward."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True)
    (root / "sources.list").write_text(source + "\n")
    options = {
        "Dir::Etc::SourceList": root / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": root / "state",
        "Dir::Cache": root / "cache",
        "Acquire::http::Proxy": f"http://127.0.0.1:{port}",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    return " ".join(f"-o {name}={value}" for name, value in options.items())


async def test_curl_and_apt_fetch_through_the_forward_and_nothing_else_is_reached(
    guest: Guest,
    commands: GuestCommands,
    forwards: GuestForwards,
    mirror: tuple[int, Path],
    port: int,
    tmp_path: Path,
) -> None:
    records: list[EgressRecord] = []
    proxy = a_proxy(f"mirror.example:{mirror[0]}", records)
    await forwards.keep(guest, partial(proxy.serve, client=guest.name), port=port)
    url = f"http://mirror.example:{mirror[0]}"

    curl = f"curl -sS --max-time 20 -x http://127.0.0.1:{port}"
    fetched = await commands.run(guest, f"{curl} {url}/big | sha256sum", timeout_s=LIMIT_S)
    assert fetched.stdout.split()[0].decode() == hashlib.sha256(b"z" * 4 * 1024**2).hexdigest()
    tunnel = await commands.run(guest, f"{curl} -p {url}/Packages.gz | gunzip", timeout_s=LIMIT_S)
    assert tunnel.stdout.startswith(b"Package: example\n")
    refused = await commands.run(guest, f"{curl} http://evil.example/", timeout_s=LIMIT_S)
    assert b"rule egress.allow" in refused.stdout

    options = private_apt(tmp_path / "apt", f"deb [trusted=yes] {url} ./", port)
    updated = await commands.run(
        guest, f"apt-get {options} update && apt-cache {options} show example", timeout_s=LIMIT_S
    )
    assert (updated.exit_code, b"Description: an example" in updated.stdout) == (0, True), updated.stderr
    assert {record.client for record in records} == {guest.name}
    assert {(record.host, record.allowed) for record in records} == {
        ("mirror.example", True),
        ("evil.example", False),
    }


async def test_the_forward_comes_back_with_the_connection(
    guest: Guest,
    commands: GuestCommands,
    connections: GuestConnections,
    forwards: GuestForwards,
    port: int,
) -> None:
    calls: asyncio.Queue[str] = asyncio.Queue()

    async def answer(reader: Reader, writer: Writer) -> None:
        await calls.put((await reader.readline()).decode().strip())
        writer.write(b"heard\n")
        writer.close()

    await forwards.keep(guest, answer, port=port)
    call = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo one >&3; cat <&3"
    assert (await commands.run(guest, call, timeout_s=LIMIT_S)).stdout == b"heard\n"
    (await connections.connection(guest)).abort()
    dial = f"until {{ exec 3<>/dev/tcp/127.0.0.1/{port}; }} 2>/dev/null; do sleep 0.1; done"
    patient = f"{dial}; echo two >&3; cat <&3"
    assert (await commands.run(guest, patient, timeout_s=LIMIT_S)).stdout == b"heard\n"
    assert [await calls.get(), await calls.get()] == ["one", "two"]


async def test_a_listener_left_by_a_dead_connection_is_ended(
    guest: Guest, connections: GuestConnections, forwards: GuestForwards, ca: CertificateAuthority, port: int
) -> None:
    """What a guest restored from memory holds: an sshd session that still listens for nobody."""

    async def answer(reader: Reader, writer: Writer) -> None:
        writer.close()

    stale = GuestConnections(ca)
    left = await stale.connection(guest)
    assert await left.start_server(lambda *_: answer, "127.0.0.1", port)
    await forwards.keep(guest, answer, port=port)
    await left.wait_closed()


async def test_a_port_that_a_program_of_the_guest_holds_is_told(
    guest: Guest, forwards: GuestForwards, port: int
) -> None:
    async def answer(reader: Reader, writer: Writer) -> None:
        writer.close()

    with socket.create_server(("127.0.0.1", port)), pytest.raises(GuestDown, match=str(port)):
        await forwards.keep(guest, answer, port=port)
