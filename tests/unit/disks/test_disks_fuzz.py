"""A damaged file system gives exactly its entries, or words: never a crash, a hang or a lie."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from backend.errors import DiskUnreadable
from tests.unit.disks.conftest import ACCESS_LIST, ImageLab
from tests.unit.disks.fuzzing import everything
from tests.unit.disks.opinion import opinion, ours

RUN_LIMIT_S = 600
KINDS = {
    "sums": ("-b", "1024", "-O", "metadata_csum,64bit"),
    "sums, inline data, attribute inodes": ("-b", "4096", "-O", "inline_data,ea_inode"),
    "sums, block maps": ("-b", "1024", "-O", "^extents,^64bit,metadata_csum"),
    "no sums": ("-b", "1024", "-O", "^metadata_csum"),
    "no sums, inline data": ("-b", "1024", "-O", "^metadata_csum,inline_data,^64bit"),
    "no sums, block maps": ("-b", "1024", "-O", "^extents,^64bit,^metadata_csum"),
}


def plant(root: Path) -> None:
    """A little of everything that has books."""
    (root / "folder/below").mkdir(parents=True)
    (root / "wide").mkdir()
    for number in range(40):
        (root / f"wide/{number:02} {'long name ' * 8}").touch()
    (root / "small").write_text("small\n")
    (root / "large").write_bytes(bytes(range(256)) * 200)
    with (root / "sparse").open("wb") as file:
        for number in range(12):
            file.seek(number * 10_000)
            file.write(b"piece")
    (root / "fast").symlink_to("small")
    (root / "slow").symlink_to("s" * 100)
    os.mkfifo(root / "pipe")
    os.link(root / "small", root / "folder/again")
    os.setxattr(root / "small", "user.short", b"1")
    os.setxattr(root / "large", "user.long", b"v" * 600)
    os.setxattr(root / "folder", "system.posix_acl_default", ACCESS_LIST)


def fuzz(image: Path, seed: int, count: int, folder: Path | None = None) -> list[dict[str, str]]:
    """The outcome of each case."""
    words = [sys.executable, "-P", "-m", "tests.unit.disks.fuzzing", str(image), str(seed), str(count)]
    words += [str(folder)] if folder else []
    done = subprocess.run(
        words, capture_output=True, timeout=RUN_LIMIT_S, check=False, cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == count
    return told


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "tree"
    plant(root)
    return root


def dirty(lab: ImageLab, tree: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    """An image with two transactions of checksummed journal to replay, and what its states are after none,
    one and both: a log that is cut off is a shorter log."""
    states = [lab.format(tree, *KINDS["sums"], size="8M")]
    for name in ("first", "second"):
        states.append(lab.edit(states[-1], f"mkdir /{name}"))
    commands = ["journal_open -c -v 3"]
    for number, (old, new) in enumerate(pairwise(states)):
        before, after = old.read_bytes(), new.read_bytes()
        places = range(0, len(after), 1024)
        blocks = [at // 1024 for at in places if before[at : at + 1024] != after[at : at + 1024]]
        content = tmp_path / f"transaction-{number}"
        content.write_bytes(b"".join(after[at * 1024 : (at + 1) * 1024] for at in blocks))
        commands.append(f"journal_write -b {','.join(map(str, blocks))} {content}")
    return lab.edit(states[0], *commands, "journal_close"), states


def refusals_or(told: list[dict[str, str]], allowed: set[str]) -> Counter[str]:
    """Count the outcomes; each other entry list must be among ``allowed``."""
    wrong = [one for one in told if one["outcome"] == "failed" or one.get("digest", "") not in {"", *allowed}]
    assert wrong == []
    assert all(one["words"] for one in told if one["outcome"] == "refused")
    return Counter(one["outcome"] for one in told)


@pytest.mark.parametrize("kind", [name for name in KINDS if name.startswith("sums") and "maps" not in name])
@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.full)])
def test_what_keeps_sums_gives_what_was_there_or_words(lab, tree, kind, count):
    outcomes = refusals_or(fuzz(lab.format(tree, *KINDS[kind], size="8M"), 0, count), set())
    assert outcomes["refused"] > count / 2


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.full)])
def test_a_damaged_journal_is_replayed_up_to_the_damage_or_refused(lab, tree, tmp_path, count):
    image, states = dirty(lab, tree, tmp_path)
    allowed = {everything(bytearray(state.read_bytes())) for state in states}
    assert len(allowed) == 3
    assert everything(bytearray(image.read_bytes())) == everything(bytearray(states[2].read_bytes()))
    outcomes = refusals_or(fuzz(image, 1, count), allowed)
    assert outcomes["refused"] > count / 2
    assert outcomes["other"]  # a log may end early: then it is the older state, whole


@pytest.mark.parametrize("kind", [name for name in KINDS if name.startswith("no sums") or "maps" in name])
@pytest.mark.parametrize("count", [24, pytest.param(3_000, marks=pytest.mark.full)])
async def test_what_keeps_no_sums_gives_what_debugfs_gives_or_words(lab, reader, tree, tmp_path, kind, count):
    folder = tmp_path / "cases"
    folder.mkdir()
    told = fuzz(lab.format(tree, *KINDS[kind], size="8M"), 0, count, folder)
    assert [one for one in told if one["outcome"] == "failed"] == []
    for image in folder.iterdir():
        mine, theirs = await ours(reader, image), opinion(lab, image)
        assert mine.keys() ^ theirs.keys() == set(), image.name
        wrong = [(path, mine[path], theirs[path]) for path in mine if mine[path] != theirs[path]]
        assert wrong == [], image.name
        image.unlink()


async def test_damage_ends_a_worker_with_words_and_a_remedy(lab, reader, tree):
    image = lab.format(tree, *KINDS["sums"], size="8M")
    told = lab.debugfs(image, "imap /small")[0]
    number, block, offset = re.search(
        rb"Inode (\d+) is part of .*located at block (\d+), offset (0x[0-9a-f]+)", told, re.DOTALL
    ).groups()
    broken = lab.patch(image, {int(block) * 1024 + int(offset, 16) + 4: b"\x63"})  # its size
    with pytest.raises(DiskUnreadable, match=f"inode {int(number)} does not match its checksum") as refused:
        await reader.manifest([broken])
    assert "e2fsck" in refused.value.remedy
