"""The front end: opens images, starts one confined worker for each question, and gives typed answers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import sysconfig
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from backend.disks import wire
from backend.disks.door import Door
from backend.disks.elsewhere import Elsewhere as Elsewhere
from backend.disks.paged import PAGE_BYTES as PAGE_BYTES
from backend.disks.paged import Pages
from backend.disks.pieces import Piece, digest, records
from backend.disks.records import Node, count, unpack
from backend.errors import DiskUnreadable
from backend.models.change import FileKind, wire_path
from backend.together import together

NOBODY_UID = 65534
_START = "import sys; sys.path[:0] = sys.argv[1:]; from backend.disks.worker import main; main()"
_PROGRAM_ROOT = str(Path(__file__).resolve().parents[2])
_KINDS = {
    0x8000: FileKind.FILE,
    0x4000: FileKind.DIRECTORY,
    0xA000: FileKind.LINK,
    0x2000: FileKind.CHARACTER,
    0x6000: FileKind.BLOCK,
    0x1000: FileKind.FIFO,
    0xC000: FileKind.SOCKET,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One name on a disk. ``path`` is absolute; ``mode`` holds permission bits only (0o7777)."""

    path: bytes
    kind: FileKind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    links: int
    target: bytes | None
    rdev: tuple[int, int] | None
    xattrs: tuple[tuple[bytes, bytes], ...]
    sha256: str | None = None


