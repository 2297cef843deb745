"""The TCP door: who calls is known by the kernel's word alone, and a browser is not let in."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend.api import bind_tcp, peers, sock_diag
from backend.api.sock_diag import End
from backend.cli import doctor
from backend.client import AsyncFluid
from backend.config import Config, ListenAddress, ServerConfig
from backend.errors import ConfigError, PortBusy
from backend.paths import Paths
from tests.fix_doors import NOBODY_UID, Backend, as_uid, needs_ipv6

NOGROUP = grp.getgrgid(pwd.getpwuid(NOBODY_UID).pw_gid).gr_name
LOOPBACK = ListenAddress("127.0.0.1", 0)
START_S = 60


def tcp(listen: str = "127.0.0.1:0", **lists: Any) -> Config:
    """A backend whose agent door is open to nobody's group."""
    return Config(server=ServerConfig(listen=listen, socket_group_agents=NOGROUP), **lists)


def port_of(backend: Backend) -> int:
    return int(backend.url.rsplit(":", 1)[1])


async def ask(
    backend: Backend, *head: str, body: str = "", caller: socket.socket | None = None
) -> tuple[int, Any]:
    """Status and body of a request whose every line is given."""
    with caller or socket.socket() as connection:
        connection.setblocking(False)
        address = "::ffff:127.0.0.1" if connection.family == socket.AF_INET6 else "127.0.0.1"
        await asyncio.get_running_loop().sock_connect(connection, (address, port_of(backend)))
        reader, writer = await asyncio.open_connection(sock=connection)
        length = [f"Content-Length: {len(body)}"] if body else []
        writer.write("\r\n".join([*head, *length, "Connection: close", "", body]).encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    top, _, told = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(told)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", pytest.param("[::1]:0", marks=needs_ipv6)])
async def test_each_caller_is_the_uid_that_it_runs_as(backend: Backend, listen: str) -> None:
    async with backend.serving(tcp(listen)):
        async with AsyncFluid(backend.url) as fluid:
            us = await fluid.whoami()
        status, other = await as_uid(NOBODY_UID, backend.url, "/v1/whoami")
    assert (us.uid, us.role) == (os.getuid(), "agent")
    assert (status, other["uid"], other["name"], other["role"]) == (200, NOBODY_UID, "nobody", "agent")
    assert NOGROUP in other["groups"]


@needs_ipv6
async def test_an_ipv4_caller_on_an_ipv6_socket_is_known(backend: Backend) -> None:
    """Go and Java call so: their sockets are IPv6, the address is ::ffff:127.0.0.1."""
    async with backend.serving(tcp()):
        caller = socket.socket(socket.AF_INET6)
        status, told = await ask(backend, "GET /v1/whoami HTTP/1.1", "Host: localhost", caller=caller)
    assert (status, told["uid"]) == (200, os.getuid())


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (tcp(agents=["daemon"]), "`agents:`"),
        (Config(server=ServerConfig(listen="127.0.0.1:0")), "in group"),
    ],
    ids=["list", "group"],
)
async def test_whom_agent_sock_keeps_out_is_kept_out(backend: Backend, config: Config, rule: str) -> None:
    async with backend.serving(config):
        status, told = await as_uid(NOBODY_UID, backend.url, "/v1/whoami")
        by_socket, _ = await as_uid(NOBODY_UID, backend.paths.agent_socket, "/v1/whoami")
    assert (status, told["error_code"]) == (403, "role_denied")
    assert rule in told["error"] and told["remedy"]
    assert by_socket in (0, 403)


DECIDING = (
    "POST /v1/approvals/APR-00000001/approve",
    "POST /v1/approvals/APR-00000001/reject",
    "POST /v1/asks/ASK-00000001/answer",
    "GET /v1/fleet",
    "GET /v1/events",
    "GET /v1/status",
)


async def test_an_operator_is_an_agent_here_and_nothing_that_decides_exists(backend: Backend) -> None:
    async with backend.serving(tcp(operators=["root"])):
        for route in DECIDING:
            status, told = await ask(backend, f"{route} HTTP/1.1", "Host: localhost")
            assert (status, told["error_code"]) == (404, "route_not_found"), route


CREATE = '{"source_vm_name": "debian-12", "agent_id": "page"}'
FROM_A_PAGE = (
    (["Host: 127.0.0.1:8080", "Origin: http://evil.example"], "tcp.browser"),
    (["Host: 127.0.0.1:8080", "origin: null"], "tcp.browser"),
    (["Host: localhost", "Sec-Fetch-Site: cross-site"], "tcp.browser"),
    (["Host: evil.example:8080"], "tcp.host"),
    (["Host: 127.0.0.1.evil.example"], "tcp.host"),
    (["Host: localhost@evil.example"], "tcp.host"),
    (["Host: localhost", "Host: evil.example"], "tcp.host"),
    ([], "tcp.host"),
)


