"""Every name, attribute and byte of strange file systems, against debugfs and the tree they came from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from backend.changes import BlobStore, Differ, NoiseProfile
from backend.disks import DiskReader
from backend.disks.pieces import Piece
from backend.errors import DiskUnreadable
from backend.models import ChangeVerb
from tests.unit.disks.opinion import opinion, ours

FEATURES = {
    "default": (),
    "small blocks": ("-b", "1024"),
    "2k blocks, small groups": ("-b", "2048", "-g", "1024"),
    "block maps": ("-O", "^extents,^64bit,^metadata_csum"),
    "block maps, small blocks": ("-b", "1024", "-O", "^extents,^64bit,^metadata_csum,^flex_bg"),
    "block maps with sums": ("-b", "1024", "-O", "^extents,^64bit,metadata_csum"),
    "inline data": ("-O", "inline_data"),
    "old inodes": ("-I", "128", "-O", "^metadata_csum"),
    "old inodes with sums": ("-I", "128", "-O", "metadata_csum"),
    "wide inodes": ("-I", "1024", "-O", "inline_data"),
    "no extra fields": ("-O", "^extra_isize,^metadata_csum"),
    "meta groups": ("-b", "1024", "-O", "meta_bg,^resize_inode"),
    "two backups": ("-O", "sparse_super2"),
    "a backup in each group": ("-O", "^sparse_super,^resize_inode", "-g", "2048"),
    "no journal": ("-O", "^has_journal"),
    "attribute inodes": ("-O", "ea_inode"),
    "big clusters": ("-O", "bigalloc", "-C", "16384"),
    "big clusters, small blocks": ("-b", "1024", "-O", "bigalloc", "-C", "8192"),
    "no file types": ("-O", "^filetype,^dir_index"),
    "a seed of its own": ("-O", "metadata_csum_seed"),
    "sums of descriptors only": ("-O", "^metadata_csum,uninit_bg"),
    "no sums": ("-O", "^metadata_csum,^uninit_bg"),
    "narrow": ("-O", "^64bit,^huge_file,^dir_nlink,^large_file,^flex_bg"),
    "quotas and projects": ("-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota"),
    "verity": ("-O", "verity"),
    "encryption unused": ("-O", "encrypt,stable_inodes"),
    "folded case": ("-O", "casefold", "-E", "encoding_flags=strict"),
    "large directories": ("-O", "large_dir"),
    "a file of orphans": ("-O", "orphan_file"),
    "fast commits": ("-O", "fast_commit"),
    "packed": ("-E", "packed_meta_blocks=1,root_owner=7:8"),
    "first revision": ("-r", "0", "-O", "none"),
}
EDITS = (
    "mknod disk b 1048575 17", "mknod null c 1 3", "link /tiny /alias", "set_inode_field /tiny uid 70000",
    "set_inode_field /tiny gid 4000000000", "set_inode_field /block mtime_extra 0x765432",
)  # fmt: skip
EDITED = (b"/", b"/disk", b"/null", b"/alias", b"/block")
CORPUS = [pytest.param(options, id=name) for name, options in FEATURES.items()]
CORPUS.append(pytest.param(("-O", "mmp"), id="mounted once", marks=pytest.mark.full))  # debugfs waits 11 s


@pytest.fixture(params=CORPUS)
def image(request, lab, strange_tree) -> Path:
    wanted = request.param
    if "none" in wanted:  # the first revision knows neither attributes nor files beyond 2 GiB
        os.truncate(strange_tree / "hole", 1 << 30)
        for path in (strange_tree / name for name in ("deep", "tiny", "large")):
            for name in os.listxattr(path):
                os.removexattr(path, name)
    return lab.edit(lab.format(strange_tree, *wanted), *EDITS)


async def test_every_name_is_as_debugfs_and_the_tree_say(lab, reader, strange_tree, image):
    mine, theirs = await ours(reader, image), opinion(lab, image)
    assert mine.keys() ^ theirs.keys() == set()
    wrong = [(path, mine[path], seen) for path, seen in theirs.items() if mine[path] != seen]
    assert wrong == []
    assert len(mine) > 170
    entries = {entry.path: entry for entry in (await reader.manifest([image])).entries}
    files = [path for path, entry in entries.items() if entry.kind == "file" and 0 < entry.size < 1 << 30]
    contents = await reader.read([image], files, 32 << 20)
    for path, entry in entries.items():
        if path not in EDITED and not path.startswith((b"/lost+found", b"/many")):
            _same_as_source(entry, Path(os.fsdecode(os.fsencode(strange_tree) + path)), contents.get(path))
    assert entries[b"/deep/hard link"].inode == entries[b"/tiny"].inode == entries[b"/alias"].inode
    assert dict(entries[b"/alias"].xattrs) == dict(entries[b"/tiny"].xattrs)


def _same_as_source(entry, source, content):
    if entry.target is not None:
        assert entry.target == os.fsencode(source.readlink())
    if content is not None:
        assert content == source.read_bytes(), entry.path
    attributes = {
        name.encode(): os.getxattr(source, name, follow_symlinks=False)
        for name in os.listxattr(source, follow_symlinks=False)
    }
    assert dict(entry.xattrs) == attributes, entry.path
    if entry.kind in ("file", "directory"):  # mkfs gives other kinds the time of the making, and no fractions
        assert entry.mtime_ns // 10**9 == source.lstat().st_mtime_ns // 10**9, entry.path


@pytest.mark.parametrize(
    ("seconds", "extra", "ns"),
    [
        ("0xee6b2800", (123_456_789 << 2) | 1, 4_000_000_000_123_456_789),
        ("0xffffffff", 5 << 2, -1_000_000_000 + 5),
        ("0x7fffffff", 3 | 999_999_999 << 2, (0x7FFF_FFFF + (3 << 32)) * 10**9 + 999_999_999),
    ],
)
async def test_times_from_1901_to_2446_to_the_nanosecond(lab, reader, tmp_path, seconds, extra, ns):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/file").touch()
    image = lab.edit(
        lab.format(tmp_path / "one"),
        f"set_inode_field /file mtime @{seconds}",
        f"set_inode_field /file mtime_extra {extra:#x}",
    )
    entries = {entry.path: entry for entry in (await reader.manifest([image])).entries}
    assert entries[b"/file"].mtime_ns == ns


async def test_what_chattr_sets_is_an_attribute_and_a_change(lab, reader, tmp_path, limits):
    tree = tmp_path / "few"
    (tree / "folder").mkdir(parents=True)
    (tree / "file").write_bytes(b"content")
    before = lab.format(tree)
    after = lab.edit(before, "set_inode_field /file flags 0x80030", "set_inode_field /folder flags 0x80010")
    known = opinion(lab, after)
    assert known[b"/file"]["xattrs"] == {b"chattr": b"ia"}
    assert await ours(reader, after) == known
    found = await reader.compare([before], [before, lab.overlay(before, before, after)], contents=limits)
    assert [(pair.path, dict(pair.before.xattrs), dict(pair.after.xattrs)) for pair in found.pairs] == [
        (b"/file", {}, {b"chattr": b"ia"}),
        (b"/folder", {}, {b"chattr": b"i"}),
    ]


async def test_a_label_of_selinux_is_an_attribute_and_a_change(lab, reader, tmp_path, limits):
    tree = tmp_path / "few"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    old, new = (f"system_u:object_r:{kind}_t:s0\0".encode() for kind in ("etc", "shadow"))
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    before = lab.edit(lab.format(tree), f"ea_set -f {tmp_path / 'old'} /file security.selinux")
    after = lab.edit(before, f"ea_set -f {tmp_path / 'new'} /file security.selinux")
    manifests = [await reader.manifest([image]) for image in (before, after)]
    labels = [{one.path: dict(one.xattrs) for one in manifest.entries} for manifest in manifests]
    assert [one[b"/file"] for one in labels] == [{b"security.selinux": old}, {b"security.selinux": new}]
    assert manifests[0].digest != manifests[1].digest
    top = lab.overlay(before, before, after)
    (pair,) = (await reader.compare([before], [before, top], contents=limits)).pairs
    assert (pair.path, dict(pair.after.xattrs)) == (b"/file", {b"security.selinux": new})
    differ = Differ(reader, BlobStore(tmp_path / "blobs"), b"k" * 32, NoiseProfile.default())
    (change,) = (await differ.diff("SBX-1", "a", "b", [before], [before, top], quiesced=True)).shown()
    assert (change.verb, change.after.xattrs) == (ChangeVerb.METADATA, {"security.selinux": new.hex()})


async def test_capabilities_access_lists_devices_and_owners(lab, reader, tmp_path):
    tree = tmp_path / "few"
    tree.mkdir()
    (tree / "ping").write_bytes(b"elf")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    (tmp_path / "capability").write_bytes(capability)
    image = lab.edit(
        lab.format(tree),
        f"ea_set -f {tmp_path / 'capability'} /ping security.capability",
        "ea_set /ping trusted.note hello",
        "set_inode_field /ping uid 70000",
        "set_inode_field /ping gid 4000000000",
        "mknod disk b 253 17",
        "mknod null c 1 3",
        "link /ping /alias",
    )
    entries = {entry.path: entry for entry in (await reader.manifest([image])).entries}
    attributes = dict(entries[b"/ping"].xattrs)
    assert attributes == {b"security.capability": capability, b"trusted.note": b"hello"}
    assert dict(entries[b"/alias"].xattrs) == attributes
    assert (entries[b"/ping"].uid, entries[b"/ping"].gid) == (70000, 4_000_000_000)
    assert (entries[b"/disk"].rdev, entries[b"/null"].rdev) == ((253, 17), (1, 3))
    assert entries[b"/null"].kind == "character device"


async def test_a_manifest_counts_its_names_and_its_digest_tells_a_change(lab, reader, strange_tree):
    image = lab.format(strange_tree)
    manifest = await reader.manifest([image])
    assert len(manifest.entries) == len(list(manifest.entries))  # links and attributes are counted over
    *most, last = manifest.pieces
    with pytest.raises(DiskUnreadable, match="cut off"):
        len(type(manifest)((*most, Piece(last.first, last.data[:-1]))).entries)
    changed = await reader.manifest([lab.edit(image, "set_inode_field /tiny mode 0100644")])
    assert changed.digest != manifest.digest


async def test_a_tree_that_loops_is_refused(lab, reader, tmp_path):
    tree = tmp_path / "loop"
    (tree / "a/b").mkdir(parents=True)
    image = lab.edit(lab.format(tree), "link /a /a/b/again")
    with pytest.raises(DiskUnreadable, match="reached twice"):
        await reader.manifest([image])


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("feature_incompat", "0x1246", "data in directory entries"),
        ("feature_incompat", "0x80000242", "unknown features"),
        ("blocks_count", "99999999", "do not fit"),
        ("inodes_per_group", "0", "groups of"),
        ("inode_size", "100", "inodes of 100 bytes"),
        ("log_block_size", "9", "blocks of"),
    ],
)
async def test_a_superblock_that_is_not_understood_is_refused_with_words(lab, reader, field, value, words):
    image = lab.edit(lab.format(None, "-O", "^metadata_csum"), f"set_super_value {field} {value}")
    with pytest.raises(DiskUnreadable, match=words):
        await reader.manifest([image])


@pytest.fixture
def odd(lab, tmp_path) -> Path:
    tree = tmp_path / "odd"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder/Name").write_text("content")
    (tree / "link").symlink_to("abc")
    return tree


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("set_inode_field /folder flags 0x80800", "encrypted"),
        ("set_inode_field /folder/Name mode 0130644", "unknown kind"),
        ("set_inode_field /folder/Name size 0xffffffffffffffff", "bytes"),
        ("set_inode_field /folder/Name links_count 0", "which is free"),
        ("set_inode_field /folder/Name extra_isize 200", "extra bytes"),
        ("set_inode_field /folder/Name file_acl 3", "attribute block|does not match"),
        ("set_inode_field /folder size 100", "a size of"),
        ("set_inode_field /folder size 8192", "ends after"),
        ("set_inode_field /folder block[0] 0", "extent tree"),
        ("set_inode_field /folder block[1] 0", "extent tree"),
        ("set_inode_field /link block[0] 0x630061", "no link can have"),
        ("set_inode_field /link size 5000", "a target of"),
        ("link <8> /journal", "the file system's own"),
        ("link <9999> /far", "never used"),
        ("set_super_value creator_os 1", "of system 1"),
        ("set_super_value checksum_type 7", "unknown kind 7"),
        ("set_super_value desc_size 32", "group descriptors of 32"),
    ],
)
async def test_what_cannot_be_read_exactly_is_refused_with_words(lab, reader, odd, edit, words):
    image = lab.edit(lab.format(odd, "-O", "metadata_csum,64bit"), edit)
    with pytest.raises(DiskUnreadable, match=words):
        await reader.manifest([image])


async def test_names_in_a_case_folded_folder_are_exact_and_never_guessed(lab, reader, odd):
    image = lab.edit(lab.format(odd, "-O", "casefold"), "set_inode_field /folder flags 0x40080000")
    assert b"/folder/Name" in {entry.path for entry in (await reader.manifest([image])).entries}
    assert await reader.read([image], [b"/folder/Name"], 100) == {b"/folder/Name": b"content"}
    with pytest.raises(DiskUnreadable, match="may mean another name"):
        await reader.read([image], [b"/folder/NAME"], 100)


async def test_a_journal_elsewhere_is_needed_only_for_recovery(lab, reader, odd):
    """What was frozen, or unmounted, has everything in place."""
    elsewhere = ("set_super_value feature_compat 0x3c", "set_super_value journal_dev 0x801")
    clean = lab.edit(lab.format(odd, "-O", "^has_journal"), *elsewhere)
    assert b"/folder/Name" in {entry.path for entry in (await reader.manifest([clean])).entries}
    with pytest.raises(DiskUnreadable, match="on another device"):
        await reader.manifest([lab.edit(clean, "set_super_value feature_incompat 0x2c6")])
    with pytest.raises(DiskUnreadable, match="journal device"):
        await reader.manifest([lab.format(None, "-O", "journal_dev")])


@pytest.mark.parametrize("options", [(), ("-O", "^metadata_csum"), ("-O", "large_dir,^extents,^64bit")])
async def test_a_folder_of_thousands_of_names_in_a_hash_tree(lab, reader, tmp_path, options):
    tree = tmp_path / "wide"
    (tree / "many").mkdir(parents=True)
    (tree / "one").write_text("one")
    for number in range(1_500):
        os.link(tree / "one", tree / f"many/{number:05} {'wide ' * 40}")
    image = lab.format(tree, "-b", "1024", *options)
    subprocess.run(["e2fsck", "-fyD", image], capture_output=True, timeout=60, check=False)
    assert b"Indirect levels: 1" in lab.debugfs(image, "htree_dump /many")[0]
    mine, theirs = await ours(reader, image), opinion(lab, image)
    assert mine == theirs
    assert mine[b"/one"]["links"] == 1_501
    assert len(mine) == 1_504


async def test_a_file_system_of_another_kind_is_refused_with_a_remedy(lab, reader):
    image = lab.folder / "nothing.raw"
    image.write_bytes(bytes(1 << 20))
    with pytest.raises(DiskUnreadable, match="neither") as refused:
        await reader.manifest([image])
    assert "ext4" in refused.value.remedy


async def test_reading_stops_at_its_time_limit(lab, strange_tree):
    image = lab.format(strange_tree)
    with pytest.raises(DiskUnreadable, match="longer than"):
        await DiskReader(timeout_s=0.001).manifest([image])


async def test_reading_stops_at_its_memory_limit(lab, strange_tree):
    image = lab.format(strange_tree)
    with pytest.raises(DiskUnreadable):
        await DiskReader(memory_mb=8).manifest([image])
