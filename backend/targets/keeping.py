"""What a target has where an apply touches it, kept before the apply so that a roll back can lead there.

It is asked over SSH as the runner asks, by a program that leaves nothing behind, within limits of names,
bytes and time. What is kept is sealed under a key of the installation, one file a target: its secrets lie
there and nowhere else.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import shlex
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backend.changes import LIMITS, Told
from backend.changes.told import SHADOW, checked, parse_contents
from backend.disks import Content, wire
from backend.disks.links import leads_to
from backend.disks.records import Node
from backend.disks.survey import is_shipped
from backend.errors import DiskUnreadable, NotFound, TargetDown
from backend.guests import contents_job, names_job, program
from backend.models import KEPT_FOR, now, wire_path
from backend.targets.targets import ResolvedTarget, Targets
from backend.whole_files import write_whole

ASK_S = 120
NAMES_BYTES = 64 << 20
TREE_NAMES = 20_000  # of one tree
FOLLOWED = 4  # times that a target is asked for what is behind links
OWN_BYTES = 256 << 10  # of a file in a folder that is only looked through
CONTENTS = {"file_bytes": 8 << 20, "total_bytes": 64 << 20, "hash_bytes": 256 << 20}
HEAD_BYTES = 16 << 20
ERROR_BYTES = 64 << 10
KEPT_BYTES = 1 << 30  # of all targets
_NEVER = "logs, caches and temporary files never are"
_PIECE_BYTES = 1 << 16
_NONCE_BYTES = 12


@dataclass(frozen=True)
class Wanted:
    """What an apply may touch: ``names``, and ``trees`` with all that is in them. Of ``sums`` among the names
    a package brings the content, so that its sum is enough. ``folders`` are looked through to understand the
    rest."""

    names: frozenset[bytes]
    trees: frozenset[bytes] = frozenset()
    sums: frozenset[bytes] = frozenset()
    folders: frozenset[bytes] = frozenset()

    def covers(self, path: bytes) -> bool:
        """Whether the apply may have touched a path."""
        return path in self.names or self.in_tree(path)

    def in_tree(self, path: bytes) -> bool:
        return any(path == top or path.startswith(top + b"/") for top in self.trees)


@dataclass(frozen=True)
class Kept:
    """What a target told at one moment, with its secrets. ``cut``: trees of too many names."""

    told: Told
    wanted: Wanted
    cut: frozenset[bytes] = frozenset()

    @cached_property
    def left_out(self) -> dict[bytes, str]:
        """Path → why what stands there is not kept, or not known."""
        found = dict.fromkeys(self.cut & self.wanted.trees, f"more than {TREE_NAMES} names")
        for path, content in self.told.contents.items():
            if content.data is None and self.wanted.covers(path) and path not in self.wanted.sums:
                found[path] = content.withheld
        for path in self.wanted.names:
            if link := self._behind(path):
                found[path] = f"{wire_path(link)} is a link there"
        return found

    def is_left_out(self, path: bytes) -> bool:
        """Whether a path, or a tree around it, is left out."""
        return any(path == one or (one in self.cut and path.startswith(one + b"/")) for one in self.left_out)

    def _behind(self, path: bytes) -> bytes:
        """The link among the folders above a path; empty for none."""
        while path := path.rpartition(b"/")[0]:
            node = self.told.nodes.get(path)
            if node is not None:
                return path if stat.S_ISLNK(node.mode) else b""
        return b""

    def dump(self) -> bytes:
        """Compressed."""
        named = ("names", "trees", "sums", "folders")
        sets = {name: [wire.text(path) for path in sorted(getattr(self.wanted, name))] for name in named}
        head = {"wanted": sets, "cut": [wire.text(path) for path in sorted(self.cut)]}
        return zlib.compress(b"".join(wire.frame(head, [piece.data for piece in self.told.pieces()])), 1)

    @classmethod
    def load(cls, data: bytes) -> Kept:
        """What :meth:`dump` gave."""
        head, told = wire.parse(zlib.decompress(data))
        sets = {name: frozenset(map(wire.raw, paths)) for name, paths in head["wanted"].items()}
        return cls(Told.of(told), Wanted(**sets), frozenset(map(wire.raw, head["cut"])))


@dataclass(frozen=True)
class _Names:
    """What stands on a target, of regular files the sizes, and of which of them the bytes are to be kept, or
    the sums alone (False)."""

    packed: bytes
    sizes: Mapping[bytes, int]
    keep: Mapping[bytes, bool]
    cut: frozenset[bytes]


class Keeper:
    """Asks targets, and keeps what they told. ``folder`` is ours alone; ``key`` has 32 bytes."""

    def __init__(self, targets: Targets, folder: Path, key: bytes) -> None:
        self._targets, self._folder, self._cipher = targets, folder, AESGCM(key)
        self._print_key = hmac.digest(key, b"fingerprints of what targets have", "sha256")

    async def look(self, name: str, wanted: Wanted) -> Kept:
        """What the target has now.

        Raises:
            TargetDown: it does not answer, has no python3, or tells too much.
        """
        (target,) = self._targets.resolve([name])
        with _readable(name):
            names = await self._names(target, wanted)
            job = contents_job(b"/", names.keep, CONTENTS)
            told = await self._ask(target, job, CONTENTS["total_bytes"] + HEAD_BYTES)
            contents = await asyncio.to_thread(parse_contents, names.keep, told)
        return Kept(Told(names.packed, contents), wanted, names.cut)

    async def not_kept(self, name: str, wanted: Wanted) -> dict[bytes, str]:
        """Path → why :meth:`keep` would leave it out now, by the sizes. Raises as :meth:`look` does."""
        (target,) = self._targets.resolve([name])
        with _readable(name):
            names = await self._names(target, wanted)
        contents, left = {}, CONTENTS["total_bytes"]
        for path, whole in names.keep.items():
            size = names.sizes[path]
            fits = whole and size <= min(CONTENTS["file_bytes"], left)
            left -= size if fits else 0
            data = b"" if fits else None
            contents[path] = Content(size, None, None, data, _too_much(size) if whole else _NEVER)
        return Kept(Told(names.packed, contents), wanted, names.cut).left_out

    async def _names(self, target: ResolvedTarget, wanted: Wanted) -> _Names:
        names = wanted.names | wanted.folders
        job = names_job(names, wanted.trees | wanted.folders, TREE_NAMES)
        head, (packed,) = wire.parse(await self._ask(target, job, NAMES_BYTES))
        nodes = await asyncio.to_thread(checked, packed)
        sizes = {path: node.size for path, node in nodes.items() if stat.S_ISREG(node.mode)}
        keep = {
            path: kept
            for path, size in sorted(sizes.items(), key=lambda row: (row[0] not in LIMITS.whole, row[0]))
            if (kept := _is_kept(path, size, wanted)) is not None
        }
        return _Names(packed, sizes, keep, frozenset(map(wire.raw, head["cut"])))

    async def fingerprint(self, name: str, paths: frozenset[bytes], accounts: frozenset[str]) -> str:
        """What stands at ``paths`` and the passwords of ``accounts``, as an HMAC: it tells whether that is
        the same and no more. Links are followed, as a task follows them. Of the files only sums leave the
        target. Raises as :meth:`look` does."""
        shadow = {SHADOW} if accounts else set[bytes]()
        for _ in range(FOLLOWED):
            told = (await self.look(name, Wanted(paths | shadow, sums=paths))).told
            behind = {_behind(told, path) for path in paths} - {b"/"}
            if behind <= paths:
                break
            paths |= behind
        parts = [part for path in sorted(paths) for part in (path, _stands(told, told.nodes.get(path)))]
        if (databases := told.contents.get(SHADOW)) is not None:
            lines = (line.split(b":") for line in (databases.data or b"").split(b"\n"))
            parts += [b"\0".join(line[:2]) for line in lines if line[0].decode("latin-1") in accounts]
        text = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._print_key, name.encode() + b"\0" + text, "sha256").hex()

    async def keep(self, run_id: str, name: str, wanted: Wanted) -> Kept:
        """Look, and keep it for a roll back of ``run_id``. Raises as :meth:`look` does."""
        found = await self.look(name, wanted)
        await asyncio.to_thread(self._write, run_id, name, found.dump())
        return found

    async def kept(self, run_id: str, name: str) -> Kept:
        """What the target had before that run.

        Raises:
            NotFound: it was not kept, or no longer is, or somebody altered it.
        """
        try:
            sealed = await asyncio.to_thread(self._file(run_id, name).read_bytes)
            nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            data = await asyncio.to_thread(self._cipher.decrypt, nonce, text, _bound(run_id, name))
        except (FileNotFoundError, InvalidTag, ValueError):
            raise NotFound(
                f"what {name} had before {run_id} is not kept (it is for {KEPT_FOR.days} days, and of all "
                f"targets the last {KEPT_BYTES >> 30} GiB)",
                remedy="take it back by hand",
            ) from None
        return await asyncio.to_thread(Kept.load, data)

    async def age(self) -> None:
        """Forget what is too old, and the oldest of too much."""
        await asyncio.to_thread(self._age)

    def _age(self) -> None:
        oldest = (now() - KEPT_FOR).timestamp()
        left = KEPT_BYTES
        files = [(path, path.stat()) for path in self._folder.iterdir()]
        for path, found in sorted(files, key=lambda row: -row[1].st_mtime):
            left -= found.st_size
            if left < 0 or found.st_mtime < oldest:
                path.unlink()

    def _write(self, run_id: str, name: str, data: bytes) -> None:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, data, _bound(run_id, name))
        write_whole(self._file(run_id, name), sealed)

    def _file(self, run_id: str, name: str) -> Path:
        return self._folder / f"{run_id}.{name}"

    async def _ask(self, target: ResolvedTarget, job: Mapping[str, Any], limit_bytes: int) -> bytes:
        become = ["sudo", "-n", "--"] if target.become and target.user != "root" else []
        argv = self._targets.ssh(target, "exec " + shlex.join([*become, *program()]))
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(ASK_S):
                told, errors = await _exchange(process, json.dumps(job).encode(), limit_bytes)
                if len(told) > limit_bytes:
                    raise _down(target.name, f"it tells more than {limit_bytes} bytes")
                await process.wait()
        except TimeoutError:
            raise _down(target.name, f"no answer within {ASK_S} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()  # what nobody reads would hold up its end for ever
        if process.returncode:
            lines = errors.decode("utf-8", "replace").strip().splitlines()
            raise _down(target.name, lines[-1][:200] if lines else f"ssh ended with {process.returncode}")
        return told


async def _exchange(
    process: asyncio.subprocess.Process, message: bytes, limit_bytes: int
) -> tuple[bytes, bytes]:
    """What it prints, at most a byte more than the limit, and its errors; of one that prints more none, since
    it does not end while nobody reads."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise ValueError("the process has no pipes")
    told = asyncio.create_task(_read(process.stdout, limit_bytes))
    errors = asyncio.create_task(_read(process.stderr, ERROR_BYTES))
    try:
        process.stdin.write(message)
        process.stdin.write_eof()
        printed = await told
        return printed, b"" if len(printed) > limit_bytes else await errors
    finally:
        for task in (told, errors):
            task.cancel()


