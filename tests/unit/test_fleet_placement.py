"""Which host takes a new sandbox, and the words for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.errors import HypervisorDown, NoRoom, NoSpace
from backend.fleet.placement import Need, Room, place

NEED = Need(memory_mb=1024, memory_reserve_mb=512, disk_reserve_mb=2048)
ROOMY = Room("kvm-01", memory_free_mb=8192, disk_free_mb=50_000)
OTHER = replace(ROOMY, name="kvm-02")


def test_a_ready_template_beats_more_memory_and_less_load() -> None:
    warm = replace(OTHER, has_template=True, load=0.5, memory_free_mb=4096)
    chosen = place([ROOMY, warm], NEED)
    assert chosen.name == "kvm-02"
    assert chosen.reason == "its template is ready, 4096 MB of memory free"


def test_a_host_with_kvm_beats_an_emulated_one_that_is_less_busy() -> None:
    assert place([ROOMY, replace(OTHER, has_kvm=True, load=1.0)], NEED).name == "kvm-02"
    assert place([replace(ROOMY, has_template=True), replace(OTHER, has_kvm=True)], NEED).name == "kvm-01"


def test_the_least_busy_host_comes_before_the_one_with_most_memory() -> None:
    assert place([replace(ROOMY, load=1.0, memory_free_mb=64_000), OTHER], NEED).name == "kvm-02"
    assert place([ROOMY, replace(OTHER, memory_free_mb=9000)], NEED).name == "kvm-02"


def test_what_others_do_on_a_host_counts_and_is_told_but_not_its_noise() -> None:
    worked, idle = replace(ROOMY, busy=0.9, memory_free_mb=64_000), replace(OTHER, busy=0.04)
    chosen = place([worked, idle], NEED)
    assert (chosen.name, chosen.reason) == (
        "kvm-02",
        "it has no template yet, 8192 MB of memory free, 4% busy",
    )
    assert place([replace(worked, busy=0.11), idle], NEED).name == "kvm-01", "memory decides"
    assert place([replace(worked, busy=None), idle], NEED).name == "kvm-01", "nobody knows it yet"


def test_memory_that_is_promised_is_not_free() -> None:
    busy = replace(ROOMY, promised_mb=7168)
    assert place([busy, OTHER], NEED).name == "kvm-02"
    with pytest.raises(NoSpace, match=r"kvm-01 has 1024 MB of memory free, 1024 are asked for and 512 kept"):
        place([busy], NEED)


def test_disk_that_is_promised_is_not_free() -> None:
    need = replace(NEED, disk_mb=1024)
    full = replace(ROOMY, disk_free_mb=4096, promised_disk_mb=1025)
    assert place([full, OTHER], need).name == "kvm-02"
    with pytest.raises(NoSpace, match="3071 MB are free on the disk of kvm-01, 3072 are needed"):
        place([full], need)
    assert place([replace(full, promised_disk_mb=1024)], need).name == "kvm-01"


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (replace(ROOMY, draining=True), "kvm-01 is draining"),
        (replace(ROOMY, down=HypervisorDown("it is silent")), "it is silent"),
        (replace(ROOMY, disk_free_mb=2047), "2047 MB are free on the disk of kvm-01, 2048 are needed"),
        (replace(ROOMY, memory_free_mb=1535), "1535 MB of memory free"),
    ],
)
def test_a_host_that_cannot_is_passed_over_with_the_reason(room: Room, words: str) -> None:
    chosen = place([room, OTHER], NEED)
    assert chosen.name == "kvm-02" and words in chosen.reason
    with pytest.raises(NoRoom) as refused:
        place([room, replace(OTHER, draining=True)], NEED)
    assert words in refused.value.message and "kvm-02 is draining" in refused.value.message