class Entries(Collection[Entry]):
    """The names of a manifest. Each is made when it is looked at: a snapshot only counts them."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return sum(count(piece.data) for piece in self._pieces)

    def __iter__(self) -> Iterator[Entry]:
        return (entry_of(node) for piece in self._pieces for node in unpack(piece.data))

    def __contains__(self, entry: object) -> bool:
        return any(entry == one for one in self)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All names of a disk at one point, in pieces (:mod:`backend.disks.pieces`): equal trees have equal
    ones."""

    pieces: tuple[Piece, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the names of the pieces: the name of the whole."""
        return digest(piece.part for piece in self.pieces)

    @property
    def entries(self) -> Entries:
        """Sorted by path."""
        return Entries(self.pieces)


@dataclasses.dataclass(frozen=True, slots=True)
class ContentLimits:
    """How much content a comparison hands over, and what of both sides it reads whole."""

    file_bytes: int = 16 << 20
    total_bytes: int = 128 << 20
    hash_bytes: int = 2 << 30
    opaque: tuple[bytes, ...] = ()  # folders, with a final slash, whose files are fingerprinted and no more
    whole: tuple[bytes, ...] = ()  # files; the password fields of /etc/shadow and gshadow come masked
    listed: tuple[bytes, ...] = ()  # folders, two levels deep


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """A regular file's content. ``data`` is None when withheld, and ``withheld`` says why. ``facts`` are what
    a certificate or key declares."""

    size: int
    sha256: str | None
    md5: str | None
    data: bytes | None
    withheld: str
    facts: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A path that differs by more than times. ``same_content``: nothing wrote to it, whether it was hashed or
    not. ``went_ns``: when it was removed, where that is known."""

    before: Entry | None
    after: Entry | None
    before_content: Content | None
    after_content: Content | None
    same_content: bool = False
    went_ns: int | None = None

    @property
    def path(self) -> bytes:
        """The path, the same on both sides."""
        return (self.after or self.before).path  # type: ignore[union-attr]


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A name in a listed folder; ``kind`` is ``f``, ``d``, ``l`` or ``o``."""

    path: bytes
    kind: str
    target: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """What was read of one side as asked in :class:`ContentLimits`; empty when nothing differs."""

    whole: dict[bytes, bytes | None] = dataclasses.field(default_factory=dict)
    listed: dict[bytes, tuple[Listed, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two points, sorted by path."""

    pairs: tuple[Pair, ...]
    before: Side
    after: Side
    elsewhere: tuple[Elsewhere, ...] = ()  # of the later point, and in none of the pairs


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """What a disk holds. ``names``: what is at each path asked for; ``secrets``: path and kind; ``cut``:
    there may be more of them."""

    names: dict[bytes, Listed]
    secrets: tuple[tuple[bytes, str], ...]
    cut: bool
    elsewhere: tuple[Elsewhere, ...] = ()


class DiskReader:
    """Reads disks. Layers are given base first, each a frozen image; backing names in them are ignored."""

    def __init__(
        self, *, run_as_uid: int | None = None, timeout_s: float = 60, memory_mb: int = 1024
    ) -> None:
        """``run_as_uid``: what a worker of root becomes; nobody's uid by default."""
        self._uid = NOBODY_UID if run_as_uid is None else run_as_uid
        self._timeout_s = timeout_s
        self._memory_bytes = memory_mb << 20

    async def manifest(self, layers: Sequence[Path]) -> Manifest:
        """All names of a disk. Raises :class:`DiskUnreadable`."""
        _, blobs = await self._ask({"task": "manifest"}, (), layers)
        return Manifest(tuple(map(Piece.of, blobs)))

    async def edits(self, before: Sequence[Path], after: Sequence[Path]) -> dict[bytes, bytes | None]:
        """What makes the manifest of ``before`` that of ``after``: path → its record now, None where the name
        is gone. Found from the blocks that differ, so all that can have changed is there, and records that
        did not may be too. Raises :class:`DiskUnreadable`, also when the two share no layer."""
        head, blobs = await self._ask({"task": "edits"}, before, after)
        gone: dict[bytes, bytes | None] = {wire.raw(path): None for path in head["gone"]}
        return gone | dict(records(blobs[0]))

    async def read(
        self, layers: Sequence[Path], paths: Sequence[bytes], limit_bytes: int, pages: Pages | None = None
    ) -> dict[bytes, bytes | None]:
        """Whole regular files; None for what is not there or longer than ``limit_bytes``. Links on the way
        are not followed. Secrets are not withheld: the caller answers for them. ``pages`` brings what is not
        in the layers yet."""
        job = {"task": "read", "paths": [wire.text(path) for path in paths], "limit_bytes": limit_bytes}
        head, blobs = await self._ask(job, (), layers, pages)
        return {path: _blob(at, blobs) for path, at in zip(paths, head["files"], strict=True)}

    async def led(self, layers: Sequence[Path], paths: Sequence[bytes]) -> list[bytes]:
        """Where each name comes to by the links on the way, and at its end where it has a final slash. Raises
        :class:`DiskUnreadable`."""
        job = {"task": "led", "paths": [wire.text(path) for path in paths]}
        head, _ = await self._ask(job, (), layers)
        return [wire.raw(path) for path in head["paths"]]

    async def survey(
        self, layers: Sequence[Path], paths: Sequence[bytes], pages: Pages | None = None
    ) -> Survey:
        """Which of ``paths`` are there, and which files hold secrets: no more of them, where ``pages`` brings
        no more. Raises :class:`DiskUnreadable`."""
        job = {"task": "survey", "paths": [wire.text(path) for path in paths]}
        head, _ = await self._ask(job, (), layers, pages)
        named = zip(paths, head["names"], strict=True)
        names = {path: Listed(path, kind, wire.raw(target)) for path, (kind, target) in named if kind}
        secrets = tuple((wire.raw(path), str(kind)) for path, kind in head["secrets"])
        return Survey(names, secrets, bool(head["cut"]), _elsewhere(head["elsewhere"]))

    async def compare(
        self, before: Sequence[Path], after: Sequence[Path], *, contents: ContentLimits
    ) -> Comparison:
        """What differs between two points of one lineage. Raises :class:`DiskUnreadable`, also when the two
        share no layer."""
        job = {
            "task": "compare",
            "file_bytes": contents.file_bytes,
            "total_bytes": contents.total_bytes,
            "hash_bytes": contents.hash_bytes,
            "large_s": self._timeout_s / 2,
            "opaque": [wire.text(path) for path in contents.opaque],
            "whole": [wire.text(path) for path in contents.whole],
            "listed": [wire.text(path) for path in contents.listed],
        }
        head, blobs = await self._ask(job, before, after)
        facts = await self._declared(head["pairs"], blobs, before, after)
        return await asyncio.to_thread(_comparison, head, blobs, facts)

    async def _declared(
        self, rows: list[Any], blobs: list[bytes], before: Sequence[Path], after: Sequence[Path]
    ) -> dict[str, dict[str, dict[str, str]]]:
        """Facts of certificates and keys, for each side by path; asked only when there may be any."""
        paths = {
            side: [wire.text(_node(row[at], blobs).path) for row in rows if row[at + 2] and row[at + 2][5]]
            for at, side in enumerate(("before", "after"))
        }
        if not any(paths.values()):
            return {"before": {}, "after": {}}
        head, _ = await self._ask({"task": "declared", "paths": paths}, before, after)
        return {"before": dict(head["before"]), "after": dict(head["after"])}

    async def _ask(
        self,
        job: dict[str, Any],
        before: Sequence[Path],
        after: Sequence[Path],
        pages: Pages | None = None,
    ) -> tuple[dict[str, Any], list[bytes]]:
        """One worker, one job, one answer."""
        with contextlib.ExitStack() as stack:
            chains: dict[str, list[tuple[int, str]]] = {"before": [], "after": []}
            for side, layers in (("before", before), ("after", after)):
                for layer in layers:
                    fd = _open(layer)
                    stack.callback(os.close, fd)
                    chains[side].append((fd, layer.name))
            fds = [fd for chain in chains.values() for fd, _ in chain]
            door = Door(after, pages) if pages else None
            if door:
                stack.callback(door.close)
                fds.append(door.theirs.fileno())
            limits = {
                "uid": self._uid,
                "memory_bytes": self._memory_bytes,
                "cpu_s": max(int(self._timeout_s), 1),
                "open_files": max(fds, default=2) + 1,
                "door": fds[-1] if door else None,
            }
            data = await self._run(json.dumps({**job, **chains, **limits}).encode(), fds, job["task"], door)
        head, blobs = await asyncio.to_thread(wire.parse, data)
        if "refused" in head:
            raise DiskUnreadable(str(head["refused"]), remedy=str(head.get("remedy", "")))
        return head, blobs

    async def _run(self, job: bytes, fds: Sequence[int], task: str, door: Door | None) -> bytes:
        libraries = (
            [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")] if task == "declared" else []
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", _START, _PROGRAM_ROOT, *libraries,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=fds,
            env={"LANG": "C.UTF-8"},
            limit=1 << 20,
        )  # fmt: skip
        out: bytes
        err: bytes
        try:
            async with asyncio.timeout(self._timeout_s):
                answering = [door.answer()] if door else []
                (out, err), *_ = await together(process.communicate(job), *answering)
        except TimeoutError:
            raise DiskUnreadable(
                f"reading the disk took longer than {self._timeout_s:g} s",
                remedy="try again, or raise the limit",
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            words = err.decode("utf-8", "replace").strip().splitlines()
            last = words[-1][:200] if words else "it met a limit"
            raise DiskUnreadable(f"the disk reader ended with {process.returncode}: {last}")
        return out


def _open(layer: Path) -> int:
    try:
        return os.open(layer, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DiskUnreadable(f"layer {layer.name}: {error.strerror}") from error


def entry_of(node: Node, sha256: str | None = None) -> Entry:
    """A name as others see it. Raises :class:`DiskUnreadable` for a kind that Linux does not know."""
    kind = _KINDS.get(node.mode & 0xF000)
    if kind is None:
        raise DiskUnreadable(f"inode {node.inode} is of an unknown kind {node.mode:#o}")
    return Entry(
        node.path, kind, node.mode & 0o7777, node.uid, node.gid, node.size, node.mtime_ns, node.ctime_ns,
        node.inode, node.links, node.target, node.rdev, node.xattrs, sha256,
    )  # fmt: skip


def named(one: Elsewhere) -> str:
    """As in ``/var (partition 2, 4.0 GiB)``."""
    points = ", ".join(map(wire_path, one.points)) or "nothing that /etc/fstab names"
    return f"{points} (partition {one.number}, {one.size / (1 << 30):.1f} GiB)"


def _blob(at: int | None, blobs: list[bytes]) -> bytes | None:
    return None if at is None else blobs[at]


def _node(at: int, blobs: list[bytes]) -> Node:
    return next(unpack(blobs[at]))


def _content(row: list[Any] | None, blobs: list[bytes], facts: dict[str, str] | None) -> Content | None:
    if row is None:
        return None
    size, sha256, md5, data, withheld, _declares = row
    return Content(size, sha256, md5, _blob(data, blobs), withheld, facts)


def _pair(row: list[Any], blobs: list[bytes], facts: dict[str, dict[str, dict[str, str]]]) -> Pair:
    entries: list[Entry | None] = []
    contents: list[Content | None] = []
    for at, side in enumerate(("before", "after")):
        node = _node(row[at], blobs) if row[at] is not None else None
        content = _content(row[at + 2], blobs, facts[side].get(wire.text(node.path)) if node else None)
        entries.append(entry_of(node, content.sha256 if content else None) if node else None)
        contents.append(content)
    known = {"same_content": bool(row[4]), "went_ns": row[5]}
    return Pair(entries[0], entries[1], contents[0], contents[1], **known)


def _comparison(
    head: dict[str, Any], blobs: list[bytes], facts: dict[str, dict[str, dict[str, str]]]
) -> Comparison:
    """Of as many pairs as a guest likes: blocking."""
    pairs = tuple(_pair(row, blobs, facts) for row in head["pairs"])
    old, new = (_side(head.get(side, {}), blobs) for side in ("before", "after"))
    return Comparison(pairs, old, new, _elsewhere(head["elsewhere"]))


def _elsewhere(rows: list[Any]) -> tuple[Elsewhere, ...]:
    return tuple(
        Elsewhere(number, size, role, tuple(map(wire.raw, points))) for number, size, role, points in rows
    )


def _side(head: dict[str, Any], blobs: list[bytes]) -> Side:
    listed = {
        wire.raw(folder): tuple(Listed(wire.raw(path), kind, wire.raw(target)) for path, kind, target in rows)
        for folder, rows in head.get("listed", {}).items()
    }
    return Side({wire.raw(path): _blob(at, blobs) for path, at in head.get("whole", {}).items()}, listed)
