"""Our own tmux server: its own socket, no configuration but ours, a process that outlives the backend.

All panes are windows of one session, because a control client is told of its session's output only. tmux 3.3a
dies if a window is made while ``window-size`` is ``manual``: a window is sized after it is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import libtmux
from libtmux.exc import LibTmuxException

from backend.errors import InvalidValue, MissingProgram, PaneNotFound, TmuxDown, Unavailable
from backend.models import Component
from backend.tmux.client import COMMAND_TIMEOUT_S, REMEDY, CommandFailed, ControlClient, Watch
from backend.tmux.control import Lines, Notice, Output, Reply
from backend.tmux.keyboard import Keyboard
from backend.tmux.keys import check_key
from backend.tmux.pane import FORMAT, LOOKED_AT, TAGS, TmuxPane, TmuxScreen, parse_pane
from backend.tmux.settings import HISTORY_LINES, TERM, set_words

log = logging.getLogger(__name__)

SESSION = "fluid"
KEEPER = "keeper"  # the window that holds the session
HALF_MADE = f"#{{&&:#{{!=:#{{window_name}},{KEEPER}}},#{{==:#{{@fluid_created}},}}}}"
TYPING = "typing-"  # how the sessions of keyboards begin
ATTACHED_LOOK_S = 0.02
PROGRAM_TIMEOUT_S = 10.0
RESTART_PAUSE_S = 1.0
MAX_COLUMNS, MAX_ROWS = 500, 200
SEND_BYTES = 512  # a command: hexadecimal makes it three times as long

_PANE_ID = re.compile(r"%[0-9]{1,9}")
_TAG = re.compile(r"[A-Za-z0-9._-]{0,128}")

_SCREEN = (
    "pane_width",
    "pane_height",
    "cursor_x",
    "cursor_y",
    "scroll_region_upper",
    "scroll_region_lower",
    "alternate_on",
)
_SCREEN_FORMAT = " ".join(f"#{{{name}}}" for name in _SCREEN)


@dataclass(frozen=True)
class Drawn:
    """A pane's screen at one moment of its output: what comes after it was printed after it. ``region`` are
    the first and the last row that scroll."""

    width: int
    height: int
    cursor: tuple[int, int]
    region: tuple[int, int]
    is_alternate: bool
    rows: list[str]


class TmuxServer:
    """``await start()``; ``keep()`` is a task that restarts what ends. Methods raise :class:`TmuxDown`."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.changed = asyncio.Event()  # a pane came, went or died; whoever waits clears it
        self.on_output: Callable[[str, bytes], None] = lambda _pane, _data: None
        self._tapped: set[str] = set()
        self._tapping: set[str] = set()  # those that will be tapped when tmux has answered
        self._client: ControlClient | None = None
        self._creating = asyncio.Lock()
        self._libtmux = libtmux.Server(socket_path=socket, config_file=os.devnull)

    def require(self) -> None:
        """:class:`MissingProgram` where :meth:`start` would find no tmux."""
        if shutil.which("tmux") is None:
            raise _no_tmux()

    async def start(self) -> None:
        """Adopt the server on our socket, or start one; then attach the control client.

        Raises:
            MissingProgram: no tmux.
            TmuxDown: it does not start; its words are in the message.
        """
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        begin: list[str] = []  # a server that an older backend began gets our settings too
        if not await self._run("has-session", "-t", f"={SESSION}", check=False):
            begin = [";", "new-session", "-d", "-s", SESSION, "-n", KEEPER, "env", "true"]
        await self._run("start-server", *set_words(), *begin)
        client = ControlClient(self._notice, self._printed)
        attach = ["-C", "attach-session", "-t", f"={SESSION}", "-f", "ignore-size"]
        await client.attach([*self._argv(), *attach], _environment(), self.socket.parent)
        self._client = client
        self._tapped.clear()
        await self._command("refresh-client -B 'dead:%*:#{pane_dead}'")
        for pane in await self.list_panes():
            await self._quiet_if_unwanted(pane.pane_id)
        async with self._creating:
            for window_id in await self._command(
                f"list-windows -t ={SESSION} -f '{HALF_MADE}' -F '#{{window_id}}'"
            ):
                await self._kill_window(window_id)
        for name in await self._command("list-sessions -F '#{session_name}'"):
            if name.startswith(TYPING):  # of a backend that was killed
                await self._command(f"kill-session -t ={name}")

    async def keep(self) -> None:
        """Start again whatever ends, until cancelled: the server, or only our client of it."""
        while True:
            if self._client is not None:
                await self._client.ended.wait()
            try:
                await self.start()
                log.warning("tmux: attached again")
                self.changed.set()
            except Unavailable as error:
                log.error("tmux: %s", error.message)
                await asyncio.sleep(RESTART_PAUSE_S)  # back-off

    async def close(self) -> None:
        """Detach. Panes go on; a later start adopts them."""
        if self._client is not None:
            await self._client.close()

    async def leave(self) -> None:
        """Detach; a tmux without panes of anybody ends."""
        with contextlib.suppress(TmuxDown):
            if not await self.list_panes():
                return await self.kill_server()
        await self.close()
        return None

    async def kill_server(self) -> None:
        """End tmux and every pane in it."""
        await self._run("kill-server", check=False)
        await self.close()

    def status(self) -> Component:
        """Whether the control client is attached."""
        if self._client is None or self._client.ended.is_set():
            return Component(name="tmux", status="down", message="not attached", remedy=REMEDY)
        return Component(name="tmux", status="ok")

    # --- panes --------------------------------------------------------------------------------------------

    async def create_pane(
        self,
        argv: Sequence[str],
        *,
        width: int = 80,
        height: int = 24,
        env: Mapping[str, str] | None = None,
        owner: str = "",
        sandbox: str = "",
        session: str = "",
    ) -> str:
        """Run ``argv`` (never a shell's line) in a pane of its own; the pane's id.

        Raises:
            InvalidValue: a size or a tag that cannot be.
            TmuxDown: tmux refused or is gone.
        """
        if not (1 <= width <= MAX_COLUMNS and 1 <= height <= MAX_ROWS):
            raise InvalidValue(f"{width}x{height} is no size", remedy=f"at most {MAX_COLUMNS}x{MAX_ROWS}")
        tags = dict(zip(TAGS, (owner, sandbox, session), strict=True))
        for value in tags.values():
            if not _TAG.fullmatch(value):
                raise InvalidValue(f"{value!r} cannot be kept with a pane", remedy="use A-Z a-z 0-9 . _ -")
        environment = [word for name, value in (env or {}).items() for word in ("-e", f"{name}={value}")]
        window = [
            "new-window",
            "-d",
            "-P",
            "-F",
            "#{pane_id} #{window_id}",
            "-t",
            f"{SESSION}:",
            *environment,
        ]
        async with self._creating:  # default-size is one for all, and a half-made window is nobody's
            await self._command(f"set-option -g default-size {width}x{height}")
            made = await self._libtmux_cmd(*window, "--", *_program(argv))
            pane_id, window_id = made.split()
            try:
                await self._command(f"resize-window -t {window_id} -x {width} -y {height}")
                for tag, value in {**tags, "created": str(int(datetime.now(UTC).timestamp()))}.items():
                    await self._command(f"set-option -w -t {window_id} @fluid_{tag} '{value}'")
                await self._quiet(pane_id)
            except BaseException:
                await asyncio.shield(asyncio.ensure_future(self._kill_window(window_id)))
                raise
        self.changed.set()
        return pane_id

    async def respawn_pane(self, pane_id: str, argv: Sequence[str]) -> None:
        """Run ``argv`` in place of what runs, or ran, in the pane; its size, tags and history stay."""
        await self._run("respawn-pane", "-k", "-t", _checked(pane_id), "--", *map(_escaped, _program(argv)))
        self.changed.set()

    async def list_panes(self) -> list[TmuxPane]:
        """Every pane but the keeper, which only holds the session."""
        lines = await self._command(f"list-panes -s -t ={SESSION} -F '{FORMAT}'")
        return [pane for pane in map(parse_pane, lines) if pane is not None]

    async def send_text(self, pane_id: str, text: str) -> None:
        """Type text as it is: every byte goes to the pane, none is a key's name or a command."""
        data = text.encode("utf-8", "surrogateescape")
        for start in range(0, len(data), SEND_BYTES):
            await self._pane_command("send-keys", pane_id, f"-H {data[start : start + SEND_BYTES].hex(' ')}")

    async def send_key(self, pane_id: str, key: str) -> None:
        """Press one key of the allowed list. Raises :class:`InvalidValue` for another."""
        await self._pane_command("send-keys", pane_id, check_key(key))

    async def capture(self, pane_id: str, last_n_lines: int = 0) -> list[str]:
        """The rows of :meth:`look`."""
        return (await self.look(pane_id, last_n_lines)).rows

    async def look(self, pane_id: str, last_n_lines: int = 0) -> TmuxScreen:
        """The screen, and ``last_n_lines`` of history above it.

        The rows are a guest's text: nothing but the sanitiser may put them on a terminal.
        """
        history = max(0, min(last_n_lines, HISTORY_LINES))
        size = Reply()

        def numbers() -> list[int]:
            """History, height, whether the cursor shows, its column and row."""
            words = size.lines[0].split() if size.lines else []
            return [int(word) for word in words] if len(words) == len(LOOKED_AT) else []

        def rows_if_there() -> int | None:
            found = numbers()
            return min(history, found[0]) + found[1] if found else None

        target = _checked(pane_id)
        asked = " ".join(f"#{{{name}}}" for name in LOOKED_AT)
        batch = [
            (f"display-message -p -t {target} '{asked}'", size),
            (f"capture-pane -p -e -t {target} -S -{history}", Reply(lines_of_text=rows_if_there)),
        ]
        try:
            _, lines = await self._attached().commands(batch)
        except CommandFailed as error:
            raise _no_pane(pane_id) from error
        rows = [line.decode("utf-8", "replace") for line in lines]
        kept, _, shows, column, row = numbers() or [0] * len(LOOKED_AT)
        return TmuxScreen(rows, (column, min(history, kept) + row) if shows else None)

    async def mark_taken(self, pane_id: str, who: str) -> None:
        """Remember with the pane who types into it; empty: its owner."""
        if not _TAG.fullmatch(who):
            raise InvalidValue(f"{who!r} cannot be kept with a pane", remedy="use A-Z a-z 0-9 . _ -")
        await self._pane_command("set-option -w", pane_id, f"@fluid_taken '{who}'")

    @asynccontextmanager
    async def keyboard(self, pane_id: str) -> AsyncIterator[Keyboard]:
        """A client of our own in a pty of ours, whose bytes become keys of this pane.

        Its session holds the pane's window alone: when that goes, the client ends, and is never led to
        another's. The window keeps its size.
        """
        pane = next((one for one in await self.list_panes() if one.pane_id == _checked(pane_id)), None)
        if pane is None:
            raise _no_pane(pane_id)
        session = TYPING + secrets.token_hex(4)
        begin = ["new-session", "-s", session, "-f", "ignore-size", "env", "true"]
        link = ["link-window", "-k", "-s", pane.window_id, "-t", f"={session}:0"]
        end_with_client = ["set-option", "-t", f"={session}:", "destroy-unattached", "on"]
        argv = [*self._argv(), "-u", *begin, ";", *link, ";", *end_with_client]
        environment = {**_environment(), "TERM": TERM}
        keyboard = Keyboard(pane_id, partial(self._paste, pane_id))
        try:
            await keyboard.start(argv, environment, self.socket.parent, pane.width, pane.height)
            await self._until_attached(keyboard, session, pane.window_id)
            yield keyboard
        finally:
            await asyncio.shield(asyncio.ensure_future(keyboard.close()))

    async def _paste(self, pane_id: str, data: bytes) -> None:
        """One paste, in brackets if the pane's program asked for them."""
        await self.list_panes()  # its answer comes after the keys that were typed before
        name = TYPING + secrets.token_hex(4)
        put = ["paste-buffer", "-d", "-p", "-r", "-b", name, "-t", _checked(pane_id)]
        await self._run("load-buffer", "-b", name, "-", ";", *put, sent=data)

    async def _until_attached(self, keyboard: Keyboard, session: str, window_id: str) -> None:
        """Until the client shows this window and no other: what is typed before would go astray."""
        asked = "#{session_attached} #{window_id} #{session_windows}"
        look = f"display-message -p -t ={session}: '{asked}'"
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await keyboard.drawn.wait()
                while not keyboard.ended.is_set():
                    with contextlib.suppress(TmuxDown):
                        if await self._command(look) == [f"1 {window_id} 1"]:
                            return
                    await asyncio.sleep(ATTACHED_LOOK_S)
        except TimeoutError:
            pass
        raise TmuxDown("tmux did not let a keyboard in", remedy="see `fluid doctor`")

    async def kill_pane(self, pane_id: str) -> None:
        """End the pane and what runs in it."""
        await self._pane_command("kill-pane", pane_id)
        self.changed.set()

    @asynccontextmanager
    async def watch(self, pane_id: str) -> AsyncIterator[Watch]:
        """The pane's output from now on. A pane that nobody watches is paused: it costs us nothing."""
        client = self._attached()
        watches = client.watches.setdefault(_checked(pane_id), set())
        watch = Watch()
        watches.add(watch)
        try:
            await self._pane_command("refresh-client", pane_id, "", f"-A '{pane_id}:continue'")
            yield watch
        finally:
            watches.discard(watch)
            if not watches and client is self._client:
                client.watches.pop(pane_id, None)
                await self._quiet_if_unwanted(pane_id)

    def is_tapped(self, pane_id: str) -> bool:
        """Whether ``on_output`` gets all that this pane prints."""
        return pane_id in self._tapped

    async def tap(self, pane_id: str, drawn: Callable[[Drawn], None]) -> None:
        """``drawn`` gets the screen as it is now, then ``on_output`` everything that changes it."""
        size = Reply()

        def take(lines: Lines) -> None:
            if (screen := _drawn(size.lines, lines)) is not None:
                self._tapped.add(pane_id)
                drawn(screen)

        def height() -> int | None:
            return facts[1] if (facts := _numbers(size.lines)) else None

        target = _checked(pane_id)
        # One turn of tmux: it reads nothing from the pane between the commands of a batch.
        batch = [
            (f"refresh-client -A '{target}:pause'", Reply()),
            (f"display-message -p -t {target} '{_SCREEN_FORMAT}'", size),
            (f"capture-pane -p -e -t {target}", Reply(lines_of_text=height, then=take)),
            (f"refresh-client -A '{target}:continue'", Reply()),
        ]
        self._tapping.add(pane_id)
        try:
            await self._attached().commands(batch)
        except CommandFailed as error:
            self._tapped.discard(pane_id)
            raise _no_pane(pane_id) from error
        finally:
            self._tapping.discard(pane_id)

    async def untap(self, pane_id: str) -> None:
        """The pane costs nothing again, unless it is watched."""
        self._tapped.discard(pane_id)
        await self._quiet_if_unwanted(pane_id)

    async def outputs(self, pane_id: str) -> AsyncIterator[bytes]:
        """What the pane prints, as it prints it. Ends with the pane's server."""
        async with self.watch(pane_id) as watch:
            async for chunk in watch:
                if chunk:
                    yield chunk

    # --- below ----------------------------------------------------------------------------------------------

    def _attached(self) -> ControlClient:
        if self._client is None or self._client.ended.is_set():
            raise TmuxDown("tmux is gone", remedy=REMEDY)
        return self._client

    async def _command(self, line: str) -> list[str]:
        try:
            return await self._attached().command(line)
        except CommandFailed as error:
            raise TmuxDown(f"tmux refused: {error}", remedy="see `fluid doctor`") from error

    async def _kill_window(self, window_id: str) -> None:
        """One that is gone, or whose tmux is, is what was wanted."""
        with contextlib.suppress(TmuxDown):
            await self._command(f"kill-window -t {window_id}")

    async def _pane_command(self, name: str, pane_id: str, words: str = "", instead: str = "") -> None:
        target = _checked(pane_id)
        try:
            await self._attached().command(f"{name} {instead or f'-t {target} {words}'}")
        except CommandFailed as error:
            raise _no_pane(pane_id) from error

    async def _quiet(self, pane_id: str) -> None:
        await self._pane_command("refresh-client", pane_id, "", f"-A '{pane_id}:pause'")

    async def _quiet_if_unwanted(self, pane_id: str) -> None:
        """Nothing comes between the look and the word to tmux: who wants the pane later is heard later."""
        with contextlib.suppress(TmuxDown, PaneNotFound):
            client = self._attached()
            if not (client.watches.get(pane_id) or pane_id in self._tapped | self._tapping):
                await self._quiet(pane_id)

    def _printed(self, output: Output) -> None:
        if output.pane_id in self._tapped:
            self.on_output(output.pane_id, output.data)

    def _notice(self, notice: Notice) -> None:
        if notice.name in ("subscription-changed", "window-add", "window-close", "unlinked-window-close"):
            self.changed.set()
            # tmux drops a dying pane's last output if it was not sent to us yet: whoever watches looks again.
            for watches in self._client.watches.values() if self._client else ():
                for watch in watches:
                    watch.wake()

    def _argv(self) -> list[str]:
        return ["tmux", "-S", str(self.socket), "-f", os.devnull]

    async def _libtmux_cmd(self, *words: str) -> str:
        """One libtmux command; it forks and blocks, so a thread does it."""
        try:
            async with asyncio.timeout(PROGRAM_TIMEOUT_S):
                done = await asyncio.to_thread(self._libtmux.cmd, *map(_escaped, words))
        except (LibTmuxException, TimeoutError) as error:
            raise TmuxDown(f"tmux {words[0]}: {error or 'no answer'}", remedy=REMEDY) from error
        if done.returncode or not done.stdout:
            raise TmuxDown(f"tmux {words[0]}: {' '.join(done.stderr)}", remedy="see `fluid doctor`")
        return str(done.stdout[0])

    async def _run(self, *words: str, check: bool = True, sent: bytes | None = None) -> bool:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv(),
                *words,
                stdin=asyncio.subprocess.DEVNULL if sent is None else asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(),
                cwd=self.socket.parent,
                start_new_session=True,
                umask=0o077,
            )
        except FileNotFoundError as error:
            raise _no_tmux() from error
        try:
            async with asyncio.timeout(PROGRAM_TIMEOUT_S):
                output, _ = await process.communicate(sent)
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise TmuxDown(f"tmux {words[0]} did not end", remedy=f"remove {self.socket}") from error
        if process.returncode and check:
            raise TmuxDown(f"tmux: {output.decode('utf-8', 'replace').strip()}", remedy="see `fluid doctor`")
        return process.returncode == 0


