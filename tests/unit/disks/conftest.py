"""File systems and image chains made by e2fsprogs and qemu, and debugfs as the second opinion."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.disks import ContentLimits, DiskReader

CHUNK_BYTES = 64 << 10
TOOL_TIMEOUT_S = 120
ACCESS_LIST = bytes.fromhex(
    "0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000400ffffffff"
)  # owner, user 1000, group, mask, others


def tool(*argv: str, data: bytes = b"") -> bytes:
    """Run a program that must succeed; what it printed."""
    done = subprocess.run(argv, input=data, capture_output=True, timeout=TOOL_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr.decode()}"
    return done.stdout


class ImageLab:
    """Makes images under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = 0

    def _new(self, suffix: str) -> Path:
        self._made += 1
        return self.folder / f"image{self._made}{suffix}"

    def format(self, tree: Path | None, *options: str, size: str = "64M") -> Path:
        """A raw image with an ext4 file system that holds ``tree``."""
        image = self._new(".raw")
        with image.open("wb") as file:
            file.truncate(int(size.removesuffix("M")) << 20)
        source = ["-d", str(tree)] if tree else []
        tool("mkfs.ext4", "-q", "-F", *options, *source, str(image))
        return image

    def edit(self, image: Path, *commands: str) -> Path:
        """A copy of a raw image on which debugfs did ``commands``."""
        copy = self._new(".raw")
        tool("cp", "--sparse=always", str(image), str(copy))
        script = self._new(".commands")
        script.write_text("\n".join(commands) + "\n")
        tool("debugfs", "-w", "-f", str(script), str(copy))
        return copy

    def patch(self, image: Path, changes: dict[int, bytes]) -> Path:
        """A copy of a raw image with bytes written at offsets."""
        copy = self._new(".raw")
        data = bytearray(image.read_bytes())
        for offset, new in changes.items():
            data[offset : offset + len(new)] = new
        copy.write_bytes(data)
        return copy

    def qcow2(self, raw: Path, *options: str) -> Path:
        """The same disk as qcow2."""
        image = self._new(".qcow2")
        tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, str(raw), str(image))
        return image

    def overlay(self, base: Path, before: Path, after: Path) -> Path:
        """A qcow2 overlay on ``base`` (which reads as ``before``) that makes it read as ``after``."""
        top = self._new(".qcow2")
        form = "raw" if base.suffix == ".raw" else "qcow2"
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", form, str(top))
        old, new = before.read_bytes(), after.read_bytes()
        commands = []
        for at in range(0, len(new), CHUNK_BYTES):
            if old[at : at + CHUNK_BYTES] != new[at : at + CHUNK_BYTES]:
                piece = self._new(".piece")
                piece.write_bytes(new[at : at + CHUNK_BYTES])
                commands.append(f"write -q -s {piece} {at} {CHUNK_BYTES}")
        if commands:
            tool("qemu-io", "-f", "qcow2", str(top), data="\n".join(commands).encode() + b"\n")
        return top

    def debugfs(self, image: Path, *commands: str) -> list[bytes]:
        """What debugfs prints for each command."""
        script = self._new(".commands")
        script.write_text("\n".join(commands) + "\n", errors="surrogateescape")
        out = tool("debugfs", "-f", str(script), str(image))
        return re.split(rb"(?m)^debugfs: .*\n", out)[1:]


@pytest.fixture
def lab(tmp_path: Path) -> ImageLab:
    return ImageLab(tmp_path)


@pytest.fixture
def reader() -> DiskReader:
    return DiskReader()


@pytest.fixture
def limits() -> ContentLimits:
    return ContentLimits()


@pytest.fixture
def strange_tree(tmp_path: Path) -> Iterator[Path]:
    """Names, links, sizes and attributes that readers get wrong."""
    root = tmp_path / "tree"
    top = os.fsencode(root)
    (root / "deep/er/and/deeper").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "many").mkdir()
    for number in range(150):
        (root / "many" / f"{number:05} {'a name that fills blocks ' * 8}").touch()
    for name, content in (
        (b"latin-\xe9\xff", b"not UTF-8"),
        (b"n" * 255, b"long name"),
        ("{{ übung }} 文件".encode(), b"text"),
        (b"two\nlines \x1b[31m", b"control characters"),
        (b"tiny", b"x"),
        (b"inline-59", b"y" * 59),
        (b"inline-150", b"z" * 150),
        (b"block", b"b" * 4096),
        (b"large", bytes(range(256)) * 4096 * 3),
    ):
        Path(os.fsdecode(top + b"/" + name)).write_bytes(content)
    with (root / "sparse").open("wb") as file:
        for at in (0, 1 << 20, 5 << 20, 9 << 20):
            file.seek(at)
            file.write(b"here" * 100)
        file.write(b"the end")  # mkfs with inline data loses a hole at the end
    (root / "hole").touch()
    os.truncate(root / "hole", 10 << 30)
    os.link(root / "tiny", root / "deep/hard link")
    links = {"fast": b"t" * 59, "slow": b"t" * 60, "slower": b"/" + b"u" * 1000, "bytes": b"\xff\xfe\n"}
    for name, target in links.items():
        (root / name).symlink_to(os.fsdecode(target))
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as door, contextlib.chdir(root):  # a socket's path has a limit
        door.bind("socket")
    os.setxattr(root / "tiny", "user.short", b"1")
    os.setxattr(root / "large", "user.long", b"v" * 700)
    os.setxattr(root / "large", "user.other", b"")
    os.setxattr(root / "deep", "user.folder", b"\0\1\2")
    os.setxattr(root / "deep", "system.posix_acl_default", ACCESS_LIST)
    os.setxattr(root / "tiny", "system.posix_acl_access", ACCESS_LIST)
    os.utime(root / "empty", ns=(1, -1_000_000_000_000_000_000))
    (root / "tiny").chmod(0o4711)
    yield root
