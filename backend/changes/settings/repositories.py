"""Where packages come from, and whom they are believed: sources, keys, pins, apt's settings.

Sources: sources.list(5), apt_preferences(5), apt.conf(5), dnf.conf(5), dpkg-statoverride(1), dpkg-divert(1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from backend.changes.settings import openpgp
from backend.changes.settings.fact import Parse, Place, Reader, Stated, text
from backend.models import SettingKind

MAX_FACTS = 1_000
ARCHITECTURE = "architecture "
_ONE_LINE = re.compile(r'(deb|deb-src)\s+(?:\[((?:"[^"]*"|[^\]"])*)\]\s*)?(\S+)\s+(\S+)\s*(.*)')
_QUOTED_WORD = re.compile(r'(?:"[^"]*"|[^\s"])+')
_SECTION = re.compile(r"\[([^\]]+)\]")
_APT_TOKENS = re.compile(r"\"[^\"]*\"?|//[^\n]*|/\*.*?(?:\*/|\Z)|#[^\n]*|[{};]|[^\s{};\"]+", re.DOTALL)


def one_line(place: Place) -> Iterator[Stated]:
    """``sources.list``: a source in each line."""
    for line in place.lines():
        if match := _ONE_LINE.fullmatch(line.partition(" #")[0]):
            kind, options, uri, suite, components = (part or "" for part in match.groups())
            values = {"type": kind, "components": " ".join(components.split())}
            for option in _QUOTED_WORD.findall(options):
                name, _, value = unquote(option.replace('"', "")).partition("=")  # as apt's ParseQuoteWord
                values[name.lower()] = value
            yield f"{uri} {suite}", values


def stanzas(place: Place) -> Iterator[Stated]:
    """``*.sources``: a source for each address and suite of a stanza."""
    made = 0
    for fields in _stanzas(place):
        values = {name: value for name, value in fields.items() if name not in ("uris", "suites") and value}
        if key := values.get("signed-by", ""):
            values["signed-by"] = _signer(key)
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                made += 1
                if made > MAX_FACTS:
                    return
                yield f"{uri} {suite}", values


def _signer(value: str) -> str:
    """A path as it is; a key that stands in the file by its fingerprint."""
    if "BEGIN PGP" not in value:
        return " ".join(value.split())
    keys = openpgp.keys(re.sub(r"(?m)^\s*\.?$", "", value).encode("utf-8", "surrogateescape"))
    return "key " + (" ".join(key.fingerprint for key in keys) or "that cannot be read")


def _stanzas(place: Place) -> Iterator[dict[str, str]]:
    fields: dict[str, list[str]] = {}
    last = ""
    for raw in [*(place.data or b"").split(b"\n"), b""]:
        line = text(raw).rstrip()
        if not line:
            if fields:
                yield {name: "\n".join(lines) for name, lines in fields.items()}
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last].append(line.strip())
        elif not line.startswith("#"):
            last, _, value = line.partition(":")
            last = last.lower()
            fields[last] = [value.strip()]


def pins(place: Place) -> Iterator[Stated]:
    """Which version of a package apt prefers."""
    for fields in _stanzas(place):
        if "pin" in fields:
            yield (
                f"pin of {fields.get('package', '')}",
                {"pin": fields["pin"], "priority": fields.get("pin-priority", "")},
            )


def repositories(place: Place) -> Iterator[Stated]:
    """``*.repo`` of dnf: a section each."""
    name = ""
    values: dict[str, str] = {}
    for line in place.lines():
        if line[0] in "#;":
            continue
        if match := _SECTION.fullmatch(line):
            if name:
                yield name, values
            name, values = match[1], {}
            continue
        key, separator, value = line.partition("=")
        if separator:
            values[key.strip()] = value.strip()
    if name:
        yield name, values


def apt_settings(place: Place) -> Iterator[Stated]:
    """``apt.conf``: names with their scopes, and values."""
    scopes: list[str] = []
    words: list[str] = []
    for piece in _APT_TOKENS.findall(text(place.data or b"")):
        if piece.startswith(("//", "/*", "#")):
            continue
        if piece == "{" and len(scopes) < MAX_FACTS:
            scopes.append(words[0] if words else "")
            words = []
        elif piece in ("}", ";"):
            if words:
                quoted = len(words) == 1 and words[0].startswith('"')
                own = [] if quoted else words[:1]
                value = " ".join(words if quoted else words[1:]).replace('"', "")
                yield "::".join([*filter(None, scopes), *own]), {"value": value}
            words = []
            if piece == "}" and scopes:
                scopes.pop()
        else:
            words.append(piece)


def key_file(place: Place) -> Iterator[Stated]:
    """The OpenPGP keys of a keyring, by fingerprint."""
    keys = openpgp.keys(place.data or b"")
    for key in keys:
        yield key.fingerprint, {"owner": key.owner, "algorithm": key.algorithm, "made": key.made}
    if not keys and place.data:
        yield text(place.path), {"unreadable": "no OpenPGP key of a known form"}


def statoverrides(place: Place) -> Iterator[Stated]:
    """Owners and modes that dpkg keeps instead of a package's own."""
    for line in place.lines():
        user, group, mode, path = (line.split(" ", 3) + [""] * 3)[:4]
        yield f"mode of {path}", {"owner": f"{user}:{group}", "mode": mode}


def diversions(place: Place) -> Iterator[Stated]:
    """Files of a package that dpkg puts elsewhere: three lines each."""
    lines = list(place.lines())
    for path, to, package in zip(lines[::3], lines[1::3], lines[2::3], strict=False):
        yield f"diversion of {path}", {"to": to, "for": "a person" if package == ":" else package}


def architectures(place: Place) -> Iterator[Stated]:
    """Whose packages dpkg takes: the machine's own architecture and those that somebody added."""
    for line in place.lines():
        yield f"{ARCHITECTURE}{line}", {"packages": "are taken"}


def _reader(kind: SettingKind, pattern: bytes, parse: Parse) -> Reader:
    return Reader(kind, re.compile(pattern, re.DOTALL), parse)


READERS = (
    _reader(SettingKind.SOURCE, rb"/etc/apt/sources\.list(?:\.d/[^/]+\.list)?", one_line),
    _reader(SettingKind.SOURCE, rb"/etc/apt/sources\.list\.d/[^/]+\.sources", stanzas),
    _reader(SettingKind.SOURCE, rb"/etc/apt/preferences(?:\.d/[^/]+)?", pins),
    _reader(SettingKind.SOURCE, rb"/etc/(?:yum\.repos\.d/[^/]+\.repo|dnf/dnf\.conf|yum\.conf)", repositories),
    _reader(SettingKind.APT, rb"/etc/apt/apt\.conf(?:\.d/[^/]+)?", apt_settings),
    _reader(SettingKind.DPKG, rb"/var/lib/dpkg/statoverride", statoverrides),
    _reader(SettingKind.DPKG, rb"/var/lib/dpkg/diversions", diversions),
    _reader(SettingKind.DPKG, rb"/var/lib/dpkg/arch", architectures),
    _reader(
        SettingKind.SOURCE_KEY,
        rb"/etc/apt/trusted\.gpg(?:\.d/[^/]+)?|/etc/apt/keyrings/[^/]+|/usr/share/keyrings/[^/]+"
        rb"|/etc/pki/rpm-gpg/[^/]+",
        key_file,
    ),
)
