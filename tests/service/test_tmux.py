"""A real tmux server on a socket of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backend.errors import InvalidValue, PaneNotFound, TmuxDown
from backend.tmux import TmuxPane, TmuxServer
from backend.tmux.client import Watch

SHELL = ["env", "PS1=$ ", "bash", "--norc", "--noprofile", "-i"]
LIMIT_S = 20


async def seen(tmux: TmuxServer, pane_id: str, wanted: Callable[[list[str]], bool]) -> list[str]:
    """The screen, once it is as wanted; looks again when the pane printed."""
    rows: list[str] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMIT_S), tmux.watch(pane_id) as watch:
            watch.wake()
            async for _ in watch:
                rows = await tmux.capture(pane_id)
                if wanted(rows):
                    return rows
    raise AssertionError(f"the screen stayed {rows}")


async def until(condition: Callable[[], Awaitable[bool]], news: asyncio.Event) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not await condition():
            await news.wait()
            news.clear()


async def test_nothing_of_ours_stays_attached_when_the_loop_ends(open_folder: Path) -> None:
    """A client that is attached again while the backend stops is nobody's, and does not hold it up."""
    server = TmuxServer(open_folder / "tmux.sock")
    await server.start()
    earlier = asyncio.all_tasks()
    keeper = asyncio.create_task(server.keep())
    try:
        await server.close()
        async with asyncio.timeout(LIMIT_S):
            await server.changed.wait()
            left = {keeper, *asyncio.all_tasks()} - earlier
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
    finally:
        await TmuxServer(server.socket).kill_server()


async def test_text_is_typed_to_the_byte_and_nothing_in_it_is_a_command(tmux: TmuxServer) -> None:
    pane = await tmux.create_pane(["cat", "-A"])
    text = "Enter ; kill-server 'x\" $HOME #{pane_id} ~ %1 \\ ü -t {"
    await tmux.send_text(pane, text + "\n")
    rows = await seen(tmux, pane, lambda rows: any(row.endswith("{$") for row in rows))
    assert rows[0] == text
    assert rows[1] == text.replace("ü", "M-CM-<") + "$"


async def test_an_argument_list_reaches_the_program_untouched(tmux: TmuxServer) -> None:
    hostile = ["a b", "$(id)", ";", "x;", "'", '"', "#{pane_id}", "-t"]
    pane = await tmux.create_pane(["sh", "-c", "printf '<%s>\\n' \"$@\"; read end", "sh", *hostile])
    rows = await seen(tmux, pane, lambda rows: "<-t>" in rows)
    assert rows[: len(hostile)] == [f"<{word}>" for word in hostile]


