"""How the benchmark of changes weighs what it compares with."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from backend.errors import Unavailable
from tests.bench import changes

HELD_MB = 64


def test_a_programs_memory_is_its_own_and_not_what_started_it() -> None:
    held = b"x" * (HELD_MB << 20)
    took, peak_mb = changes._by_program(2, "true")
    assert len(took) == 2 and 0 < peak_mb < HELD_MB / 4, len(held)


def test_the_largest_of_a_programs_processes_counts() -> None:
    large = f"head -c {HELD_MB << 20} /dev/zero | tail -n 1"
    _, peak_mb = changes._by_program(1, "sh", "-c", large)
    assert peak_mb > HELD_MB


def test_a_program_that_fails_is_no_figure() -> None:
    before = _children()
    with pytest.raises(AssertionError):
        changes._by_program(1, "false")
    assert _children() <= before, "none of them stays"


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread has ended
            found.update((task / "children").read_text().split())
    return found


async def test_without_what_it_compares_with_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unavailable, match="no fuse2fs") as refused:
        await changes.measure()
    assert "apt-get install fuse2fs" in refused.value.remedy


def test_aligning_two_texts_is_weighed_with_its_time() -> None:
    figures = changes._text(3_000)
    assert [one.unit for one in figures] == ["s", "MB"] * 3
    assert all(one.value > 0 for one in figures)
