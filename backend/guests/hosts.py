"""One kept SSH connection per host: its libvirt's socket, its guests and a few commands go over it.

Host keys are checked always. A host that hangs or is gone costs its own callers a limit and nobody else
anything: after a few failures they are told at once since when it is lost, and when it is tried next.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import asyncssh

from backend.errors import ConfigError, FluidError, HypervisorDown, HypervisorFailed, TimedOut, TooLarge
from backend.guests._relay import CHUNK_BYTES, LOOPBACK, PATH_MAX_BYTES, Relay, Streams
from backend.guests._words import words_of
from backend.guests.trust import login_options
from backend.models import now
from backend.places import LIBVIRT_SOCKET, SshDestination

T = TypeVar("T")
SessionFactory: TypeAlias = "Callable[[], asyncssh.SSHTCPSession[bytes]]"

DIAL_TIMEOUT_S = 10.0
WAIT_TIMEOUT_S = 12.0  # for a connection that is being dialled
CHANNEL_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 20.0
COMMAND_LIMIT_BYTES = 1024**2
CLOSE_TIMEOUT_S = 1.0
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
CIRCUIT_FAILURES = 3
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 15.0
WORDS_BYTES = 500

EXPECTED = (OSError, ValueError, asyncssh.Error, FluidError)

log = logging.getLogger(__name__)


class HostLink:
    """The connection to the host ``name``. ``folder`` is ours alone, for the socket that leads to libvirt."""

    def __init__(
        self, name: str, ssh: SshDestination, folder: Path, *, libvirt_socket: str = LIBVIRT_SOCKET
    ) -> None:
        self.name = name
        self.ssh = ssh
        self.lost_since: datetime | None = None
        self._path = folder / f"{name}.sock"
        self._far_path = libvirt_socket
        self._relay: Relay | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._news = asyncio.Event()  # a dial ended, either way; each one has its own
        self._failures = 0
        self._why, self._remedy = "it was not dialled yet", ""
        self._next_try = 0.0

    # --- its life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Keep a connection from now on, and wait for the first.

        Raises:
            HypervisorDown: there is none yet; it is tried again all the same.
        """
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"link to {self.name}")
        await self.connection()

    async def close(self) -> None:
        """Hang up; what goes over the connection ends."""
        keeper, self._keeper = self._keeper, None
        self._why = "we hung up"
        if keeper is not None:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
        if self._relay is not None:
            await self._relay.close()
            self._path.unlink(missing_ok=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            with suppress(TimeoutError, OSError, asyncssh.Error):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await connection.wait_closed()

    @property
    def up(self) -> bool:
        """Whether a connection stands."""
        return self._connection is not None and not self._connection.is_closed()

    def down(self) -> HypervisorDown:
        """Why there is no connection, since when, and when it is tried next."""
        next_s = max(self._next_try - time.monotonic(), 0)
        when = f"next try in {math.ceil(next_s)} s" if next_s else "it is being tried"
        since = f"lost since {self.lost_since:%Y-%m-%d %H:%M:%S} UTC" if self.lost_since else "not reached"
        return HypervisorDown(
            f"host {self.name} ({self.ssh.address}) is {since}: {self._why}; {when}",
            remedy=self._remedy or "see that the host runs and that its sshd answers",
        )

    async def connection(self) -> asyncssh.SSHClientConnection:
        """The live connection; one that is being dialled is waited for.

        Raises:
            HypervisorDown: at once when the host is known to be lost, else after 12 s.
        """
        try:
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                while True:
                    if self._connection is not None and not self._connection.is_closed():
                        return self._connection
                    if self._keeper is None or self._failures >= CIRCUIT_FAILURES:
                        raise self.down()
                    await self._news.wait()
        except TimeoutError:
            raise self.down() from None

    # --- what goes over it -----------------------------------------------------------------------------

    async def libvirt_socket(self) -> Path:
        """A Unix socket of ours (0600) that leads to the host's libvirt until :meth:`close`.

        A caller's connection ends with the SSH connection under it, and may call again at once.

        Raises:
            ConfigError: the socket's path is too long.
        """
        if self._relay is None:
            if len(bytes(self._path)) > PATH_MAX_BYTES:
                raise ConfigError(
                    f"{self._path} is too long for a socket", remedy="a shorter host name, or FLUID_HOME"
                )
            relay = Relay(self._dial_libvirt)
            await relay.listen_at(self._path)
            self._relay = relay
        return self._path

    async def libvirt_uri(self) -> str:
        """The host's libvirt as a URI of this machine."""
        return f"qemu:///system?socket={quote(str(await self.libvirt_socket()))}"

    async def must_reach_libvirt(self) -> None:
        """libvirt itself would say no more than that the socket of ours ended.

        Raises:
            HypervisorDown: the login works, and libvirt's socket there does not open.
        """
        try:
            _, writer = await self._dial_libvirt()
        except (OSError, asyncssh.Error) as error:
            raise HypervisorDown(
                f"host {self.name} ({self.ssh.address}): {self._far_path} does not open: {words_of(error)}",
                remedy="on that host, as root: see that libvirtd runs, and `usermod -aG libvirt` the user "
                "who logs in",
            ) from error
        writer.close()

    async def dial(
        self,
        session_factory: SessionFactory,
        address: str,
        port: int,
        *,
        timeout_s: float = CHANNEL_TIMEOUT_S,
    ) -> tuple[asyncssh.SSHTCPChannel[bytes], asyncssh.SSHTCPSession[bytes]]:
        """A TCP connection that the host makes for us (RFC 4254 §7.2, direct-tcpip).

        Raises:
            HypervisorDown: the host is lost.
            TimeoutError, OSError, asyncssh.Error: the address does not answer the host.
        """
        given_up = False

        def session() -> asyncssh.SSHTCPSession[bytes]:
            return asyncssh.SSHTCPSession() if given_up else session_factory()

        try:
            return await self._open(
                lambda connection: connection.create_connection(session, address, port, encoding=None),
                _close_channel,
                timeout_s,
            )
        finally:
            given_up = True

    @asynccontextmanager
    async def forward_local(self, address: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """An address and a port of this machine that lead to ``address``:``port`` as the host sees it.

        Every user of this machine can call it: for what asks for a key of its own, such as a guest's sshd.
        """

        async def dial() -> Streams:
            return await self._open(
                lambda connection: connection.open_connection(address, port, encoding=None), _close_streams
            )

        relay = Relay(dial)
        try:
            yield LOOPBACK, await relay.listen_on_loopback()
        finally:
            await relay.close()

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        limit_bytes: int = COMMAND_LIMIT_BYTES,
    ) -> bytes:
        """What a program on the host writes to its standard output.

        Raises:
            HypervisorDown: the host is lost, or went away meanwhile.
            TimedOut, TooLarge: it took or wrote more than the limit.
            HypervisorFailed: it ended with another status than 0; the message carries its words.
        """
        what = f"`{argv[0]}` on host {self.name}"
        # A root login's sshd passes no signals on: the program is ended there, after us.
        limited = ["timeout", "-k", "1", f"{timeout_s + 1:g}", *argv]
        try:
            process = await self._open(
                lambda connection: connection.create_process(
                    shlex.join(limited), stdin=asyncssh.DEVNULL, encoding=None
                ),
                _close_process,
                min(timeout_s, CHANNEL_TIMEOUT_S),
            )
            async with asyncio.timeout(timeout_s):
                status, out, words = await _ended(process, limit_bytes)
        except TimeoutError:
            raise TimedOut(f"{what} took over {timeout_s:g} s", remedy="see the host's load") from None
        except (OSError, asyncssh.Error) as error:
            raise HypervisorDown(
                f"{what}: {words_of(error)}", remedy="see that its sshd answers; it is tried again"
            ) from error
        if len(out) > limit_bytes:
            raise TooLarge(f"{what} wrote more than {limit_bytes} bytes", remedy="ask for less")
        if status is None:
            raise HypervisorDown(f"{what}: the host went away while it ran", remedy="it is tried again")
        if status != 0:
            told = words.decode("utf-8", "replace").strip()
            raise HypervisorFailed(f"{what} ended with {status}: {told}", remedy="run it there by hand")
        return out

    async def _dial_libvirt(self) -> Streams:
        return await self._open(
            lambda connection: connection.open_unix_connection(self._far_path, encoding=None), _close_streams
        )

    async def _open(
        self,
        opening: Callable[[asyncssh.SSHClientConnection], Awaitable[T]],
        close: Callable[[T], None],
        timeout_s: float | None = None,
    ) -> T:
        """What ``opening`` opens on the live connection; on a fresh one if that was dead before it began."""
        limit_s = CHANNEL_TIMEOUT_S if timeout_s is None else timeout_s
        connection = await self.connection()
        try:
            return await _opened(opening(connection), limit_s, close)
        except (OSError, asyncssh.Error):
            await asyncio.sleep(0)  # asyncssh marks a dead connection as closed one loop turn later
            if not connection.is_closed():
                raise
        return await _opened(opening(await self.connection()), limit_s, close)

    # --- keeping it ------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                connection = await self._dial()
            except Exception as error:  # whatever it is, the host is tried again
                self._fail(error, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, BACKOFF_MAX_S)
                continue
            if self.lost_since or self._failures:
                log.info("host %s answers again", self.name)
            self._connection, self.lost_since, self._failures = connection, None, 0
            pause_s = BACKOFF_FIRST_S
            self._tell()
            await connection.wait_closed()
            self.lost_since, self._why, self._remedy = now(), "the connection broke", ""
            log.warning("the connection to host %s broke", self.name)

    async def _dial(self) -> asyncssh.SSHClientConnection:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            options = await asyncio.to_thread(login_options, self.ssh)
            return await asyncssh.connect(
                **options, keepalive_interval=KEEPALIVE_INTERVAL_S, keepalive_count_max=KEEPALIVE_COUNT
            )

    def _fail(self, error: Exception, pause_s: float) -> None:
        """A silent host, a wrong key and a refused login are no better a moment later: their callers need not
        wait for it."""
        is_brief = isinstance(error, OSError | asyncssh.ConnectionLost) and not isinstance(
            error, TimeoutError | FileNotFoundError | PermissionError
        )
        self._failures = self._failures + 1 if is_brief else max(self._failures + 1, CIRCUIT_FAILURES)
        self._why, self._remedy = _explained(error, self)
        self._next_try = time.monotonic() + pause_s
        if self.lost_since is None:
            self.lost_since = now()
        level = logging.WARNING if self._failures == CIRCUIT_FAILURES else logging.DEBUG
        log.log(level, "%s", self.down().message, exc_info=None if isinstance(error, EXPECTED) else error)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _explained(error: Exception, link: HostLink) -> tuple[str, str]:
    """Why, and what mends it."""
    if isinstance(error, FluidError):
        return error.message, error.remedy
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return (
            "it shows a host key that no file of known hosts holds for it",
            "compare its fingerprint (`fluid hosts add` shows it), then add it to "
            f"{link.ssh.known_hosts or '~/.ssh/known_hosts'}",
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return "it refuses our key", "add the public key to ~/.ssh/authorized_keys of that user there"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}", "check `key` and `known_hosts` in config.yaml"
    return words_of(error), ""


async def _ended(
    process: asyncssh.SSHClientProcess[bytes], limit_bytes: int
) -> tuple[int | None, bytes, bytes]:
    """Status, output and the first words of the errors; without a status it went over the limit or away."""
    words = asyncio.ensure_future(_first(process.stderr, WORDS_BYTES))
    try:
        out = bytearray()
        while data := await process.stdout.read(CHUNK_BYTES):
            out += data
            if len(out) > limit_bytes:
                return None, bytes(out), b""
        await process.wait_closed()
        return process.returncode, bytes(out), await words
    finally:
        words.cancel()
        _close_process(process)


async def _first(reader: asyncssh.SSHReader[bytes], kept_bytes: int) -> bytes:
    """The beginning of a stream that is read to its end."""
    kept = b""
    while data := await reader.read(CHUNK_BYTES):
        kept += data[: kept_bytes - len(kept)]
    return kept


async def _opened(opening: Awaitable[T], timeout_s: float, close: Callable[[T], None]) -> T:
    """What ``opening`` opens. Given up, it is closed when it opens late: asyncssh would forget it, and the
    host keep it."""
    task = asyncio.ensure_future(opening)
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(task)
    except BaseException:
        task.add_done_callback(lambda late: _close_late(late, close))
        raise


def _close_late(task: asyncio.Future[T], close: Callable[[T], None]) -> None:
    if not task.cancelled() and task.exception() is None:
        close(task.result())


def _close_channel(opened: tuple[asyncssh.SSHTCPChannel[bytes], Any]) -> None:
    opened[0].abort()


def _close_process(process: asyncssh.SSHClientProcess[bytes]) -> None:
    process.close()


def _close_streams(opened: Streams) -> None:
    opened[1].close()
