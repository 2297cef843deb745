"""What this room asks of a host's files, wherever they are: one protocol, two implementations.

:class:`~backend.hypervisor.local_files.LocalFiles` is a folder of this machine,
:class:`~backend.hypervisor.pool_files.PoolFiles` a libvirt storage pool of any host. A Path names a file as
that host knows it: outside of an implementation nobody opens one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from backend.hypervisor.nouns import GuestImage, Template

LAYER_SUFFIX, MEMORY_SUFFIX = ".layer", ".memory"
FREE_MB_MIN = 512
TEMPLATE_DISK, TEMPLATE_MEMORY, TEMPLATE_FACTS = "disk.qcow2", "memory.save", "template.json"
TEMPLATE_RAM, TEMPLATE_RAM_XML = "ram.qcow2", "ram.xml"  # see fork_ways: a snapshot with memory in a disk

HELD_SUFFIX = ".held"
"""IMAGE.PREFIX.held beside an image's disk is a link to the folder of an installation that made something of
it. One that leads nowhere holds nothing: images are shared, and an installation may end without a word."""

EditXml: TypeAlias = Callable[[bytes], bytes]


@dataclass(frozen=True)
class TemplateFacts:
    """What is kept beside a template; written last, so that a template with facts is whole."""

    cpu: int
    memory_mb: int
    build_s: float
    image: str  # the SHA-256 of its disk


class HostFiles(Protocol):
    """The files of one host. A layer is a qcow2 file that is frozen; a memory is a libvirt save image."""

    @property
    def root(self) -> Path:
        """The folder on that host."""

    async def open(self) -> None:
        """Make what is missing of the place itself; the connection stands."""

    async def free_mb(self) -> int:
        """Space left, in MiB."""

    async def vanish(self) -> list[str]:
        """Take the place itself away, once all is removed that was ours in it; what is in the way."""

    # --- a domain's files ----------------------------------------------------------------------------

    def path(self, domain: str, name: str) -> Path:
        """The place of a file of the domain; ``domain`` is a checked name."""

    async def claim(self, domain: str) -> None:
        """Begin a domain's files. Raises DuplicateName when there are any."""

    async def drop(self, domain: str) -> None:
        """Remove all files of a domain that nobody else's disk stands on; nothing is wrong when there are
        none. Conflict when one stays."""

    async def claimed(self) -> list[str]:
        """The names of the domains that have files."""

    async def next_disk(self, domain: str) -> Path:
        """A name for a disk that was never used for the domain."""

    async def exists(self, path: Path) -> bool: ...

    async def put(self, path: Path, data: bytes) -> None:
        """A new small file."""

    async def read(self, path: Path) -> bytes:
        """A small file, as :meth:`put` left it."""

    async def copy(self, source: Path, target: Path) -> None:
        """Copy a frozen file, byte by byte."""

    async def remove(self, path: Path) -> int:
        """Remove a file, if it is there; the bytes that the disk has again."""

    def copy_place(self, here: Path) -> Path:
        """Where QEMU writes what is brought to the new file ``here`` of this machine then."""

    async def bring(self, path: Path, into: Path) -> None:
        """Write a file that QEMU made there to the new file ``into`` of this machine."""

    async def remove_copy(self, path: Path) -> None:
        """Remove what QEMU made there, if it did. Raises HypervisorFailed while nobody can look."""

    # --- disks ---------------------------------------------------------------------------------------

    async def create_overlay(self, overlay: Path, backing: Path) -> None:
        """An empty qcow2 file that stands on another one, which a guest may be writing to. Raises NoSpace."""

    async def backing_chain(self, top: Path) -> list[Path]:
        """All files that a disk is made of, the top first, also while a guest runs on it."""

    # --- memories ------------------------------------------------------------------------------------

    async def make_memory(self, path: Path) -> None:
        """An empty file that is ours; libvirtd saves a guest's memory to it."""

    async def copy_memory(self, source: Path, target: Path, edit: EditXml) -> None:
        """Copy a memory with ``edit`` of its domain's XML in it."""

    # --- snapshots -----------------------------------------------------------------------------------

    async def mark(self, domain: str, snapshot: str, layer: Path) -> None:
        """Keep a layer of the domain for a snapshot. Raises DuplicateName."""

    async def unmark(self, domain: str, snapshot: str) -> None: ...

    async def is_marked(self, domain: str, snapshot: str) -> bool: ...

    @property
    def names_are_relative(self) -> bool:
        """Whether a layer names the one below it as a file of its own folder."""

    async def loose_layers(self, domain: str, layers: Sequence[Path]) -> dict[Path, int]:
        """Those of a disk's layers (top first, the one that is written with them) that are this domain's
        alone, that no snapshot keeps, and on which only the one above them stands; each with the bytes that
        it takes. HypervisorFailed where one cannot be read."""

    async def forget_layers(self, domain: str) -> None:
        """libvirt has written to frozen layers of the domain: nothing is remembered of them."""

    async def share_layers(self, layers: Sequence[Path], domain: str) -> Path:
        """Keep another domain's layers (top first) for this one too; the one that its disk is to stand on."""

    async def sweep(self, domain: str, tops: Sequence[Path]) -> int:
        """Remove the domain's layers that neither its disks ``tops`` nor a snapshot stands on; the bytes that
        this freed. A chain that cannot be read raises HypervisorFailed before anything is removed."""

    # --- templates -----------------------------------------------------------------------------------

    def template_lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Nobody else, in another process either, builds this template meanwhile."""

    async def template(self, key: str) -> Template | None:
        """The whole template of that key."""

    def template_path(self, template: Template, name: str) -> Path:
        """The place of a file that is kept with a template."""

    async def keep_template(self, work: str, key: str, facts: TemplateFacts) -> Template:
        """Make ``TEMPLATE_DISK`` and ``TEMPLATE_MEMORY`` of the domain ``work`` a template: dropping the
        domain leaves them alone then."""

    async def template_keys(self) -> list[str]:
        """The keys of all templates, also of broken ones that :meth:`claimed` does not tell."""

    async def free_templates(self) -> list[str]:
        """Those keys whose template no domain's disk stands on. A disk that cannot be read raises
        HypervisorFailed: nobody knows what it stands on."""

    async def remove_template(self, key: str) -> None:
        """Remove a template that no disk stands on, with all that is kept with it."""

    # --- images and layers for others ----------------------------------------------------------------

    async def ensure_image(self, image: GuestImage) -> GuestImage:
        """The image as files of that host."""

    async def forget_image(self, files: Sequence[Path]) -> None:
        """The files of this machine go: so does what :meth:`ensure_image` made of them."""

    async def images(self) -> list[Path]:
        """The files of this machine of which :meth:`ensure_image` made copies, whether they are there or
        not; none where it makes none."""

    async def lend(self, disk: Path, domain: str) -> Path:
        """A disk of this machine where a guest of that host may write to it: the file itself, or a copy of it
        among the domain's files."""

    async def take_back(self, lent: Path, disk: Path) -> None:
        """What a guest that is off has left there is what the file of this machine holds."""

    async def grown(self, path: Path, offset: int, length: int) -> bytes:
        """At most so much of what was written to a file that grows, from there on; nothing while that cannot
        be seen."""

    async def local_layers(self, layers: Sequence[Path]) -> list[Path]:
        """Frozen layers as files of this machine, in the same order."""
