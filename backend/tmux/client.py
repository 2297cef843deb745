"""One control-mode client for all panes: it sends commands, reads replies and is told of output.

No process is started per pane or per look. When tmux ends, every waiting command fails with
:class:`TmuxDown`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from backend.errors import MissingProgram, TmuxDown
from backend.tmux.control import ControlParser, Lines, Notice, Output, Reply

COMMAND_TIMEOUT_S = 5.0
READ_BYTES = 65_536
WATCH_CHUNKS = 256  # of one watcher; a flood drops the oldest

REMEDY = "the backend restarts tmux by itself; try again in a moment"


class Watch:
    """The output of one pane, as it comes: an async iterator of bytes that ends when tmux does."""

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque(maxlen=WATCH_CHUNKS)
        self._news = asyncio.Event()
        self._over = False

    def put(self, data: bytes) -> None:
        self.chunks.append(data)
        self._news.set()

    def wake(self) -> None:
        """Let the reader look again, though nothing was printed: it gets an empty chunk."""
        self.put(b"")

    def end(self) -> None:
        self._over = True
        self._news.set()

    def drain(self) -> bytes:
        """All that waits, at once."""
        data = b"".join(self.chunks)
        self.chunks.clear()
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self.chunks:
                yield self.chunks.popleft()
            if self._over:
                return
            self._news.clear()
            await self._news.wait()


class ControlClient:
    """Attached to one session. ``on_output`` gets what panes print, ``on_notice`` what is neither that nor a
    reply."""

    def __init__(self, on_notice: Callable[[Notice], None], on_output: Callable[[Output], None]) -> None:
        self._on_notice = on_notice
        self._on_output = on_output
        self._parser = ControlParser()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.watches: dict[str, set[Watch]] = {}
        self.ended = asyncio.Event()
        self._attached = asyncio.Event()

    async def attach(self, argv: list[str], env: dict[str, str], folder: Path) -> None:
        """Start the client; returns once it is attached. Raises :class:`MissingProgram`, TmuxDown."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=env,
                cwd=folder,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise MissingProgram("tmux is not installed", remedy="apt-get install tmux") from error
        self._reader = asyncio.create_task(self._read(self._process))
        # A command that tmux reads before it has attached us runs without a client, and fails.
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await self._attached.wait()
        except TimeoutError as error:
            await self.close()
            raise TmuxDown(f"tmux did not attach within {COMMAND_TIMEOUT_S} s", remedy=REMEDY) from error

    async def command(self, line: str) -> list[str]:
        """Send one command; its reply's lines. Raises :class:`TmuxDown`, :class:`CommandFailed`."""
        return _text((await self.commands([(line, Reply())]))[0])

    async def commands(self, batch: list[tuple[str, Reply]]) -> list[Lines]:
        """Send commands as one write; their replies. Raises for the first that fails."""
        process = self._process
        if self.ended.is_set() or process is None or process.stdin is None:
            raise TmuxDown("tmux is gone", remedy=REMEDY)
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[Lines]] = []
        for line, reply in batch:
            future: asyncio.Future[Lines] = loop.create_future()
            reply.done = _settle(future, line, self.ended)
            self._parser.expect(reply)
            waiting.append(future)
        process.stdin.write("".join(f"{line}\n" for line, _ in batch).encode())
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                results = await asyncio.gather(*waiting, return_exceptions=True)
        except TimeoutError as error:
            process.terminate()  # its replies can no longer be told apart
            raise TmuxDown(f"tmux did not answer within {COMMAND_TIMEOUT_S} s", remedy=REMEDY) from error
        answers: list[Lines] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            answers.append(result)
        return answers

    async def close(self) -> None:
        """Detach; the server and its panes go on."""
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            await process.wait()
        if self._reader is not None:
            await self._reader

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  # it is a pipe
        try:
            while data := await process.stdout.read(READ_BYTES):
                for one in self._parser.feed(data):
                    if isinstance(one, Output):
                        self._on_output(one)
                        for watch in self.watches.get(one.pane_id, ()):
                            watch.put(one.data)
                    elif isinstance(one, Notice):
                        if one.name == "session-changed":
                            self._attached.set()
                        self._on_notice(one)
        finally:
            self.ended.set()
            self._attached.set()
            self._parser.abandon()
            for watches in self.watches.values():
                for watch in watches:
                    watch.end()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()  # it has ended, unless this task was cancelled with the loop
            await process.wait()


class CommandFailed(Exception):
    """tmux refused a command; the message is tmux's. Never leaves this room."""


def _settle(future: asyncio.Future[Lines], line: str, ended: asyncio.Event) -> Callable[[Reply, bool], None]:
    def done(reply: Reply, ok: bool) -> None:
        if future.done():
            return
        if ok:
            reply.then(reply.lines)
            future.set_result(reply.lines)
        elif ended.is_set():
            future.set_exception(TmuxDown("tmux ended", remedy=REMEDY))
        else:
            future.set_exception(CommandFailed(f"{line.split(' ', 1)[0]}: {' '.join(_text(reply.lines))}"))

    return done


def _text(lines: Lines) -> list[str]:
    return [line.decode("utf-8", "replace") for line in lines]
