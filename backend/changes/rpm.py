"""What rpm and dnf say of packages: the front of the confined reader, and the difference of two databases.

Only the SQLite form is read (rpm 4.16 and newer); the older forms are named in a note.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.disks import Comparison, DiskReader, wire
from backend.errors import DiskUnreadable
from backend.models import ChangeVerb, PackageChange

DATABASES = (b"/usr/lib/sysimage/rpm/rpmdb.sqlite", b"/var/lib/rpm/rpmdb.sqlite")
HISTORY = b"/var/lib/dnf/history.sqlite"
REASONS = b"/usr/lib/sysimage/libdnf5/packages.toml"
OLDER = (b"/var/lib/rpm/Packages", b"/var/lib/rpm/Packages.db", b"/usr/lib/sysimage/rpm/Packages.db")
MAX_DATABASE_BYTES = 256 << 20
KEY_PACKAGE = "gpg-pubkey"  # rpm keeps keys that it believes as packages of this name
_MEMORY_BYTES = 1 << 30
_TIMEOUT_S = 30
_NOBODY_UID = 65534
_START = "import sys; sys.path[:0] = sys.argv[1:]; from backend.changes.rpmdb.worker import main; main()"
_PROGRAM_ROOT = str(Path(__file__).resolve().parents[2])
_LOG = b"-wal"


@dataclass(frozen=True)
class Rpm:
    """A package that differs. ``files``: path → SHA-256 as shipped, empty for none."""

    name: str
    version: str
    arch: str
    summary: str
    installed_at: int
    files: Mapping[bytes, str]
    scripts: str


@dataclass(frozen=True)
class Rpms:
    """Packages that differ, by side; names that were pulled in, by side; what could not be read, and why."""

    before: tuple[Rpm, ...] = ()
    after: tuple[Rpm, ...] = ()
    pulled_in_before: frozenset[str] = frozenset()
    pulled_in: frozenset[str] = frozenset()
    note: str = ""


async def read(
    reader: DiskReader, comparison: Comparison, before: Sequence[Path], after: Sequence[Path]
) -> Rpms:
    """What differs; nothing where no database of rpm changed."""
    changed = {pair.path for pair in comparison.pairs}
    if older := changed.intersection(OLDER):
        name = min(older).decode()
        return Rpms(note=f"{name}: packages are not told, this form of rpm's database is not read")
    touched = [one for one in DATABASES if changed & {one, one + _LOG}]
    if not touched and changed.isdisjoint((HISTORY, HISTORY + _LOG, REASONS)):
        return Rpms()
    names = dict(_files(touched[0] if touched else DATABASES[-1]))
    paths = tuple(names.values())
    sides = await asyncio.gather(
        *(reader.read(layers, paths, MAX_DATABASE_BYTES) for layers in (before, after))
    )
    try:
        told = await _ask([{name: side[path] for name, path in names.items()} for side in sides])
    except DiskUnreadable as error:
        return Rpms(note=f"{names['database'].decode()}: packages are not told, {error.message}")
    return await asyncio.to_thread(_rpms, told)


def _rpms(told: Mapping[str, Any]) -> Rpms:
    marked = told["pulled_in"]
    return Rpms(
        tuple(_rpm(row) for row in told["before"]),
        tuple(_rpm(row) for row in told["after"]),
        frozenset(map(str, marked["before"])),
        frozenset(map(str, marked["after"])),
        "dnf's own notes cannot be read: which packages were pulled in is not told" if told["unread"] else "",
    )


def untold(comparison: Comparison) -> Rpms:
    """A guest is not asked for its database: a note says so where one changed."""
    files = {*DATABASES, *OLDER, HISTORY}
    files |= {one + _LOG for one in files} | {REASONS}  # a running guest writes to a log first
    changed = sorted({pair.path for pair in comparison.pairs}.intersection(files))
    return (
        Rpms(note=f"{changed[0].decode()}: packages are not told, a guest is not asked for it")
        if changed
        else Rpms()
    )


def _files(database: bytes) -> list[tuple[str, bytes]]:
    files = (("database", database), ("log", database + _LOG))
    return [*files, ("history", HISTORY), ("history_log", HISTORY + _LOG), ("reasons", REASONS)]


async def _ask(sides: Sequence[Mapping[str, bytes | None]]) -> dict[str, Any]:
    """One confined process, one answer. Raises :class:`DiskUnreadable`."""
    blobs = wire.Blobs()
    job: dict[str, Any] = {
        side: {name: blobs.add(data) for name, data in files.items()}
        for side, files in zip(("before", "after"), sides, strict=True)
    }
    job |= {"uid": _NOBODY_UID, "memory_bytes": _MEMORY_BYTES, "cpu_s": _TIMEOUT_S}
    asked = await asyncio.to_thread(b"".join, wire.frame(job, blobs.parts))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _START, _PROGRAM_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"LANG": "C.UTF-8"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, _ = await process.communicate(asked)
    except TimeoutError:
        raise DiskUnreadable(f"reading it took longer than {_TIMEOUT_S} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    told, _ = await asyncio.to_thread(wire.parse, out)
    if "refused" in told:
        raise DiskUnreadable(str(told["refused"]))
    return told


def _rpm(row: Mapping[str, Any]) -> Rpm:
    return Rpm(
        _text(row["name"]), _text(row["version"]), _text(row["arch"]), _text(row["summary"]),
        int(row["installed_at"]), {wire.raw(path): str(digest) for path, digest in row["files"]},
        _text(row["scripts"]),
    )  # fmt: skip


def _text(value: str) -> str:
    return wire.raw(value).decode("utf-8", "backslashreplace")


def package_changes(rpms: Rpms) -> list[PackageChange]:
    """Added, removed, upgraded; a package of which several versions may stand beside each other (a kernel)
    comes and goes by its version."""
    old, new = _by_name(rpms.before), _by_name(rpms.after)
    found = []
    for name, arch in sorted(old.keys() | new.keys()):
        was, now = old.get((name, arch), []), new.get((name, arch), [])
        pulled_in = rpms.pulled_in if now else rpms.pulled_in_before
        shared = {"name": name, "arch": arch, "wanted": name not in pulled_in}
        if len(was) == len(now) == 1:
            versions = {"before_version": was[0].version, "after_version": now[0].version}
            if was[0].version != now[0].version:
                found.append(PackageChange(verb=ChangeVerb.MODIFIED, **versions, **shared))
            continue
        found += [PackageChange(verb=ChangeVerb.REMOVED, before_version=one.version, **shared) for one in was]
        found += [PackageChange(verb=ChangeVerb.ADDED, after_version=one.version, **shared) for one in now]
    return found


def _by_name(packages: Sequence[Rpm]) -> dict[tuple[str, str], list[Rpm]]:
    found: dict[tuple[str, str], list[Rpm]] = {}
    for one in packages:
        if one.name != KEY_PACKAGE:
            found.setdefault((one.name, one.arch), []).append(one)
    return found
