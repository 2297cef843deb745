"""What a guest tells of its files: taken only in its one form, without secrets, labelled, never mixed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.changes import LIMITS, Asker, BlobStore, Differ, NoiseProfile, Told, told
from backend.changes.told import checked, parse_contents
from backend.disks import DiskReader, wire
from backend.disks.records import HEAD, Node, pack
from backend.errors import DiskUnreadable, NotFound
from backend.guests import Guest
from backend.models import ChangeVerb
from tests.fix_manifests import Rows, kept_in

GUEST = Guest(name="SBX-1", address="192.0.2.1", host_key_public="")
PROGRAM = Path(told.__file__).parents[1] / "guests/_tell.py"
KEY = b"k" * 32
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"
TOKEN = "machine x password geheim\n"
SHADOW = "root:$y$j9T$abcdefghij$klmnopqrstuvwxyz:1:::::\n"
FOLDER, FILE, LINK, DEVICE = 0o040755, 0o100644, 0o120777, 0o020600


def node(path: bytes, mode: int = FILE, **more: object) -> Node:
    blank = Node(path, mode, 0, 0, 1, 7, 5, 0, 0, (5, 1) if mode == DEVICE else None, None, ())
    return blank._replace(**more)  # type: ignore[arg-type]


ROOT = pack(node(b"/", FOLDER))
TREE = [node(b"/", FOLDER), node(b"/a", FOLDER), node(b"/a-b"), node(b"/a/x", xattrs=((b"user.x", b"1"),))]
NO_PATHS = (b"/..", b"/.", b"//", b"/a/", b"a", b"", b"/a\0b", b"/" + b"n" * 256)
HONEST = b"".join(map(pack, [*TREE, node(b"/dev", DEVICE), node(b"/l", LINK, target=b"a\n\xff")]))


def test_an_honest_answer_is_taken_name_by_name() -> None:
    assert list(checked(HONEST)) == [b"/", b"/a", b"/a-b", b"/a/x", b"/dev", b"/l"]


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        HONEST[:-1],
        HONEST + b"\0",
        HONEST + pack(node(b"/a")),  # no longer sorted
        ROOT + ROOT,
        pack(node(b"/a")),  # no root
        pack(node(b"/")),  # a root that is a file
        ROOT + pack(node(b"/f")) + pack(node(b"/f/inner")),
        ROOT + pack(node(b"/gone/inner")),
        *(ROOT + pack(node(path)) for path in NO_PATHS),
        ROOT + pack(node(b"/a", FOLDER)) + pack(node(b"/a/../b")),
        ROOT + pack(node(b"/x", 0o000644)),
        ROOT + pack(node(b"/x", size=1 << 63)),
        ROOT + pack(node(b"/l", LINK, target=b"")),
        ROOT + pack(node(b"/l", LINK, target=b"a\0b")),
        ROOT + pack(node(b"/f")._replace(target=b"of no link")),
        ROOT + pack(node(b"/f")._replace(rdev=(1, 2))),
        ROOT + pack(node(b"/f", xattrs=((b"b", b""), (b"a", b"")))),
        ROOT + pack(node(b"/f", xattrs=((b"a", b"1"), (b"a", b"2")))),
        ROOT + pack(node(b"/f", xattrs=((b"", b"1"),))),
        ROOT + HEAD.pack(FILE, 0, 0, 1, 1, 5, 0, 0, 0, 0, 4, 2, 0) + b"/f" + b"\xff\xff\xff\xff",
    ],
)  # fmt: skip
def test_a_tree_in_any_other_form_is_refused(hostile: bytes) -> None:
    with pytest.raises(DiskUnreadable):
        checked(hostile)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bytes_turned_at_random_are_refused_or_a_tree(data: st.DataObject) -> None:
    broken = bytearray(HONEST)
    for at in data.draw(st.lists(st.integers(0, len(HONEST) - 1), min_size=1, max_size=6)):
        broken[at] = data.draw(st.integers(0, 255))
    try:
        names = list(checked(bytes(broken)))
    except DiskUnreadable:
        return
    assert names == sorted(set(names)) and names[0] == b"/"
    assert not any(part in (b"", b".", b"..") for name in names[1:] for part in name.split(b"/")[1:])


def row(data: bytes, at: int | None = 0) -> list[object]:
    return [
        len(data),
        hashlib.sha256(data).hexdigest(),
        hashlib.md5(data, usedforsecurity=False).hexdigest(),
        at,
    ]


def answer(files: object, *blobs: bytes) -> bytes:
    return b"".join(wire.frame({"files": files}, list(blobs)))


def test_an_honest_content_is_taken_with_its_sums() -> None:
    keep = {b"/kept": True, b"/summed": False, b"/gone": True, b"/huge": False}
    data = answer([row(b"text"), row(b"other", None), None, [1 << 40, None, None, None]], b"text")
    found = parse_contents(keep, data)
    assert [found[path].data for path in keep] == [b"text", None, None, None]
    assert [found[path].sha256 is None for path in keep] == [False, False, True, True]


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xff\xff\xff\xff",
        answer([row(b"text")], b"text")[:-1],
        answer([], b""),
        answer([row(b"text"), row(b"text")], b"text"),
        answer({"0": None}, b"text"),
        answer([row(b"text")], b"lies"),
        answer([row(b"text", 7)], b"text"),
        answer([row(b"text", -1)], b"text"),
        answer([row(b"text", True)], b"text", b"text"),  # type: ignore[arg-type]
        answer([[True, *row(b"t")[1:]]], b"t"),
        answer([[4.0, *row(b"text")[1:]]], b"text"),
        answer([[4, "A" * 64, "0" * 32, None]]),
        answer([[4, 5, None, None]]),
        answer([["text"]], b"text"),
        answer(["four"], b"text"),
        (200_000).to_bytes(4, "big") + b"[" * 200_000,
        (17).to_bytes(4, "big") + b'{"blobs": [9e99]}',
    ],
)
def test_a_content_in_any_other_form_is_refused(hostile: bytes) -> None:
    with pytest.raises(DiskUnreadable):
        parse_contents({b"/f": True}, hostile)


def test_bytes_that_nobody_asked_for_are_refused() -> None:
    with pytest.raises(DiskUnreadable, match="not asked for"):
        parse_contents({b"/f": False}, answer([row(b"text")], b"text"))


class Here:
    """Asks this machine instead of a guest: the same program, in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, 0
        self.before_contents: Callable[[], None] = lambda: None

    def _run(self, job: Mapping[str, object]) -> bytes:
        argv = [sys.executable, "-IS", "-c", PROGRAM.read_text()]
        data = json.dumps({"root": str(self.root), **job}).encode()
        return subprocess.run(argv, input=data, capture_output=True, check=True, timeout=20).stdout

    async def tree(self, guest: Guest, *, root: bytes) -> bytes:
        return self._run({})

    async def contents(
        self, guest: Guest, keep: dict[bytes, bool], limits: dict[str, int], *, root: bytes
    ) -> bytes:
        self.asked = len(keep)
        self.before_contents()
        paths = [wire.text(path) for path in keep]
        return self._run({"paths": paths, "keep": list(keep.values()), "limits": limits})


