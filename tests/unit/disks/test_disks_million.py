"""A million files: one manifest of them is read, kept, loaded and made anew of what changed, and diffed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import pytest

from backend.changes import BlobStore, Differ, Earlier, Manifests, NoiseProfile
from backend.disks import DiskReader
from backend.disks.records import count
from tests.fix_manifests import Rows

pytestmark = pytest.mark.full

FOLDERS, IN_EACH, GROUPS = 10_000, 100, 100
FILES = FOLDERS * IN_EACH
SIZE_BYTES, INODES = 2 << 30, FILES + 100_000
TOOL_S = 600
GROWTH_MB = 300  # of this process; a worker that needs more than its gigabyte refuses
ADDED, GONE, OTHER = "/srv/00/00000/new", "/srv/05/00105/file-7", "/srv/99/09999/file-99"


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=TOOL_S)


def plant(root: Path) -> None:
    for number in range(FOLDERS):
        folder = root / f"srv/{number % GROUPS:02}/{number:05}"
        folder.mkdir(parents=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for file in range(IN_EACH):
            os.close(os.open(f"file-{file}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)


@pytest.fixture
def points() -> Iterator[tuple[list[Path], list[Path]]]:
    """A disk before and after three changes. Nothing of it stays, whatever pytest keeps."""
    with tempfile.TemporaryDirectory(prefix="fluid-million-") as name:
        folder = Path(name)
        raw, changed, top = (folder / one for one in ("base.raw", "changed.raw", "top.qcow2"))
        plant(folder / "tree")
        with raw.open("wb") as file:
            file.truncate(SIZE_BYTES)
        run("mkfs.ext4", "-q", "-F", "-N", str(INODES), "-J", "size=16", "-d", folder / "tree", raw)
        shutil.rmtree(folder / "tree")
        (folder / "new").write_text("setting = 1\n")
        edits = (f"write {folder}/new {ADDED}", f"rm {GONE}", f"set_inode_field {OTHER} mode 0100600")
        (folder / "edits").write_text("\n".join(edits) + "\n")
        run("cp", "--sparse=always", raw, changed)
        run("debugfs", "-w", "-f", folder / "edits", changed)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", changed, "-F", "raw", top)
        run("qemu-img", "rebase", "-f", "qcow2", "-b", raw, "-F", "raw", top)
        changed.unlink()
        yield [raw], [raw, top]


def memory_mb(what: str) -> int:
    """Of this process, by a name of proc_pid_status(5): ``VmRSS`` now, ``VmHWM`` at most."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) >> 10


async def test_a_million_files_are_read_kept_loaded_and_diffed_in_a_gigabyte(
    points: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    before, after = points
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    had_mb = memory_mb("VmRSS")
    reader, rows = DiskReader(), Rows()
    manifests = Manifests(reader, cast("Any", rows))
    took = [perf_counter()]
    first = await manifests.take(before)
    took.append(perf_counter())
    # The root, /lost+found, /srv, its groups and their folders, and the files.
    assert first.names == 3 + GROUPS + FOLDERS + FILES

    second = await manifests.take(after, Earlier(first.sha256, before))
    took.append(perf_counter())
    assert second.names == first.names
    assert 0 < second.fresh <= 5 < first.fresh, "a later one costs what changed"

    _, parts = await manifests.parts(second.sha256)
    pieces = await manifests.pieces([part.sha256 for part in parts])
    assert sum(map(count, pieces.values())) == second.names
    del pieces
    took.append(perf_counter())

    differ = Differ(reader, BlobStore(tmp_path / "blobs"), b"k" * 32, NoiseProfile.default())
    changes = await differ.diff("SBX-1", "before", "after", before, after, quiesced=True)
    took.append(perf_counter())
    assert {one.path: one.verb.value for one in changes.shown()} == {
        ADDED: "added",
        GONE: "removed",
        OTHER: "metadata",
    }
    growth = memory_mb("VmHWM") - had_mb
    words = ("read whole", "made anew", "loaded", "diffed")
    steps = [f"{word} {end - start:.1f} s" for word, start, end in zip(words, took, took[1:], strict=False)]
    print(f"{first.names:,} names: {', '.join(steps)}; at most {growth} MB more here")
    assert growth < GROWTH_MB
