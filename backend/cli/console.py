"""``fluid`` without a command: the console, on a backend of one's own if none runs, or another machine's."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from backend.client.answers import denied
from backend.client.door import DoorAddress, answers, installation, is_closed
from backend.errors import BackendDown, BadRequest
from backend.paths import Paths

START_S = 120.0
LOOK_S = 0.2
"""How often we look whether a starting backend has died or answers without having said that it is ready."""


def open_console(*, read_only: bool = False, connect: str | None = None, mouse: bool = True) -> int:
    """Run the console until the operator leaves it; with ``connect`` on the backend behind that login. The
    machine's own backend is waited for where it is down, a user's own is started.

    Raises:
        BadRequest: there is no terminal to draw on; nothing was started.
        RoleDenied: the door is closed to this user.
    """
    need_terminal("use `fluid status` and the other commands in a script")
    if connect is not None:
        return _open_far_console(connect, read_only=read_only, mouse=mouse)
    if door := os.environ.get("FLUID_SOCKET"):
        return _run(door, read_only, mouse=mouse)
    paths = installation()
    if is_closed(paths.operator_socket):
        raise denied(DoorAddress(paths.operator_socket))
    if paths == Paths.default() and not answers(paths.operator_socket):
        pid = start_backend(paths)
        print(f"no backend ran: started one (pid {pid}); it goes on when you leave, `kill {pid}` ends it")
    return _run(paths.operator_socket, read_only, mouse=mouse)


def _open_far_console(login: str, *, read_only: bool, mouse: bool) -> int:
    from backend.cli.common import behind

    with behind(login) as door:
        return _run(door, read_only, str(door), mouse=mouse)


def _run(door: str | Path | DoorAddress, read_only: bool, where: str = "", *, mouse: bool) -> int:
    gc.disable()  # until it runs: its imports make no garbage
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "1"  # it would look for them in all packages that are installed
    from fluid_tui.app import run_console

    return run_console(door, read_only=read_only, where=where, mouse=mouse)


def need_terminal(remedy: str) -> None:
    """Refuse to draw into a file or a pipe, and to wait for keys that cannot come."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadRequest("the console needs a terminal", remedy=remedy)


def start_backend(paths: Paths) -> int:
    """Start ``fluid serve`` in a session of its own and wait until it is ready (sd_notify); its pid.

    Raises:
        BackendDown: it ended, or was not ready in time; its log says why.
    """
    paths.make()
    log = paths.log / "backend.log"
    ready = paths.run / f"ready-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("ab") as output:
        told.bind(str(ready))
        told.settimeout(LOOK_S)
        try:
            backend = subprocess.Popen(
                [sys.executable, "-P", "-m", "backend.cli", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": _our_code_first(), "NOTIFY_SOCKET": str(ready)},
                start_new_session=True,
            )
            _wait(backend, told, paths.operator_socket, log)
        finally:
            ready.unlink()
    return backend.pid


def _our_code_first() -> str:
    """For a Python that does not look into the current folder (``-P``)."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))


def _wait(backend: subprocess.Popen[bytes], told: socket.socket, door: Path, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            if b"READY=1" in told.recv(4096):
                return
        except TimeoutError:
            pass
        if answers(door):
            return
        if backend.poll() is not None:
            raise BackendDown(
                f"the backend ended at once: {_last_line(log)}", remedy=f"see {log}, or `fluid doctor`"
            )
    backend.terminate()
    raise BackendDown(f"the backend was not ready within {START_S:g} s", remedy=f"see {log}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
