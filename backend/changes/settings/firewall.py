"""Firewall rules as the files hold them: nftables, iptables-save, ufw, firewalld. The order of rules counts.

Sources: nft(8), iptables-save(8), ufw(8), firewalld.zone(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.parsers import expat

from backend.changes.settings.fact import Parse, Place, Reader, Stated, text, unquoted
from backend.models import SettingKind

# Only these open blocks, and none in a chain or an object: a set in a rule is a part of the rule.
_TABLE = re.compile(r"(?:add |create )?(table .+)")
_OWN_LINE = re.compile(r"(?:add |create )((?:chain|set|map|flowtable) .+)")
_IN_TABLE = re.compile(
    r"((?:chain|set|map|flowtable|counter|quota|limit|synproxy|secmark|tunnel"
    r"|ct (?:helper|timeout|expectation)) \S+)"
)
_TOKENS = re.compile(r"\"[^\"\n]*\"?|#[^\n]*|\\\n|[{};\n]|[^{};\n#\"\\]+|\\")
_COUNTERS = re.compile(r"\s*\[\d+:\d+\]\s*")
_CHAIN = re.compile(r"-A\s+(\S+)\s*(.*)", re.DOTALL)
_TUPLE = "### tuple ###"


def nft(place: Place) -> Iterator[Stated]:
    """Rules and policies by table and chain; a set that stands inside a rule belongs to the rule."""
    inside: list[str] = []
    words: list[str] = []
    nested = 0
    for piece in _TOKENS.findall(text(place.data or b"")):
        if piece.startswith("#") or piece == "\\\n":
            continue
        if piece == "{":
            if not nested and (header := _opened(inside, " ".join("".join(words).split()))):
                inside.append(header)
                words = []
                continue
            nested += 1
        elif piece == "}" and not nested:
            yield from _statement(inside, words)
            words = []
            if inside:
                inside.pop()
            continue
        elif piece == "}":
            nested -= 1
        elif piece in (";", "\n") and not nested:
            yield from _statement(inside, words)
            words = []
            continue
        words.append(piece)
    yield from _statement(inside, words)


def _opened(inside: list[str], words: str) -> str:
    """The block that the words before a brace open, without ``add``; empty where it is one of a set."""
    if not inside:
        match = _TABLE.fullmatch(words) or _OWN_LINE.fullmatch(words)
    else:
        match = _IN_TABLE.fullmatch(words) if inside[-1].startswith("table ") else None
    return match[1] if match else ""


def _statement(inside: list[str], words: list[str]) -> Iterator[Stated]:
    told = " ".join("".join(words).split())
    if not told:
        return
    name = " ".join(header.removeprefix("table ").removeprefix("chain ") for header in inside) or "nftables"
    in_chain = bool(inside) and inside[-1].startswith("chain ")
    if in_chain and told.startswith("policy "):
        yield name, {"policy": told.removeprefix("policy ")}
    else:
        yield name, {"hook" if in_chain and told.startswith("type ") else "rule": told}


def iptables(place: Place) -> Iterator[Stated]:
    """Rules and policies by table and chain, without packet counters."""
    family = "ip6 " if place.name.endswith((b"6", b"ip6tables")) else ""
    table = ""
    for line in place.lines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chain, _, policy = _COUNTERS.sub("", line[1:]).partition(" ")
            yield f"{family}{table} {chain}", {"policy": policy}
        elif match := _CHAIN.fullmatch(_COUNTERS.sub("", line)):
            yield f"{family}{table} {match[1]}", {"rule": match[2]}


def ufw_rules(place: Place) -> Iterator[Stated]:
    """What ufw was told, from the tuples that it writes above its rules; else the rules themselves."""
    told = [line.removeprefix(_TUPLE).strip() for line in place.lines() if line.startswith(_TUPLE)]
    if not told:
        yield from iptables(place)
    family = "ufw ip6" if place.name.endswith(b"6.rules") else "ufw"
    for rule in told:
        yield family, {"rule": rule}


def ufw_settings(place: Place) -> Iterator[Stated]:
    """``ENABLED``, policies and the rest."""
    for line in place.lines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            yield f"ufw {name.strip()}", {"value": unquoted(value)}


def zone(place: Place) -> Iterator[Stated]:
    """A zone of firewalld: its target and each thing it lets through."""
    data = place.data or b""
    if b"<!" in data.replace(b"<!--", b""):
        yield f"zone {text(place.name)}", {"unreadable": "it declares entities"}
        return
    name = "zone " + text(place.name).removesuffix(".xml")
    stack: list[str] = []
    found: list[tuple[str, list[str]]] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        words = " ".join([tag, *(f"{key}={value}" for key, value in attributes.items())])
        if len(stack) == 1:
            found.append((tag, [words]))
        elif len(stack) > 1 and found:
            found[-1][1].append(words)
        elif attributes.get("target"):
            found.append(("target", [attributes["target"]]))
        stack.append(tag)

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _tag: stack.pop() if stack else None
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        yield name, {"unreadable": f"no XML: {error}"}
        return
    for tag, words in found:
        if tag not in ("short", "description"):
            yield name, {tag: " ".join(words).removeprefix(f"{tag} ")}


def firewalld_settings(place: Place) -> Iterator[Stated]:
    """``firewalld.conf``."""
    for line in place.lines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            yield f"firewalld {key.strip()}", {"value": value.strip()}


def _reader(pattern: bytes, parse: Parse) -> Reader:
    return Reader(
        SettingKind.FIREWALL,
        re.compile(pattern, re.DOTALL),
        parse,
        ordered=True,
    )


READERS = (
    _reader(rb"/etc/(?:nftables\.conf|nftables(?:\.d)?/.+|sysconfig/nftables\.conf)", nft),
    _reader(rb"/etc/(?:iptables/rules\.v[46]|sysconfig/ip6?tables)", iptables),
    _reader(rb"/(?:etc|lib|usr/lib)/ufw/(?:user|before|after)6?\.rules", ufw_rules),
    _reader(rb"/etc/(?:ufw/ufw\.conf|default/ufw)", ufw_settings),
    _reader(rb"/etc/firewalld/(?:zones|policies)/[^/]+\.xml", zone),
    _reader(rb"/etc/firewalld/firewalld\.conf", firewalld_settings),
)
