"""Diff, terminal, help, palette and keys: what an operator sees of each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from textual import events

from backend.errors import ConfigError
from backend.models import Phase, Sandbox, Snapshot, now
from backend.models.sandbox import STANDING_ON
from fluid_tui import keymap
from fluid_tui.actions import ACTIONS, BY_ID, FORBIDDEN_KEYS, bindings, shown_keys
from fluid_tui.points import points, two_points
from fluid_tui.screens.ask import AskScreen
from fluid_tui.screens.base import FluidScreen
from fluid_tui.screens.diff import DiffScreen
from fluid_tui.screens.fleet import FleetScreen
from fluid_tui.screens.hosts import HostsScreen
from fluid_tui.screens.review import ReviewScreen
from fluid_tui.screens.terminal import TerminalScreen
from fluid_tui.screens.timeline import TimelineScreen
from fluid_tui.screens.wall import WallScreen
from fluid_tui.widgets.diff_view import DiffView
from fluid_tui.widgets.live_list import LiveList
from fluid_tui.widgets.replay_view import ReplayView
from tests.console.fake_backend import FakeBackend
from tests.console.sample import access_changes

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
SIZES = [(80, 24), (160, 48)]
SCREENS = (
    FleetScreen,
    HostsScreen,
    TimelineScreen,
    WallScreen,
    AskScreen,
    DiffScreen,
    ReviewScreen,
    TerminalScreen,
)


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_diff_shows_a_tree_and_how_it_was_read(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.press("d")
        await seen.sees("before → after", "read from the disk", "1 hidden as noise", "Packages 2  +2")
        await seen.sees("+ deploy", "~ nginx.conf", "+ site.key")
        assert ("diff", "SBX-00000001", "before", "after") in seen.backend.asked


async def test_diff_is_side_by_side_when_wide_and_unified_when_narrow(console) -> None:
    async with console(160, 48) as seen:
        await seen.press("d")
        await seen.until(
            lambda: any("768" in line and "4096" in line for line in seen.lines()), "both sides on one line"
        )
        await seen.pilot.resize_terminal(80, 24)
        await seen.press(*["n"] * 4)
        await seen.sees("- ", "768", "4096")
        assert not any("768" in line and "4096" in line for line in seen.lines())


async def test_diff_is_side_by_side_at_120_columns(console) -> None:
    async with console(120, 36) as seen:
        await seen.press("d")
        await seen.until(
            lambda: any("768" in line and "4096" in line for line in seen.lines()), "both sides on one line"
        )


async def test_long_lines_scroll_on_both_sides_together_and_wrap_again(console) -> None:
    backend = FakeBackend()
    nginx = next(one for one in backend.changed.files if one.before and one.after)
    long = "long_line " + "x" * 300 + " THE_END;"
    nginx.before.text = f"same {'y' * 300} SAME_END;\n{long}\n"
    nginx.after.text = nginx.before.text.replace("x THE_END", "z THE_END")
    async with console(160, 48, backend=backend) as seen:
        await seen.press("d", *["n"] * 4, "tab")
        await seen.until(lambda: seen.text().count("THE_END") == 2, "wrapped")
        await seen.press("z")
        await seen.until(lambda: "THE_END" not in seen.text(), "cut off")
        await seen.press(*["right"] * 40)
        await seen.until(lambda: any(line.count("SAME_END") == 2 for line in seen.lines()), "both ends")
        await seen.press("z")
        await seen.sees("long_line")


async def test_equal_lines_unfold_and_fold_again(console) -> None:
    async with console(120, 48) as seen:
        await seen.press("d", *["n"] * 4, "tab")
        await seen.sees("⋯ 2 equal lines")
        assert "include /etc/nginx/conf.d/*.c" not in seen.text()
        await seen.press("u")
        await seen.sees("include /etc/nginx/conf.d/*.c")
        assert "equal lines" not in seen.text()
        await seen.press("u")
        await seen.sees("⋯ 2 equal lines")


async def test_diff_goes_where_the_tree_points_and_withholds_secrets(console) -> None:
    async with console() as seen:
        await seen.press("d")
        await seen.sees("+ site.key")
        await seen.press("end", "k", "k")
        await seen.sees("content withheld: private key")


def access() -> FakeBackend:
    backend = FakeBackend()
    backend.changed = access_changes(backend.at)
    return backend


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_diff_shows_what_files_state_by_kind_and_renames(console, width: int, height: int) -> None:
    async with console(width, height, backend=access()) as seen:
        await seen.press("d")
        await seen.sees("Sudo rules 1  ~1", "~ deploy", "Login keys 1  +1", "+ root SHA256:abc")
        await seen.sees("SSH daemon 1  ~1", "~ PermitRootLogin", "Unit files 1  +1", "Cron jobs 1  -1")
        await seen.sees("Files 1  >1")
        await seen.sees("1 file, 5 settings")
        assert "127.0.1.1" not in seen.text()
        both = max(line.count("may: ALL=(root)") for line in seen.lines())
        assert both == (2 if width > 80 else 1), seen.shown()
        assert all(line.isprintable() for line in seen.lines())
        await seen.press("end")
        await seen.sees("> shop.off → shop")
        await seen.sees("shop.conf  renamed", "- mode: 0644", "+ mode: 0640")
        await seen.press("i")
        await seen.sees("Hosts file 1  +1")
        await seen.press("k", "k", "k")
        await seen.sees("hidden as identity")


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_nothing_of_a_value_is_cut_off(console, width: int, height: int) -> None:
    async with console(width, height, backend=access()) as seen:
        await seen.press("d")
        await seen.sees("+ shop.service")
        await seen.press(*["n"] * 3)
        await seen.sees("Service.ExecStart", "--word", "END")
        assert seen.text().count("--w") + seen.text().count("-word") >= 30


async def test_diff_chooses_snapshots_and_shows_noise(console) -> None:
    async with console() as seen:
        await seen.press("d")
        await seen.sees("before → after")
        await seen.press("full_stop")
        await seen.sees("after → now")
        await seen.press("full_stop")
        await seen.sees("There is no snapshot beyond.")
        await seen.press("comma", "comma")
        await seen.sees("clean → before")
        assert "dpkg.log" not in seen.text()
        await seen.press("i")
        await seen.sees("dpkg.log", "shown noise: logs 1")


async def test_diff_goes_further_back_and_is_read_again(console) -> None:
    async with console() as seen:
        await seen.press("d", "full_stop")
        await seen.sees("after → now", "read at ")
        await seen.press("less_than_sign", "less_than_sign")
        await seen.sees("clean → now", "The sandbox as it is, since clean")
        await seen.press("less_than_sign")
        await seen.sees("There is no snapshot beyond.")
        await seen.press("greater_than_sign")
        await seen.sees("before → now")
        seen.backend.asked.clear()
        await seen.press("r")
        read = ("diff", "SBX-00000001", "before", "now")
        await seen.until(lambda: read in seen.backend.asked, "read again")


async def test_diff_of_a_restored_sandbox_begins_with_the_present(console) -> None:
    async with console() as seen:
        await seen.backend.restore("SBX-00000001", "clean")
        await seen.press("d")
        await seen.sees("clean → now", "The sandbox as it is, since clean")
        await seen.press("comma")
        await seen.sees("before → after", "Not the sandbox as it is: it stands on clean")


async def test_diff_begins_with_the_present_once_a_command_ran(console) -> None:
    async with console() as seen:
        await seen.press("d")
        await seen.sees("before → after", "The sandbox stands on after, no command ran since")
        await seen.press("q")
        seen.backend.view.sandboxes[0].last_activity_at = seen.backend.at + timedelta(minutes=1)
        await seen.press("d")
        await seen.sees("after → now", "The sandbox as it is, since after")
        await seen.press("comma")
        await seen.sees("The sandbox stands on after, was worked on since")


@pytest.mark.parametrize("marks", [["space", "c"], ["space", "space", "c"]])
async def test_two_sandboxes_are_compared_at_points_of_each(console, marks: list[str]) -> None:
    async with console() as seen:
        await seen.press("j", "j", "c")
        await seen.sees("mark one and go to the other")
        await seen.press(*marks)
        await seen.sees("diff nginx-tls → pg-upgrade", "nginx-tls now → pg-upgrade now", "read at ")
        await seen.sees("What pg-upgrade has otherwise than nginx-tls")
        await seen.press("comma")
        await seen.sees("nginx-tls now → pg-upgrade after")
        await seen.press("less_than_sign", "less_than_sign", "less_than_sign")
        await seen.sees("nginx-tls clean → pg-upgrade after")
        await seen.press("less_than_sign")
        await seen.sees("There is no snapshot beyond.")
        assert ("diff", "SBX-00000001", "clean", "after", "SBX-00000002") in seen.backend.asked
        await seen.press("minus", "minus")
        await seen.sees("diff nginx-tls → pg-upgrade", "nginx-tls now → pg-upgrade now")


async def test_sandboxes_of_other_sources_are_not_compared(console) -> None:
    backend = FakeBackend()
    backend.view.sandboxes[1].base_image = "alma-9"
    async with console(backend=backend) as seen:
        await seen.press("colon", *"compare nginx-tls pg-upgrade", "enter")
        await seen.sees("only forks of one source are compared")
        await seen.press("escape", "colon", *"compare nginx-tls dns-audit", "enter")
        await seen.sees("diff nginx-tls → dns-audit")


def test_two_sandboxes_begin_as_they_are_or_at_what_can_be_read() -> None:
    lost = _sandbox("b", phase=Phase.LOST)
    found = two_points((_sandbox("a"), []), (lost, _snapshots("a", "b<a")))
    assert found is not None
    assert (found.begin, found.ours, found.theirs) == (("now", "b"), ("now",), ("a", "b"))
    assert two_points((_sandbox("a"), []), (lost, [])) is None


def _snapshots(*parents: str) -> list[Snapshot]:
    """``b<a``: a snapshot b, made from a; each a second after the one before."""
    names = [one.partition("<") for one in parents]
    at = now()
    return [
        Snapshot(id=name, sandbox_id="SBX-1", name=name, parent=parent or None, created_at=at + n * SECOND)
        for n, (name, _, parent) in enumerate(names)
    ]


def _sandbox(stands_on: str, **more: Any) -> Sandbox:
    row = {"id": "SBX-1", "sandbox_name": "web", "base_image": "debian-12", "phase": Phase.RUNNING}
    at = {"created_at": now(), "updated_at": now()}
    return Sandbox(**(row | at | {"labels": {STANDING_ON: stands_on}} | more))


@pytest.mark.parametrize(
    ("snapshots", "sandbox", "pairs", "first"),
    [
        (["a", "b<a", "c<b"], _sandbox("c"), "a-b b-c c-now", "b-c"),
        (["a", "b<a", "c<b"], _sandbox("a"), "a-b b-c a-now", "a-now"),
        (["a", "b<a", "c<a"], _sandbox("c"), "a-b a-c c-now", "a-c"),
        (["a"], _sandbox("a"), "a-now", "a-now"),
        (["a", "b<gone"], _sandbox("gone"), "a-b b-now", "a-b"),
        (["a", "b<a"], _sandbox("a", phase=Phase.DESTROYED), "a-b a-now", "a-b"),
        (["a", "b<a"], _sandbox("b", last_activity_at=now() + DAY), "a-b b-now", "b-now"),
        (
            ["a", "b<a"],
            _sandbox("b", last_activity_at=now() + DAY, phase=Phase.LOST),
            "a-b b-now",
            "a-b",
        ),
    ],
)
def test_each_snapshot_is_compared_with_the_one_it_was_made_from(
    snapshots: list[str], sandbox: Sandbox, pairs: str, first: str
) -> None:
    found = points(_snapshots(*snapshots), sandbox)
    named = ["-".join(pair) for pair in found.pairs]
    assert (" ".join(named), named[found.first]) == (pairs, first)


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_terminal_follows_and_reads_back(console, width: int, height: int) -> None:
    async with console(width, height) as seen:
        await seen.press("t")
        await seen.sees("nginx-tls · claude-1 · %3 · live", "systemctl reload nginx")
        seen.backend.panes["%3"].append("root@nginx-tls:~# echo more")
        seen.backend.painted.set()
        await seen.sees("echo more")
        await seen.press("pageup")
        await seen.sees("history line 1", "· history", "reading back: end follows again")
        await seen.press("end")
        await seen.sees("· live", "echo more")
        assert all(line.isprintable() for line in seen.lines())


async def test_terminal_goes_to_the_next_sandbox(console) -> None:
    async with console() as seen:
        await seen.press("t", "n")
        await seen.sees("pg-upgrade · claude-2 · %4", "13  main 5432 down")


@pytest.mark.parametrize("place", ["fleet", "review", "diff", "terminal", "hosts", "wall", "timeline"])
async def test_help_lists_the_keys_of_its_screen(console, place: str) -> None:
    keys = {"fleet": [], "review": ["enter"], "diff": ["d"], "terminal": ["t"], "hosts": ["h"]}
    keys |= {"wall": ["w"], "timeline": ["l"]}
    async with console(160, 60) as seen:
        await seen.press(*keys[place], "question_mark")
        own = [action for action in ACTIONS if action.where == place]
        await seen.sees(*(action.words for action in own), "Moving", "Everywhere")
        await seen.press("q")
        await seen.until(lambda: "Everywhere" not in seen.text(), "back where it was")
        assert place == seen.app.screen.PLACE


async def test_help_shows_the_keys_that_the_operator_has(console) -> None:
    def key_of(id: str) -> list[str]:
        """What stands left of an action's sentence."""
        (row,) = [text for text in seen.lines() if text.rstrip(" │").endswith(f" {id}")]
        return row.strip(" │").partition(BY_ID[id].words)[0].split()

    async with console(160, 90, keys={"fleet.diff": "f2", "app.theme": "ctrl+t"}) as seen:
        await seen.press("question_mark")
        await seen.sees("Everywhere")
        assert key_of("fleet.diff") == ["f2"] and key_of("app.theme") == ["ctrl+t"]
        assert key_of("fleet.timeline") == [shown_keys(BY_ID["fleet.timeline"].key)]


