"""The hosts: room, queue, what is wrong with one; drain and resume."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backend.models import FleetView, HostView, Phase, now
from fluid_tui.host_rows import (
    STATES,
    UNKNOWN,
    detail_lines,
    host_mark,
    host_rows,
    host_warnings,
    size_words,
)
from fluid_tui.paint import Role
from tests.console.fake_backend import FakeBackend
from tests.console.sample import fleet

SIZES = [(80, 24), (120, 36)]


def busy_hosts() -> FleetView:
    """The second has little left, its guests are not isolated, and two creates wait for it."""
    view = fleet()
    view.hosts[1] = view.hosts[1].model_copy(
        update={
            "busy_percent": 96,
            "memory_free_mb": 2_000,
            "disk_free_mb": 3_000,
            "creating": 2,
            "waiting": 2,
            "virt_type": "qemu",
            "virt_reason": "/dev/kvm hangs",
            "isolated": False,
            "clock_skew_s": 7.25,
            "last_error": "the pool did not answer for 30 s",
        }
    )
    one = view.sandboxes[2]
    for number in (1, 2):
        view.sandboxes.append(
            one.model_copy(
                update={
                    "id": f"SBX-0000010{number}",
                    "sandbox_name": f"queued-{number}",
                    "host_name": "kvm-02",
                    "phase": Phase.CREATING,
                    "reason": f"{number} before it, about {3 * number} s",
                    "placement": "the only host with its template",
                    "created_at": now() + timedelta(seconds=number),
                }
            )
        )
    return view


async def test_a_state_that_is_not_known_says_so_and_what_is_told_of_its_host_is_greyed(console) -> None:
    """Of a newer backend, for one."""
    view = busy_hosts()
    view.hosts[1].status = "hibernating"
    marks = {host.name: host_mark(host) for host in view.hosts}
    assert marks["kvm-02"] == UNKNOWN and UNKNOWN not in [marks["kvm-01"], *STATES.values()]
    name, state, *facts = host_rows(view.hosts, view.at)[1].cells
    assert (name[0], state) == ("kvm-02", ("? unknown 3 d", Role.BAD))
    assert {role for cell in facts for _, role in cell} == {Role.MUTED}
    async with console(backend=FakeBackend(view)) as seen:
        await seen.press("h", "j")
        await seen.sees("1 of 2 hosts up", "? unknown 3 d", "state     unknown for 3 d")


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_each_host_shows_its_room_and_its_queue(console, width: int, height: int) -> None:
    async with console(width, height, backend=FakeBackend(busy_hosts())) as seen:
        await seen.press("h")
        await seen.sees(
            "fluid › hosts", "2 of 2 hosts up", "1 to look at", "22 of 64 GB", "410 GB", "34 % busy"
        )
        await seen.sees(
            "queued-1", "1 before it, about 3 s", "template  debian-12", "libvirt 9.0.0 qemu 7.2.11"
        )
        if width >= 120:
            await seen.sees("cpus  busy", "16  96 %")
        await seen.press("j")
        await seen.sees("! its guests are not isolated", "7.2 s ahead of", "✗ the pool did not answer")
        assert all(len(line) <= width for line in seen.lines())


async def test_a_host_is_drained_and_resumed(console) -> None:
    async with console(80, 24, backend=FakeBackend(busy_hosts())) as seen:
        await seen.press("h", "j", "d")
        await seen.sees("○ draining", "kvm-02 takes no new sandboxes")
        await seen.press("r")
        await seen.until(lambda: "draining" not in seen.text(), "up again")
        assert seen.backend.asked[-2:] == [("drain_host", "kvm-02"), ("resume_host", "kvm-02")]


async def test_read_only_drains_nothing(console) -> None:
    async with console(backend=FakeBackend(busy_hosts()), read_only=True) as seen:
        await seen.press("h")
        await seen.sees("Creates · all hosts")
        await seen.press("d", "r")
        assert not [call for call in seen.backend.asked if call[0].endswith("_host")]
        assert "drain" not in seen.lines()[-1]


async def test_enter_shows_the_sandboxes_of_the_host(console) -> None:
    async with console(backend=FakeBackend(busy_hosts())) as seen:
        await seen.press("h", "j", "enter")
        await seen.sees("filter: host:kvm-02", "kernel-cve")
        assert "dns-audit" not in seen.text()


async def test_the_queue_narrows_to_one_host(console) -> None:
    async with console(backend=FakeBackend(busy_hosts())) as seen:
        await seen.press("h")
        await seen.sees("queued-2", "the only host with")
        await seen.press("a")
        await seen.sees("Creates · kvm-01", "No create is on its way.")
        await seen.press("j")
        await seen.sees("Creates · kvm-02", "queued-2")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"clock_skew_s": -3.0}, "3.0 s behind"),
        ({"isolated": False}, "not isolated"),
        ({"status": "lost", "draining": True}, "takes no new sandboxes, also once it is back"),
        ({"disk_free_mb": 512}, "only 512 MB"),
        ({"virt_type": "qemu", "virt_reason": "no /dev/kvm"}, "emulated, not virtualised: no /dev/kvm"),
    ],
)
def test_what_is_wrong_is_said(facts: dict[str, object], words: str) -> None:
    (warning,) = host_warnings(HostView(name="kvm-01", **facts))
    assert words in warning
    assert host_warnings(HostView(name="kvm-01")) == []


@pytest.mark.parametrize(("mb", "words"), [(0, "—"), (512, "512 MB"), (2048, "2.0 GB"), (420_000, "410 GB")])
def test_sizes_are_short(mb: int, words: str) -> None:
    assert size_words(mb) == words


def test_what_is_known_of_a_lost_host_is_greyed_and_says_how_old_it_is() -> None:
    at, view = now(), busy_hosts()
    lost = view.hosts[1].model_copy(update={"status": "lost", "since": at - timedelta(seconds=190)})
    up, gone = host_rows([view.hosts[1], lost], at)

    def roles(cells) -> set[Role]:  # type: ignore[no-untyped-def]
        runs = [run for cell in cells for run in ([cell] if isinstance(cell[0], str) else cell)]
        return {role for _, role in runs}

    assert gone.cells[1] == ("? lost 3 m", Role.BAD)
    assert roles(gone.cells[2:]) == {Role.MUTED} < roles(up.cells[2:])
    *_, state = [runs for runs in detail_lines(lost, at) if runs and runs[0][0].startswith("state")]
    assert state[1] == ("lost for 3 m", Role.BAD)
    words = ["".join(text for text, _ in runs) for runs in detail_lines(lost, at)]
    assert any("not heard since" in line and "from before" in line for line in words)
    facts = detail_lines(lost, at)[words.index("state     lost for 3 m") + 1 :]
    assert {role for runs in facts for _, role in runs} == {Role.MUTED}


@pytest.mark.parametrize(("status", "words"), [("lost", "kvm-02 ? lost"), ("draining", "kvm-02 ○ draining")])
async def test_a_host_that_is_not_up_says_so_in_words_at_home(console, status: str, words: str) -> None:
    view = fleet()
    view.hosts[1].status = status
    async with console(80, 24, backend=FakeBackend(view)) as seen:
        await seen.until(lambda: words in seen.lines()[0], words)
        assert f"{words}  kvm-01 " in seen.lines()[0], "one that is up is only named, behind it"


async def test_of_many_hosts_those_that_are_not_up_are_named(console) -> None:
    view = fleet()
    view.hosts = [view.hosts[0].model_copy(update={"name": f"host-{number:02}"}) for number in range(12)]
    view.hosts[9].status = "lost"
    async with console(80, 24, backend=FakeBackend(view)) as seen:
        await seen.sees("fluid  host-09 ? lost  11 hosts up  ", " audit ok · ! 2 need you")


async def test_figures_of_a_lost_host_stand_under_the_others(console) -> None:
    view = fleet()
    view.hosts[1].status, view.hosts[1].since = "lost", now() - timedelta(seconds=190)
    async with console(80, 24, backend=FakeBackend(view)) as seen:
        await seen.press("h")
        await seen.sees("? lost 3 m")
        up, lost = (next(each for each in seen.lines() if name in each) for name in ("kvm-01", "? lost 3 m"))
        assert up.index("410 GB") == lost.index("410 GB")
