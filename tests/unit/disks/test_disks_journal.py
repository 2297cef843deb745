"""A file system that was not frozen is read as a mount would find it, without a byte written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from backend.errors import DiskUnreadable

BLOCK_BYTES = 4096
TIMEOUT_S = 60


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    for name in "abc":
        (root / name).write_text(f"old {name}\n".ljust(BLOCK_BYTES, "."))
        (tmp_path / f"new-{name}").write_text(f"new {name}\n".ljust(BLOCK_BYTES, "."))
    (tmp_path / "new-a").write_bytes(b"\xc0\x3b\x39\x98 looks like a journal block".ljust(BLOCK_BYTES, b"."))
    return root


def block_of(lab, image: Path, name: str) -> int:
    return int(lab.debugfs(image, f"blocks /{name}")[0].split()[0])


def repaired(image: Path) -> Path:
    """What e2fsck makes of a copy by replaying its journal."""
    copy = image.with_suffix(".fsck")
    copy.write_bytes(image.read_bytes())
    done = subprocess.run(
        ["e2fsck", "-fy", "-E", "journal_only", copy], capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode in (0, 1), done.stdout
    raw = copy.with_name(copy.stem + "-fsck.raw")
    copy.rename(raw)
    return raw


@pytest.mark.parametrize("checksums", ["", "-c -v 2", "-c -v 3"])
@pytest.mark.parametrize("options", [("-O", "64bit"), ("-O", "^64bit")], ids=["64 bit", "32 bit"])
async def test_a_journal_is_replayed_as_e2fsck_replays_it(lab, reader, tree, tmp_path, checksums, options):
    clean = lab.format(tree, "-b", str(BLOCK_BYTES), *options)
    blocks = {name: block_of(lab, clean, name) for name in "abc"}
    dirty = lab.edit(
        clean,
        f"journal_open {checksums}",
        f"journal_write -b {blocks['a']} {tmp_path / 'new-a'}",
        f"journal_write -b {blocks['b']} {tmp_path / 'new-b'}",
        f"journal_write -b {blocks['c']} {tmp_path / 'new-c'}",
        f"journal_write -r {blocks['c']}",
        "journal_close",
    )
    before = dirty.read_bytes()
    paths = [b"/a", b"/b", b"/c"]
    found = await reader.read([dirty], paths, 1 << 20)
    assert found == await reader.read([repaired(dirty)], paths, 1 << 20)
    assert found[b"/a"].startswith(b"\xc0\x3b\x39\x98 looks")
    assert found[b"/b"].startswith(b"new b")
    assert found[b"/c"].startswith(b"old c")
    assert dirty.read_bytes() == before


async def test_an_unfinished_transaction_is_left_out(lab, reader, tree, tmp_path):
    clean = lab.format(tree, "-b", str(BLOCK_BYTES))
    block = block_of(lab, clean, "a")
    dirty = lab.edit(
        clean, "journal_open", f"journal_write -c -b {block} {tmp_path / 'new-a'}", "journal_close"
    )  # fmt: skip
    assert (await reader.read([dirty], [b"/a"], 1 << 20))[b"/a"].startswith(b"old a")


async def test_recovery_without_a_journal_is_refused(lab, reader):
    image = lab.edit(
        lab.format(None, "-O", "^has_journal,^metadata_csum"), "set_super_value feature_incompat 0x2c6"
    )
    with pytest.raises(DiskUnreadable, match="no journal"):
        await reader.manifest([image])