async def test_palette_finds_an_action_by_its_words(console) -> None:
    async with console() as seen:
        await seen.press("ctrl+p")
        await seen.press(*"watch")
        await seen.sees("Watch the agent's terminal", "t  fleet.terminal")


async def test_why_there_is_no_terminal_is_read_in_a_tiny_window_too(console) -> None:
    async with console(40, 10) as seen:
        await seen.press("slash", *"dns", "enter", "t")
        await seen.sees("Its agent has opened none.", "sandboxes ssh NAME")


async def test_a_key_that_is_still_on_its_way_when_the_console_ends_is_dropped(console) -> None:
    async with console() as seen:
        pass
    key = events.Key("a", "a")
    key._set_forwarded()  # it has been to who had the focus
    await seen.app.on_event(key)


async def test_the_palette_has_every_action_of_what_is_in_sight_and_it_works_from_there(console) -> None:
    paths = [["enter"], ["enter", "6"], ["j", "enter"], ["d"], ["h"], ["t"], ["w"], ["l"], ["l", "r"], []]
    offered: set[str] = set()
    async with console() as seen:
        for keys in paths:
            await seen.press(*keys)
            if keys and keys[-1] in ("6", "r"):
                await seen.sees("pauses cut to")
            offered |= {command.help.split()[-1] for command in seen.app.get_system_commands(seen.app.screen)}
            if keys == ["l", "r"]:
                await seen.press("ctrl+p", *"cut pauses")
                await seen.sees("replay.idle")
                await seen.press("enter")
                await seen.sees("pauses as they were")
            seen.app.show_fleet()
            await seen.pilot.pause()
            seen.app.screen.set_focus(seen.app.screen.query_one("#needs"))
            await seen.press("home")
    assert offered == set(BY_ID) - {"app.palette"}


