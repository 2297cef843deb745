"""The machine itself: kernel parameters, modules, mounts, names, resolver, alternatives, locale, time zone.

Sources: sysctl.d(5), modules-load.d(5), modprobe.d(5), fstab(5), hosts(5), resolv.conf(5), nsswitch.conf(5),
update-alternatives(1), locale.conf(5), localtime(5), hwclock(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from backend.changes.settings.fact import Parse, Place, Reader, Stated, text, unquoted
from backend.models import SettingKind

_OCTAL = re.compile(r"\\([0-7]{3})")
_ZONE = re.compile(rb"(?:.*/)?zoneinfo/(.+)", re.DOTALL)
_MANUAL = re.compile(rb"\.[1-9][a-z]*(?:\.gz)?\Z")
_SKIPPED = ("#", ";")
HARDWARE_CLOCK = "hardware clock"


def sysctl(place: Place) -> Iterator[Stated]:
    """Parameters with dots between their parts, whichever way they are written."""
    for line in place.lines():
        if line.startswith(_SKIPPED):
            continue
        name, separator, value = line.partition("=")
        name = name.strip().removeprefix("-").strip()
        if separator and name:
            yield parameter(name), {"value": " ".join(value.split())}


def parameter(name: str) -> str:
    """``net/ipv4/conf/eth0.1/x`` and ``net.ipv4.conf.eth0/1.x`` are one name: the first separator decides."""
    first = re.search(r"[./]", name)
    if first is None or first[0] == ".":
        return name
    return name.translate(str.maketrans("./", "/."))


def loaded_modules(place: Place) -> Iterator[Stated]:
    """Modules that are loaded at boot."""
    for line in place.lines():
        if not line.startswith(_SKIPPED):
            name, *options = line.split(None, 1)
            yield name, {"loaded": "at boot"} | ({"options": options[0]} if options else {})


def module_rules(place: Place) -> Iterator[Stated]:
    """What modprobe is told of a module: options, blacklist, install."""
    for line in place.lines(joined=True):
        word, name, value, *_ = [*line.split(None, 2), "", ""]
        if not line.startswith("#") and name:
            yield f"{word} {name}", {"value": value}


def mounts(place: Place) -> Iterator[Stated]:
    """File systems by mount point, swap by its device."""
    for line in place.lines():
        words = line.split()
        if line.startswith("#") or len(words) < 3:
            continue
        device, point, kind, *rest = (_OCTAL.sub(lambda found: chr(int(found[1], 8)), word) for word in words)
        options, dump, check, *_ = [*rest, "", "", ""]
        name = device if kind == "swap" or point in ("none", "swap") else point
        values = {"device": device, "type": kind, "options": options}
        yield name, values | {"dump and check": f"{dump} {check}".strip()}


def host_name(place: Place) -> Iterator[Stated]:
    """The first line that is no comment."""
    for line in place.lines():
        if not line.startswith("#"):
            yield "host name", {"value": line}
            return


def hosts(place: Place) -> Iterator[Stated]:
    """Names by address."""
    for line in place.lines():
        address, *names = line.partition("#")[0].split()[:1000] or [""]
        if address and names:
            yield address, {"names": " ".join(names)}


def resolver(place: Place) -> Iterator[Stated]:
    """Name servers in order, and each other word."""
    if place.target is not None:
        yield "resolv.conf", {"link": text(place.target)}
        return
    values: dict[str, list[str]] = {}
    for line in place.lines():
        word, *rest = line.split(None, 1)
        if not line.startswith(_SKIPPED) and rest:
            values.setdefault(word, []).append(rest[0])
    for word, told in values.items():
        yield word, {"value": ", ".join(told) if word == "nameserver" else told[-1]}


def name_service(place: Place) -> Iterator[Stated]:
    """``nsswitch.conf``: where names are looked up."""
    for line in place.lines():
        name, separator, value = line.partition("#")[0].partition(":")
        if separator:
            yield f"look up {name.strip()}", {"in": " ".join(value.split())}


def resolved(place: Place) -> Iterator[Stated]:
    """systemd-resolved's own settings."""
    for line in place.lines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith(_SKIPPED):
            yield f"resolved {name.strip()}", {"value": value.strip()}


