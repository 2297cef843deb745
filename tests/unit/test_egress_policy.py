"""Where a sandbox may go: names, ports and addresses, and every known way to dress an address up."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.egress import EgressPolicy, default_allow
from backend.egress._http import ChunkedEnd, Malformed, parse_request, parse_response
from backend.egress._meter import Exhausted, Meter
from backend.egress.policy import Grant, Refusal, clean_host, is_global, is_literal, split_authority
from backend.errors import InvalidValue

POLICY = EgressPolicy(allow=("mirror.example:80", "cache.local:3142", "10.0.0.5:8080", ".example.org"))


@pytest.mark.parametrize(
    ("host", "port", "rule"),
    [
        ("mirror.example", 80, None),
        ("cache.local", 3142, None),
        ("10.0.0.5", 8080, None),
        ("deb.example.org", 443, None),
        ("a.b.example.org", 80, None),
        ("mirror.example", 443, "egress.allow"),
        ("example.org", 80, "egress.allow"),
        ("evilexample.org", 80, "egress.allow"),
        ("deb.example.org.evil.example", 80, "egress.allow"),
        ("deb.example.org", 22, "egress.ports"),
        ("10.0.0.5", 80, "egress.literal"),
        ("169.254.169.254", 80, "egress.literal"),
        ("::1", 80, "egress.literal"),
        ("2130706433", 80, "egress.literal"),
        ("127.1", 80, "egress.literal"),
        ("0x7f.0.0.0x1", 80, "egress.literal"),
        ("1.debian.0x7f", 80, "egress.literal"),
    ],
)
def test_a_name_is_allowed_or_refused_by_a_named_rule(host: str, port: int, rule: str | None) -> None:
    found = POLICY.decide(host, port)
    assert (found.rule if isinstance(found, Refusal) else None) == rule


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.1.2.3",
        "192.0.2.1", "198.18.0.1", "203.0.113.80", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::",
        "fe80::1", "fc00::1", "fd12::1", "ff02::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::1", "2002:808:808::1",
        "2001:0:808:808::1", "::7f00:1", "::808:808", "2001:db8::1", "100::1", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_an_address_that_is_not_of_the_public_internet_is_known(address: str) -> None:
    assert not is_global(address)
    refused = POLICY.admit(Grant(".example.org", exact=False), "x.example.org", [address])
    assert isinstance(refused, Refusal)
    assert refused.rule == "egress.address"


@pytest.mark.parametrize("address", ["8.8.8.8", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_admitted_under_a_suffix(address: str) -> None:
    assert POLICY.admit(Grant(".example.org", exact=False), "x.example.org", [address]) == [address]


def test_of_mixed_answers_only_the_public_ones_are_used() -> None:
    grant = Grant(".example.org", exact=False)
    assert POLICY.admit(grant, "x.example.org", ["10.0.0.1", "8.8.8.8", "junk"]) == ["8.8.8.8"]


@pytest.mark.parametrize(
    ("address", "admitted"),
    [("10.0.0.1", True), ("127.0.0.1", True), ("fd00::1", True), ("169.254.169.254", False),
     ("::ffff:169.254.169.254", False), ("224.0.0.1", False), ("::", False)],
)  # fmt: skip
def test_an_exact_entry_may_be_private_but_never_metadata(address: str, admitted: bool) -> None:
    found = POLICY.admit(Grant("mirror.example:80", exact=True), "mirror.example", [address])
    assert (found == [address]) == admitted


@pytest.mark.parametrize(
    "entry", ["deb.example", "http://x:80", "x:0", "x:99999", ".", "a b:80", "", "*.x:80"]
)
def test_an_entry_without_meaning_is_refused_by_name(entry: str) -> None:
    with pytest.raises(InvalidValue, match="neither host:port nor"):
        EgressPolicy(allow=(entry,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A.Example:80", ("a.example", 80)), ("a.example.:80", ("a.example", 80)), ("[::1]:80", ("::1", 80)),
     ("[::FFFF:7f00:1]:80", ("::ffff:127.0.0.1", 80)), ("a", None), ("a:", None), ("a:x", None),
     ("a@b:80", None), ("[::1", None), ("a..b:80", None), ("-a:80", None), ("ä:80", None), ("a:٨٠", None)],
)  # fmt: skip
def test_authorities(text: str, expected: tuple[str, int] | None) -> None:
    found = split_authority(text)
    # Python writes a mapped address in one of two ways; both are the same address.
    assert (found and (found[0].replace("7f00:1", "127.0.0.1"), found[1])) == expected


def test_hosts_are_told_from_addresses() -> None:
    assert clean_host("Deb.Example.ORG.") == "deb.example.org"
    assert not is_literal("deb.example.org")
    assert is_literal("1.2.3.4")


REQUEST = b"GET http://a.example/p?q HTTP/1.1\r\n%s\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET https://a.example/ HTTP/1.1\r\n\r\n",
        b"GET http://u:p@a.example/ HTTP/1.1\r\n\r\n",
        b"GET http://a.example/ HTTP/2.0\r\n\r\n",
        b"GET  http://a.example/ HTTP/1.1\r\n\r\n",
        b"G\0T http://a.example/ HTTP/1.1\r\n\r\n",
        b"CONNECT a.example HTTP/1.1\r\n\r\n",
        b"CONNECT http://a.example/ HTTP/1.1\r\n\r\n",
        REQUEST % b"Content-Length: 1\r\nContent-Length: 2\r\n",
        REQUEST % b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        REQUEST % b"Transfer-Encoding: chunked, identity\r\n",
        REQUEST % b"Transfer-Encoding: xchunked\r\n",
        REQUEST % b"Content-Length: +1\r\n",
        REQUEST % b"Content-Length : 1\r\n",
        REQUEST % b"A: b\r\n folded\r\n",
        REQUEST % b"A: b\nB: c\r\n",
        REQUEST % b"A: b\rB: c\r\n",
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(head: bytes) -> None:
    with pytest.raises(Malformed):
        parse_request(head)


def test_what_goes_out_has_our_host_and_no_hop_by_hop_field() -> None:
    fields = (
        b"Host: other\r\nProxy-Authorization: secret\r\nConnection: x-mine, close\r\nX-Mine: 1\r\nX-Y: 2\r\n"
    )
    out = parse_request(REQUEST % fields).for_origin(absolute=False)
    assert out == b"GET /p?q HTTP/1.1\r\nHost: a.example\r\nX-Y: 2\r\nConnection: close\r\n\r\n"


def test_connection_cannot_strip_the_framing_of_a_body() -> None:
    head = parse_request(REQUEST % b"Connection: content-length\r\nContent-Length: 3\r\n")
    assert b"Content-Length: 3\r\n" in head.for_origin(absolute=False)


@pytest.mark.parametrize(
    ("method", "head", "body"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 5),
        ("GET", b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\n", -1),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 0),
    ],
)
def test_the_length_of_an_answer(method: str, head: bytes, body: int | None) -> None:
    assert parse_response(head, method=method).body == body


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_a_chunked_body_ends_where_it_ends(step: int) -> None:
    body = b"4;x=y\r\nwiki\r\n6\r\n\r\n\r\n\r\n\r\n0\r\nT: v\r\n\r\nNEXT"
    end, taken = ChunkedEnd(), 0
    for at in range(0, len(body), step):
        taken += end.feed(body[at : at + step])
        if end.done:
            break
    assert body[taken:].startswith(b"NEXT"[: len(body) - taken])
    assert taken == len(body) - len(b"NEXT")


@pytest.mark.parametrize(
    "body", [b"x\r\n", b"-1\r\n", b"4\nwiki", b"1\r\nab\r\n", b"\r\n", b"0" * 2000, b"f" * 16 + b"\r\n"]
)
def test_a_chunk_without_sense_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        ChunkedEnd().feed(body)


def test_the_rate_is_held_and_the_limit_ends_it() -> None:
    clock = [0.0]
    meter = Meter(1000, 100, clock=lambda: clock[0])
    assert meter.debt_s(100) == 0
    assert meter.debt_s(50) == 0.5
    clock[0] = 10.0
    assert meter.debt_s(100) == 0
    with pytest.raises(Exhausted):
        meter.debt_s(800)
    assert meter.exhausted


def test_the_default_is_what_apt_is_configured_for(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://off.example/ x main\ndeb [arch=amd64 signed-by=/a b] http://one.example/debian x main\n"
        "deb-src https://user:pw@two.example:8443/ x main\ndeb cdrom:[x]/ y main\ndeb file:/srv x main\n"
    )
    (parts / "a.sources").write_text(
        "Types: deb\nURIs: http://three.example/debian\n  https://four.example/\nSuites: x\n\n"
        "Types: deb\nEnabled: no\nURIs: http://off.example/\n"
    )
    assert default_allow(tmp_path) == [
        "four.example:443",
        "one.example:80",
        "three.example:80",
        "two.example:8443",
    ]
