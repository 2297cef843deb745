"""Told inside a guest whose disk cannot be read from outside: its names, and the contents that are asked for.
Inside a target only the names that are asked for, with the folders that lead to them.

The text of this module is sent to the machine's own python3 (3.7 or newer): it imports nothing of ours. It
reads one JSON job from standard input, writes one answer and leaves nothing behind. Paths are bytes, as
Latin-1 in JSON. Nobody believes a guest's answer: root in it may have changed the interpreter.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
import sys

# The form of a record is that of backend.disks.records.
HEAD = struct.Struct("<HIIIIQQQIIIHH")
XATTR = struct.Struct("<HI")
LENGTH = struct.Struct(">I")
NS_BIAS = 1 << 61
WORD = 0xFFFF_FFFF
PIECE_BYTES = 1 << 20
IMAGES = (b"squashfs", b"iso9660")  # on a device of their own, and nobody writes to them
NO_XATTRS = (errno.ENOTSUP, errno.ENOENT, errno.ENODATA, errno.EPERM)
TRIES = 3


def attributes(path: bytes) -> bytes:
    """Packed, sorted by name; a link's own. One that goes meanwhile takes no other with it."""
    found = []
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        names = none_there(path, error)
    for name in names:
        try:
            found.append((os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)))
        except OSError as error:
            none_there(path, error)
    return b"".join(XATTR.pack(len(name), len(value)) + name + value for name, value in sorted(found))


def none_there(path: bytes, error: OSError) -> list[str]:
    """No attributes, where an error means that. Raises FileNotFoundError for a file that is gone."""
    if error.errno not in NO_XATTRS:
        raise error
    if error.errno == errno.ENOENT:
        os.lstat(path)
    return []


def nanoseconds(time: int) -> int:
    return min(max(time + NS_BIAS, 0), 2 * NS_BIAS)


def seen(full: bytes) -> tuple[os.stat_result, bytes]:
    """What stands there, and where a link points. Raises FileNotFoundError where nothing does."""
    for _ in range(TRIES):
        found = os.lstat(full)
        if not stat.S_ISLNK(found.st_mode):
            return found, b""
        try:
            return found, os.readlink(full)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise  # else no link any more
    raise FileNotFoundError(errno.ENOENT, "another each time")


def record(full: bytes, path: bytes, found: os.stat_result, target: bytes) -> bytes:
    """One name."""
    device = (0, 0)
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        device = (os.major(found.st_rdev), os.minor(found.st_rdev))
    xattrs = attributes(full)
    head = HEAD.pack(
        found.st_mode & 0xFFFF, found.st_uid, found.st_gid, found.st_nlink, found.st_ino & WORD,
        found.st_size, nanoseconds(found.st_mtime_ns), nanoseconds(found.st_ctime_ns), *device,
        len(xattrs), len(path), len(target),
    )  # fmt: skip
    return head + path + target + xattrs


def elsewhere() -> set[bytes]:
    """Mount points of what is on no disk (proc_pid_mountinfo(5)): told themselves, not what is in them."""
    found = set()
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields, _, source = line.partition(b" - ")
            kind, device = source.split()[:2]
            if not device.startswith(b"/dev/") or kind in IMAGES:
                point = fields.split()[4].decode("unicode_escape").encode("latin-1")
                found.add(point)
    return found


def rows(base: bytes, prefix: bytes) -> list[tuple[bytes, bytes, tuple[int, int] | None]]:
    """What a folder holds, last first: path, record, None; and for a folder in it also its path with a slash,
    no record, which one it is."""
    try:
        names = os.listdir(base + prefix)
    except (FileNotFoundError, NotADirectoryError):
        return []  # gone since
    found: list[tuple[bytes, bytes, tuple[int, int] | None]] = []
    for name in names:
        path = prefix + name
        try:
            one, target = seen(base + path)
            found.append((path, record(base + path, path, one, target), None))
        except (FileNotFoundError, NotADirectoryError):
            continue  # likewise
        if stat.S_ISDIR(one.st_mode):
            found.append((path + b"/", b"", (one.st_dev, one.st_ino)))
    found.sort(key=lambda row: row[0], reverse=True)
    return found


def tree(base: bytes) -> None:
    """The records of all names on disks, sorted by path."""
    left_out, out = elsewhere(), sys.stdout.buffer
    top = os.lstat(base or b"/")
    out.write(record(base or b"/", b"/", top, b""))
    visited = {(top.st_dev, top.st_ino)}
    open_folders = [rows(base, b"/")]
    while open_folders:
        if not open_folders[-1]:
            open_folders.pop()
            continue
        path, told, folder = open_folders[-1].pop()
        out.write(told)
        if folder is not None and folder not in visited and (base + path).rstrip(b"/") not in left_out:
            visited.add(folder)
            open_folders.append(rows(base, path))


