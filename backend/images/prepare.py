"""Makes a converted cloud image a guest of ours: grown, booted once with our seed, and looked at afterwards.

The guest is not believed: what it says on its console is shown as its words, what counts is read from its
disk by the reader of guests' disks. An image that it cannot read is no source, for no diff could be made.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from backend.disks import DiskReader
from backend.errors import DiskUnreadable, PreparationFailed, TimedOut
from backend.hypervisor import GuestImage, Hypervisor
from backend.images import architectures
from backend.images.folder import Progress
from backend.images.programs import Programs
from backend.images.seed import DAEMON, PAYLOAD, PROOF, seed_image, user_data, written
from backend.text import visible

DISK_BYTES = 8 << 30  # as a built image has: cloud-init grows the file system to it
BOOT_LIMIT_S = 900.0  # a first boot of cloud-init, emulated, with other guests beside it
RESIZE_LIMIT_S = 60
PACKAGES_MAX_BYTES = 64 << 20
TAIL_LINES = 12
LINE_CHARS = 200
STEPS = {
    "programs": "looking for systemd, Python 3.8, sshd, ip and useradd",
    "users": "making the users",
    "ssh": "setting up sshd and the trust in our SSH CA",
    "network": "turning off what would set up the network",
    "daemon": "installing the guest daemon",
    "identity": "taking its identity away",
    "end": "powering off",
}
"""Every word that the script in the guest may say, and ours for it."""
INSTALLED = b"\nStatus: install ok installed\n"
NEEDED_AS_IS = {
    f"/{file.path}": file.text.encode()
    for file in written()
    if file.path in (DAEMON.removeprefix("/"), "etc/ssh/sshd_config.d/10-fluid.conf")
}
"""What a guest must hold to be met without a boot of ours."""
BOOTING = "booting it with the seed"


class Preparation:
    """How images are prepared here. ``hypervisor`` gives the machine that boots them, when it is needed."""

    def __init__(
        self,
        hypervisor: Callable[[], Hypervisor],
        reader: DiskReader,
        *,
        cpu: int,
        memory_mb: int,
        limit_s: float = BOOT_LIMIT_S,
    ) -> None:
        self._hypervisor = hypervisor
        self._reader = reader
        self._size = {"cpu": cpu, "memory_mb": memory_mb}
        self._limit_s = limit_s
        self._one = asyncio.Lock()
        self._booted: dict[Path, _Said] = {}

    @property
    def recipe(self) -> str:
        """All that it puts into a guest."""
        return hashlib.sha256(user_data("")).hexdigest()[:24]

    async def boot(self, name: str, disk: Path, progress: Progress) -> None:
        """Let the guest on ``disk`` prepare itself; one at a time.

        Raises:
            PreparationFailed: at which step, after how long; ``details`` hold the end of its console.
        """
        machine = self._hypervisor()
        image = GuestImage(name, "", disk, None, None, "", architectures.architecture())
        async with self._one:
            await machine.sweep_preparations()
            await _grow(disk)
            said = _Said(progress)
            seed = seed_image(said.proof)
            try:
                await machine.boot_once(
                    image, seed, **self._size, limit_s=self._limit_s, on_console=said.hear
                )
            except TimedOut as error:
                raise said.failure(name, error.message) from error
        if said.failed:
            raise said.failure(name, "what it needs there is missing or fails")
        self._booted[disk.parent] = said

    async def examine(self, name: str, disk: Path) -> int:
        """How many packages the prepared disk holds, after a look at what the guest was to leave there."""
        said = self._booted.pop(disk.parent)
        wanted = [path.encode() for path in (PROOF, DAEMON, "/var/lib/dpkg/status")]
        try:
            found = await self._reader.read([disk], wanted, PACKAGES_MAX_BYTES)
        except DiskUnreadable as error:
            raise said.failure(name, f"its disk cannot be read: {error.message}") from error
        left, daemon, status = (found[path] for path in wanted)
        if (left or b"").strip() != said.proof.encode() or daemon != (PAYLOAD / "fluid-guestd").read_bytes():
            raise said.failure(name, "it powered off and has not done what its seed asks for")
        return (status or b"").count(INSTALLED)

    async def examine_as_it_is(self, name: str, disk: Path) -> int:
        """How many packages the disk holds, if a fork of it would answer without a boot of ours."""
        status = b"/var/lib/dpkg/status"
        try:
            found = await self._reader.read(
                [disk], [*map(str.encode, NEEDED_AS_IS), status], PACKAGES_MAX_BYTES
            )
        except DiskUnreadable as error:
            raise PreparationFailed(
                f"the disk of {name} cannot be read: {error.message}", remedy="fluid help images"
            ) from error
        if wrong := [path for path, text in NEEDED_AS_IS.items() if found[path.encode()] != text]:
            raise PreparationFailed(
                f"{name} cannot be forked as it is: {', '.join(wrong)} is not there as this version has it",
                remedy=f"fluid sources prepare {name}, which prepares the copy",
            )
        return (found[status] or b"").count(INSTALLED)


async def _grow(disk: Path) -> None:
    """Make room, in a file whose header is qemu-img's own."""
    programs = Programs(disk.parent / "log")
    told = await programs.run(
        "qemu-img", "info", "--output=json", "-f", "qcow2", str(disk), limit_s=RESIZE_LIMIT_S
    )
    if int(json.loads(told)["virtual-size"]) < DISK_BYTES:
        await programs.run(
            "qemu-img", "resize", "-q", "-f", "qcow2", str(disk), str(DISK_BYTES), limit_s=RESIZE_LIMIT_S
        )


class _Said:
    """A guest's console: the steps that it takes, and its last lines for whoever must find out why."""

    def __init__(self, progress: Progress) -> None:
        self.proof = secrets.token_hex(16)  # what the script leaves on the disk at its very end
        self._progress = progress
        self._started = time.monotonic()
        self._rest = b""
        self._tail: list[str] = []
        self._step = BOOTING
        self.failed = False
        progress(BOOTING)

    def hear(self, data: bytes) -> None:
        """The next bytes, cut anywhere. Called from a thread, one call at a time."""
        *lines, rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = rest[-LINE_CHARS:]
        for line in lines:
            text = visible(line.decode("utf-8", "replace"), limit=LINE_CHARS).strip()
            if text:
                self._tail = [*self._tail[1 - TAIL_LINES :], text]
                self._follow(text)

    def _follow(self, text: str) -> None:
        match text.split():
            case ["fluid:", "step", word] if word in STEPS:
                self._step = STEPS[word]
                self._progress(self._step)
            case ["fluid:", "failed", word] if word in STEPS:
                self._step, self.failed = STEPS[word], True

    def failure(self, name: str, why: str) -> PreparationFailed:
        seconds = time.monotonic() - self._started
        return PreparationFailed(
            f"{name} could not be prepared: {self._step}, {seconds:.0f} s after its start: {why}",
            remedy="`fluid help images` says what an image needs",
            console=self._tail,
        )
