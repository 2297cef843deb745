"""Reading disks and comparing them. No guest runs: mkfs.ext4, debugfs and qemu-img make the images."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

from backend.changes import BlobStore, Differ, NoiseProfile
from backend.disks import DiskReader
from backend.models import Changes
from fluid_tui.side_rows import text_rows
from tests.bench.figures import Bar, Figure, figure

FILES, FOLDERS, LINKS, PACKAGES = 100_000, 8_000, 4_000, 300
REPEATS = 10
TOOL_S = 300
DISK = "4G"
FIND = "%p %y %m %U %G %s %T@ %C@ %i %n %l\\n"
MAKE = ("mkfs.ext4", "-q", "-F", "-L", "root", "-J", "size=16", "-E", "discard")
TREE = f"{FILES:,} files in {FOLDERS:,} folders, {LINKS:,} links"
# Stands in for the interpreter that a worker is started with: the same worker, and what its memory peaked at.
WEIGH = """#!{python} -IS
import os, sys
pid = os.posix_spawn({python!r}, [{python!r}, *sys.argv[1:]], os.environ)
_, status, used = os.wait4(pid, 0)
with open({peak!r}, "w") as told:
    told.write(str(used.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="fluid-bench-") as name:
        lab = Lab(Path(name))
        figures = await _manifest(lab)
        for count, bar in ((0, Bar(p50=0.05)), (50, Bar(p50=0.5)), (5_000, None)):
            figures += await _diff(lab, count, bar)
    return figures + [one for lines in (5_000, 50_000) for one in _text(lines)]


class Lab:
    """A tree, its disk as an image, and overlays that change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        plant(self.tree)
        self._raw = folder / "base.raw"
        run("truncate", "-s", DISK, str(self._raw))
        run(*MAKE, "-d", str(self.tree), str(self._raw))
        base, first = folder / "base.qcow2", folder / "first.qcow2"
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(self._raw), str(base))
        self._overlay(first, base, "qcow2")
        self.before = [base, first]

    def after(self, count: int) -> list[Path]:
        """The layers of a later point, with so many files changed since."""
        changed, top = self.folder / f"changed-{count}.raw", self.folder / f"top-{count}.qcow2"
        run("cp", "--sparse=always", str(self._raw), str(changed))
        script = self.folder / "commands"
        script.write_text("\n".join(self._edits(count)) + "\n")
        run("debugfs", "-w", "-f", str(script), str(changed))
        # An empty overlay on the changed disk, set on the old one: what differs goes into the overlay.
        self._overlay(top, changed, "raw")
        run("qemu-img", "rebase", "-f", "qcow2", "-b", str(self.before[-1]), "-F", "qcow2", str(top))
        changed.unlink()
        return [*self.before, top]

    def _overlay(self, top: Path, below: Path, form: str) -> None:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(below), "-F", form, str(top))

    def _edits(self, count: int) -> Iterator[str]:
        """Of ten changes six rewrite a file, two add one, one removes one, one changes a mode."""
        fresh = self.folder / "fresh"
        fresh.write_text("server_tokens off;\n" * 40)
        for number in range(count):
            path = f"/{place(number * (FILES // count))}"
            if number % 10 < 6:
                yield from (f"rm {path}", f"write {fresh} {path}")
            elif number % 10 < 8:
                yield f"write {fresh} {path}.new"
            else:
                yield f"rm {path}" if number % 10 == 8 else f"set_inode_field {path} mode 0100600"


def plant(root: Path) -> None:
    """The tree of a machine with many small files."""
    for number in range(FOLDERS):
        (root / place(number)).parent.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        (root / place(number)).write_text(f"setting {number}\n" * 8)
    for number in range(LINKS):
        (root / f"{place(number)}.link").symlink_to(f"file-{number}")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("".join(_package(number) for number in range(PACKAGES)))


def place(number: int) -> str:
    """The path of a file, from the root."""
    folder = number % FOLDERS
    return f"usr/share/group-{folder % 80:02}/package-{folder:04}/file-{number}"


def _package(number: int) -> str:
    name, version = f"package-{number}", f"1.{number}"
    return f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n"


def run(*words: str) -> None:
    """A program that must succeed."""
    subprocess.run(words, check=True, capture_output=True, timeout=TOOL_S)


# --- disks ----------------------------------------------------------------------------------------------


async def _manifest(lab: Lab) -> list[Figure]:
    async def take() -> None:
        manifest = await DiskReader().manifest(lab.before)
        assert manifest.digest and len(manifest.entries) > FILES + FOLDERS + LINKS

    took, peak = await _timed(take, lab.folder)
    how = f"a worker over base and overlay (qcow2), {TREE}, digest and count taken; files in the page cache"
    asked = []
    for _ in range(REPEATS):
        began = perf_counter()
        subprocess.run(["find", lab.tree, "-printf", FIND], stdout=subprocess.DEVNULL, check=True)
        asked.append(perf_counter() - began)
    asking = "the same tree on this machine by find -printf: no guest, no SSH, no digest"
    return [
        figure("manifest of 100,000 files", took, "s", how, Bar(p50=1.0)),
        figure("manifest: the worker's memory", [peak], "MB", "ru_maxrss"),
        figure("asking instead: find", asked, "s", asking),
    ]


async def _diff(lab: Lab, count: int, bar: Bar | None) -> list[Figure]:
    after = await asyncio.to_thread(lab.after, count)
    differ = Differ(DiskReader(), BlobStore(lab.folder / f"blobs-{count}"), b"k" * 32, NoiseProfile.default())
    seen: list[Changes] = []

    async def take() -> None:
        seen.append(await differ.diff("SBX-1", "before", "after", lab.before, after, quiesced=True))

    took, peak = await _timed(take, lab.folder)
    assert {len(changes.files) for changes in seen} == {count}
    how = f"{TREE}; six in ten rewritten, two new, one gone, one of another mode" if count else TREE
    return [
        figure(f"diff of two snapshots, {count:,} changes", took, "s", how, bar),
        figure(f"diff, {count:,} changes: the worker's memory", [peak], "MB", "ru_maxrss"),
    ]


async def _timed(work: Callable[[], Awaitable[None]], folder: Path) -> tuple[list[float], float]:
    """Seconds of each repetition, and what the worker's memory peaked at in one more, in MB."""
    with _weighed(folder) as peak:
        await work()
        weight = int(peak.read_text()) / 1024
    took = []
    for _ in range(REPEATS):
        began = perf_counter()
        await work()
        took.append(perf_counter() - began)
    return took, weight


@contextmanager
def _weighed(folder: Path) -> Iterator[Path]:
    """Workers started meanwhile leave their peak (KiB) in the file."""
    peak, python = folder / "peak", folder / "python"
    python.write_text(WEIGH.format(python=sys.executable, peak=str(peak)))
    python.chmod(0o755)
    with patch.object(sys, "executable", str(python)):
        yield peak


# --- texts ----------------------------------------------------------------------------------------------


def _text(lines: int) -> list[Figure]:
    """One line in fifty rewritten, one in a hundred gone, one in a hundred new."""
    old = [f"    option_{number} = value {number * 7} of the section;" for number in range(lines)]
    new = []
    for number, line in enumerate(old):
        if number % 100 == 1:
            continue
        new.append(line.replace("value", "another value") if number % 50 == 7 else line)
        new += ["    added = yes;"] if number % 100 == 51 else []
    before, after = "\n".join(old) + "\n", "\n".join(new) + "\n"
    took = []
    for _ in range(REPEATS):
        began = perf_counter()
        rows = list(text_rows(before, after))
        took.append(perf_counter() - began)
    del rows
    tracemalloc.start()
    list(text_rows(before, after))
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    name, how = f"side by side, {lines:,} lines", "the console's rows, 4 % of the lines differ, words marked"
    memory = "tracemalloc's peak, in a run of its own"
    return [figure(name, took, "s", how, Bar(p50=0.3)), figure(f"{name}: memory", [peak], "MB", memory)]