def alternative(place: Place) -> Iterator[Stated]:
    """Which program stands behind a name. Its manual pages follow it."""
    if place.target is not None and not _MANUAL.search(place.name):
        yield text(place.name), {"program": text(place.target)}


def variables(place: Place) -> Iterator[Stated]:
    """``NAME=value`` lines of a shell."""
    for line in place.lines():
        name, separator, value = line.removeprefix("export ").partition("=")
        if separator and not line.startswith("#"):
            yield name.strip(), {"value": unquoted(value)}


def made_locales(place: Place) -> Iterator[Stated]:
    """``locale.gen``: which locales exist."""
    for line in place.lines():
        if not line.startswith("#"):
            yield f"locale {line}", {"generated": "yes"}


def zone_link(place: Place) -> Iterator[Stated]:
    """``/etc/localtime``; a copy in place of a link does not tell its name."""
    if place.target is not None:
        match = _ZONE.fullmatch(place.target)
        yield "localtime", {"zone": text(match[1] if match else place.target)}
    elif place.data is not None:
        yield "localtime", {"zone": "a copied file"}


def zone_name(place: Place) -> Iterator[Stated]:
    """``/etc/timezone`` of Debian."""
    for line in place.lines():
        yield "timezone", {"zone": line}
        return


def hardware_clock(place: Place) -> Iterator[Stated]:
    """``/etc/adjtime``: a clock that keeps local time. What else stands there is its drift, and UTC is meant
    where nothing is said."""
    if [line.strip() for line in (place.data or b"").split(b"\n")[2:3]] == [b"LOCAL"]:
        yield HARDWARE_CLOCK, {"keeps": "local time"}


_BY_BASENAME = rb"(?:/etc|/usr/lib|/usr/local/lib|/lib|/run)"
SYSCTL_MAIN = b"/etc/sysctl.conf"
SYSCTL = Reader(
    SettingKind.SYSCTL, re.compile(rb"/etc/sysctl\.conf|" + _BY_BASENAME + rb"/sysctl\.d/[^/]+\.conf"), sysctl
)


def _reader(kind: SettingKind, pattern: bytes, parse: Parse, **more: bool) -> Reader:
    return Reader(kind, re.compile(pattern, re.DOTALL), parse, **more)


READERS = (
    _reader(
        SettingKind.MODULE,
        rb"/etc/modules|" + _BY_BASENAME + rb"/modules-load\.d/[^/]+\.conf",
        loaded_modules,
    ),
    _reader(SettingKind.MODULE, _BY_BASENAME + rb"/modprobe\.d/[^/]+\.conf", module_rules),
    _reader(SettingKind.MOUNT, rb"/etc/fstab", mounts),
    _reader(SettingKind.HOSTNAME, rb"/etc/hostname", host_name),
    _reader(SettingKind.HOSTS, rb"/etc/hosts", hosts),
    _reader(SettingKind.RESOLVER, rb"/etc/resolv\.conf", resolver, links=True),
    _reader(SettingKind.RESOLVER, rb"/etc/nsswitch\.conf", name_service),
    _reader(SettingKind.RESOLVER, rb"/etc/systemd/resolved\.conf(?:\.d/[^/]+\.conf)?", resolved),
    _reader(SettingKind.ALTERNATIVE, rb"/etc/alternatives/[^/]+", alternative, links=True),
    _reader(
        SettingKind.LOCALE, rb"/etc/(?:default/(?:locale|keyboard)|locale\.conf|vconsole\.conf)", variables
    ),
    _reader(SettingKind.LOCALE, rb"/etc/locale\.gen", made_locales),
    _reader(SettingKind.TIME_ZONE, rb"/etc/localtime", zone_link, links=True),
    _reader(SettingKind.TIME_ZONE, rb"/etc/timezone", zone_name),
    _reader(SettingKind.TIME_ZONE, rb"/etc/adjtime", hardware_clock),
)
