"""A tmux client in a pty of ours: bytes as a terminal sends them become keys of one pane.

tmux knows the modes of the pane (application cursor keys, bracketed paste) and writes each key accordingly.
What the client draws is thrown away: people see rows, through the sanitiser.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
import tty
from collections.abc import Awaitable, Callable
from pathlib import Path

from backend.errors import PaneNotFound
from backend.tmux.client import READ_BYTES
from backend.tmux.pastes import PasteSplitter

END_S = 2.0


class Keyboard:
    """``ended`` is set when tmux let the client go: its pane is gone, or tmux is."""

    def __init__(self, pane_id: str, paste: Callable[[bytes], Awaitable[None]]) -> None:
        self.ended = asyncio.Event()
        self.drawn = asyncio.Event()  # tmux has drawn something: the client is attached
        self._pane_id = pane_id
        self._master = -1
        self._process: asyncio.subprocess.Process | None = None
        self._paste = paste
        self._pastes = PasteSplitter()
        self._writing = asyncio.Lock()

    async def start(
        self, argv: list[str], env: dict[str, str], folder: Path, width: int, height: int
    ) -> None:
        """Run the client in a terminal of this size."""
        self._master, slave = os.openpty()
        try:
            os.set_blocking(self._master, False)
            tty.setraw(slave)  # before tmux does it: nothing is echoed, nothing is a signal
            termios.tcsetwinsize(slave, (height, width))
            self._process = await asyncio.create_subprocess_exec(
                *argv, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=folder, start_new_session=True
            )
        finally:
            os.close(slave)
        asyncio.get_running_loop().add_reader(self._master, self._drain)

    async def type(self, data: bytes) -> None:
        """Returns once tmux's side of the terminal has taken all of it. Raises PaneNotFound, TmuxDown."""
        async with self._writing:
            for part in self._pastes.feed(data):
                if part.pasted and not self.ended.is_set():
                    await self._paste(part.data)
                else:
                    await self._write(part.data)

    async def _write(self, data: bytes) -> None:
        while data:
            if self.ended.is_set():
                raise PaneNotFound(f"{self._pane_id} has ended", remedy="open another terminal")
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await self._room()
            except OSError:  # EIO: nobody is at the other end
                self.ended.set()

    async def close(self) -> None:
        """End the client, and with it its session."""
        loop = asyncio.get_running_loop()
        if self._master >= 0:
            loop.remove_reader(self._master)
            loop.remove_writer(self._master)
            os.close(self._master)
            self._master = -1
        self.ended.set()
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(END_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _drain(self) -> None:
        try:
            drawn = os.read(self._master, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the client is gone
            drawn = b""
        if not drawn:
            asyncio.get_running_loop().remove_reader(self._master)
            self.ended.set()
        self.drawn.set()

    async def _room(self) -> None:
        """Until the terminal takes more, or is gone."""
        loop = asyncio.get_running_loop()
        room = asyncio.Event()
        loop.add_writer(self._master, room.set)
        gone = asyncio.create_task(self.ended.wait())
        waiting = asyncio.create_task(room.wait())
        try:
            await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            waiting.cancel()
            if self._master >= 0:
                loop.remove_writer(self._master)
