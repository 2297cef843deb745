"""Builds an image in two steps, each cached by what goes into it, in a folder that counts when renamed.

The foundation (packages, kernel) takes most of a minute, the image on top of it a few seconds: a change of a
setting or of the payload is cheap.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from backend.errors import RoleDenied
from backend.images import architectures, kernel, rootfs
from backend.images.catalog import BuiltImage, Catalog, sha256_of
from backend.images.customize import customize, payload_files
from backend.images.folder import Progress, check_space, locked, put_file
from backend.images.programs import Programs, require
from backend.images.settings import APT_OPTIONS, CMDLINE, CONSOLES, ENABLED, FILES, MASKED, PACKAGES
from backend.images.sources import (
    Release,
    Selection,
    moved,
    read_release,
    read_sources,
    release_named,
    select,
)
from backend.models import now
from backend.together import together

NEEDED = (
    *("mmdebstrap", "mkfs.ext4", "qemu-img", "lz4", "dpkg-deb", "apt-get", "unshare", "setpriv"),
    *("flock", "chroot"),
)
BUILDER_VERSION = 2
"""Raise it when the same inputs would make another image."""

PAYLOAD = Path(__file__).parent.parent / "guests/payload"
DISK_BYTES = 8 << 30
JOURNAL_MB = 32
COLD_SPACE_MB = 2500
WARM_SPACE_MB = 1300
IMAGE_LIMIT_S = 300
TEMP_PREFIX = ".build-"
# orphan_file and metadata_csum_seed are newer than the readers and kernels that must understand the disk.
MKFS = (
    *("mkfs.ext4", "-q", "-F", "-L", "root", "-J", f"size={JOURNAL_MB}", "-E", "discard"),
    *("-O", "^orphan_file,^metadata_csum_seed"),
)


@dataclass(frozen=True)
class Inputs:
    """All that decides what an image holds."""

    release: Release
    selection: Selection
    apt_options: str
    arch: str

    @classmethod
    async def of_host(cls, programs: Programs, host: Release, release: Release, arch: str) -> Inputs:
        """What the host's configuration says now, for a release of its distribution."""
        dump = (await programs.run("apt-config", "dump", limit_s=30)).decode()
        entries = moved(read_sources(), host, release)
        return cls(release, select(entries, release), dump, arch)

    @property
    def image_name(self) -> str:
        """The release's, and the architecture where it is not the host's."""
        name = self.release.image_name
        return name if self.arch == architectures.architecture() else f"{name}-{self.arch}"

    @property
    def cmdline(self) -> str:
        return CMDLINE.format(console=CONSOLES[self.arch])

    def foundation_key(self) -> str:
        """Names the cached packages and kernel: release, sources, package list."""
        return _key(BUILDER_VERSION, self.arch, self.release.codename, self.selection.deb822(), PACKAGES)

    def recipe(self, payload: Path) -> str:
        """Names the finished image: the foundation, every setting, every byte of the payload."""
        programs = {path.name: sha256_of(path) for path in payload_files(payload)}
        files = [(file.path, file.text, file.mode) for file in FILES]
        guest_options = rootfs.kept_options(self.apt_options, rootfs.GUEST_OPTIONS)
        settings = (files, MASKED, ENABLED, APT_OPTIONS, guest_options, self.cmdline, DISK_BYTES)
        return _key(self.foundation_key(), programs, settings)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class Images(Catalog):
    """Guest images in ``folder``, built of releases of the host's distribution."""

    async def build(
        self, name: str | None = None, *, progress: Progress, force: bool = False, reserve_mb: int = 0
    ) -> BuiltImage:
        """The image of a release, built unless there is one of the same recipe.

        ``name`` says which (``debian-13``), of the host's distribution and from its package sources; without
        it the host's own; ``debian-12-arm64`` is of another architecture. ``force`` builds from nothing;
        ``reserve_mb`` of the disk stay free meanwhile.

        Raises ``InvalidValue``, ``NoSpace``, ``MissingProgram``, ``Unavailable`` (naming the log),
        ``RoleDenied`` when not root.
        """
        host = read_release()
        wanted, arch = architectures.split_name(name or host.image_name)
        release = release_named(wanted, host)
        if os.geteuid() != 0:
            raise RoleDenied(
                "building an image needs root",
                remedy="import a cloud image (fluid images import), or name the images of a backend "
                "of root's in config.yaml, as storage.images",
            )
        require(NEEDED)
        self.folder.mkdir(parents=True, exist_ok=True)
        programs = Programs(self.folder / "build.log")
        async with locked(self.folder, programs, progress):
            programs.log.write_text(f"{now().isoformat()} {release.image_name} {arch}\n", encoding="utf-8")
            inputs = await Inputs.of_host(programs, host, release, arch)
            recipe = inputs.recipe(PAYLOAD)
            if not force and (known := self._known(inputs.image_name, recipe)):
                return known
            inside = replace(programs, before=architectures.before(arch))
            return await _Build(self, programs, inside, inputs, recipe, progress, reserve_mb).run(force)

    def _known(self, name: str, recipe: str) -> BuiltImage | None:
        return next((image for image in self.list() if image.name == name and image.recipe == recipe), None)


