"""The images that exist: files named by their content, and one small record a name that points at them.

A record is written last and replaced atomically; what no record names does not exist.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from backend.errors import ImageBroken, ImageNotFound
from backend.models import ImageView, check_name

QCOW2_MAGIC = b"QFI\xfb"
CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 512  # of stat(2)'s st_blocks, whatever the file system
FILE_FIELDS = ("disk", "kernel", "initrd")
REBUILD = "fluid images build --force"


@dataclass(frozen=True)
class BuiltImage:
    """A guest image. A built one is a disk (qcow2, one ext4 without a partition table) and the kernel that
    boots it; an imported one is a disk with its own boot loader, and ``origin`` says where it came from.

    ``sha256`` is the disk's, ``size_bytes`` what it takes on the host, ``recipe`` the hash of all that it was
    made from, ``build_s`` how long that took.
    """

    name: str
    sha256: str
    disk: Path
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    arch: str
    built_at: datetime
    build_s: float
    packages: int
    size_bytes: int
    recipe: str
    sizes: tuple[int, ...]
    kernel_sha256: str = ""
    initrd_sha256: str = ""
    kind: str = "built"  # or "imported", or "domain": a copy of a libvirt domain's disk
    origin: str = ""

    @property
    def remedy(self) -> str:
        """What brings a broken one back."""
        if self.kind == "built":
            return REBUILD
        again = "import it again" if self.kind == "imported" else f"fluid sources prepare {self.name}"
        return f"fluid images remove {self.name}, then {again}"

    def view(self) -> ImageView:
        """What the API and the console tell of it. Looks at the files."""
        return ImageView(
            name=self.name,
            sha256=self.sha256,
            kind=self.kind,
            origin=self.origin,
            size_bytes=sum(path.stat().st_blocks * BLOCK_BYTES for path, _, _ in self.files()),
            arch=self.arch,
            built_at=self.built_at,
            build_s=self.build_s,
            packages=self.packages,
            path=str(self.disk),
        )

    def files(self) -> tuple[tuple[Path, int, str], ...]:
        """Each file with its recorded length in bytes and SHA-256."""
        paths = [path for path in (self.disk, self.kernel, self.initrd) if path]
        sums = [self.sha256, self.kernel_sha256, self.initrd_sha256][: len(paths)]
        return tuple(zip(paths, self.sizes, sums, strict=True))

    def record(self) -> dict[str, Any]:
        """As kept in the record file: paths as bare names, so that the folder may be moved."""
        row: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for key in FILE_FIELDS:
            row[key] = row[key].name if row[key] else None
        row["built_at"] = self.built_at.isoformat()
        row["sizes"] = list(self.sizes)
        return row

    @classmethod
    def of_record(cls, folder: Path, row: dict[str, Any]) -> BuiltImage:
        """The reverse of :meth:`record`. A file name with a folder in it is refused."""
        values = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        for key in FILE_FIELDS:
            if values[key] is None and key != "disk":
                continue
            if Path(values[key]).name != values[key]:
                raise ValueError(f"{key} {values[key]!r} is not a bare file name")
            values[key] = folder / values[key]
        values["built_at"] = datetime.fromisoformat(values["built_at"])
        values["sizes"] = tuple(values["sizes"])
        image = cls(**values)
        image.files()  # as many sums as files
        return image


class Catalog:
    """The records of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self) -> list[BuiltImage]:
        """All usable images by name; a broken one is not among them."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append(self.get(path.stem))
            except (ImageBroken, ImageNotFound):
                continue
        return found

    def get(self, name: str) -> BuiltImage:
        """The image of that name, after a quick look at its files."""
        path = self.record_of(name)
        try:
            image = BuiltImage.of_record(self.folder, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ImageNotFound(f"there is no image {name!r}", remedy="fluid images build") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ImageBroken(f"the record {path} cannot be read: {error}", remedy=REBUILD) from error
        _look_at(image)
        return image

    async def verify(self, name: str) -> None:
        """Read every byte of an image; :class:`ImageBroken` names the file that differs."""
        image = self.get(name)
        for path, _, expected in image.files():
            if await asyncio.to_thread(sha256_of, path) != expected:
                raise ImageBroken(
                    f"{path} does not hold what was built: its SHA-256 differs", remedy=image.remedy
                )

    def put(self, image: BuiltImage) -> None:
        """Make ``image`` the one of its name. Its files are in place already."""
        path = self.folder / f"{image.name}.json"
        fresh = path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as out:
            json.dump(image.record(), out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        fresh.rename(path)

    def record_of(self, name: str) -> Path:
        """The record file of that name."""
        return self.folder / f"{check_name(name, 'image name')}.json"

    def named_files(self, record: Path) -> set[Path]:
        """The files that a record names; none when it cannot be read."""
        try:
            row = json.loads(record.read_text(encoding="utf-8"))
            names = [Path(row[key]) for key in FILE_FIELDS if row.get(key)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return set()
        return {self.folder / name for name in names if name.name == str(name)}


def _look_at(image: BuiltImage) -> None:
    """Sizes, and the disk's magic: what a cut copy or a full disk leaves behind is found here."""
    for path, size, _ in image.files():
        try:
            actual = path.stat().st_size
        except FileNotFoundError:
            raise ImageBroken(f"image {image.name} lacks its file {path}", remedy=image.remedy) from None
        if actual != size:
            raise ImageBroken(f"{path} has {actual} bytes where {size} were built", remedy=image.remedy)
    with image.disk.open("rb") as disk:
        if disk.read(len(QCOW2_MAGIC)) != QCOW2_MAGIC:
            raise ImageBroken(f"{image.disk} is not a qcow2 image", remedy=image.remedy)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file. Blocking: call it in a thread."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