class World:
    """A guest's tree, asked and compared."""

    def __init__(self, folder: Path) -> None:
        self.root, self.blobs = folder / "root", BlobStore(folder / "blobs")
        self.here = Here(self.root)
        self.rows = Rows()
        self.asker = Asker(self.here, kept_in(self.rows), self.blobs, KEY, LIMITS)  # type: ignore[arg-type]
        self.differ = Differ(DiskReader(), self.blobs, KEY, NoiseProfile.default())
        self.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        self.write("etc/group", "root:x:0:\n")
        self.write("etc/shadow", SHADOW)
        self.write("etc/sysctl.d/10.conf", "vm.swappiness = 10\n")
        self.write("usr/bin/tool", "#!shipped\n")
        self.write("root/.ssh/id_ed25519", PRIVATE)
        self.write("root/.netrc", TOKEN)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    async def ask(self, since: Told | None = None) -> Told:
        return await self.asker.ask(GUEST, since)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_no_secret_of_a_guest_is_kept_nor_its_plain_sum(world: World) -> None:
    asked = await world.ask()
    stored = await world.asker.keep(asked)
    kept = await world.asker.kept(stored)
    assert kept == asked and len(kept.nodes) == len(list(world.root.rglob("*"))) + 1
    whole = b"".join((one.data or b"") + (one.sha256 or "").encode() for one in kept.contents.values())
    for secret in (PRIVATE, TOKEN, SHADOW):
        assert (
            secret.encode() not in whole and hashlib.sha256(secret.encode()).hexdigest().encode() not in whole
        )
    assert kept.shadow is not None and b"root:set~" in kept.shadow and b"$y$" not in kept.shadow
    assert kept.contents[b"/etc/sysctl.d/10.conf"].data == b"vm.swappiness = 10\n"
    assert not list(world.root.parent.glob("blobs/**/.new-*"))


