"""Damages the books of a file system at random and says what the reader makes of each, in a limited process.

``python -m tests.unit.disks.fuzzing IMAGE SEED COUNT [FOLDER]`` prints one JSON line a case: the seed, what
was damaged, and ``same`` (each entry and byte as before the damage), ``refused`` with the words, ``other``
with a digest, or ``failed`` with what went wrong. An image of a case that is ``other`` is kept in FOLDER.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import signal
import sys
from pathlib import Path

from backend.disks.compare import footprint
from backend.disks.directories import list_directory
from backend.disks.ext4 import S_IFDIR, S_IFMT, S_IFREG, Ext4
from backend.disks.files import chunks
from backend.disks.journal import open_filesystem
from backend.disks.partitions import find_filesystem
from backend.disks.records import unpack
from backend.disks.tree import manifest_pieces
from backend.errors import DiskUnreadable

CASE_LIMIT_S = 20
MEMORY_BYTES = 1 << 30
READ_BYTES = 32 << 20  # of longer files only the size counts
MOST_CHANGES = 6


class Memory:
    """A disk in memory: what :class:`backend.disks.layers.Disk` is to a reader of one file system."""

    def __init__(self, data: bytearray) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DiskUnreadable(f"bytes {offset} to {offset + length} are beyond the disk's {self.size}")
        return bytes(self.data[offset : offset + length])


def opened(data: bytearray) -> Ext4:
    disk = Memory(data)
    return open_filesystem(disk, *find_filesystem(disk))


def everything(data: bytearray) -> str:
    """A digest of all entries and of the contents of all files that are not huge."""
    fs = opened(data)
    packed = b"".join(manifest_pieces(fs))
    told = hashlib.sha256(packed)
    for node in unpack(packed):
        if node.mode & S_IFMT == S_IFREG and node.size <= READ_BYTES:
            for piece in chunks(fs, fs.inode(node.inode)):
                told.update(piece)
    return told.hexdigest()


def regions(data: bytearray) -> dict[str, list[tuple[int, int]]]:
    """Where the books lie: name → (byte offset, length)."""
    fs = opened(data)
    size = fs.block_size

    def blocks(numbers: set[int]) -> list[tuple[int, int]]:
        return [(number * size, size) for number in sorted(numbers)]

    inodes, extents, folders, attributes = [], set(), set(), set()
    for number in {node.inode for node in unpack(b"".join(manifest_pieces(fs)))} | {fs.journal_inode or 2}:
        group, index = divmod(number - 1, fs.inodes_per_group)
        inodes.append((fs.tables[group] * size + index * fs.inode_size, fs.inode_size))
        inode = fs.inode(number)
        visited: list[int] = []
        if inode.mode & S_IFMT in (S_IFREG, S_IFDIR):
            list(fs.extents(inode, visited))
        extents.update(visited)
        if inode.mode & S_IFMT == S_IFDIR:
            folders.update(list_directory(fs, inode)[1])
        if inode.acl_block:
            attributes.add(inode.acl_block)
    found = {
        "superblock": [(1024, 1024)],
        "descriptors": blocks(set(fs.descriptor_blocks)),
        "inodes": inodes,
        "extents": blocks(extents),
        "folders": blocks(folders - extents),
        "attributes": blocks(attributes),
    }
    if fs.patches:
        log = sorted(footprint(fs, fs.inode(fs.journal_inode)))
        found["journal"] = blocks({number for number in log if any(fs.block(number))})
    return {name: places for name, places in found.items() if places}


def damage(data: bytearray, places: list[tuple[int, int]], dice: random.Random) -> None:
    """Flip bits, set bytes, write numbers that overflow, copy a piece elsewhere: within the given places."""
    for _ in range(dice.randint(1, MOST_CHANGES)):
        start, length = dice.choice(places)
        used = dice.choice((length, min(length, 160)))  # most of what matters is at the front
        at = start + dice.randrange(used)
        kind = dice.randrange(4)
        if kind == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at] = dice.randrange(256)
        elif kind == 2:
            wide = dice.choice((2, 4))
            at = min(at & ~(wide - 1), start + length - wide)
            data[at : at + wide] = dice.choice((b"\xff", b"\0", b"\x7f", b"\x80"))[:1] * wide
        else:
            source, _ = dice.choice(places)
            step = min(dice.choice((4, 12, 32)), length)
            target = start + dice.randrange(length - step + 1) & ~3
            data[target : target + step] = data[source : source + step]


def main(image: Path, seed: int, count: int, folder: Path | None) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _too_long)
    pristine = bytearray(image.read_bytes())
    before = everything(pristine)
    places = regions(pristine)
    names = sorted(places)
    for number in range(seed, seed + count):
        dice = random.Random(number)
        where = names[number % len(names)]
        data = bytearray(pristine)
        damage(data, places[where], dice)
        print(
            json.dumps({"seed": number, "where": where, **_judge(data, before, number, folder)}), flush=True
        )


def _judge(data: bytearray, before: str, number: int, folder: Path | None) -> dict[str, str]:
    signal.alarm(CASE_LIMIT_S)
    try:
        digest = everything(data)
    except DiskUnreadable as refused:
        return {"outcome": "refused", "words": refused.message}
    except BaseException as error:
        return {"outcome": "failed", "words": f"{type(error).__name__}: {error}"}
    finally:
        signal.alarm(0)
    if digest == before:
        return {"outcome": "same"}
    if folder:
        (folder / f"case-{number}.raw").write_bytes(data)
    return {"outcome": "other", "digest": digest}


def _too_long(*_: object) -> None:
    raise TimeoutError(f"over {CASE_LIMIT_S} s")


if __name__ == "__main__":
    words = sys.argv[1:]
    main(Path(words[0]), int(words[1]), int(words[2]), Path(words[3]) if len(words) > 3 else None)
