"""Manifests, differences and texts: what reading costs, what keeping costs, and what other ways cost.

mkfs.ext4, debugfs and qemu-img make the images; one guest is asked for its own files.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter, sleep
from unittest.mock import patch

from backend.alignment import coarse, opcodes
from backend.changes import BlobStore, Differ, Earlier, Manifests, NoiseProfile
from backend.client import Fluid
from backend.disks import DiskReader
from backend.errors import Unavailable
from backend.guests import CertificateAuthority, Guest, GuestCommands, GuestConnections, GuestTelling
from backend.images import Images
from backend.models import Changes
from backend.paths import Paths
from backend.store import Database, EmbeddedPostgres, Store, migrate
from fluid_tui.side_rows import text_rows
from tests.bench.figures import Bar, Figure, figure
from tests.bench.stage import Stage
from tests.fix_database import RUN_AS

FILES, FOLDERS, LINKS, PACKAGES = 100_000, 8_000, 4_000, 300
GROUPS = 80  # folders of folders
REPEATS, TOOL_REPEATS, ASKED = 10, 3, 3
TOOL_S = 300
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
READY_S, PLANT_S = 180.0, 1_500
DISK = "4G"
FIND = "%p %y %m %U %G %s %T@ %C@ %i %n %l\\n"
WALK = ("sh", "-c", 'find "$0" -printf "$1" > /dev/null')
MAKE = ("mkfs.ext4", "-q", "-F", "-L", "root", "-J", "size=16", "-E", "discard")
TREE = f"{FILES:,} files in {FOLDERS:,} folders, {LINKS:,} links"
TRACED = "tracemalloc's peak, in a run of its own"
CHANGED = "six in ten rewritten, two new, one gone, one of another mode"
# Stands in for the interpreter that a worker is started with: the same worker, and what its memory peaked at.
WEIGH = """#!{python} -IS
import os, sys
pid = os.posix_spawn({python!r}, [{python!r}, *sys.argv[1:]], os.environ)
_, status, used = os.wait4(pid, 0)
with open({peak!r}, "w") as told:
    told.write(str(used.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""
LEAVE = 'exec 3<&0; (read -r go <&3; exec "$@") > /dev/null & echo $!'
BY_HAND = """set -eu
cd "$1"
LC_ALL=C diff -rq --no-dereference "$2" "$3" > names || [ $? = 1 ]
for side in "$2" "$3"; do
    name=$(basename "$side")
    (cd "$side" && find . -printf '%p %y %m %U %G %s %l\\n' | LC_ALL=C sort > "$OLDPWD/$name.stat")
    (cd "$side" && find . -type f -print0 | xargs -0 sha256sum | LC_ALL=C sort -k2 > "$OLDPWD/$name.sums")
done
LC_ALL=C diff "$(basename "$2").stat" "$(basename "$3").stat" > stat || [ $? = 1 ]
LC_ALL=C diff "$(basename "$2").sums" "$(basename "$3").sums" > sums || [ $? = 1 ]
"""
"""What differs in two trees, by the programs of every system: names, attributes, hashes."""
PLANT = """
import os
for number in range({files}):
    folder = number % {folders}
    path = f"/srv/group-{{folder % {groups}:02}}/package-{{folder:04}}"
    if number < {folders}:
        os.makedirs(path, exist_ok=True)
    fd = os.open(f"{{path}}/file-{{number}}", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"setting\\n" * 8)
    os.close(fd)
"""
"""The same files, made in a guest."""


async def measure() -> list[Figure]:
    """Raises :class:`Unavailable` before anything is measured when there is no fuse2fs."""
    if not shutil.which("fuse2fs"):
        raise Unavailable("there is no fuse2fs to compare with", remedy="apt-get install fuse2fs")
    with tempfile.TemporaryDirectory(prefix="fluid-bench-") as name:
        lab = Lab(Path(name))
        figures = await _manifest(lab)
        async with _store(lab.folder / "pg") as store:
            await Manifests(DiskReader(), store.manifests).take(lab.before)
            whole = await _stored_bytes(store)
            for count, bar in ((0, Bar(p50=0.05)), (50, Bar(p50=0.5)), (5_000, None)):
                after = await asyncio.to_thread(lab.after, count)
                figures += await _kept(lab, after, store, count, whole)
                figures += await _diff(lab, after, count, bar)
    figures += [one for lines in (5_000, 50_000) for one in _text(lines)]
    return figures + await _asking()


class Lab:
    """A tree, its disk as an image, and overlays that change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree, self.later = folder / "tree", folder / "later"
        self._changed: list[str] = []
        plant(self.tree)
        self.raw = folder / "base.raw"
        run("truncate", "-s", DISK, str(self.raw))
        run(*MAKE, "-d", str(self.tree), str(self.raw))
        base, first = folder / "base.qcow2", folder / "first.qcow2"
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(self.raw), str(base))
        self._overlay(first, base, "qcow2")
        self.before = [base, first]

    def after(self, count: int) -> list[Path]:
        """The layers of a later point, with so many files changed since."""
        changed, top = self.folder / f"changed-{count}.raw", self.folder / f"top-{count}.qcow2"
        run("cp", "--sparse=always", str(self.raw), str(changed))
        script = self.folder / "commands"
        script.write_text("\n".join(self._edits(count)) + "\n")
        run("debugfs", "-w", "-f", str(script), str(changed))
        # An empty overlay on the changed disk, set on the old one: what differs goes into the overlay.
        self._overlay(top, changed, "raw")
        run("qemu-img", "rebase", "-f", "qcow2", "-b", str(self.before[-1]), "-F", "qcow2", str(top))
        changed.unlink()
        self._change_folder(count)
        return [*self.before, top]

    def _change_folder(self, count: int) -> None:
        """The same changes in a copy of the tree; those of an earlier point are taken back."""
        if not self.later.exists():
            run("cp", "-a", str(self.tree), str(self.later))
        for path in self._changed:
            shutil.copy2(self.tree / path, self.later / path)
            (self.later / f"{path}.new").unlink(missing_ok=True)
        self._changed = []
        for verb, *words in map(str.split, self._edits(count)):
            path = words[-1 if verb == "write" else 0].lstrip("/")
            self._changed.append(path.removesuffix(".new"))
            if verb == "rm":
                (self.later / path).unlink()
            elif verb == "write":
                shutil.copyfile(words[0], self.later / path)
            else:
                (self.later / path).chmod(0o600)

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
    return f"usr/share/group-{folder % GROUPS:02}/package-{folder:04}/file-{number}"


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
    figures = [
        figure("manifest of 100,000 files", took, "s", how, Bar(p50=1.0)),
        figure("manifest: the worker's memory", [peak], "MB", "ru_maxrss"),
    ]
    asked, weight = _by_program(TOOL_REPEATS, *WALK, lab.tree, FIND)
    figures += [
        figure("find over the same tree", asked, "s", "a folder of this machine: no guest, no disk image"),
        figure("find: memory", [weight], "MB", "ru_maxrss"),
    ]
    return figures + _by_fuse(lab)


def _by_fuse(lab: Lab) -> list[Figure]:
    """The disk mounted by a user's program, and walked."""
    point, took, peaks = lab.folder / "mounted", [], []
    point.mkdir()
    for _ in range(TOOL_REPEATS):
        began = perf_counter()
        served = subprocess.Popen(["fuse2fs", "-f", "-o", "ro,norecovery", str(lab.raw), str(point)])
        try:
            while not point.is_mount():
                assert served.poll() is None and perf_counter() - began < TOOL_S, "fuse2fs mounts nothing"
                sleep(0.005)
            run(*WALK, str(point), FIND)
            took.append(perf_counter() - began)
            status = Path(f"/proc/{served.pid}/status").read_text()
            peaks.append(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        finally:
            if point.is_mount():
                run("umount", str(point))
            else:
                served.send_signal(signal.SIGTERM)
            served.wait(TOOL_S)
    how = "the same disk (raw) mounted, find -printf, names thrown away"
    return [
        figure("fuse2fs and find", took, "s", how),
        figure("fuse2fs and find: memory", [max(peaks)], "MB", "VmHWM of fuse2fs"),
    ]


async def _kept(lab: Lab, after: list[Path], store: Store, count: int, whole: int) -> list[Figure]:
    """What a later snapshot's manifest costs: made of the one before it, and kept in PostgreSQL. ``whole``:
    the bytes that the first one took there."""
    manifests = Manifests(DiskReader(), store.manifests)
    first = await manifests.take(lab.before)
    stored = await _stored_bytes(store)
    reference = await DiskReader().manifest(after)

    async def take() -> None:
        taken = await manifests.take(after, Earlier(first.sha256, lab.before))
        assert taken.sha256 == reference.digest, "a splice is what the whole would be"

    took, peak = await _timed(take, lab.folder)
    added = await _stored_bytes(store) - stored
    how = "made of the one before it from the blocks that differ, kept in PostgreSQL"
    how += f"; {CHANGED}" if count else ""
    return [
        figure(f"manifest, {count:,} changes since", took, "s", how),
        figure(f"manifest, {count:,} changes: the worker's memory", [peak], "MB", "ru_maxrss"),
        figure(
            f"manifest, {count:,} changes: kept",
            [added / 1e3],
            "kB",
            f"new pieces, compressed; of the first one {whole / 1e3:,.0f} kB",
        ),
    ]


@asynccontextmanager
async def _store(folder: Path) -> AsyncIterator[Store]:
    folder.parent.chmod(0o711)
    server = EmbeddedPostgres(folder, RUN_AS)
    database = Database(await server.start())
    try:
        await database.open()
        await migrate(database)
        yield Store(database)
    finally:
        await database.close()
        await server.stop()


async def _stored_bytes(store: Store) -> int:
    async with store.database.transaction() as connection:
        asked = await connection.execute("SELECT sum(length(data)) FROM fluid.manifest_pieces")
        row = await asked.fetchone()
    assert row is not None
    return int(row[0])


async def _diff(lab: Lab, after: list[Path], count: int, bar: Bar | None) -> list[Figure]:
    differ = Differ(DiskReader(), BlobStore(lab.folder / f"blobs-{count}"), b"k" * 32, NoiseProfile.default())
    seen: list[Changes] = []

    async def take() -> None:
        seen.append(await differ.diff("SBX-1", "before", "after", lab.before, after, quiesced=True))

    took, peak = await _timed(take, lab.folder)
    own = await _own_memory(take)
    assert {len(changes.files) for changes in seen} == {count}
    how = f"{TREE}; {CHANGED}" if count else TREE
    by_hand, weight = _by_program(TOOL_REPEATS, "sh", "-c", BY_HAND, "sh", lab.folder, lab.tree, lab.later)
    told = len((lab.folder / "stat").read_text().splitlines())
    assert bool(told) == bool(count), "the programs see the same changes"
    name = f"diff -r, stat and hashes, {count:,} changes"
    return [
        figure(f"diff of two snapshots, {count:,} changes", took, "s", how, bar),
        figure(f"diff, {count:,} changes: the worker's memory", [peak], "MB", "ru_maxrss"),
        figure(f"diff, {count:,} changes: the backend's own memory", [own], "MB", TRACED),
        figure(name, by_hand, "s", "the same two trees as folders: diff -rq, find -printf, sha256sum of all"),
        figure(f"{name}: memory", [weight], "MB", "ru_maxrss, the largest of them"),
    ]


def _by_program(times: int, *words: str | Path) -> tuple[list[float], float]:
    """Seconds of each run, and the most memory that one process of it held, in MB."""
    took, peak = [], 0
    for _ in range(times):
        pid, barrier = _adopted(*words)
        began = perf_counter()
        os.close(barrier)
        _, status, used = os.wait4(pid, 0)
        took.append(perf_counter() - began)
        assert os.waitstatus_to_exitcode(status) == 0, words
        peak = max(peak, used.ru_maxrss)
    return took, peak / 1024


def _adopted(*words: str | Path) -> tuple[int, int]:
    """A child of ours that a small shell left behind, and what it waits for the end of before it begins. The
    kernel counts in a program's peak what its starter held, and this process is large."""
    kernel = ctypes.CDLL(None, use_errno=True)
    waiting, barrier = os.pipe()
    assert kernel.prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
    try:
        said = subprocess.run(
            ["sh", "-c", LEAVE, "sh", *words], stdin=waiting, stdout=subprocess.PIPE, check=True
        )
    finally:
        kernel.prctl(PR_SET_CHILD_SUBREAPER, 0)
        os.close(waiting)
    return int(said.stdout), barrier


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


async def _own_memory(work: Callable[[], Awaitable[None]]) -> float:
    """What this process holds at most for one more repetition, in MB."""
    with _traced() as peaks:
        await work()
    return peaks[0]


@contextmanager
def _traced() -> Iterator[list[float]]:
    """At its end the peak of what Python holds for the block, in MB: a block that is traced is slow."""
    peaks: list[float] = []
    tracemalloc.start()
    try:
        yield peaks
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
    finally:
        tracemalloc.stop()


@contextmanager
def _weighed(folder: Path) -> Iterator[Path]:
    """Workers started meanwhile leave their peak (KiB) in the file."""
    peak, python = folder / "peak", folder / "python"
    python.write_text(WEIGH.format(python=sys.executable, peak=str(peak)))
    python.chmod(0o755)
    with patch.object(sys, "executable", str(python)):
        yield peak


# --- a guest ----------------------------------------------------------------------------------------------


async def _asking() -> list[Figure]:
    """The files of a real guest, read from its disk and asked for over SSH."""
    cache = Paths.default()
    image = await Images(cache.images).build(progress=lambda _: None)
    async with Stage(cache.cache) as stage:
        await stage.start()
        fluid = Fluid(stage.paths.operator_socket)
        virt = "emulated" if fluid.hosts()[0].virt_type == "qemu" else "KVM"
        box = await asyncio.to_thread(fluid.create, image.name, agent_id="bench", name="asked")
        program = PLANT.format(files=FILES, folders=FOLDERS, groups=GROUPS)
        done = await asyncio.to_thread(fluid.run, box.id, f"python3 -c '{program}'", timeout=PLANT_S)
        assert done.exit_code == 0, done.stderr
        point = await asyncio.to_thread(fluid.snapshot, box.id, "full")
        layers = [Path(layer) for layer in point.disk_layers]
        read, told = [], []
        for _ in range(REPEATS):
            began = perf_counter()
            manifest = await DiskReader().manifest(layers)
            assert len(manifest.entries) == point.files > FILES + FOLDERS
            read.append(perf_counter() - began)
        connections = GuestConnections(CertificateAuthority(stage.paths.secrets))
        guest = Guest(name=box.id, address=box.ip_address or "", host_key_public=box.host_key)
        try:
            await connections.ready(guest, timeout_s=READY_S)
            for _ in range(ASKED):
                began = perf_counter()
                await GuestTelling(GuestCommands(connections)).tree(guest)
                told.append(perf_counter() - began)
        finally:
            await connections.close()
        await asyncio.to_thread(fluid.destroy, box.id)
    how = f"{point.files:,} names of a guest; {virt}"
    ratio = [min(told) / one for one in read]
    return [
        figure("a guest's manifest, from its disk", read, "s", how),
        figure("a guest's manifest, by asking it", told, "s", f"its own python3, over SSH; {how}"),
        figure("from the disk against asking", ratio, "times faster", f"the fastest of {ASKED}; {how}",
               Bar(p50=10, least=True)),
    ]  # fmt: skip


# --- texts ------------------------------------------------------------------------------------------------


def _text(lines: int) -> list[Figure]:
    """One line in fifty rewritten, one in a hundred gone, one in a hundred new; and two made to hurt."""
    old = [f"    option_{number} = value {number * 7} of the section;" for number in range(lines)]
    new = []
    for number, line in enumerate(old):
        if number % 100 == 1:
            continue
        new.append(line.replace("value", "another value") if number % 50 == 7 else line)
        new += ["    added = yes;"] if number % 100 == 51 else []
    before, after = "\n".join(old) + "\n", "\n".join(new) + "\n"
    rows = _seconds(lambda: list(text_rows(before, after)))
    aligned = _seconds(lambda: opcodes(old, new))
    left, right = _hostile(lines, 5), _hostile(lines, 7)
    hurt = _seconds(lambda: opcodes(left, right))
    runs = opcodes(left, right)
    assert any(map(coarse, runs)) and not any(map(coarse, opcodes(old, new)))
    rough = sum(run[2] - run[1] for run in runs if coarse(run))
    with _traced() as weights:
        opcodes(old, new)
    with _traced() as hurt_weights:
        opcodes(left, right)
    with _traced() as row_weights:
        list(text_rows(before, after))
    name, changed = f"side by side, {lines:,} lines", "4 % of the lines differ"
    hostile = f"few lines and in another order; {rough:,} lines in coarse hunks, which say so"
    return [
        figure(f"alignment, {lines:,} lines", aligned, "s", changed, Bar(p50=0.3)),
        figure(f"alignment, {lines:,} lines: memory", weights, "MB", TRACED),
        figure(f"alignment, {lines:,} lines made to hurt", hurt, "s", hostile, Bar(p50=0.3)),
        figure(f"alignment, {lines:,} lines made to hurt: memory", hurt_weights, "MB", TRACED),
        figure(name, rows, "s", f"the console's rows, {changed}, words marked", Bar(p50=0.3)),
        figure(f"{name}: memory", row_weights, "MB", TRACED),
    ]


def _hostile(lines: int, step: int) -> list[str]:
    """Two lines over and over, in no order that repeats soon, held apart by lines that stand once."""
    return [
        f"only {number}" if number % 250 == 0 else "ab"[number * number * step % 11 % 2]
        for number in range(lines)
    ]


def _seconds(work: Callable[[], object]) -> list[float]:
    took = []
    for _ in range(REPEATS):
        began = perf_counter()
        work()
        took.append(perf_counter() - began)
    return took