async def test_a_web_page_drives_nothing(backend: Backend) -> None:
    async with backend.serving(tcp()):
        for head, rule in FROM_A_PAGE:
            status, told = await ask(backend, "POST /v1/sandboxes HTTP/1.1", *head, body=CREATE)
            assert (status, told.get("details")) == (403, {"rule": rule}), head
            assert told["remedy"]
    assert backend.fleet.actors == []


async def test_this_machine_by_any_of_its_names_is_served(backend: Backend) -> None:
    async with backend.serving(tcp()):
        for host in ("127.0.0.1:9", "127.1.2.3", "LocalHost:9", "[::1]:9"):
            status, _ = await ask(backend, "GET /v1/whoami HTTP/1.1", f"Host: {host}")
            assert status == 200, host


async def test_a_caller_whom_the_kernel_does_not_name_is_told_the_way(backend: Backend) -> None:
    """A socket tied to a device is not found by its ends, as those of other network namespaces are not."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    async with backend.serving(tcp()):
        status, told = await ask(backend, "GET /v1/health HTTP/1.1", "Host: localhost", caller=caller)
    assert (status, told["error_code"]) == (401, "no_identity")
    assert "agent.sock" in told["remedy"]


def hang_up(client: socket.socket) -> None:
    """With a reset, as whoever wants the port to be free at once does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_a_caller_that_has_closed_is_nobody() -> None:
    """Its request waits to be read, and the kernel may tell the orphaned socket as root's."""
    with bind_tcp(LOOPBACK) as door:
        with socket.create_connection(door.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with door.accept()[0] as served, pytest.raises(OSError, match="no process"):
            peers.read_peer(served)


@pytest.mark.parametrize("when", ["before", "during"])
def test_who_takes_the_port_of_a_caller_that_hung_up_is_not_taken_for_it(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first caller's request can still be read when its port is another's."""
    with bind_tcp(LOOPBACK) as door, socket.socket() as other:
        client = socket.create_connection(door.getsockname())
        port = client.getsockname()
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")

        def swap() -> None:
            hang_up(client)
            other.bind(port)
            other.connect(door.getsockname())

        def asked_late(client: End, server: End) -> int | None:
            swap()
            found = client_uid(client, server)
            assert found == os.getuid(), "the kernel does name the other caller"
            return found

        client_uid = sock_diag.client_uid
        with door.accept()[0] as served:
            if when == "before":
                swap()
            else:
                monkeypatch.setattr(sock_diag, "client_uid", asked_late)
            with pytest.raises(OSError, match="not connected"):
                peers.read_peer(served)
            assert served.recv(3) == b"GET"


async def test_no_number_of_callers_uses_up_the_files_of_the_other_doors(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "TCP_CONNECTIONS", 1)
    async with backend.serving(tcp()):
        first = await asyncio.open_connection("127.0.0.1", port_of(backend))
        second = await asyncio.open_connection("127.0.0.1", port_of(backend))
        assert await asyncio.wait_for(second[0].read(), 10) == b"", "closed at once"
        async with AsyncFluid(backend.paths.operator_socket) as operator:
            assert (await operator.whoami()).role == "operator"
        for _, writer in (first, second):
            writer.close()


def test_a_kernel_that_names_nobody_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "find", lambda *_: None)
    with pytest.raises(ConfigError, match="which user connects") as refused:
        bind_tcp(LOOPBACK)
    assert "tcp_diag" in refused.value.remedy


def test_a_busy_port_ends_the_start_with_a_line_that_names_the_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        where = "{}:{}".format(*holder.getsockname())
        paths = Paths.under(tmp_path)
        paths.make()
        paths.config_file.write_text(f"server: {{listen: '{where}'}}\n")
        done = subprocess.run(
            [sys.executable, "-m", "backend.cli", "serve"],
            env={**os.environ, "FLUID_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
    assert done.returncode == PortBusy.exit_code
    (line,) = done.stderr.splitlines()
    assert f"{where} is taken by " in line
    assert f"(pid {os.getpid()}) of user root" in line
    assert "write another port" in line
    assert list(paths.state.glob("postgresql*")) == [], "nothing else was started"


async def test_doctor_knocks_at_the_door(backend: Backend) -> None:
    async with backend.serving(tcp()):
        backend.paths.make()
        backend.paths.config_file.write_text(f"server: {{listen: '127.0.0.1:{port_of(backend)}'}}\n")
        (served,) = await asyncio.to_thread(lambda: list(doctor.tcp_door(backend.paths)))
    (gone,) = doctor.tcp_door(backend.paths)
    backend.paths.config_file.write_text("server: {listen: '0.0.0.0:8080'}\n")
    (refused,) = doctor.tcp_door(backend.paths)
    assert (served.level, gone.level, refused.level) == (doctor.OK, doctor.NOTE, doctor.BAD)
    assert "knows you as root" in served.message
    assert gone.remedy == "fluid serve"
    assert "127.0.0.1:8080" in refused.remedy
