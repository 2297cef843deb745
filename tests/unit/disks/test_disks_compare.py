"""Differences of two points: all of them, nothing else, and no secret among them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from backend.disks import ContentLimits, DiskReader
from backend.disks.contents import secret_kind
from backend.errors import DiskUnreadable


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for folder in ("etc/keep", "etc/gone", "var/lib"):
        (root / folder).mkdir(parents=True)
    for number in range(50):
        (root / f"etc/keep/{number}").write_text(f"unchanged {number}\n")
    (root / "etc/edited").write_text("before\n")
    (root / "etc/chmodded").write_text("same\n")
    (root / "etc/gone/file").write_text("bye\n")
    (root / "etc/shadow").write_text("root:$y$j9T$abc:1:0\nsync:*:1:0\nnew:!:1:0\n")
    return root


@pytest.fixture
def points(lab, tree, tmp_path):
    """Layers before and after a handful of changes."""
    (tmp_path / "edited").write_text("after, longer\n")
    (tmp_path / "added").write_bytes(b"\xffbinary\0")
    (tmp_path / "shadow").write_text("root:$y$j9T$other:1:0\nsync:*:1:0\nnew::1:0\n")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out",
         tmp_path / "crt", "-subj", "/CN=web-01", "-addext", "subjectAltName=DNS:web-01", "-days", "7"],
        check=True, capture_output=True,
    )  # fmt: skip
    before = lab.format(tree)
    after = lab.edit(
        before,
        "rm /etc/edited", f"write {tmp_path / 'edited'} /etc/edited",
        f"write {tmp_path / 'added'} /etc/added",
        f"write {tmp_path / 'key'} /etc/site.pem", f"write {tmp_path / 'crt'} /etc/site.crt",
        "rm /etc/shadow", f"write {tmp_path / 'shadow'} /etc/shadow",
        "set_inode_field /etc/chmodded mode 0100600",
        "rm /etc/gone/file", "rmdir /etc/gone",
        "mkdir /etc/new", "symlink /etc/new/link ../edited",
        "set_inode_field /etc/keep/7 atime 20300101", "set_inode_field /etc/keep/8 mtime 20300101",
    )  # fmt: skip
    base = lab.qcow2(before)
    return [base], [base, lab.overlay(base, before, after)]


async def test_exactly_what_changed_is_found(reader, points, limits):
    found = await reader.compare(*points, contents=limits)
    told = {
        pair.path: (
            pair.before.kind.value if pair.before else None,
            pair.after.kind.value if pair.after else None,
        )
        for pair in found.pairs
    }
    assert told == {
        b"/etc/added": (None, "file"),
        b"/etc/chmodded": ("file", "file"),
        b"/etc/edited": ("file", "file"),
        b"/etc/gone": ("directory", None),
        b"/etc/gone/file": ("file", None),
        b"/etc/new": (None, "directory"),
        b"/etc/new/link": (None, "link"),
        b"/etc/shadow": ("file", "file"),
        b"/etc/site.crt": (None, "file"),
        b"/etc/site.pem": (None, "file"),
    }
    pairs = {pair.path: pair for pair in found.pairs}
    assert pairs[b"/etc/edited"].before_content.data == b"before\n"
    assert pairs[b"/etc/edited"].after_content.data == b"after, longer\n"
    assert pairs[b"/etc/chmodded"].before_content.sha256 == pairs[b"/etc/chmodded"].after_content.sha256


async def test_secrets_stay_in_the_worker_and_declare_themselves(reader, points, limits):
    pairs = {pair.path: pair for pair in (await reader.compare(*points, contents=limits)).pairs}
    key = pairs[b"/etc/site.pem"].after_content
    half = key.facts["public"]
    assert (key.data, key.withheld, key.facts) == (
        None,
        "private key",
        {"private_key": "yes", "key": "rsa 2048", "public": half},
    )
    assert half == pairs[b"/etc/site.crt"].after_content.facts["public"]
    shadow = pairs[b"/etc/shadow"]
    assert (shadow.before_content.data, shadow.after_content.data) == (None, None)
    facts = pairs[b"/etc/site.crt"].after_content.facts
    assert (facts["subject"], facts["names"], facts["self_signed"]) == ("CN=web-01", "DNS:web-01", "yes")


async def test_password_fields_come_masked_and_still_tell_a_change(reader, points):
    found = await reader.compare(*points, contents=ContentLimits(whole=(b"/etc/shadow",)))
    before, after = (
        {line.partition(b":")[0]: line.partition(b":")[2] for line in side.whole[b"/etc/shadow"].splitlines()}
        for side in (found.before, found.after)
    )
    assert b"$y$" not in before[b"root"] + after[b"root"]
    assert before[b"root"].startswith(b"set~")
    assert before[b"root"] != after[b"root"]
    assert before[b"sync"] == after[b"sync"] == b"locked:1:0"
    assert (before[b"new"], after[b"new"]) == (b"locked:1:0", b"none:1:0")


async def test_an_empty_layer_changes_nothing(lab, reader, points, limits):
    top = lab.folder / "empty.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", points[1][-1], "-F", "qcow2", top], check=True
    )
    assert (await reader.compare(points[1], [*points[1], top], contents=limits)).pairs == ()


async def test_a_file_written_behind_the_file_system_s_back_is_found(lab, reader, tree, limits):
    before = lab.format(tree)
    at = before.read_bytes().index(b"unchanged 42\n")
    after = lab.patch(before, {at: b"UNCHANGED 42\n"})
    base = lab.qcow2(before)
    found = await reader.compare([base], [base, lab.overlay(base, before, after)], contents=limits)
    assert [pair.path for pair in found.pairs] == [b"/etc/keep/42"]
    assert found.pairs[0].after_content.data == b"UNCHANGED 42\n"


async def test_branches_of_one_point_are_compared(lab, reader, tree, limits):
    base_raw = lab.format(tree)
    base = lab.qcow2(base_raw)
    one = lab.overlay(base, base_raw, lab.edit(base_raw, "rm /etc/keep/1"))
    other = lab.overlay(base, base_raw, lab.edit(base_raw, "rm /etc/keep/2"))
    found = await reader.compare([base, one], [base, other], contents=limits)
    assert [(pair.path, pair.before is None) for pair in found.pairs] == [
        (b"/etc/keep/1", True),
        (b"/etc/keep/2", False),
    ]


async def test_disks_that_share_nothing_are_refused(lab, reader, tree, limits):
    raw = lab.format(tree)
    with pytest.raises(DiskUnreadable, match="share no layer"):
        await reader.compare([lab.qcow2(raw)], [lab.qcow2(raw)], contents=limits)


async def test_content_over_the_limits_is_withheld_and_said_so(reader, points):
    found = await reader.compare(*points, contents=ContentLimits(file_bytes=10))
    edited = next(pair for pair in found.pairs if pair.path == b"/etc/edited")
    assert edited.before_content.data == b"before\n"
    assert (edited.after_content.data, edited.after_content.withheld) == (None, "over 10 bytes")
    assert edited.after_content.sha256


async def test_of_a_file_too_large_to_be_hashed_is_known_whether_anybody_wrote_to_it(lab, reader, tree):
    before = lab.format(tree)
    at = before.read_bytes().index(b"unchanged 42\n")
    written = lab.patch(before, {at: b"UNCHANGED 42\n"})
    after = lab.edit(
        written,
        "set_inode_field /etc/keep/42 mode 0100600",
        "set_inode_field /etc/keep/43 mode 0100600",
    )
    base = lab.qcow2(before)
    points = [base], [base, lab.overlay(base, before, after)]
    found = await reader.compare(*points, contents=ContentLimits(hash_bytes=10))
    assert {pair.path: (pair.after_content.sha256, pair.same_content) for pair in found.pairs} == {
        b"/etc/keep/42": (None, False),
        b"/etc/keep/43": (None, True),
    }


async def test_many_large_files_take_half_of_the_time_and_the_small_ones_are_hashed(lab, tree):
    for number in range(40):
        with (tree / f"etc/{number}.img").open("wb") as sparse:
            sparse.truncate((2 << 30) - number)
    before = lab.format(tree)
    marks = [f"set_inode_field /etc/{number}.img mode 0100600" for number in range(40)]
    after = lab.edit(before, *marks, "set_inode_field /etc/keep/9 mode 0100600")
    base = lab.qcow2(before)
    points = [base], [base, lab.overlay(base, before, after)]
    found = await DiskReader(timeout_s=20).compare(*points, contents=ContentLimits())
    told = {pair.path: pair.after_content for pair in found.pairs}
    assert len(told) == 41
    assert told[b"/etc/keep/9"].sha256
    assert told[b"/etc/9.img"].withheld == "over the time for large files"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"[Interface]\nPrivateKey = " + b"a" * 43 + b"=\n", "credentials"),
        (b"PresharedKey=" + b"a" * 43 + b"=\n", "credentials"),
        (b"[Peer]\nPublicKey = " + b"a" * 43 + b"=\n", ""),
        (b"PrivateKey = /etc/wireguard/private.key\n", ""),
    ],
)
def test_a_private_key_of_wireguard_stays_in_the_worker_whatever_its_file_is_called(
    content: bytes, kind: str
) -> None:
    assert secret_kind(b"/etc/wireguard/wg0.conf", content) == kind


async def test_a_file_that_claims_anothers_blocks_does_not_explain_their_change_away(
    lab, reader, tree, limits, tmp_path
):
    """Root in the guest writes to the disk itself: content that no kernel wrote, and two owners of it."""
    before = lab.format(tree, "-O", "^extents,^64bit", "-b", "1024")
    at = before.read_bytes().index(b"unchanged 42\n")
    (tmp_path / "decoy").write_bytes(b"decoy")
    claimed = lab.edit(
        before,
        f"write {tmp_path / 'decoy'} /etc/decoy",
        f"set_inode_field /etc/decoy block[0] {at // 1024}",
    )
    after = lab.patch(claimed, {at: b"CHANGED"})
    base = lab.qcow2(before)
    found = await reader.compare([base], [base, lab.overlay(base, before, after)], contents=limits)
    assert {b"/etc/decoy", b"/etc/keep/42"} <= {pair.path for pair in found.pairs}


async def test_what_lies_where_a_group_says_that_nothing_ever_did_is_refused(lab, reader, tree, limits):
    before = lab.format(tree)
    changed = lab.edit(before, "set_inode_field /etc/keep/7 mode 0104755")
    hidden = lab.edit(
        changed,
        "set_block_group 0 itable_unused 2030",
        "set_block_group 0 checksum calc",
        "set_super_value checksum calc",
    )
    base = lab.qcow2(before)
    with pytest.raises(DiskUnreadable, match="never used"):
        await reader.compare([base], [base, lab.overlay(base, before, hidden)], contents=limits)
    with pytest.raises(DiskUnreadable, match="never used"):
        await reader.manifest([base, lab.overlay(base, before, hidden)])
