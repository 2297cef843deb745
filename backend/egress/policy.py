"""Where a sandbox may go: pure decisions over names, ports and addresses. No I/O.

An exact entry names one service and may be private; a suffix entry stands for names that somebody else can
point anywhere, so that only global addresses count.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from backend.errors import InvalidValue

GIB = 1024**3
MIB = 1024**2
DEFAULT_PORTS = frozenset({80, 443})
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Prefixes that carry an IPv4 address past a filter, or that no package source uses.
_NEVER6 = [
    ipaddress.ip_network(text)
    for text in ("2002::/16", "2001::/32", "::/96", "64:ff9b:1::/48", "fec0::/10", "100::/64", "5f00::/16")
]


@dataclass(frozen=True)
class Refusal:
    """Why not: the rule's name, one line for the guest with the remedy, and the HTTP status."""

    rule: str
    message: str
    status: int = 403


@dataclass(frozen=True)
class Grant:
    """An entry of the allow list that fits. ``exact`` entries may lead to private addresses."""

    entry: str
    exact: bool


@dataclass(frozen=True)
class EgressPolicy:
    """The allow list and the limits. ``ports`` bounds suffix entries; an exact entry names its own port.

    Args:
        allow: ``host:port`` (exact; ``[v6]:port`` for a literal) or ``.suffix`` (every name below it).
        bytes_per_sandbox: both directions together, over the sandbox's life.
        rate_bytes_s: both directions together, averaged.

    Raises:
        InvalidValue: an entry that is neither.
    """

    allow: tuple[str, ...]
    ports: frozenset[int] = DEFAULT_PORTS
    bytes_per_sandbox: int = 4 * GIB
    rate_bytes_s: int = 64 * MIB
    connections_per_sandbox: int = 64
    _exact: frozenset[tuple[str, int]] = field(init=False, repr=False, compare=False)
    _suffixes: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        exact, suffixes = set(), []
        for entry in self.allow:
            if entry.startswith("."):
                if clean_host(entry[1:]) is None:
                    raise _not_an_entry(entry)
                suffixes.append("." + entry[1:].lower().rstrip("."))
            else:
                exact.add(_parse_exact(entry))
        object.__setattr__(self, "_exact", frozenset(exact))
        object.__setattr__(self, "_suffixes", tuple(suffixes))

    def decide(self, host: str, port: int) -> Grant | Refusal:
        """Whether a sandbox may ask for ``host``, before any name is looked up."""
        if (host, port) in self._exact:
            return Grant(f"{host}:{port}", exact=True)
        if is_literal(host):
            return Refusal(
                "egress.literal",
                f"{host} is an address; it is refused unless egress.allow lists {host}:{port} exactly",
            )
        suffix = next((suffix for suffix in self._suffixes if host.endswith(suffix)), None)
        if suffix is None:
            return Refusal(
                "egress.allow",
                f"{host}:{port} is not on the allow list; ask the operator to add it to egress.allow",
            )
        if port not in self.ports:
            allowed = ", ".join(str(port) for port in sorted(self.ports))
            return Refusal(
                "egress.ports", f"port {port} of {host} is refused; {suffix} allows ports {allowed}"
            )
        return Grant(suffix, exact=False)

    def admit(self, grant: Grant, host: str, addresses: Iterable[str]) -> list[str] | Refusal:
        """The addresses to connect to, of those that ``host`` resolved to; it is not looked up again."""
        found = [address for address in addresses if _usable(address, host, grant)]
        if found:
            return found
        return Refusal(
            "egress.address",
            f"{host} resolves to no address that {grant.entry} may lead to; "
            "private addresses need an exact host:port entry in egress.allow",
        )


def clean_host(text: str) -> str | None:
    """``text`` as a lower-case host name or a canonical IP literal; None if it is neither."""
    host = text.lower()
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            return None
    host = host.removesuffix(".")
    if not host or len(host) > 253:
        return None
    return host if all(_LABEL.fullmatch(label) for label in host.split(".")) else None


def split_authority(text: str, default_port: int | None = None) -> tuple[str, int] | None:
    """``host``, ``port`` of an authority (RFC 3986 §3.2) without user info; None if it is malformed."""
    name, colon, port = text.rpartition(":")
    if not colon or (text.endswith("]") and text.startswith("[")):
        name, port = text, "" if default_port is None else str(default_port)
    if not (port.isascii() and port.isdigit() and 1 <= len(port) <= 5 and 0 < int(port) < 65_536):
        return None
    host = clean_host(name)
    return None if host is None else (host, int(port))


def is_literal(host: str) -> bool:
    """Whether a resolver would take ``host`` for an address: also ``127.1``, ``0x7f.1``, ``2130706433``."""
    return ":" in host or bool(_NUMERIC.fullmatch(host.rsplit(".", 1)[-1]))


def is_global(text: str) -> bool:
    """Whether an address lies in the public internet, also when it is wrapped into another one."""
    address = ipaddress.ip_address(text)
    if isinstance(address, IPv6Address):
        inner = _unwrap(address)
        if inner is None:
            return _plain_global(address) and not any(address in network for network in _NEVER6)
        address = inner
    return _plain_global(address)


def _unwrap(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside a mapped (RFC 4291) or NAT64 (RFC 6052) one."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped


def _plain_global(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    )


def _usable(text: str, host: str, grant: Grant) -> bool:
    """Private addresses need an exact entry; link-local ones (cloud metadata) need to be that entry."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if not grant.exact:
        return is_global(text)
    if text == host:
        return True
    inner = (_unwrap(address) or address) if isinstance(address, IPv6Address) else address
    return not (inner.is_multicast or inner.is_unspecified or inner.is_link_local)


def _parse_exact(entry: str) -> tuple[str, int]:
    found = split_authority(entry)
    if found is None:
        raise _not_an_entry(entry)
    return found


def _not_an_entry(entry: str) -> InvalidValue:
    return InvalidValue(
        f"egress.allow: {entry!r} is neither host:port nor .suffix",
        remedy="write deb.example.org:80 for one service, .example.org for every name below it",
    )
