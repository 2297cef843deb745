"""What the kernel's answer about a socket means. Recorded on Linux 6.18, of a caller who is nobody."""

from __future__ import annotations

import errno
import sys

import pytest

from backend.api import sock_diag
from backend.api.sock_diag import End, TcpSocket, read_answer

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="netlink speaks the machine's byte order")

SERVER = End.of(("127.0.0.1", 18080))
CLIENT = End.of(("127.0.0.1", 37256))
_HEAD = "7c0000001400000001000000c06a0000"
_ATTRIBUTES = "050008000000000008000f00000000000c00150001000000000000000600160052000000"
_LOOPBACK_4 = "7f000001000000000000000000000000"
_MAPPED = "00000000000000000000ffff7f000001"
_LOOPBACK_6 = "00000000000000000000000000000001"


def recorded(
    state_and_ports: str, source: str, destination: str, cookie: str, queues: str, owner: str
) -> bytes:
    rest = f"00000000{cookie}00000000{queues}{owner}{_ATTRIBUTES}"
    return bytes.fromhex(f"{_HEAD}{state_and_ports}{source}{destination}{rest}")


QUIET = "000000000000000000000000"
CONNECTED = recorded("02010000918846a0", _LOOPBACK_4, _LOOPBACK_4, "06000000", QUIET, "feff0000814a0200")
MAPPED = recorded("0a010000918e46a0", _MAPPED, _MAPPED, "07000000", QUIET, "feff0000834a0200")
IPV6 = recorded("0a010000d3f446a0", _LOOPBACK_6, _LOOPBACK_6, "08000000", QUIET, "feff0000864a0200")
LISTENER = recorded(
    "020a000046a00000", _LOOPBACK_4, "00" * 16, "09000000", "000000000200000080000000", "00000000804a0200"
)
ORPHAN = recorded(
    "02040100918846a0", _LOOPBACK_4, _LOOPBACK_4, "06000000", "cc0000000000000001000000", "feff000000000000"
)
UNHELD = CONNECTED.replace(bytes.fromhex("814a0200"), bytes(4))
TO_ITSELF = CONNECTED.replace(bytes.fromhex("918846a0"), bytes.fromhex("91889188"))
MISSING = bytes.fromhex(
    "5c0000000200000001000000c06a0000feffffff4800000014000100010000000000000002060000ff0f0000000146a0"
    "7f0000010000000000000000000000007f00000100000000000000000000000000000000ffffffffffffffff"
)


def test_a_connected_socket_has_its_owner() -> None:
    assert read_answer(CONNECTED) == TcpSocket(sock_diag.ESTABLISHED, CLIENT, SERVER, 65534, 150145)


@pytest.mark.parametrize(("answer", "address", "port"), [(MAPPED, "127.0.0.1", 37262), (IPV6, "::1", 54260)])
def test_an_ipv6_socket_is_read_by_what_its_address_is(answer: bytes, address: str, port: int) -> None:
    found = read_answer(answer)
    assert found is not None
    assert (found.source, found.destination) == (End.of((address, port)), End.of((address, 18080)))
    assert found.uid == 65534


def test_no_such_socket_is_none_and_other_refusals_are_errors() -> None:
    assert read_answer(MISSING) is None
    refused = MISSING[:16] + (-errno.EPERM).to_bytes(4, "little", signed=True) + MISSING[20:]
    with pytest.raises(PermissionError):
        read_answer(refused)


@pytest.mark.parametrize(
    "answer",
    [b"", CONNECTED[:87], MISSING[:18], CONNECTED[:4] + b"\x03\x00" + CONNECTED[6:],
     CONNECTED[:8] + b"\x02" + CONNECTED[9:]],
    ids=["empty", "cut", "cut error", "another kind", "to another question"],
)  # fmt: skip
def test_what_is_no_answer_is_no_identity(answer: bytes) -> None:
    with pytest.raises(OSError, match="sock_diag"):
        read_answer(answer)


@pytest.mark.parametrize(
    ("answer", "client", "server", "uid"),
    [
        (CONNECTED, CLIENT, SERVER, 65534),
        (MAPPED, End.of(("127.0.0.1", 37262)), SERVER, 65534),
        (MAPPED, End.of(("::ffff:127.0.0.1", 37262)), SERVER, 65534),
        (CONNECTED, SERVER, CLIENT, None),
        (TO_ITSELF, CLIENT, CLIENT, None),
        (UNHELD, CLIENT, SERVER, None),
        (CONNECTED, End.of(("127.0.0.1", 37257)), SERVER, None),
        (LISTENER, SERVER, End.of(("::ffff:0:0", 0)), None),
        (ORPHAN, CLIENT, SERVER, None),
        (MISSING, CLIENT, SERVER, None),
    ],
    ids=[
        "client",
        "mapped",
        "mapped peer",
        "our own end",
        "itself",
        "unheld",
        "another",
        "listener",
        "orphan",
        "none",
    ],
)
def test_only_the_living_client_end_names_a_uid(
    answer: bytes, client: End, server: End, uid: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sock_diag, "find", lambda *_: read_answer(answer))
    assert sock_diag.client_uid(client, server) == uid


def test_a_listener_is_found_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "find", lambda *_: read_answer(LISTENER))
    found = sock_diag.listener(SERVER)
    assert found is not None and (found.uid, found.inode) == (0, 0x24A80)
    monkeypatch.setattr(sock_diag, "find", lambda *_: read_answer(CONNECTED))
    assert sock_diag.listener(SERVER) is None
