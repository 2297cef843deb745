"""Who wrote most, and which warning is due: pure."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backend.fleet.guard import WINDOW_S, Writers, due
from backend.hypervisor import DiskUse
from backend.models import Phase, Sandbox, now

GIB = 1024**3
WARNINGS = [600, 60]


def use(domain: str, size: int, layer: str = "disk-0") -> DiskUse:
    return DiskUse(domain, f"/d/{domain}/{layer}.qcow2", size)


def test_growth_is_what_was_written_within_the_window() -> None:
    writers = Writers()
    writers.add([use("old", 5 * GIB), use("quick", 0)], 0)
    assert writers.grown() == {"old": 0, "quick": 0}
    writers.add([use("old", 5 * GIB), use("quick", GIB), use("fresh", 7)], 10)
    assert writers.grown() == {"old": 0, "quick": GIB, "fresh": 7}
    writers.add([use("old", 5 * GIB), use("quick", GIB)], 10 + WINDOW_S)
    assert writers.grown() == {"old": 0, "quick": 0}


def test_a_new_layer_counts_as_a_whole_and_a_smaller_one_as_nothing() -> None:
    writers = Writers()
    writers.add([use("snapshot", 3 * GIB), use("shrunk", GIB)], 0)
    writers.add([use("snapshot", 5, "disk-1"), use("shrunk", 1)], 2)
    assert writers.grown() == {"snapshot": 5, "shrunk": 0}


def test_what_was_written_before_a_halt_counts_no_more() -> None:
    writers = Writers()
    writers.add([use("greedy", 0)], 0)
    writers.add([use("greedy", GIB), use("other", 5)], 2)
    writers.forget("greedy")
    writers.forget("gone")
    assert writers.grown() == {"greedy": 0, "other": 5}
    writers.add([use("greedy", GIB + 7), use("other", 5)], 4)
    assert writers.grown() == {"greedy": 7, "other": 5}


@pytest.mark.parametrize(
    ("left_s", "told", "wanted"),
    [
        (3000, None, None),
        (599, None, 600),
        (599, 600, None),
        (59, 600, 60),
        (59, None, 60),  # nobody was there for the first one: the nearest is enough
        (59, 60, None),
        (-1, None, None),
    ],
)
def test_each_warning_is_due_once(left_s: int, told: int | None, wanted: int | None) -> None:
    at = now()
    row = sandbox(at + timedelta(seconds=left_s), ttl_seconds=3600, expiry_told_s=told)
    assert due(row, WARNINGS, at) == wanted


def test_who_asked_for_a_short_life_is_not_warned_of_it_at_once() -> None:
    at = now()
    assert due(sandbox(at + timedelta(seconds=299), ttl_seconds=300), WARNINGS, at) is None
    assert due(sandbox(at + timedelta(seconds=59), ttl_seconds=300), WARNINGS, at) == 60


def test_what_has_no_end_or_is_not_made_yet_or_gone_is_not_warned() -> None:
    at = now()
    endless = sandbox(at, ttl_seconds=3600).model_copy(update={"expires_at": None})
    unmade = sandbox(at + timedelta(seconds=30), ttl_seconds=3600, phase=Phase.CREATING)
    gone = unmade.model_copy(update={"phase": Phase.DESTROYED})
    assert [due(row, WARNINGS, at) for row in (endless, unmade, gone)] == [None] * 3


def sandbox(expires_at: object, **fields: object) -> Sandbox:
    known = {"phase": Phase.RUNNING, "created_at": now(), "updated_at": now(), **fields}
    return Sandbox(id="SBX-00000001", sandbox_name="a", base_image="i", expires_at=expires_at, **known)