async def test_a_difference_by_the_guests_word_says_what_it_means_and_who_said_it(world: World) -> None:
    before = await world.ask()
    world.write("etc/sysctl.d/10.conf", "vm.swappiness = 20\n")
    world.write("etc/passwd", "root:x:0:0::/root:/bin/sh\ndeploy:x:1000:1000::/home/deploy:/bin/sh\n")
    world.write("usr/bin/tool", "#!patched\n")
    world.write("root/.netrc", TOKEN + "more\n")
    (world.root / "etc/shadow").chmod(0o640)
    shutil.rmtree(world.root / "root/.ssh")
    os.utime(world.root / "etc/group", (1, 1))
    after = await world.ask(before)
    assert world.here.asked == 6  # the four that were written, and two that have other times
    changes = await world.differ.diff("SBX-1", "before", "now", before, after, quiesced=True)
    assert (changes.read_from, changes.quiesced) == ("guest", False)
    assert "root there could lie" in changes.notes[0]
    told_of = {change.path: change for change in changes.files}
    assert told_of.keys() == {
        "/etc/passwd", "/etc/shadow", "/etc/sysctl.d/10.conf", "/root/.netrc", "/root/.ssh",
        "/root/.ssh/id_ed25519", "/usr/bin/tool",
    }  # fmt: skip
    assert told_of["/etc/shadow"].verb is ChangeVerb.METADATA
    assert told_of["/usr/bin/tool"].verb is ChangeVerb.MODIFIED
    assert re.search(
        r"1 files, /usr/bin/tool the first: their former content was not asked", changes.notes[1]
    )
    netrc = told_of["/root/.netrc"].after
    assert netrc is not None and netrc.secret == "credentials" and netrc.text is None
    assert [(one.name, one.before["value"], one.after["value"]) for one in changes.settings] == [
        ("vm.swappiness", "10", "20")
    ]
    assert [(user.name, user.verb) for user in changes.users] == [("deploy", ChangeVerb.ADDED)]
    nothing = await world.differ.diff("SBX-1", "now", "now", after, await world.ask(after), quiesced=True)
    assert not nothing.files and world.here.asked == 0


async def test_a_file_that_goes_while_a_guest_is_asked_is_told_without_a_content_and_said_to_be(
    world: World,
) -> None:
    before = await world.ask()
    world.write("etc/app.conf", "a = 1\n")
    world.write("etc/sysctl.d/10.conf", "vm.swappiness = 20\n")

    def goes() -> None:
        (world.root / "etc/app.conf").unlink()
        (world.root / "etc/sysctl.d/10.conf").unlink()

    world.here.before_contents = goes
    after = await world.ask(before)
    changes = await world.differ.diff("SBX-1", "before", "now", before, after, quiesced=True)
    told_of = {change.path: change for change in changes.files}
    assert told_of.keys() == {"/etc/app.conf", "/etc/sysctl.d/10.conf"} and not changes.settings
    for one in told_of.values():
        assert one.after is not None and (one.after.sha256, one.after.text, one.after.blob) == (
            None,
            None,
            False,
        )
    assert "2 files, /etc/app.conf the first: they were there, and could not be read" in changes.notes


