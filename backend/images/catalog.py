"""The images that exist: files named by their content, and one small record a name that points at them.

A record is written last and replaced atomically; what no record names does not exist. The record of an image
whose name a newer one took stays beside it, so that what was made of it can be made again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
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
RECORD, FORMER, ASIDE = SUFFIXES = ".json", ".former", ".removed"
HASH_CHARS = 16  # of a SHA-256, in names of files


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

    def formers(self) -> Sequence[Path]:
        """The records of images whose names newer ones took."""
        return sorted(self.folder.glob(f"*{FORMER}"))

    def list(self) -> list[BuiltImage]:
        """All usable images by name; a broken one is not among them."""
        found = []
        for path in sorted(self.folder.glob(f"*{RECORD}")):
            try:
                found.append(self.get(path.stem))
            except (ImageBroken, ImageNotFound):
                continue
        return found

    def get(self, name: str) -> BuiltImage:
        """The image of that name, after a quick look at its files."""
        return self._read(self.record_of(name), name)

    def of(self, name: str, sha256: str) -> BuiltImage:
        """The image that had that name when its disk had this SHA-256, also if another has the name now."""
        for record in (self.record_of(name), self._former(name, sha256)):
            if sha256_in(record) == sha256:
                return self._read(record, name)
        raise ImageNotFound(
            f"the image {name}@{sha256[:HASH_CHARS]} is not here any more",
            remedy="destroy what was made of it, and create it again",
        )

    def _read(self, path: Path, name: str) -> BuiltImage:
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
        path = self.folder / f"{image.name}{RECORD}"
        if (was := sha256_in(path)) and was != image.sha256:
            _write(self._former(image.name, was), path.read_bytes())
        _write(path, json.dumps(image.record(), indent=1).encode())
        self._former(image.name, image.sha256).unlink(missing_ok=True)

    def _former(self, name: str, sha256: str) -> Path:
        return self.folder / f"{check_name(name, 'image name')}.{sha256[:HASH_CHARS]}{FORMER}"

    def record_of(self, name: str) -> Path:
        """The record file of that name."""
        return self.folder / f"{check_name(name, 'image name')}{RECORD}"

    def file_names(self) -> set[str]:
        """Of the files of all images, former ones and those that are just removed among them."""
        records = [path for suffix in SUFFIXES for path in self.folder.glob(f"*{suffix}")]
        return {file.name for record in records for file in self.named_files(record)}

    def named_files(self, record: Path) -> set[Path]:
        """The files that a record names; none when it cannot be read."""
        try:
            row = json.loads(record.read_text(encoding="utf-8"))
            names = [Path(row[key]) for key in FILE_FIELDS if row.get(key)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return set()
        return {self.folder / name for name in names if name.name == str(name)}


def sha256_in(record: Path) -> str:
    """Of the disk that a record names; empty for one that is not there or cannot be read."""
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write(path: Path, data: bytes) -> None:
    """Whole and durable, or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    fresh.rename(path)


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
