"""Which hosts this machine's own apt fetches from: the default allow list.

Source: sources.list(5), both the one-line and the deb822 format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from backend.egress.policy import split_authority

_PORTS = {"http": 80, "https": 443}
_ONE_LINE = re.compile(r"\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(\S+)")


def default_allow(apt: Path = Path("/etc/apt")) -> list[str]:
    """``host:port`` of each http and https package source configured below ``apt``, sorted."""
    found = set()
    for uri in _uris(apt):
        parts = urlsplit(uri)
        port = _PORTS.get(parts.scheme)
        where = split_authority(parts.netloc.rpartition("@")[2], port) if port else None
        if where:
            host = f"[{where[0]}]" if ":" in where[0] else where[0]
            found.add(f"{host}:{where[1]}")
    return sorted(found)


def _uris(apt: Path) -> Iterator[str]:
    parts = apt / "sources.list.d"
    for file in [apt / "sources.list", *sorted(parts.glob("*.list"))]:
        if file.is_file():
            lines = file.read_text(errors="replace").splitlines()
            yield from (found[1] for line in lines if (found := _ONE_LINE.match(line)))
    for file in sorted(parts.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text(errors="replace")):
            yield from _stanza_uris(stanza)


def _stanza_uris(stanza: str) -> list[str]:
    """The URIs field of a deb822 stanza, continuation lines included; none when it is disabled."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t"):
            fields[name] = fields.get(name, "") + " " + line.strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()
    return [] if fields.get("enabled", "yes").lower() in ("no", "false") else fields.get("uris", "").split()