def _program(argv: Sequence[str]) -> Sequence[str]:
    """One word alone would go to a shell."""
    return argv if len(argv) > 1 else ["env", *argv]


def _escaped(word: str) -> str:
    """A semicolon at a word's end would end tmux's command."""
    return f"{word[:-1]}\\;" if word.endswith(";") else word


def _no_tmux() -> MissingProgram:
    return MissingProgram("tmux is not installed", remedy="apt-get install tmux")


def _environment() -> dict[str, str]:
    """What tmux and its panes inherit: nothing of the backend's, which may hold secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": "/", "SHELL": "/bin/sh"}


def _checked(pane_id: str) -> str:
    if not _PANE_ID.fullmatch(pane_id):
        raise _no_pane(pane_id)
    return pane_id


def _no_pane(pane_id: str) -> PaneNotFound:
    return PaneNotFound(f"there is no pane {pane_id!r}", remedy="list yours with GET /v1/tmux/panes")


def _numbers(told: Lines) -> list[int]:
    """What ``_SCREEN`` is just now, empty when it is not all numbers."""
    words = told[0].split() if told else []
    return [int(word) for word in words] if all(word.isdigit() for word in words) else []


def _drawn(told: Lines, lines: Lines) -> Drawn | None:
    if len(facts := _numbers(told)) != len(_SCREEN):
        return None
    width, height, x, y, first, last, alternate = facts
    rows = [line.decode("utf-8", "replace") for line in lines]
    return Drawn(width, height, (x, y), (first, last), bool(alternate), rows)