async def test_every_theme_draws_and_says_its_name(console) -> None:
    async with console() as seen:
        for name in ("fluid-light", "fluid-contrast", "fluid-colour-blind", "fluid-16", "fluid-dark"):
            await seen.press("T")
            await seen.sees(f"Theme {name}.", "! 2 need you")


async def test_leaving_the_fleet_ends_the_console_with_zero(console) -> None:
    async with console() as seen:
        await seen.press("q")
        await seen.until(lambda: seen.app.return_value is not None, "ended")
        assert seen.app.return_value == 0


async def test_a_remapped_key_works_and_is_shown(console) -> None:
    async with console(keys={"fleet.diff": "f2"}) as seen:
        await seen.sees("f2 diff")
        await seen.press("d")
        await seen.pilot.pause()
        assert "before → after" not in seen.text()
        await seen.press("f2")
        await seen.sees("before → after")


async def test_words_name_the_key_that_it_has_now(console) -> None:
    async with console(keys={"app.panic": "f9"}) as seen:
        await seen.press("f9")
        await seen.sees("Press f9 again: all sandboxes pause")


async def test_the_palettes_key_can_be_given_away(console) -> None:
    async with console(keys={"app.palette": "f2", "move.up": "k,up,ctrl+p"}) as seen:
        rows = seen.app.screen.query_one("#sandboxes", LiveList)
        rows.focus()
        await seen.press("j", "j")
        here = rows.key
        await seen.press("ctrl+p")
        await seen.until(lambda: rows.key != here, "the cursor went up")
        assert "CommandPalette" not in [type(each).__name__ for each in seen.app.screen_stack]
        await seen.press("f2")
        await seen.until(lambda: type(seen.app.screen).__name__ == "CommandPalette", "the palette")


