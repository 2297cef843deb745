"""Programs of the system that a build needs. Each runs from an argument list, in a session of its own, under
a time limit, with its words in the build's log; none outlives the build, however the build ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from backend.errors import MissingProgram, TimedOut, Unavailable

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}
PACKAGE_OF = {
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "lz4": "lz4",
    "zstd": "zstd",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "prlimit": "util-linux",
    "flock": "util-linux",
    "chroot": "coreutils",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-x86_64-static": "qemu-user-static",
}
LOG_TAIL_LINES = 3


def require(names: tuple[str, ...], what: str = "building an image") -> None:
    """:class:`MissingProgram` that names all missing programs and the one command that installs them."""
    missing = [name for name in names if not shutil.which(name, path=SEARCH_PATH)]
    if missing:
        packages = " ".join(sorted({PACKAGE_OF[name] for name in missing}))
        raise MissingProgram(
            f"{what} needs {', '.join(missing)}",
            remedy=f"apt-get install --no-install-recommends {packages}",
        )


@dataclass
class Programs:
    """Runs programs for one build. ``environment`` is added to a small fixed one; nothing is inherited.
    ``before``: the words of a program that starts each of them."""

    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()

    async def run(
        self,
        *argv: str | Path,
        limit_s: float,
        stdin: bytes | None = None,
        pass_fds: tuple[int, ...] = (),
        on_line: Callable[[str], None] | None = None,
        cwd: Path = Path("/"),
    ) -> bytes:
        """What it wrote to stdout. Raises :class:`Unavailable` (with its ``status``) or :class:`TimedOut`,
        naming the log."""
        words = [str(word) for word in argv]
        self.note("$ " + " ".join(words))
        process = await asyncio.create_subprocess_exec(
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            *self.before,
            *words,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**ENVIRONMENT, **self.environment},
            start_new_session=True,
            pass_fds=pass_fds,
            cwd=cwd,
        )
        try:
            async with asyncio.timeout(limit_s):
                output = await self._talk(process, stdin, on_line)
        except TimeoutError:
            raise TimedOut(
                f"{words[0]} did not finish within {limit_s:.0f} s", remedy=f"read {self.log}"
            ) from None
        finally:
            await _end(process)
        if process.returncode:
            raise Unavailable(
                f"{words[0]} ended with status {process.returncode}: {self.tail()}",
                remedy=f"read {self.log}, mend the cause and build again",
                status=process.returncode,
            )
        return output

    async def _talk(
        self, process: asyncio.subprocess.Process, stdin: bytes | None, on_line: Callable[[str], None] | None
    ) -> bytes:
        """Feed stdin, keep stdout, log stderr, until the program ends."""
        stdout = cast("asyncio.StreamReader", process.stdout)
        stderr = cast("asyncio.StreamReader", process.stderr)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._record(stderr, on_line))
            output = None
            if on_line is None:
                output = group.create_task(stdout.read())
            else:
                group.create_task(self._record(stdout, on_line))
            if process.stdin is not None and stdin is not None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    process.stdin.write(stdin)
                    await process.stdin.drain()
                process.stdin.close()
        await process.wait()
        return output.result() if output is not None else b""

    async def _record(self, stream: asyncio.StreamReader, on_line: Callable[[str], None] | None) -> None:
        """Log a stream piece by piece: a progress bar without line ends must not fill a buffer."""
        rest = b""
        while piece := await stream.read(65536):
            *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self.note(text)
                    if on_line is not None:
                        on_line(text)
        if rest.strip():
            self.note(rest.decode("utf-8", "replace").rstrip())

    def note(self, text: str) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            log.write(text + "\n")

    def tail(self) -> str:
        """What the last command said last, in one line."""
        last = self.log.read_text(encoding="utf-8").rpartition("\n$ ")[2]
        return " / ".join(last.splitlines()[1:][-LOG_TAIL_LINES:]) or "it said nothing"


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the program's session and reap it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
