"""The process that reads rpm's databases: two sides from stdin, what differs on stdout, then it ends.

Packages whose headers are the same on both sides are left out: the answer grows with what changed.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tomllib
from typing import Any

from backend.changes.rpmdb.header import (
    ARCH,
    EPOCH,
    INSTALL_TIME,
    NAME,
    POST_SCRIPT,
    PRE_SCRIPT,
    RELEASE,
    SUMMARY,
    VERSION,
    BadHeader,
    Header,
)
from backend.changes.rpmdb.image import BadImage, opened
from backend.disks import wire
from backend.disks.confine import confine

MAX_PACKAGES = 50_000
MAX_SCRIPT_BYTES = 64 << 10
MAX_LINE_BYTES = 1000
_PULLED_IN = (1, 4)  # libdnf: DEPENDENCY, WEAK_DEPENDENCY
_REASONS = ("Dependency", "Weak Dependency")  # libdnf5's own words for these

Side = dict[str, bytes]


def headers(side: Side) -> set[bytes]:
    """All headers of a side; none where there is no database."""
    if not side.get("database"):
        return set()
    connection = opened(side["database"], side.get("log", b""), frozenset({"Packages"}))
    found: set[bytes] = set()
    for (blob,) in connection.execute("SELECT blob FROM Packages"):
        if not isinstance(blob, bytes) or len(found) == MAX_PACKAGES:
            raise BadImage("its packages make no sense")
        found.add(blob)
    return found


def package(blob: bytes) -> dict[str, Any]:
    """What a header says of its package."""
    header = Header(blob)
    epoch = header.number(EPOCH)
    scripts = b"\n".join((header.text(PRE_SCRIPT), header.text(POST_SCRIPT)))
    return {
        "name": wire.text(header.text(NAME)),
        "version": (f"{epoch}:" if epoch is not None else "")
        + wire.text(header.text(VERSION) + b"-" + header.text(RELEASE)),
        "arch": wire.text(header.text(ARCH)),
        "summary": wire.text(header.text(SUMMARY)),
        "installed_at": header.number(INSTALL_TIME) or 0,
        "files": [[wire.text(path), digest] for path, digest in header.files()],
        "scripts": wire.text(scripts[:MAX_SCRIPT_BYTES]),
    }


def pulled_in(side: Side) -> list[str]:
    """Names that dnf installed for others: of dnf5 as its state says, of the one before it from its history,
    where the last word on a name counts. Raises ValueError, or what SQLite does, for what cannot be read."""
    if side.get("reasons"):
        if any(len(line) > MAX_LINE_BYTES for line in side["reasons"].split(b"\n")):
            raise BadImage("a line that no dnf writes")  # a long key costs the square of its length
        return _by_state(tomllib.loads(side["reasons"].decode("utf-8")))
    if not side.get("history"):
        return []
    connection = opened(side["history"], side.get("history_log", b""), frozenset({"trans_item", "rpm"}))
    query = "SELECT r.name, t.reason FROM trans_item t JOIN rpm r ON r.item_id = t.item_id ORDER BY t.id"
    reasons = dict(connection.execute(query))
    return sorted(wire.text(name) for name, reason in reasons.items() if reason in _PULLED_IN)


def _by_state(state: dict[str, Any]) -> list[str]:
    """``[packages]`` of packages.toml: name and architecture to a reason (libdnf5, system/state.cpp)."""
    packages = state.get("packages")
    if not isinstance(packages, dict) or not all(isinstance(one, dict) for one in packages.values()):
        raise BadImage("its packages make no sense")
    return sorted(key.rpartition(".")[0] for key, one in packages.items() if one.get("reason") in _REASONS)


def answer(before: Side, after: Side) -> dict[str, Any]:
    """The packages that differ, by side, and who was pulled in."""
    old, new = headers(before), headers(after)
    told: dict[str, Any] = {
        "before": [package(blob) for blob in old - new],
        "after": [package(blob) for blob in new - old],
        "pulled_in": {"before": [], "after": []},
        "unread": False,
    }
    try:
        told["pulled_in"] = {"before": pulled_in(before), "after": pulled_in(after)}
    except (sqlite3.Error, ValueError, RecursionError):  # all count as wanted, which is said
        told["unread"] = True
    return told


def main() -> None:
    """Read the job, confine the process, answer."""
    job, parts = wire.parse(sys.stdin.buffer.read())
    confine(uid=job["uid"], memory_bytes=job["memory_bytes"], cpu_s=job["cpu_s"], files=3)
    sides = [
        {name: parts[at] for name, at in job[side].items() if at is not None} for side in ("before", "after")
    ]
    try:
        told = answer(*sides)
    except (BadImage, BadHeader) as error:
        told = {"refused": str(error)}
    except MemoryError:
        told = {"refused": f"it needs more than {job['memory_bytes'] >> 20} MB of memory"}
    except Exception as error:  # SQLite or a parser met what it cannot read: that is the answer
        told = {"refused": f"it is damaged ({type(error).__name__})"}
    for piece in wire.frame(told, []):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    os._exit(0)