@dataclass(frozen=True)
class _Build:
    """One build, holding the folder's lock. ``inside`` runs programs of the image's architecture, too."""

    images: Images
    programs: Programs
    inside: Programs
    inputs: Inputs
    recipe: str
    progress: Progress
    reserve_mb: int

    async def run(self, force: bool) -> BuiltImage:
        """Foundation, tree, disk, record; the temporary folder goes whatever happens."""
        started = time.monotonic()
        folder = self.images.folder
        foundations = f"foundation.{self.inputs.arch}" if self.inside.before else "foundation"
        foundation = folder / f"{foundations}-{self.inputs.foundation_key()}"
        await self._sweep(*folder.glob(f"{TEMP_PREFIX}*"))
        if force:
            await self._sweep(foundation)
        check_space(folder, WARM_SPACE_MB if foundation.is_dir() else COLD_SPACE_MB, self.reserve_mb)
        temp = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder))
        try:
            root = temp / "root"
            if not foundation.is_dir():
                await self._lay_foundation(temp)
                await self._sweep(*folder.glob(f"{foundations}-*"))
                (temp / "foundation").rename(foundation)
            self.progress("copying the installed system")
            await rootfs.copy(self.programs, foundation / "root", root)
            self.progress("writing the guest's settings")
            await customize(
                self.inside,
                root,
                sources=(foundation / "sources").read_text(encoding="utf-8"),
                apt_options=rootfs.kept_options(self.inputs.apt_options, rootfs.GUEST_OPTIONS),
                distribution=self.inputs.release.id,
                payload=PAYLOAD,
            )
            packages = _installed(root)
            disk = await self._make_disk(temp, root)
            image = await self._place(disk, foundation, packages, started)
        finally:
            await asyncio.shield(self._sweep(temp))
        self.progress(f"image {image.name} is ready")
        return image

    async def _lay_foundation(self, temp: Path) -> None:
        """Packages and kernel side by side; ``temp/foundation`` is complete when this returns."""
        release, arch = self.inputs.release, self.inputs.arch
        options = rootfs.kept_options(self.inputs.apt_options, rootfs.HOST_OPTIONS)
        apt = rootfs.AptRoot(temp / "apt", options, arch)
        with_apt = Programs(self.programs.log, {"APT_CONFIG": str(apt.config)})
        for entry, reason in self.inputs.selection.left_out:
            self.programs.note(f"left out {entry.uri} {entry.suite}: {reason}")
        used = await rootfs.answering(with_apt, apt, self.inputs.selection, release, self.progress)
        place = temp / "foundation"
        place.mkdir(mode=0o700)
        root = place / "root"
        unpacked, _ = await together(
            kernel.fetch(with_apt, temp / "kernel", release, arch, self.progress),
            rootfs.install(self.inside, apt, release, root, self.progress),
        )
        self.progress("adding the kernel")
        modules = await rootfs.add_modules(self.inside, root, unpacked.modules)
        for name, data in (
            ("kernel", await kernel.bootable(self.programs, unpacked, arch)),
            ("initrd", await kernel.initrd(self.programs, unpacked, modules)),
        ):
            await asyncio.to_thread((place / name).write_bytes, data)
        (place / "sources").write_text(used.deb822(), encoding="utf-8")

    async def _make_disk(self, temp: Path, root: Path) -> Path:
        """An ext4 of the tree, as qcow2."""
        self.progress("making the disk")
        raw, disk = temp / "disk.raw", temp / "disk.qcow2"
        with raw.open("wb") as out:
            out.truncate(DISK_BYTES)
        await self.programs.run(*MKFS, "-d", root, raw, limit_s=IMAGE_LIMIT_S)
        await self.programs.run(
            "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk, limit_s=IMAGE_LIMIT_S
        )
        return disk

    async def _place(self, disk: Path, foundation: Path, packages: int, started: float) -> BuiltImage:
        """Give the files their lasting names and write the record that makes them count."""
        self.progress("checking and recording the image")
        sources = (disk, foundation / "kernel", foundation / "initrd")
        sha256, kernel_sha, initrd_sha = await asyncio.gather(
            *(asyncio.to_thread(sha256_of, path) for path in sources)
        )
        folder, name = self.images.folder, self.inputs.image_name
        places = (
            folder / f"{name}-{sha256[:16]}.qcow2",
            folder / f"kernel-{kernel_sha[:16]}",
            folder / f"initrd-{initrd_sha[:16]}",
        )
        for source, place in zip(sources, places, strict=True):
            await asyncio.to_thread(put_file, source, place)
        image = BuiltImage(
            name=name,
            sha256=sha256,
            disk=places[0],
            kernel=places[1],
            initrd=places[2],
            cmdline=self.inputs.cmdline,
            arch=self.inputs.arch,
            built_at=now(),
            build_s=round(time.monotonic() - started, 1),
            packages=packages,
            size_bytes=places[0].stat().st_blocks * 512,
            recipe=self.recipe,
            sizes=(places[0].stat().st_size, places[1].stat().st_size, places[2].stat().st_size),
            kernel_sha256=kernel_sha,
            initrd_sha256=initrd_sha,
        )
        self.images.put(image)
        return image

    async def _sweep(self, *paths: Path) -> None:
        """Remove trees, never crossing into another file system that a dying build left mounted there."""
        if paths:
            await self.programs.run("rm", "-rf", "--one-file-system", "--", *paths, limit_s=IMAGE_LIMIT_S)


def _installed(root: Path) -> int:
    """How many packages dpkg knows as installed in a tree."""
    status = (root / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    return status.count("\nStatus: install ok installed\n")