async def test_a_guest_that_prints_the_end_of_a_reply_fools_nobody(tmux: TmuxServer, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    lines = [f"%end {at} {number} 1" for at in range(3) for number in range(5)] + ["%output %0 lies", "%exit"]
    evil.write_text("\n".join(lines) + "\n")
    pane = await tmux.create_pane(["sh", "-c", 'cat "$0"; read end', str(evil)], height=40)
    rows = await seen(tmux, pane, lambda rows: "%exit" in rows)
    assert rows[: len(lines)] == lines
    assert tmux.status().status == "ok"


async def test_colours_and_history_are_captured_with_the_pane_keeping_its_size(tmux: TmuxServer) -> None:
    pane = await tmux.create_pane(
        ["sh", "-c", "seq 100; printf '\\033[31mred\\033[0m\\n'; read end"], width=33, height=7
    )
    rows = await seen(tmux, pane, lambda rows: any("red" in row for row in rows))
    assert len(rows) == 7
    assert any(row.startswith("\x1b[31mred") for row in rows)
    assert len(await tmux.capture(pane, last_n_lines=20)) == 27
    (listed,) = await tmux.list_panes()
    assert (listed.width, listed.height) == (33, 7)


async def test_keys_are_pressed_from_a_list_only(tmux: TmuxServer) -> None:
    script = "trap 'echo interrupted' INT; while :; do read line && echo \"got $line\"; done"
    pane = await tmux.create_pane(["sh", "-c", script])
    await tmux.send_text(pane, "word")
    await tmux.send_key(pane, "Enter")
    await seen(tmux, pane, lambda rows: "got word" in rows)
    await tmux.send_key(pane, "C-c")
    await seen(tmux, pane, lambda rows: any(row.endswith("interrupted") for row in rows))
    with pytest.raises(InvalidValue, match="kill-server"):
        await tmux.send_key(pane, "Enter ; kill-server")


@pytest.mark.parametrize("pane_id", ["%99", "%1;kill-server", "fluid", "", "%", "%1\n"])
async def test_a_pane_that_is_not_there_is_404(tmux: TmuxServer, pane_id: str) -> None:
    for attempt in (tmux.capture(pane_id), tmux.send_text(pane_id, "x"), tmux.kill_pane(pane_id)):
        with pytest.raises(PaneNotFound):
            await attempt
    assert tmux.status().status == "ok"


async def windows(tmux: TmuxServer) -> list[str]:
    return await tmux._command("list-windows -t =fluid -F '#{window_name}'")


async def test_a_pane_whose_making_fails_or_is_cut_short_leaves_no_window(
    tmux: TmuxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def fail(_: str) -> None:
        raise TmuxDown("tmux is gone")

    async def hang(_: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(tmux, "_quiet", fail)
    with pytest.raises(TmuxDown):
        await tmux.create_pane(SHELL)
    assert await windows(tmux) == ["keeper"]
    monkeypatch.setattr(tmux, "_quiet", hang)
    making = asyncio.create_task(tmux.create_pane(SHELL))
    await asyncio.wait_for(reached.wait(), LIMIT_S)
    assert len(await windows(tmux)) == 2
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    assert await windows(tmux) == ["keeper"]


async def test_a_start_ends_what_a_killed_backend_was_making_and_nothing_else(tmux: TmuxServer) -> None:
    pane = await tmux.create_pane(SHELL)
    await tmux._command("new-window -d -t fluid: -n half 'sleep 1000'")
    again = TmuxServer(tmux.socket)
    await again.start()
    try:
        assert [one.pane_id for one in await again.list_panes()] == [pane]
        assert len(await windows(again)) == 2 and "keeper" in await windows(again)
    finally:
        await again.close()


async def test_a_pane_inherits_nothing_of_ours(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://fluid:hunter2@db/fluid")
    tmux = TmuxServer(open_folder / "tmux.sock")
    await tmux.start()
    try:
        pane = await tmux.create_pane(["sh", "-c", "env; echo over"], env={"GIVEN": "yes"}, height=60)
        rows = await seen(tmux, pane, lambda rows: "over" in rows)
        assert "GIVEN=yes" in rows
        assert not any("hunter2" in row for row in rows)
        assert (open_folder / "tmux.sock").stat().st_mode & 0o007 == 0
    finally:
        await tmux.kill_server()


async def test_a_restarted_backend_adopts_the_panes(tmux: TmuxServer) -> None:
    pane = await tmux.create_pane(SHELL, owner="1000", sandbox="SBX-1", session="main")
    await tmux.send_text(pane, "echo before\n")
    await seen(tmux, pane, lambda rows: "before" in rows)
    await tmux.close()
    again = TmuxServer(tmux.socket)
    await again.start()
    try:
        (listed,) = await again.list_panes()
        assert (listed.pane_id, listed.owner, listed.sandbox, listed.session) == (
            pane,
            "1000",
            "SBX-1",
            "main",
        )
        assert "before" in await again.capture(pane)
    finally:
        await again.close()


@pytest.mark.parametrize(
    ("scope", "option"),
    [
        ("-s", "set-clipboard"),
        ("-g", "set-titles"),
        ("-gw", "allow-passthrough"),
        ("-gw", "allow-rename"),
        ("-gw", "automatic-rename"),
        ("-g", "mouse"),
    ],
)
async def test_what_a_guest_prints_reaches_no_operators_terminal_whoever_began_the_server(
    tmux: TmuxServer, scope: str, option: str
) -> None:
    """tmux's own defaults, or those of an older backend, may be others."""

    def ask(*words: str) -> str:
        argv = ["tmux", "-S", str(tmux.socket), *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout

    shown = ("show-options", f"{scope}v", option)
    assert ask(*shown) == "off\n"
    ask("set-option", scope, option, "on")
    assert ask(*shown) == "on\n"
    restarted = TmuxServer(tmux.socket)
    await restarted.start()
    try:
        assert ask(*shown) == "off\n"
    finally:
        await restarted.close()


async def test_a_program_that_ends_leaves_its_last_screen_and_is_seen_as_dead(tmux: TmuxServer) -> None:
    pane = await tmux.create_pane(["sh", "-c", "echo bye; read go"])
    await seen(tmux, pane, lambda rows: "bye" in rows)
    await tmux.send_key(pane, "Enter")

    async def dead() -> bool:
        return [one.alive for one in await tmux.list_panes()] == [False]

    await until(dead, tmux.changed)
    assert "bye" in await tmux.capture(pane, last_n_lines=1)  # tmux scrolls by one for its own word
    await tmux.kill_pane(pane)
    assert await tmux.list_panes() == []


async def test_tmux_killed_is_an_error_with_a_remedy_and_comes_back(tmux: TmuxServer) -> None:
    pane = await tmux.create_pane(SHELL)
    (server_pid,) = await tmux._command("display-message -p '#{pid}'")
    keeper = asyncio.create_task(tmux.keep())
    try:
        async with asyncio.timeout(LIMIT_S), tmux.watch(pane) as watch:
            tmux.changed.clear()
            os.kill(int(server_pid), signal.SIGKILL)
            _ = [chunk async for chunk in watch]  # ends by itself
        with pytest.raises(TmuxDown) as caught:
            await tmux.capture(pane)
        assert caught.value.remedy
        async with asyncio.timeout(LIMIT_S):
            await tmux.changed.wait()
        assert await tmux.list_panes() == []
        fresh = await tmux.create_pane(SHELL)
        await tmux.send_text(fresh, "echo back\n")
        await seen(tmux, fresh, lambda rows: "back" in rows)
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def test_a_pane_nobody_watches_is_silent_and_runs_on(tmux: TmuxServer) -> None:
    pane = await tmux.create_pane(["sh", "-c", "read go; seq 200000; echo done; read end"])
    client = tmux._attached()
    told: list[str] = []
    feed = client._parser.feed

    def spy(data: bytes) -> list[object]:
        found = feed(data)
        told.extend(type(one).__name__ for one in found)
        return found  # type: ignore[return-value]

    client._parser.feed = spy  # type: ignore[assignment, method-assign]
    await tmux.send_text(pane, "go\n")

    async def done() -> bool:
        return "done" in await tmux.capture(pane)

    async with asyncio.timeout(LIMIT_S):
        while not await done():  # there is no event by design: that is what is tested
            pass
    assert told.count("Output") == 0


class Told:
    """What taps told."""

    def __init__(self) -> None:
        self.something = asyncio.Event()

    def __call__(self, pane_id: str, data: bytes) -> None:
        self.something.set()


async def test_who_wants_a_pane_while_tmux_is_attached_again_hears_it(
    tmux: TmuxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed, recorded = await tmux.create_pane(["cat"]), await tmux.create_pane(["cat"])
    again, told = TmuxServer(tmux.socket), Told()
    again.on_output = told
    listed = again.list_panes
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(again.close)
        watches: list[Watch] = []

        async def want_meanwhile() -> list[TmuxPane]:
            panes = await listed()
            watches.append(await stack.enter_async_context(again.watch(followed)))
            await again.tap(recorded, lambda _: None)
            return panes

        monkeypatch.setattr(again, "list_panes", want_meanwhile)
        await again.start()
        await again.send_text(followed, "live\n")
        await again.send_text(recorded, "kept\n")
        async with asyncio.timeout(LIMIT_S):
            await anext(aiter(watches[0]))
            await told.something.wait()


async def test_a_pane_that_is_tapped_while_its_last_follower_leaves_is_heard(tmux: TmuxServer) -> None:
    pane, told = await tmux.create_pane(["cat"]), Told()
    tmux.on_output = told
    async with tmux.watch(pane):
        tapping = asyncio.create_task(tmux.tap(pane, lambda _: None))
        await asyncio.sleep(0)  # tmux is asked, and has not answered
    await tapping
    await tmux.send_text(pane, "kept\n")
    await asyncio.wait_for(told.something.wait(), LIMIT_S)


HOLD = """
import asyncio, pathlib, sys
from backend.tmux import TmuxPane, TmuxServer
from backend.tmux.client import Watch
async def hold():
    tmux = TmuxServer(pathlib.Path(sys.argv[1]))
    await tmux.start()
    async with tmux.keyboard(sys.argv[2]):
        print("holding", flush=True)
        await asyncio.Event().wait()
asyncio.run(hold())
"""


@pytest.fixture
async def quiet_pane(tmux: TmuxServer) -> str:
    """Shows every byte that comes, and echoes none."""
    pane = await tmux.create_pane(["sh", "-c", "stty raw -echo; echo ready; cat -v"], width=60, height=10)
    await seen(tmux, pane, lambda rows: "ready" in rows)
    return pane


def joined(rows: list[str]) -> str:
    return "".join(row.strip() for row in rows)


async def test_a_keyboard_types_as_a_terminal_does_and_reaches_nothing_of_tmux(
    tmux: TmuxServer, quiet_pane: str
) -> None:
    typed = b"\x02:kill-server\r\x01\x1b[<0;5;5Mh\xc3\xa9\x1b[A"
    async with tmux.keyboard(quiet_pane) as keyboard:
        await keyboard.type(typed)
        rows = await seen(tmux, quiet_pane, lambda rows: joined(rows).endswith("^[[A"))
        (pane,) = await tmux.list_panes()
        assert (pane.width, pane.height) == (60, 10)
    assert joined(rows) == "ready^B:kill-server^M^AhM-CM-)^[[A", "the click of a mouse went nowhere"
    assert await tmux._command("list-keys") == []


async def test_arrows_are_typed_as_the_pane_wants_them(tmux: TmuxServer) -> None:
    script = "stty raw -echo; printf '\\033[?1hready'; cat -v"
    pane = await tmux.create_pane(["sh", "-c", script])
    await seen(tmux, pane, lambda rows: "ready" in rows)
    async with tmux.keyboard(pane) as keyboard:
        await keyboard.type(b"\x1b[A")
        await seen(tmux, pane, lambda rows: "ready^[OA" in rows)


@pytest.mark.parametrize(
    ("asked", "shown"), [("", "readya^Mb!"), ("\\033[?2004h", "ready^[[200~a^Mb^[[201~!")]
)
async def test_a_paste_is_in_brackets_only_where_they_were_asked_for(
    tmux: TmuxServer, asked: str, shown: str
) -> None:
    pane = await tmux.create_pane(["sh", "-c", f"stty raw -echo; printf '{asked}ready'; cat -v"])
    await seen(tmux, pane, lambda rows: "ready" in rows)
    async with tmux.keyboard(pane) as keyboard:
        await keyboard.type(b"\x1b[200~a\rb\x1b[201~!")
        rows = await seen(tmux, pane, lambda rows: joined(rows).endswith("!"))
    assert joined(rows) == shown


async def test_a_keyboard_ends_with_its_pane_and_is_never_led_to_another(
    tmux: TmuxServer, quiet_pane: str
) -> None:
    mine = await tmux.create_pane(SHELL)
    async with tmux.keyboard(mine) as keyboard:
        await tmux.kill_pane(mine)
        async with asyncio.timeout(LIMIT_S):
            await keyboard.ended.wait()
        with pytest.raises(PaneNotFound):
            await keyboard.type(b"rm -rf /\r")
    assert joined(await tmux.capture(quiet_pane)) == "ready"
    with pytest.raises(PaneNotFound):
        async with tmux.keyboard(mine):
            pass


async def test_a_keyboard_leaves_no_session_behind_and_a_killed_backends_are_swept(
    tmux: TmuxServer, quiet_pane: str
) -> None:
    async def alone() -> bool:
        return await tmux._command("list-sessions -F '#{session_name}'") == ["fluid"]

    async with tmux.keyboard(quiet_pane):
        assert not await alone()
    async with asyncio.timeout(LIMIT_S):
        while not await alone():  # tmux sees the end of the terminal by itself
            await asyncio.sleep(0.01)
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(tmux.socket), quiet_pane, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    assert await asyncio.wait_for(holder.stdout.readline(), LIMIT_S) == b"holding\n"
    assert not await alone()
    holder.kill()  # what becomes of the keyboard of a backend that is killed
    await holder.wait()
    async with asyncio.timeout(LIMIT_S):
        while not await alone():
            await asyncio.sleep(0.01)
    await tmux._command("new-session -d -s typing-left 'env true'")
    again = TmuxServer(tmux.socket)
    await again.start()
    try:
        assert await alone()
        assert [pane.pane_id for pane in await again.list_panes()] == [quiet_pane]
    finally:
        await again.close()


async def test_a_terminal_that_takes_nothing_holds_its_typist_and_frees_them_when_it_ends(
    tmux: TmuxServer,
) -> None:
    pane = await tmux.create_pane(SHELL)
    (server_pid,) = await tmux._command("display-message -p '#{pid}'")
    async with tmux.keyboard(pane) as keyboard:
        os.kill(int(server_pid), signal.SIGSTOP)
        try:
            typing = asyncio.create_task(keyboard.type(b"x" * 200_000))
            await asyncio.sleep(0.1)
            assert not typing.done()
            keyboard.ended.set()
            with pytest.raises(PaneNotFound):
                await asyncio.wait_for(typing, LIMIT_S)
        finally:
            os.kill(int(server_pid), signal.SIGCONT)


async def test_the_cursor_is_seen_with_its_screen(tmux: TmuxServer) -> None:
    pane = await tmux.create_pane(
        ["sh", "-c", "seq 40; printf '\\033[2;5Hx'; read end; printf '\\033[?25l'; read end"]
    )
    await seen(tmux, pane, lambda rows: any("x" in row for row in rows))
    assert (await tmux.look(pane)).cursor == (5, 1)
    looked = await tmux.look(pane, last_n_lines=7)
    assert looked.cursor == (5, 8)
    assert "x" in looked.rows[8]
    await tmux.send_key(pane, "Enter")
    async with asyncio.timeout(LIMIT_S), tmux.watch(pane) as watch:
        watch.wake()
        async for _ in watch:
            if (await tmux.look(pane)).cursor is None:
                return
