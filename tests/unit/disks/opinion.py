"""What debugfs says of every name on a raw image: a reader that is not ours, compared entry by entry."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from backend.disks import DiskReader, Entry
from tests.unit.disks.conftest import ImageLab
from tests.unit.disks.fuzzing import READ_BYTES

INLINE_DATA = b"system.data"
CHATTR = {0x8: b"S", 0x10: b"i", 0x20: b"a", 0x40: b"d", 0x80: b"A", 0x4000: b"j", 0x10000: b"D"}
ACCESS_LISTS = (b"system.posix_acl_access", b"system.posix_acl_default")  # debugfs makes up the unused ids

_LISTED = re.compile(rb"/(\d+)/(\d+)/-?\d+/-?\d+/([^/\0]+)/\d*/\n", re.DOTALL)
_FIELDS = {
    "mode": rb"Mode:\s+(\d+)",
    "flags": rb"Flags: 0x([0-9a-f]+)",
    "uid": rb"User:\s+(-?\d+)",
    "gid": rb"Group:\s+(-?\d+)",
    "size": rb"Size: (\d+)\n",
    "links": rb"Links: (\d+)",
    "ctime": rb"ctime: 0x([0-9a-f]+)(?::([0-9a-f]+))?",
    "mtime": rb"mtime: 0x([0-9a-f]+)(?::([0-9a-f]+))?",
}
_KINDS = {
    b"regular": stat.S_IFREG, b"directory": stat.S_IFDIR, b"symlink": stat.S_IFLNK, b"FIFO": stat.S_IFIFO,
    b"character special": stat.S_IFCHR, b"block special": stat.S_IFBLK, b"socket": stat.S_IFSOCK,
}  # fmt: skip
_DEVICE = re.compile(rb"Device major/minor number: (\d+):(\d+)")
_ATTRIBUTE = re.compile(rb"^  ((?:[0-9a-f]{2} )+|[^ \n]+) \((\d+)\)", re.MULTILINE)  # hex if unprintable
_OCTAL = re.compile(rb"\\([0-7]{3})")
_TARGET = re.compile(rb'Fast link dest: "(.*)"\n', re.DOTALL)


def told(entry: Entry, content: bytes | None) -> dict[str, object]:
    """Our entry in the words of :func:`opinion`."""
    kinds = {
        "file": stat.S_IFREG, "directory": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO,
        "character device": stat.S_IFCHR, "block device": stat.S_IFBLK, "socket": stat.S_IFSOCK,
    }  # fmt: skip
    return {
        "inode": entry.inode,
        "mode": kinds[entry.kind.value] | entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "links": entry.links,
        "ctime": entry.ctime_ns,
        "mtime": entry.mtime_ns,
        "rdev": entry.rdev,
        "target": entry.target,
        "xattrs": {name: value for name, value in entry.xattrs if name not in ACCESS_LISTS},
        "sha256": None if content is None else hashlib.sha256(content).hexdigest(),
    }


async def ours(reader: DiskReader, image: Path) -> dict[bytes, dict[str, object]]:
    """All names as we read them, by path, in the words of :func:`opinion`."""
    entries = {entry.path: entry for entry in (await reader.manifest([image])).entries}
    wanted = [path for path, one in entries.items() if one.kind == "file" and one.size <= READ_BYTES]
    contents = await reader.read([image], wanted, READ_BYTES)
    return {path: told(entry, contents.get(path)) for path, entry in entries.items()}


def opinion(lab: ImageLab, image: Path) -> dict[bytes, dict[str, object]]:
    """All names, by path, the root included."""
    inodes = _paths(lab, image)
    numbers = sorted(set(inodes.values()))
    answers = lab.debugfs(image, *(f"stat <{number}>" for number in numbers))
    known = {number: _parse(number, answer) for number, answer in zip(numbers, answers, strict=True)}
    _fetch(lab, image, known, dict(zip(numbers, answers, strict=True)))
    return {path: known[number] for path, number in inodes.items()}


def _paths(lab: ImageLab, image: Path) -> dict[bytes, int]:
    found: dict[bytes, int] = {b"/": 2}
    level = {b"": 2}
    while level:
        deeper: dict[bytes, int] = {}
        answers = lab.debugfs(image, *(f"ls -p <{inode}>" for inode in level.values()))
        for folder, answer in zip(level, answers, strict=True):
            for number, mode, name in _LISTED.findall(answer):
                if name in (b".", b"..") or number == b"0":
                    continue
                found[folder + b"/" + name] = int(number)
                if stat.S_ISDIR(int(mode, 8)):
                    deeper[folder + b"/" + name] = int(number)
        level = deeper
    return found


def _parse(number: int, answer: bytes) -> dict[str, object]:
    seen = {name: re.search(pattern, answer) for name, pattern in _FIELDS.items()}
    kind = next(bits for word, bits in _KINDS.items() if b"Type: " + word in answer)
    device, target = _DEVICE.search(answer), _TARGET.search(answer)
    size = int(seen["size"][1])
    flags = int(seen["flags"][1], 16)
    letters = b"".join(letter for flag, letter in CHATTR.items() if flags & flag)
    if kind == stat.S_IFDIR:
        size &= 0xFFFF_FFFF  # debugfs adds the high half, which Linux reads only with large_dir
    return {
        "inode": number,
        "mode": kind | int(seen["mode"][1], 8),
        "size": size,
        "links": int(seen["links"][1]),
        **{name: int(seen[name][1]) & 0xFFFF_FFFF for name in ("uid", "gid")},  # printed with a sign
        "ctime": _time(seen["ctime"]),
        "mtime": _time(seen["mtime"]),
        "rdev": (int(device[1]), int(device[2])) if device else None,
        "target": target[1] if target else None,
        "xattrs": {b"chattr": letters} if letters else {},
        "sha256": None,
    }


def _time(seen: re.Match[bytes]) -> int:
    seconds, extra = int(seen[1], 16), int(seen[2] or b"0", 16)
    seconds -= (seconds & 0x8000_0000) << 1
    return (seconds + ((extra & 3) << 32)) * 10**9 + (extra >> 2)


def _fetch(
    lab: ImageLab, image: Path, known: dict[int, dict[str, object]], answers: dict[int, bytes]
) -> None:
    """Contents, slow links and attributes, through files that debugfs writes."""
    commands: list[str] = []
    goals: list[tuple[Path, int, str, bytes]] = []

    def ask(command: str, number: int, what: str, name: bytes = b"") -> None:
        goal = lab.folder / f"told-{len(goals)}"
        goal.unlink(missing_ok=True)
        goals.append((goal, number, what, name))
        commands.append(command.format(goal=goal, number=number))

    for number, one in known.items():
        if stat.S_ISREG(one["mode"]) and one["size"] <= READ_BYTES:
            ask("dump <{number}> {goal}", number, "sha256")
        elif stat.S_ISLNK(one["mode"]) and one["target"] is None:
            ask("dump <{number}> {goal}", number, "target")
        _, _, after = answers[number].partition(b"Extended attributes:\n")
        for shown, size in _ATTRIBUTE.findall(after):
            name = _OCTAL.sub(lambda seen: bytes([int(seen[1], 8)]), shown)
            if b" " in shown:
                name = bytes.fromhex(shown.decode())
            if name == INLINE_DATA or name in ACCESS_LISTS:
                continue
            one["xattrs"][name] = b""
            if int(size):
                ask(f"ea_get -f {{goal}} <{{number}}> {os.fsdecode(name)}", number, "xattr", name)
    lab.debugfs(image, *commands)
    for goal, number, what, name in goals:
        data = goal.read_bytes()
        if what == "sha256":
            data = data[: known[number]["size"]]  # of inline data it dumps all 60 bytes that are there
        if what == "xattr":
            known[number]["xattrs"][name] = data
        else:
            known[number][what] = hashlib.sha256(data).hexdigest() if what == "sha256" else data