def leading_to(paths: list[bytes]) -> list[bytes]:
    """The paths with all folders above them, each once, sorted."""
    found = {b"/"}
    for path in paths:
        while path not in found:
            found.add(path)
            path = path.rpartition(b"/")[0] or b"/"
    return sorted(found)


def below(base: bytes, top: bytes, most: int, left_out: set[bytes]) -> dict[bytes, bytes] | None:
    """The records of all that is in a folder and its folders; None for more than ``most``."""
    found: dict[bytes, bytes] = {}
    folders = [top]
    while folders:
        folder = folders.pop()
        for path, told, inner in rows(base, folder + b"/"):
            if inner is None:
                found[path] = told
            elif (base + path).rstrip(b"/") not in left_out:
                folders.append(path.rstrip(b"/"))
        if len(found) > most:
            return None
    return found


def some(base: bytes, names: list[bytes], trees: list[bytes], most: int) -> None:
    """A framed answer: the records of ``names``, and of ``trees`` with all that is in them, sorted by path.
    A tree of more than ``most`` names is told as ``cut``, and by its own name alone."""
    found: dict[bytes, bytes] = {}
    for path in leading_to(names + trees):
        above = path.rpartition(b"/")[0] or b"/"
        if path != b"/" and (above not in found or HEAD.unpack_from(found[above])[0] & 0xF000 != 0x4000):
            continue  # behind a link it is another path, which is asked for by its own name or not at all
        try:
            found[path] = record(base + path, path, *seen(base + path))
        except (FileNotFoundError, NotADirectoryError):
            continue
    cut: list[str] = []
    left_out = elsewhere()
    for top in trees:
        if top in found and HEAD.unpack_from(found[top])[0] & 0xF000 == 0x4000:
            inner = below(base, top, most, left_out)
            if inner is None:
                cut.append(top.decode("latin-1"))
            else:
                found.update(inner)
    records = b"".join(told for _, told in sorted(found.items()))
    body = json.dumps({"cut": cut, "blobs": [len(records)]}).encode()
    for part in (LENGTH.pack(len(body)), body, records):
        sys.stdout.buffer.write(part)


def content(
    path: bytes, hash_bytes: int, keep_bytes: int
) -> tuple[int, str | None, str | None, bytes | None]:
    """A regular file's size, sums and bytes, what is over a limit left out. Raises OSError where is none."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME)
    with open(fd, "rb", buffering=0) as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "no regular file")
        sha256, md5, size = hashlib.sha256(), hashlib.md5(), 0
        kept = bytearray()
        while size <= hash_bytes and found.st_size <= hash_bytes:
            piece = file.read(PIECE_BYTES)
            if not piece:
                data = bytes(kept) if size <= keep_bytes else None
                return size, sha256.hexdigest(), md5.hexdigest(), data
            size += len(piece)
            sha256.update(piece)
            md5.update(piece)
            kept += piece if size <= keep_bytes else b""
    return max(size, found.st_size), None, None, None


def contents(base: bytes, paths: list[str], keep: list[bool], limits: dict[str, int]) -> None:
    """A framed answer as backend.disks.wire has it: for each path size, sums and the number of its bytes."""
    files: list[list[object] | None] = []
    blobs: list[bytes] = []
    left = limits["total_bytes"]
    for path, wanted in zip(paths, keep):
        room = min(limits["file_bytes"], left) if wanted else -1
        try:
            size, sha256, md5, data = content(base + path.encode("latin-1"), limits["hash_bytes"], room)
        except OSError:
            files.append(None)
            continue
        at = None
        if data is not None:
            at, left = len(blobs), left - len(data)
            blobs.append(data)
        files.append([size, sha256, md5, at])
    body = json.dumps({"files": files, "blobs": [len(blob) for blob in blobs]}).encode()
    for part in (LENGTH.pack(len(body)), body, *blobs):
        sys.stdout.buffer.write(part)


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    base = job["root"].encode("latin-1").rstrip(b"/")
    if "names" in job:
        names, trees = ([path.encode("latin-1") for path in job[key]] for key in ("names", "trees"))
        some(base, names, trees, job["most"])
    elif "paths" in job:
        contents(base, job["paths"], job["keep"], job["limits"])
    else:
        tree(base)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
