"""The proxy against a real HTTP server on the loopback; names come from an injected resolver."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from backend.egress import EgressPolicy, EgressProxy, EgressRecord, _streams
from backend.egress import proxy as proxy_module
from backend.egress.proxy import RECORD_BYTES

ANSWER_S = 10.0
BIG = bytes(range(256)) * 4096  # 1 MiB


class Origin(BaseHTTPRequestHandler):
    """Answers in each of the framings that HTTP/1.1 knows."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        body = BIG if self.path == "/big" else b"hello from " + self.path.encode()
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        elif self.path == "/until-close":
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")
        if self.path == "/then-hang-up":
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture(scope="module")
def origin() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    server.daemon_threads = True
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@dataclass
class Proxy:
    """A proxy listening on the loopback, what it recorded, and which names it looked up."""

    core: EgressProxy
    port: int
    records: list[EgressRecord]
    recorded: asyncio.Event
    lookups: list[str]
    names: dict[str, list[list[str]]] = field(default_factory=dict)

    async def talk(self, request: bytes) -> bytes:
        """Send ``request`` on a fresh connection and read until the proxy closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await reader.read()
        finally:
            writer.close()

    async def get(self, url: str, fields: str = "") -> bytes:
        return await self.talk(f"GET {url} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n".encode())

    async def last(self, count: int = 1) -> EgressRecord:
        """The record number ``count``, when it is there."""
        async with asyncio.timeout(ANSWER_S):
            while len(self.records) < count:
                self.recorded.clear()
                await self.recorded.wait()
        return self.records[count - 1]


Make = Callable[..., Awaitable[Proxy]]


@pytest.fixture
async def make_proxy() -> AsyncIterator[Make]:
    servers: list[asyncio.Server] = []

    async def make(
        *allow: str,
        names: dict[str, list[list[str]]] | None = None,
        upstream: tuple[str, int] | None = None,
        **limits: object,
    ) -> Proxy:
        records: list[EgressRecord] = []
        recorded = asyncio.Event()
        lookups: list[str] = []
        answers = dict(names or {})

        async def resolve(host: str, port: int) -> list[str]:
            lookups.append(host)
            if host not in answers:
                raise OSError("no such name")
            return answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]

        def take(record: EgressRecord) -> None:
            records.append(record)
            recorded.set()

        core = EgressProxy(
            EgressPolicy(allow=allow, **limits),  # type: ignore[arg-type]
            on_request=take,
            resolver=resolve,
            upstream=upstream,
        )
        server = await asyncio.start_server(lambda r, w: core.serve(r, w, client="SBX-1"), "127.0.0.1", 0)
        servers.append(server)
        return Proxy(core, server.sockets[0].getsockname()[1], records, recorded, lookups)

    yield make
    for server in servers:
        server.close()


def port_of(server: ThreadingHTTPServer) -> int:
    return int(server.server_address[1])


def split(answer: bytes) -> tuple[bytes, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("path", ["/plain", "/chunked", "/until-close"])
async def test_an_allowed_name_is_fetched_and_recorded_without_its_path(
    make_proxy: Make, origin: ThreadingHTTPServer, path: str
) -> None:
    port = port_of(origin)
    proxy = await make_proxy(f"mirror.example:{port}", names={"mirror.example": [["127.0.0.1"]]})
    head, body = split(await proxy.get(f"http://mirror.example:{port}{path}?token=secret"))
    assert head.startswith(b"HTTP/1.1 200")
    assert b"hello from " + path.encode() in body
    record = await proxy.last()
    assert (record.client, record.method, record.host, record.port) == (
        "SBX-1",
        "GET",
        "mirror.example",
        port,
    )
    assert (record.status, record.allowed, record.rule) == (200, True, f"mirror.example:{port}")
    assert record.bytes_down >= len(body)
    assert record.bytes_up > 0
    assert "secret" not in repr(record)
    assert proxy.lookups == ["mirror.example"]


async def test_the_origin_sees_its_own_name_and_no_proxy_credentials(
    make_proxy: Make, origin: ThreadingHTTPServer
) -> None:
    port = port_of(origin)
    proxy = await make_proxy(f"m.example:{port}", names={"m.example": [["127.0.0.1"]]})
    await proxy.get(f"http://m.example:{port}/who", "Host: internal\r\nProxy-Authorization: Basic eA==\r\n")
    path, fields = origin.seen[-1]  # type: ignore[attr-defined]
    assert (path, fields["Host"]) == ("/who", f"m.example:{port}")
    assert "Proxy-Authorization" not in fields


async def test_refusals_name_the_rule_and_the_remedy(make_proxy: Make) -> None:
    proxy = await make_proxy(".debian.org")
    head, body = split(await proxy.get("http://evil.example/x"))
    assert head.startswith(b"HTTP/1.1 403 Forbidden by Fluid: rule egress.allow")
    assert body == (
        b"evil.example:80 is not on the allow list; ask the operator to add it to egress.allow"
        b" (rule egress.allow)\n"
    )
    record = await proxy.last()
    assert (record.status, record.allowed, record.rule, record.host) == (
        403,
        False,
        "egress.allow",
        "evil.example",
    )
    assert proxy.lookups == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
)
async def test_a_suffix_never_leads_to_a_private_address(make_proxy: Make, address: str) -> None:
    proxy = await make_proxy(".example", names={"a.example": [[address]]})
    head, _ = split(await proxy.get("http://a.example/"))
    assert b"403" in head
    assert b"egress.address" in head


async def test_a_name_is_looked_up_once_so_that_rebinding_finds_no_second_answer(
    make_proxy: Make, origin: ThreadingHTTPServer
) -> None:
    port = port_of(origin)
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    proxy = await make_proxy(f"re.example:{port}", names={"re.example": answers})
    assert b"hello" in await proxy.get(f"http://re.example:{port}/")
    assert proxy.lookups == ["re.example"]
    head, _ = split(await proxy.get(f"http://re.example:{port}/"))
    assert b"egress.address" in head


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET / HTTP/1.1", b"400"),
        ("GET http://[::ffff:127.0.0.1]/ HTTP/1.1", b"403"),
        ("GET http://2130706433/ HTTP/1.1", b"403"),
        ("CONNECT 127.0.0.1:22 HTTP/1.1", b"403"),
        ("CONNECT a.example:22 HTTP/1.1", b"403"),
        ("GET http://nowhere.example/ HTTP/1.1", b"502"),
        ("nonsense", b"400"),
    ],
)
async def test_strange_requests_get_words(make_proxy: Make, request_line: str, status: bytes) -> None:
    proxy = await make_proxy(".example", names={"a.example": [["8.8.8.8"]]})
    answer = await proxy.talk(f"{request_line}\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ")[1] == status
    assert b"rule egress." in answer
    assert (await proxy.last()).allowed is False


async def test_requests_that_come_in_one_go_are_answered_in_order(
    make_proxy: Make, origin: ThreadingHTTPServer
) -> None:
    port = port_of(origin)
    proxy = await make_proxy(f"m.example:{port}", names={"m.example": [["127.0.0.1"]]})
    one = "GET http://m.example:{port}/{n} HTTP/1.1\r\nConnection: {c}\r\n\r\n"
    text = "".join(one.format(port=port, n=n, c="close" if n == 9 else "keep-alive") for n in range(10))
    answer = await proxy.talk(text.encode())
    assert [answer.count(b"hello from /%d" % n) for n in range(10)] == [1] * 10
    assert proxy.lookups == ["m.example"]
    assert (await proxy.last(10)).status == 200


async def test_a_kept_connection_that_the_origin_closed_is_opened_again(
    make_proxy: Make, origin: ThreadingHTTPServer
) -> None:
    port = port_of(origin)
    proxy = await make_proxy(f"m.example:{port}", names={"m.example": [["127.0.0.1"]]})
    get = "GET http://m.example:{}/{} HTTP/1.1\r\nConnection: {}\r\n\r\n"
    text = get.format(port, "then-hang-up", "keep-alive") + get.format(port, "after", "close")
    answer = await proxy.talk(text.encode())
    assert b"hello from /then-hang-up" in answer
    assert b"hello from /after" in answer


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_goes_up_whole(make_proxy: Make, origin: ThreadingHTTPServer, framing: str) -> None:
    port = port_of(origin)
    proxy = await make_proxy(f"m.example:{port}", names={"m.example": [["127.0.0.1"]]})
    sized = f"Content-Length: {len(BIG)}\r\n\r\n".encode() + BIG
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BIG), BIG)
    request = f"POST http://m.example:{port}/up HTTP/1.1\r\nConnection: close\r\nExpect: 100-continue\r\n"
    answer = await proxy.talk(request.encode() + (sized if framing == "length" else chunked))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201")
    assert answer.endswith(BIG)
    assert (await proxy.last()).bytes_up > len(BIG)


async def test_head_has_no_body(make_proxy: Make, origin: ThreadingHTTPServer) -> None:
    port = port_of(origin)
    proxy = await make_proxy(f"m.example:{port}", names={"m.example": [["127.0.0.1"]]})
    request = f"HEAD http://m.example:{port}/big HTTP/1.1\r\nConnection: close\r\n\r\n"
    head, body = split(await proxy.talk(request.encode()))
    assert str(len(BIG)).encode() in head
    assert body == b""


async def test_connect_tunnels_both_ways(make_proxy: Make, origin: ThreadingHTTPServer) -> None:
    port = port_of(origin)
    proxy = await make_proxy(f"m.example:{port}", names={"m.example": [["127.0.0.1"]]})
    inner = b"GET /inside HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
    answer = await proxy.talk(f"CONNECT m.example:{port} HTTP/1.1\r\n\r\n".encode() + inner)
    assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200")
    assert answer.endswith(b"hello from /inside")
    record = await proxy.last()
    assert (record.method, record.status, record.bytes_up) == ("CONNECT", 200, len(inner))
    assert record.bytes_down > 0


async def test_the_bytes_of_a_sandbox_come_to_an_end(make_proxy: Make, origin: ThreadingHTTPServer) -> None:
    port = port_of(origin)
    proxy = await make_proxy(
        f"m.example:{port}", names={"m.example": [["127.0.0.1"]]}, bytes_per_sandbox=300_000
    )
    answer = await proxy.get(f"http://m.example:{port}/big")
    assert len(answer) < 310_000
    cut = await proxy.last()
    assert (cut.allowed, cut.status) == (True, 200)
    assert "egress.bytes" in cut.reason
    head, body = split(await proxy.get(f"http://m.example:{port}/plain"))
    assert b"403" in head
    assert b"300000 bytes" in body
    assert proxy.core.used("SBX-1") == 300_000


@pytest.mark.parametrize("request_text", ["GET http://evil.example/ HTTP/1.1\r\n\r\n", "nonsense\r\n\r\n"])
async def test_refusals_come_to_an_end_too(make_proxy: Make, request_text: str) -> None:
    proxy = await make_proxy(".example", bytes_per_sandbox=10 * RECORD_BYTES)
    for _ in range(15):
        await proxy.talk(request_text.encode() * 100)
    assert [record.rule for record in proxy.records].count("egress.bytes") == 1
    assert len(proxy.records) == 11
    assert b"egress.bytes" in await proxy.talk(request_text.encode())
    assert len(proxy.records) == 11


async def test_connections_beyond_the_limit_come_to_an_end_too(
    make_proxy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "REFUSED_IDLE_S", 0.01)
    proxy = await make_proxy(".example", connections_per_sandbox=0, bytes_per_sandbox=5 * RECORD_BYTES)
    for _ in range(10):
        await proxy.talk(b"")
    assert [record.rule for record in proxy.records] == ["egress.connections"] * 5 + ["egress.bytes"]


async def test_the_account_of_a_sandbox_survives_a_restart_of_ours(make_proxy: Make) -> None:
    proxy = await make_proxy(".example", bytes_per_sandbox=100)
    proxy.core.restore("SBX-1", 100)
    assert b"egress.bytes" in await proxy.get("http://a.example/")


async def test_the_rate_of_a_sandbox_is_held(make_proxy: Make, origin: ThreadingHTTPServer) -> None:
    port = port_of(origin)
    proxy = await make_proxy(
        f"m.example:{port}", names={"m.example": [["127.0.0.1"]]}, rate_bytes_s=512 * 1024
    )
    started = asyncio.get_running_loop().time()
    await proxy.get(f"http://m.example:{port}/big")
    assert 0.9 < asyncio.get_running_loop().time() - started < 5


async def test_one_sandbox_has_so_many_connections_and_no_more(make_proxy: Make) -> None:
    proxy = await make_proxy(".example", connections_per_sandbox=2)
    idle = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(2)]
    answer = await proxy.get("http://a.example/")
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"egress.connections" in answer
    for _, writer in idle:
        writer.close()


async def test_a_head_that_drips_or_never_ends_is_cut_off(
    make_proxy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_streams, "HEAD_S", 0.3)
    proxy = await make_proxy(".example")
    assert await proxy.talk(b"GET http://a.example/ HTTP/1.1\r\nX: ") == b""
    answer = await proxy.talk(b"GET http://a.example/ HTTP/1.1\r\nX: " + b"y" * 40_000)
    assert answer.startswith(b"HTTP/1.1 400")


async def test_behind_a_proxy_only_exact_entries_are_served(
    make_proxy: Make, origin: ThreadingHTTPServer
) -> None:
    port = port_of(origin)
    outer = await make_proxy(f"m.example:{port}", names={"m.example": [["127.0.0.1"]]})
    inner = await make_proxy(f"m.example:{port}", ".example", upstream=("127.0.0.1", outer.port))
    assert b"hello from /via" in await inner.get(f"http://m.example:{port}/via")
    tunnel = f"CONNECT m.example:{port} HTTP/1.1\r\n\r\nGET /in HTTP/1.0\r\n\r\n"
    assert b"hello from /in" in await inner.talk(tunnel.encode())
    assert b"egress.upstream" in await inner.get("http://other.example/")
    assert inner.lookups == []
    assert {record.host for record in outer.records} == {"m.example"}


async def test_a_failing_record_does_not_end_the_proxy(origin: ThreadingHTTPServer) -> None:
    async def fail(record: EgressRecord) -> None:
        raise RuntimeError("the audit is down")

    core = EgressProxy(EgressPolicy(allow=()), on_request=fail)
    server = await asyncio.start_server(lambda r, w: core.serve(r, w, client="x"), "127.0.0.1", 0)
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        writer.write(b"GET http://a.example/ HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(ANSWER_S):
            assert await reader.read() == b""
        writer.close()
    server.close()