async def test_which_names_are_one_file_is_told_by_the_guests_word_too(world: World) -> None:
    world.write("srv/perl", "#!x\n")
    os.link(world.root / "srv/perl", world.root / "srv/perl5")
    before = await world.ask()
    shutil.copy2(world.root / "srv/perl5", world.root / "srv/new")
    (world.root / "srv/new").replace(world.root / "srv/perl5")
    after = await world.ask(before)
    changes = await world.differ.diff("SBX-1", "before", "now", before, after, quiesced=True)
    told_of = {one.path: one for one in changes.files}
    for path, other in (("/srv/perl", "/srv/perl5"), ("/srv/perl5", "/srv/perl")):
        one = told_of[path]
        assert one.verb is ChangeVerb.METADATA and one.before and one.after
        assert (one.before.same_file, one.after.same_file) == ([other], [])


async def test_two_kept_ones_share_pieces_and_are_compared_by_those_they_do_not(world: World) -> None:
    for number in range(2_500):
        world.write(f"srv/{number:04}", f"{number}\n")
    before = await world.ask()
    old = await world.asker.keep(before)
    pieces = len(world.rows.data)
    world.write("srv/0700", "another\n")
    world.write("etc/sysctl.d/10.conf", "vm.swappiness = 20\n")
    after = await world.ask(before)
    new = await world.asker.keep(after)
    assert pieces > 4 and len(world.rows.data) == pieces + 2
    world.rows.asked.clear()
    both = await world.asker.kept_both(old, new)
    assert all(asked < pieces - 1 for asked in world.rows.asked)
    some, whole = [
        await world.differ.diff("SBX-1", "a", "b", *points, quiesced=True)
        for points in (both, (before, after))
    ]
    assert [change.path for change in some.files] == ["/etc/sysctl.d/10.conf", "/srv/0700"]
    unlike = {"id", "created_at", "took_s"}
    assert some.model_dump(exclude=unlike) == whole.model_dump(exclude=unlike)
    same = await world.asker.kept_both(new, new)
    assert not (await world.differ.diff("SBX-1", "a", "a", *same, quiesced=True)).files


async def test_what_an_older_version_kept_whole_is_read_and_compared(world: World) -> None:
    before = await world.ask()
    contents = {wire.text(path): {**asdict(one), "data": None} for path, one in before.contents.items()}
    head = {"packed": 0, "shadow": 1, "contents": contents}
    framed = wire.frame(head, [before.packed, before.shadow or b""])
    old = world.blobs.put(zlib.compress(b"".join(framed)))
    kept = await world.asker.kept(old)
    assert (kept.nodes, kept.shadow) == (before.nodes, before.shadow)
    assert kept.contents.keys() == before.contents.keys()
    world.write("srv/new", "new\n")
    both = await world.asker.kept_both(old, await world.asker.keep(await world.ask(before)))
    changes = await world.differ.diff("SBX-1", "a", "b", *both, quiesced=True)
    assert "/srv/new" in {change.path for change in changes.files}
    with pytest.raises(NotFound):
        await world.asker.kept("0" * 64)


async def test_a_file_that_states_much_and_is_told_by_half_states_nothing(world: World) -> None:
    before = await world.ask()
    world.write("etc/passwd", "#" * (told.LIMITS["file_bytes"] + 1))
    changes = await world.differ.diff("SBX-1", "a", "b", before, await world.ask(before), quiesced=True)
    assert not changes.users
    assert any(note.startswith("/etc/passwd: what it states is not told") for note in changes.notes)


async def test_what_a_disk_showed_is_never_compared_with_what_a_guest_told(world: World) -> None:
    asked = await world.ask()
    for before, after in (([Path("disk.raw")], asked), (asked, [Path("disk.raw")])):
        with pytest.raises(DiskUnreadable, match="not compared") as refused:
            await world.differ.diff("SBX-1", "a", "b", before, after, quiesced=True)
        assert "make a new snapshot" in refused.value.remedy