def test_every_action_has_a_method_and_no_forbidden_key() -> None:
    keymap.check({}, "defaults")
    for action in ACTIONS:
        assert not FORBIDDEN_KEYS & set(action.key.split(",")), action.id
        parts = {"app": (FluidScreen,), "move": (LiveList,), "replay": (ReplayView,), "sides": (DiffView,)}
        owners = parts.get(action.where, tuple(screen for screen in SCREENS if action.where == screen.PLACE))
        assert owners, action.id
        assert all(hasattr(owner, f"action_{action.name}") for owner in owners), action.id
    assert len({action.id for action in ACTIONS}) == len(ACTIONS)
    assert bindings("fleet")[0].id == "fleet.open"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fleet.diff: t", ["fleet.diff", "fleet.terminal", "'t'"]),
        ("fleet.fly: f", ["fleet.fly"]),
        ("fleet.diff: banana", ["fleet.diff", "'banana'", "no key"]),
        ("fleet.diff: hyper+d", ["'hyper+d'", "no key"]),
        ("hosts.drain: r", ["hosts.drain", "hosts.resume"]),
        ("- a", ["not a mapping"]),
        ("a: [", ["not YAML"]),
    ],
)
def test_a_keymap_that_cannot_work_is_refused(tmp_path, text: str, words: list[str]) -> None:
    path = tmp_path / "keymap.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        keymap.load(path)
    assert str(path) in caught.value.message
    assert all(word in caught.value.message for word in words)


def test_a_keymap_file_lays_over_the_defaults(tmp_path) -> None:
    path = tmp_path / "keymap.yaml"
    assert keymap.load(path) == {}
    path.write_text("fleet.diff: f2\n")
    assert keymap.effective(keymap.load(path))["fleet.diff"] == "f2"