async def _read(stream: asyncio.StreamReader, limit_bytes: int) -> bytes:
    found = bytearray()
    while len(found) <= limit_bytes and (piece := await stream.read(_PIECE_BYTES)):
        found += piece
    return bytes(found[: limit_bytes + 1])


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (DiskUnreadable, KeyError, TypeError, ValueError) as error:
        raise _down(name, f"it cannot be read: {error}") from error


def _too_much(size: int) -> str:
    limit = CONTENTS["file_bytes"]
    return f"over {limit >> 20} MiB" if size > limit else f"over {CONTENTS['total_bytes'] >> 20} MiB in all"


def _is_kept(path: bytes, size: int, wanted: Wanted) -> bool | None:
    """Whether the bytes of a regular file are asked for, or its sums alone (False), or nothing."""
    if path in LIMITS.whole:
        return True
    if wanted.covers(path):
        return path not in wanted.sums and not path.startswith(LIMITS.opaque)
    return True if size <= OWN_BYTES and not is_shipped(path) else None


def _behind(told: Told, path: bytes) -> bytes:
    """Where a path comes to by the links that were told."""
    nodes = told.nodes
    return leads_to(path + b"/", lambda at: nodes[at].target if at in nodes else None)


def _stands(told: Told, node: Node | None) -> bytes:
    """What counts of a name: all but its times, and where it lies on the disk."""
    if node is None:
        return b""
    content = told.content(node)
    what = (node.mode, node.uid, node.gid, node.rdev, node.target, node.xattrs)
    return repr((*what, (content.size, content.sha256) if content else ())).encode()


def _bound(run_id: str, name: str) -> bytes:
    """What a sealed file is for: one that lies under another name does not open."""
    return f"{run_id}/{name}".encode()


def _down(name: str, why: str) -> TargetDown:
    return TargetDown(f"{name}: {why}", remedy=f"`fluid targets check {name}` tries a login")
