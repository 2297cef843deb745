"""The operator door of another machine on this one: OpenSSH's client forwards its socket.

The user's own ``ssh`` does it, so that ``~/.ssh/config``, agents, keys on hardware and jump hosts work as
everywhere else. The host's key must be known before: a new or another one is refused, never asked about.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Self

from backend.errors import BackendDown
from backend.places import FarDoor

OPTIONS = {
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "EscapeChar": "none",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ClearAllForwardings": "no",  # it would clear ours
    "ExitOnForwardFailure": "no",  # the user's own forwards may be taken
    "StreamLocalBindMask": "0177",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "LogLevel": "INFO",  # it says why the far socket could not be reached
}
ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")
LOOK_S = 0.02
DIAL_S = 60.0
"""Where nobody is there to type a passphrase."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 15.0
END_S = 2.0
LINES_KEPT = 2
"""ssh says what is wrong in its last lines."""
CHANNEL_REFUSED = "open failed"


class Tunnel:
    """``with Tunnel(far) as tunnel:`` ``tunnel.socket`` is the door; a lost connection is made again."""

    def __init__(self, far: FarDoor) -> None:
        self.far = far
        self._folder = Path()
        self._process: subprocess.Popen[str] | None = None
        self._keeper: Thread | None = None
        self._starting = Lock()
        self._closing = Event()
        self._ended = Event()  # the first ssh has: there is nothing to wait for
        self._said: deque[str] = deque(maxlen=LINES_KEPT)
        self._spoke = Event()

    def __str__(self) -> str:
        return str(self.far)

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def socket(self) -> Path:
        """The door on this side, in a folder that only its owner enters."""
        return self._folder / "operator.sock"

    def open(self) -> None:
        """Log in and wait until the door is here. ssh itself asks for a passphrase, on the terminal.

        Raises:
            BackendDown: it could not, with its words.
        """
        if shutil.which("ssh") is None:
            raise BackendDown("there is no ssh here", remedy="install OpenSSH's client")
        self._folder = Path(tempfile.mkdtemp(prefix="fluid-", dir=os.environ.get("XDG_RUNTIME_DIR")))
        may_ask = os.isatty(0)
        self._keeper = Thread(target=self._keep, args=(may_ask,), name=f"tunnel to {self}", daemon=True)
        self._keeper.start()
        until = time.monotonic() + DIAL_S
        while not self.socket.exists():
            if self._ended.wait(LOOK_S):
                raise self.down()
            if not may_ask and time.monotonic() > until:
                raise BackendDown(f"{self}: no login within {DIAL_S:g} s", remedy=self._by_hand())
        self._said.clear()  # a banner
        self._spoke.clear()

    def close(self) -> None:
        """Hang up; nothing is left."""
        self._closing.set()
        with self._starting:
            if self._process is not None:
                self._process.terminate()
        if self._keeper is not None:
            self._keeper.join(END_S)
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)

    def down(self, patience_s: float = 0.0) -> BackendDown:
        """Why nobody answers behind it; who may block waits so long for ssh to say it. The words may be the
        server's."""
        if self.socket.exists():
            self._spoke.wait(patience_s)
        said = list(self._said)
        if self.socket.exists() and not any(CHANNEL_REFUSED in words for words in said):
            return BackendDown(f"{self}: the backend there hung up", remedy="look there: fluid status")
        if self.socket.exists():
            return BackendDown(
                f"{self}: no backend answers at {self.far.socket} there, or not to this login",
                remedy="there: `fluid status`, and who is in the group that owns the socket",
            )
        words = " ".join(said) or "the connection broke; it is tried again"
        if "Host key verification failed" in words:
            return BackendDown(
                f"{self}: {words}", remedy=f"compare the fingerprint with its admin's, then {self._by_hand()}"
            )
        return BackendDown(f"{self}: {words}", remedy=self._by_hand())

    def _by_hand(self) -> str:
        port = f"-p {self.far.ssh.port} " if self.far.ssh.port else ""
        user = f"{self.far.ssh.user}@" if self.far.ssh.user else ""
        return f"try by hand: ssh {port}{user}{self.far.ssh.address}"

    def _keep(self, may_ask: bool) -> None:
        """Hear what ssh says; when it ends, begin again until :meth:`close`."""
        pause_s = FIRST_PAUSE_S
        while (process := self._begin(may_ask=may_ask)) is not None:
            for words in process.stderr or ():
                self._said.append(words.strip())
                self._spoke.set()
            process.wait()
            stood = self.socket.exists()
            with suppress(FileNotFoundError):
                self.socket.unlink()
            self._ended.set()
            if self._closing.wait(pause_s):
                return
            pause_s = FIRST_PAUSE_S if stood else min(pause_s * 2, LAST_PAUSE_S)
            may_ask = False

    def _begin(self, *, may_ask: bool) -> subprocess.Popen[str] | None:
        with self._starting:
            if self._closing.is_set():
                return None
            self._process = subprocess.Popen(
                self._argv(may_ask=may_ask),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=not may_ask,  # who may not ask has no terminal to ask on
            )
            return self._process

    def _argv(self, *, may_ask: bool) -> list[str]:
        ssh = self.far.ssh
        options = OPTIONS | {"BatchMode": "no" if may_ask else "yes"}
        argv = list(ENDS_WITH_US) if shutil.which(ENDS_WITH_US[0]) else []
        argv += [
            "ssh",
            "-N",
            *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
        ]
        argv += ["-L", f"{str(self.socket).replace('%', '%%')}:{self.far.socket}"]
        argv += [] if ssh.user is None else ["-l", ssh.user]
        argv += [] if ssh.port is None else ["-p", str(ssh.port)]
        return [*argv, "--", ssh.address]
