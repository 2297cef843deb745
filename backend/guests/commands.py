"""Commands in a guest: the string reaches ``bash -c`` untouched, and what it printed is told truly.

Nothing that a command prints is believed: the process id that a time-out needs comes first on a channel of
its own, behind a token that the command never gets to know in time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal as signals
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import asyncssh

from backend.errors import CommandLost, GuestDown
from backend.guests import _trampoline
from backend.guests._capture import Capture
from backend.guests.connection import Guest, GuestConnections, run_unheard
from backend.models import now

OUTPUT_LIMIT_BYTES = 1024**2
PROBE_AFTER_S = 2.0  # an emulated guest opens a session in 0.15 s, in 5 s with 50 at once
OPEN_TIMEOUT_S = 20.0
DRAIN_SILENCE_S = 0.5  # after the exit: a background child may hold the output open for ever
DRAIN_MAX_S = 5.0
TERM_GRACE_S = 1.5
END_TIMEOUT_S = 8.0
START_TIMEOUT_S = 5.0
MARKER_SEARCH_BYTES = 65_536
UNKNOWN_SIGNAL = 127

log = logging.getLogger(__name__)

OnOutput = Callable[[str, bytes], None]
"""Called as output comes with ``"stdout"`` or ``"stderr"`` and the bytes that are kept."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended. Output is cut to the limit (head, a line that tells, tail); the sizes are true.

    ``exit_code`` is 128 + n after signal n, and None when the guest was lost before the command ended.
    """

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    timed_out: bool
    truncated: bool
    started_at: datetime
    ended_at: datetime


class GuestCommands:
    """Runs commands over the kept connections."""

    def __init__(self, connections: GuestConnections) -> None:
        self._connections = connections
        self._endings: set[asyncio.Task[None]] = set()

    async def run(
        self,
        guest: Guest,
        command: str,
        *,
        timeout_s: float,
        user: str = _trampoline.ROOT,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
        on_output: OnOutput | None = None,
    ) -> Outcome:
        """Run ``command`` and wait for its end, at most ``timeout_s`` seconds.

        A time-out and a cancelled caller both end every process of the command's session in the guest. A
        child that the command leaves in the background stays, and is not waited for.

        Args:
            limit_bytes: kept of each of the two streams.
            on_output: called on the event loop as output comes; it must not block.

        Raises:
            InvalidValue, TooLarge: a command, user, variable or folder that cannot be passed on.
            GuestDown: the guest does not answer.
            CommandLost: it went away while the command ran.
        """
        token = secrets.token_hex(16)
        line = _trampoline.build(command, token=token, user=user, env=env, cwd=cwd)
        async with self._connections.slot(guest):
            session = _Session(token.encode(), limit_bytes, on_output)
            started_at = now()
            timed_out = False
            connection = await self._open(guest, session, line)
            try:
                session.send(line.preamble, stdin)
                async with asyncio.timeout(timeout_s):
                    await session.wait()
            except TimeoutError:
                timed_out = True
                await asyncio.shield(self._end_later(connection, session))
            except asyncio.CancelledError:
                self._end_later(connection, session)
                raise
            outcome = session.outcome(timed_out=timed_out, started_at=started_at)
        if outcome.exit_code is None and not timed_out:
            lost = CommandLost(
                f"{guest.words} went away while the command ran",
                remedy="the command may have ended or not: look in the guest, then run it again",
            )
            lost.outcome = outcome
            raise lost
        return outcome

    async def close(self) -> None:
        """Wait until commands whose callers left are ended."""
        if self._endings:
            await asyncio.wait(self._endings, timeout=END_TIMEOUT_S)

    async def _open(
        self, guest: Guest, session: _Session, line: _trampoline.Line
    ) -> asyncssh.SSHClientConnection:
        """Start the command; over a fresh connection if the kept one was dead before it took it."""
        fresh = False
        while True:
            connection = await self._connections.connection(guest)
            try:
                await self._create(guest, connection, session, line.exec_line)
                return connection
            except asyncio.CancelledError:
                self._end_later(connection, session)
                raise
            except (TimeoutError, OSError, asyncssh.Error) as error:
                await asyncio.sleep(0)  # asyncssh marks a dead connection as closed one loop turn later
                if connection.is_closed() and not session.opened and not fresh:
                    fresh = True
                    continue
                self._end_later(connection, session)
                why = "no answer" if isinstance(error, TimeoutError) else str(error)
                raise GuestDown(
                    f"{guest.words} does not start a command: {why}",
                    remedy=f"look at it with `fluid sandboxes show {guest.words}`, start it or destroy it",
                ) from error

    async def _create(
        self, guest: Guest, connection: asyncssh.SSHClientConnection, session: _Session, exec_line: str
    ) -> None:
        """Open the session. A slow guest gets 20 s; one whose kernel does not answer either is given up."""
        loop = asyncio.get_running_loop()
        opening = loop.create_task(connection.create_session(lambda: session, exec_line, encoding=None))
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                done, _ = await asyncio.wait([opening], timeout=PROBE_AFTER_S)
                if not done and not await self._connections.answers(guest):
                    raise TimeoutError
                await opening
        finally:
            opening.cancel()

    def _end_later(self, connection: asyncssh.SSHClientConnection, session: _Session) -> asyncio.Task[None]:
        """End the command in a task of its own, which a caller that leaves does not take along."""
        task = asyncio.get_running_loop().create_task(self._end(connection, session))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def _end(self, connection: asyncssh.SSHClientConnection, session: _Session) -> None:
        """TERM, a moment to clean up, KILL; then the channel is closed whatever the guest says."""
        if not session.opened:
            return  # the guest never took the command
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                process = await session.process_id()
                await _signal(connection, process, "TERM")
                with suppress(TimeoutError):
                    async with asyncio.timeout(TERM_GRACE_S):
                        await session.wait()
                await _signal(connection, process, "KILL")
                await session.wait()
        except (TimeoutError, OSError, asyncssh.Error) as error:
            log.warning("a command could not be ended in its guest: %s", type(error).__name__)
        finally:
            session.close()


async def _signal(connection: asyncssh.SSHClientConnection, session_id: int, name: str) -> None:
    await run_unheard(connection, _trampoline.end_session(session_id, name))


class _Session(asyncssh.SSHClientSession[bytes]):
    """One channel: takes the marker off standard error, keeps the streams, knows the exit."""

    def __init__(self, token: bytes, limit_bytes: int, on_output: OnOutput | None) -> None:
        self._marker = token + b" "
        self._waiting = bytearray()  # standard error before the marker has come
        self._marked = False
        self._streams = {"stdout": Capture(limit_bytes), "stderr": Capture(limit_bytes)}
        self._on_output = on_output
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._process: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._exit_code: int | None = None
        self._exited = asyncio.Event()
        self._closed = asyncio.Event()
        self._last_data = 0.0

    # --- called by asyncssh; an exception here would cost the whole connection -------------------------

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._last_data = asyncio.get_running_loop().time()
        if datatype is None:
            self._take("stdout", data)
        elif self._marked:
            self._take("stderr", data)
        else:
            self._seek_marker(data)

    def eof_received(self) -> bool:
        return True  # half open: the exit status is still to come

    def exit_status_received(self, status: int) -> None:
        self._exit_code = status
        self._exited.set()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        number = getattr(signals, f"SIG{signal}", None)
        self._exit_code = 128 + (int(number) if isinstance(number, signals.Signals) else UNKNOWN_SIGNAL)
        self._exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._process.done():
            self._process.cancel()
        self._exited.set()
        self._closed.set()

    # --- called by run ---------------------------------------------------------------------------------

    @property
    def opened(self) -> bool:
        """Whether the guest's sshd has taken the session."""
        return self._channel is not None

    def send(self, preamble: bytes, stdin: bytes | None) -> None:
        """Give the command its input and end it."""
        if self._channel is not None and not self._closed.is_set():
            with suppress(OSError):  # the command is over already
                self._channel.write(preamble + (stdin or b""))
                self._channel.write_eof()

    async def wait(self) -> None:
        """Until the channel is closed; or, after the exit, until the output is silent."""
        await self._exited.wait()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + DRAIN_MAX_S
        while not self._closed.is_set():
            quiet_at = max(self._last_data, give_up - DRAIN_MAX_S) + DRAIN_SILENCE_S
            wait_s = min(quiet_at, give_up) - loop.time()
            if wait_s <= 0:
                self.close()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._closed.wait()

    async def process_id(self) -> int:
        """The session's leader in the guest, as the trampoline told it.

        Raises:
            TimeoutError: it never told, so nothing of ours was started.
        """
        async with asyncio.timeout(START_TIMEOUT_S):
            try:
                return await asyncio.shield(self._process)
            except asyncio.CancelledError:
                if self._process.cancelled():
                    raise TimeoutError from None
                raise

    def close(self) -> None:
        if self._channel is not None:
            self._channel.abort()

    def outcome(self, *, timed_out: bool, started_at: datetime) -> Outcome:
        if not self._marked:
            self._take("stderr", bytes(self._waiting))
        for name, stream in self._streams.items():
            self._tell(name, stream.finish())
        out, err = self._streams["stdout"], self._streams["stderr"]
        return Outcome(
            exit_code=self._exit_code,
            stdout=out.kept(),
            stderr=err.kept(),
            stdout_bytes=out.size,
            stderr_bytes=err.size,
            timed_out=timed_out,
            truncated=out.truncated or err.truncated,
            started_at=started_at,
            ended_at=now(),
        )

    def _seek_marker(self, data: bytes) -> None:
        self._waiting += data
        at = self._waiting.find(self._marker)
        end = self._waiting.find(b"\n", at) if at >= 0 else -1
        if end >= 0:
            digits = bytes(self._waiting[at + len(self._marker) : end])
            if digits.isdigit() and not self._process.done():
                self._process.set_result(int(digits))
            del self._waiting[at : end + 1]
        elif len(self._waiting) < MARKER_SEARCH_BYTES:
            return
        self._marked = True
        rest, self._waiting = bytes(self._waiting), bytearray()
        self._take("stderr", rest)

    def _take(self, name: str, data: bytes) -> None:
        self._tell(name, self._streams[name].feed(data))

    def _tell(self, name: str, data: bytes) -> None:
        if not data or self._on_output is None:
            return
        try:
            self._on_output(name, data)
        except Exception:  # the listener's fault must not end the guest's connection
            log.exception("a listener to a command's output failed and is dropped")
            self._on_output = None
