"""The home screen answers: does anyone need me, is anything wrong, what is each of them doing."""

from __future__ import annotations

import importlib
import pkgutil
from datetime import timedelta

import pytest
from textual.css.stylesheet import Stylesheet
from textual.widgets import Input

from backend.models import ApprovalState, Phase, now
from fluid_tui import screens
from fluid_tui.fleet_rows import failed_applies
from fluid_tui.mirror import FEW
from fluid_tui.screens.base import FluidScreen
from fluid_tui.widgets.live_list import LiveList
from tests.console.fake_backend import FakeBackend
from tests.console.sample import fleet

SIZES = [(80, 24), (160, 48)]


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_who_needs_a_person_stands_first(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.sees("! 2 need you", "4f2a nginx-tls", "Drop the old cluster?", "12m left")
        lines = seen.lines()
        assert "Needs you" in lines[1]
        assert "▌ ! 4f2a" in lines[2], "the cursor starts on who waits longest"
        assert lines[0].rstrip().count("fluid") == 1
        assert all(len(line) <= width for line in lines)
        rows = [line for line in lines if "kvm-0" in line and "│" in line]
        names = [row.replace("│", " ").split()[0] for row in rows]
        assert names[:3] == ["nginx-tls", "pg-upgrade", "kernel-cve"], "asking first, then errors"
        assert "? help" in lines[-1]


async def test_states_are_words_with_glyphs(console) -> None:
    async with console() as seen:
        await seen.sees("! asks", "● tests", "○ paused", "✗ error", "the guest did not boot")


async def test_the_preview_follows_the_cursor_and_hides_when_narrow(console) -> None:
    async with console() as seen:
        await seen.sees("nginx-tls · claude-1 · %3 · live", "syntax is ok", "exit 0 · 41 commands")
        await seen.press("down")
        await seen.sees("pg-upgrade · claude-2 · %4 · live", "pg_lsclusters")
    async with console(80, 24) as seen:
        await seen.press("down", "up")
        assert "live" not in seen.text()
        assert not [call for call in seen.backend.asked if call[0] == "pane_stream"], (
            "a hidden pane costs nothing"
        )


async def test_agent_text_draws_no_control(console) -> None:
    async with console() as seen:
        await seen.sees("␛]52;c;")
        assert all(line.isprintable() for line in seen.lines())
        assert "\u202e" not in seen.text()


async def test_one_cursor_walks_through_both_lists(console) -> None:
    async with console() as seen:
        await seen.press("j", "j")
        await seen.until(lambda: seen.app.screen.focused.id == "sandboxes", "the second list has the cursor")
        await seen.press("k")
        await seen.until(lambda: seen.app.screen.focused.id == "needs", "the first list has it again")


async def test_filter_shows_only_what_matches(console) -> None:
    async with console() as seen:
        await seen.press("slash", *"host:kvm-02", "space", *"state:error")
        await seen.until(
            lambda: "dns-audit" not in seen.text() and "tls-renew" not in seen.text(), "filtered"
        )
        await seen.sees("kernel-cve", "filter: host:kvm-02 state:error")
        await seen.press("escape")
        await seen.sees("dns-audit")


async def test_actions_apply_to_the_marked(console) -> None:
    async with console() as seen:
        await seen.press("j", "j", "space", "space", "p")
        await seen.until(
            lambda: sum(call[0] == "pause" for call in seen.backend.asked) == 2, "both marked ones are paused"
        )


@pytest.mark.parametrize(
    ("key", "asked", "said"),
    [
        ("P", ("resume", "SBX-00000001"), "nginx-tls: resumed"),
        ("e", ("extend", "SBX-00000001", 3600), "nginx-tls: an hour more"),
        ("x", ("stop", "SBX-00000001"), "nginx-tls: stopped"),
    ],
)
async def test_a_key_acts_on_the_sandbox_under_the_cursor(
    console, key: str, asked: tuple[object, ...], said: str
) -> None:
    async with console(80, 24) as seen:
        await seen.press("j", "j", key)
        await seen.sees(said)
        assert asked in seen.backend.asked


@pytest.mark.parametrize("key", ["d", "t", "p", "P", "s", "x", "D", "e"])
async def test_a_key_that_finds_no_sandbox_says_so(console, key: str) -> None:
    async with console() as seen:
        await seen.press("slash", *"zzz", "enter")
        await seen.sees("No sandbox matches")
        await seen.press(key)
        await seen.sees("There is no sandbox under the cursor.")


async def test_a_snapshot_has_a_name_that_can_be_one(console) -> None:
    async with console(80, 24) as seen:
        await seen.press("j", "j", "s")
        await seen.sees("Memory and disk of nginx-tls, as they are now.", "Its name:")
        await seen.until(lambda: isinstance(seen.app.screen.focused, Input), "the field is armed")
        await seen.press(*"../up", "enter")
        await seen.sees("'../up' is not a name")
        assert not [call for call in seen.backend.asked if call[0] == "snapshot"]
        seen.app.screen.query_one(Input).value = ""
        await seen.press(*"before-tls", "enter")
        await seen.sees("nginx-tls: snapshot before-tls taken")
        assert ("snapshot", "SBX-00000001", "before-tls") in seen.backend.asked


async def test_destroying_wants_the_name(console) -> None:
    async with console() as seen:
        await seen.press("D")
        await seen.sees("Type nginx-tls to destroy", "cannot be undone")
        await seen.until(lambda: isinstance(seen.app.screen.focused, Input), "the field is armed")
        await seen.press(*"yes", "enter")
        await seen.sees("That is not nginx-tls")
        assert not [call for call in seen.backend.asked if call[0] == "destroy"]
        seen.app.screen.query_one(Input).value = ""
        await seen.press(*"nginx-tls", "enter")
        await seen.until(lambda: ("destroy", "SBX-00000001") in seen.backend.asked, "destroyed")


async def test_a_change_in_the_backend_shows(console) -> None:
    async with console() as seen:
        seen.backend.view.sandboxes[2].phase = Phase.LOST
        await seen.backend.tell("sandbox.changed", "SBX-00000003")
        await seen.sees("? lost")


async def test_a_sandbox_that_changed_comes_and_goes_without_the_fleet_being_read(
    console, monkeypatch
) -> None:
    async with console() as seen:
        view = seen.backend.view
        monkeypatch.setattr(seen.backend, "fleet", None)  # whoever calls it fails, and the console says so
        new = view.sandboxes[3].model_copy(update={"id": "SBX-0000000a", "sandbox_name": "fresh"})
        twin = new.model_copy(
            update={"id": "SBX-0000000b", "sandbox_name": "twin-of-it", "purpose": "rehearsal"}
        )
        view.sandboxes += [new, twin]
        await seen.backend.tell("sandbox.changed", new.id)
        await seen.backend.tell("sandbox.changed", twin.id)
        await seen.sees("fresh", "6 sandboxes")
        assert "twin-of-it" not in seen.text()
        view.sandboxes.remove(new)
        await seen.backend.tell("sandbox.changed", new.id)
        await seen.sees("5 sandboxes")
        assert "fresh" not in seen.text()


async def test_many_changes_are_read_at_once(console, monkeypatch) -> None:
    async with console() as seen:
        monkeypatch.setattr(seen.backend, "sandbox", None)
        seen.backend.view.sandboxes[2].phase = Phase.LOST
        for number in range(FEW + 1):
            await seen.backend.tell("sandbox.changed", f"SBX-{number:08x}")
        await seen.sees("? lost")


async def test_a_lost_backend_is_said_and_greyed_and_mends_itself(console, monkeypatch) -> None:
    monkeypatch.setattr("fluid_tui.mirror.HEARTBEAT_S", 0.05)
    monkeypatch.setattr("fluid_tui.mirror.RETRY_S", 0.05)
    async with console() as seen:
        seen.backend.down = True
        await seen.sees("✗ backend not reachable since")
        assert seen.app.screen.has_class("-stale")
        assert "need you" not in seen.lines()[0], "old counts are not shown as new"
        seen.backend.view.sandboxes[0].sandbox_name = "renamed"
        seen.backend.view.seq = 77
        seen.backend.down = False
        await seen.sees("! 2 need you", "renamed")
        assert not seen.app.screen.has_class("-stale")
        assert ("events", 77) in seen.backend.asked, "the stream goes on where the fresh copy stands"


async def test_a_start_does_not_parse_the_styles_for_the_theme_and_then_anew(console, monkeypatch) -> None:
    had_rules: list[bool] = []
    reparse = Stylesheet.reparse
    monkeypatch.setattr(
        Stylesheet, "reparse", lambda styles: (had_rules.append(bool(styles._rules)), reparse(styles))[1]
    )
    async with console():
        assert all(had_rules)


async def test_starts_while_the_backend_is_down(console) -> None:
    backend = FakeBackend()
    backend.down = True
    async with console(backend=backend, awaited="✗ backend not reachable") as seen:
        await seen.sees("no backend listens", "start it: fluid serve")


async def test_ten_thousand_rows_scroll_and_repaint_one(console) -> None:
    view = fleet()
    one = view.sandboxes[2]
    view.sandboxes += [
        one.model_copy(update={"id": f"SBX-{number:08x}", "sandbox_name": f"many-{number:05}"})
        for number in range(100, 10_100)
    ]
    async with console(backend=FakeBackend(view)) as seen:
        await seen.press("j", "j", "end")
        await seen.until(lambda: "▌ tls-renew" in seen.text(), "the last row is in sight")
        widget = seen.app.screen.query_one("#sandboxes")
        painted: list[object] = []
        refresh = widget.refresh
        widget.refresh = lambda *regions, **more: (painted.extend(regions), refresh(*regions, **more))[1]
        view.sandboxes[3].last_command = "renewed"
        await seen.backend.tell("sandbox.changed", "SBX-00000004")
        await seen.sees("renewed")
        assert len(painted) == 1
        for each in view.sandboxes:
            each.last_command = "all anew"
        await seen.backend.tell("host.changed", "kvm-01")
        await seen.sees("all anew")
        assert len(painted) <= 1 + widget.size.height, "what is out of sight costs nothing"


async def test_a_quiet_fleet_is_not_painted_again(console) -> None:
    view = fleet()
    view.approvals, view.asks = [], []
    async with console(backend=FakeBackend(view), awaited="Nobody needs you.") as seen:
        await seen.sees("nginx-tls")
        painted: list[str] = []
        for widget in seen.app.screen.query("LiveList"):
            widget.refresh = lambda *_, id=widget.id, **__: painted.append(id)
        seen.app.screen._tick()
        assert painted == []


async def test_read_only_touches_nothing(console) -> None:
    async with console(read_only=True) as seen:
        await seen.sees("read-only")
        await seen.press("p", "s", "D", "x")
        await seen.pilot.pause(0.1)
        assert {call[0] for call in seen.backend.asked} <= {"events", "pane_stream"}
        await seen.press("question_mark")
        await seen.sees("(off: read-only)")


async def test_survives_a_tiny_window(console) -> None:
    async with console() as seen:
        for size in ((40, 10), (20, 4), (80, 24)):
            await seen.pilot.resize_terminal(*size)
            await seen.pilot.pause()
        await seen.sees("! 2 need you", "4f2a nginx-tls")


WAYS: dict[str, tuple[str, ...]] = {
    "FleetScreen": (),
    "ReviewScreen": ("v",),
    "AskScreen": ("j", "enter"),
    "DiffScreen": ("d",),
    "TerminalScreen": ("t",),
    "WallScreen": ("w",),
    "TimelineScreen": ("l",),
    "ReplayScreen": ("colon", *"sandbox nginx-tls replay", "enter"),
    "HostsScreen": ("h",),
    "HelpScreen": ("question_mark",),
    "PanicScreen": ("!", "!"),
    "ReasonDialog": ("v", "r"),
    "TypedConfirm": ("D",),
    "CommandPalette": ("ctrl+p",),
}
"""The keys that lead from home to each screen, and to a dialog of both kinds."""


def test_no_screen_is_forgotten() -> None:
    for module in pkgutil.iter_modules(screens.__path__):
        importlib.import_module(f"{screens.__name__}.{module.name}")
    assert {screen.__name__ for screen in FluidScreen.__subclasses__()} <= WAYS.keys()


@pytest.mark.parametrize("screen", WAYS)
async def test_guests_that_are_not_isolated_are_named_on_every_screen(console, screen: str) -> None:
    view = fleet(now())
    words = "guests on kvm-02 are not isolated"
    async with console(80, 24, backend=FakeBackend(view)) as seen:
        assert "isolated" not in seen.lines()[0]
    view.hosts[1].isolated = False
    async with console(80, 24, backend=FakeBackend(view)) as seen:
        await seen.sees(words)
        await seen.press(*WAYS[screen])
        await seen.until(lambda: type(seen.app.screen).__name__ == screen, screen)
        await seen.until(lambda: words in seen.top(), words)


async def test_several_hosts_with_open_guests_are_counted(console) -> None:
    view = fleet(now())
    for host in view.hosts:
        host.isolated = False
    async with console(80, 24, backend=FakeBackend(view)) as seen:
        await seen.sees("guests on 2 hosts are not isolated")


async def test_an_apply_that_failed_stands_at_home_until_something_takes_it_back(console) -> None:
    backend = FakeBackend()
    failed = backend.approve_state(
        ApprovalState.FAILED, apply_run="RUN-00000003", outcome="nginx did not start"
    )
    async with console(80, 24, backend=backend) as seen:
        await seen.sees("✗ 4f2a nginx-tls        apply failed: nginx did not start")
        assert "! 1 needs you" in seen.top(), "it waits for nobody"
        await seen.press("k", "k", "j", "enter")
        await seen.sees("review 4f2a", "b roll back")
        await seen.press("q")
        way_back = {"id": "APR-7be00000", "state": ApprovalState.REHEARSING, "rolls_back": "RUN-00000003"}
        backend.view.approvals.append(failed.model_copy(update=way_back))
        await backend.tell("approval.changed", "APR-7be00000")
        await seen.sees("◌ 7be0")
        assert "4f2a" not in seen.text()


def test_an_apply_that_failed_is_forgotten_after_a_later_one_or_a_day() -> None:
    view = fleet(at := now())
    ended = {"state": ApprovalState.FAILED, "apply_run": "RUN-1"}
    view.approvals = [view.approvals[0].model_copy(update=ended)]
    assert failed_applies(view, at) == view.approvals
    assert failed_applies(view, at + timedelta(hours=25)) == []
    later = {"id": "APR-2", "apply_run": "RUN-2", "created_at": at}
    for state, shown in ((ApprovalState.APPLIED, 0), (ApprovalState.REJECTED, 1)):
        again = view.approvals[0].model_copy(update={**later, "state": state})
        assert (
            len(failed_applies(view.model_copy(update={"approvals": [*view.approvals, again]}), at)) == shown
        )
    never_ran = view.approvals[0].model_copy(update={"apply_run": ""})
    assert failed_applies(view.model_copy(update={"approvals": [never_ran]}), at) == []


async def test_what_is_wrong_stays_in_the_top_line_where_not_all_fits(console) -> None:
    view = fleet()
    view.hosts[1].isolated, view.audit_ok = False, False
    backend = FakeBackend(view)
    async with console(80, 24, backend=backend) as seen:
        await seen.press("enter")
        await seen.sees("id 4f2a")
        await seen.until(lambda: "✗ audit broken" in seen.top(), "the audit")
        assert "! 2 need you" in seen.top()
        backend.down = True
        seen.app.mirror.touch()
        await seen.until(lambda: "✗ backend not reachable" in seen.top(), "the lost backend")
        assert "guests not isolated" in seen.top()
        await seen.press("q", "w")
        await seen.until(lambda: "fluid › wall" in seen.top(), "the wall")
        assert "✗ backend not reachable" in seen.top(), "on every screen"


@pytest.mark.parametrize(("width", "right"), [(40, "! 2 need you"), (30, "! 2 need you"), (8, "! 2 n…")])
async def test_who_needs_you_outlasts_the_clock(console, width: int, right: str) -> None:
    async with console(width, 10, awaited="!") as seen:
        await seen.until(lambda: right in seen.top(), right)


async def test_a_mouse_chooses_what_it_points_at_and_opens_it_by_two_clicks(console) -> None:
    def at(seen, words: str) -> tuple[int, int]:
        return next((line.index(words), y) for y, line in enumerate(seen.lines()) if words in line)

    async with console() as seen:
        await seen.pilot.click(offset=at(seen, "dns-audit"))
        await seen.until(
            lambda: seen.app.screen.query_one("#sandboxes", LiveList).key == "SBX-00000003", "its row"
        )
        await seen.pilot.click(offset=at(seen, "4f2a"), times=2)
        await seen.sees("review 4f2a", "Ready:")
        await seen.pilot.click(offset=at(seen, "2 Playbook"))
        await seen.sees("name: Site with TLS")
