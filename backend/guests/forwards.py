"""A port of the guest's own loopback, answered in this process: the guest's only way out.

Nothing listens on a bridge: sshd in the guest listens on 127.0.0.1, and who connects is known by the
connection that the call came over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import asyncssh

from backend.errors import GuestDown
from backend.guests.connection import Guest, GuestConnections, run_unheard

LISTEN_HOST = "127.0.0.1"
PROXY_PORT = 3128
LISTEN_TIMEOUT_S = 10.0
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0

Reader: TypeAlias = "asyncssh.SSHReader[bytes]"
Writer: TypeAlias = "asyncssh.SSHWriter[bytes]"
Handler = Callable[[Reader, Writer], Awaitable[None]]

log = logging.getLogger(__name__)

# A guest restored from memory still runs the sshd session of the connection it was saved with, and that
# session still listens. Only an sshd is ended (its sessions have a name of their own since OpenSSH 9.8), and
# never the one that carries this very command. Nothing is forked for the hundred processes that are none.
_END_STALE_LISTENER = (
    'i=$(awk \'$2 == "0100007F:{port:04X}" && $4 == "0A" {{print $10}}\' /proc/net/tcp); '
    '[ -n "$i" ] || exit 0; for d in /proc/[0-9]*; do read -r c 2>/dev/null <$d/comm || continue; '
    "case $c in sshd*) ;; *) continue ;; esac; "
    '[ "${{d#/proc/}}" = "$PPID" ] && continue; '
    'ls -l $d/fd 2>/dev/null | grep -qF "socket:[$i]" || continue; kill -KILL "${{d#/proc/}}"; '
    "while [ -e $d/exe ]; do sleep 0.02; done; done; exit 0"
)


class GuestForwards:
    """Keeps one remote forward per guest, on whichever connection is live."""

    def __init__(self, connections: GuestConnections) -> None:
        self._connections = connections
        self._keepers: dict[str, asyncio.Task[None]] = {}

    async def keep(self, guest: Guest, handler: Handler, *, port: int = PROXY_PORT) -> None:
        """Listen on the guest's 127.0.0.1:``port`` until :meth:`drop`; each call is given to ``handler``.

        Returns when the guest listens. When the connection dies, it is dialled again and the forward with it.

        Raises:
            GuestDown: the guest cannot be reached, or something else holds the port there.
        """
        await self.drop(guest.name)
        connection = await self._listen(guest, handler, port)
        keeper = asyncio.get_running_loop().create_task(self._keep(guest, handler, port, connection))
        self._keepers[guest.name] = keeper

    def keeps(self, name: str) -> bool:
        """Whether a forward of this guest is kept."""
        return name in self._keepers

    async def drop(self, name: str) -> None:
        """Keep no longer; the guest is going away. Its connection is hung up by its owner."""
        if keeper := self._keepers.pop(name, None):
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def close(self) -> None:
        """Keep nothing any longer."""
        for name in list(self._keepers):
            await self.drop(name)

    async def _keep(
        self, guest: Guest, handler: Handler, port: int, connection: asyncssh.SSHClientConnection
    ) -> None:
        pause = RETRY_FIRST_S
        while True:
            await connection.wait_closed()
            try:
                connection = await self._listen(guest, handler, port)
                pause = RETRY_FIRST_S
            except GuestDown as error:
                log.debug("the forward of %s waits: %s", guest.name, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MAX_S)

    async def _listen(self, guest: Guest, handler: Handler, port: int) -> asyncssh.SSHClientConnection:
        connection = await self._connections.connection(guest)
        try:
            async with asyncio.timeout(LISTEN_TIMEOUT_S):
                if not await _try_listen(connection, handler, port):
                    await run_unheard(connection, _END_STALE_LISTENER.format(port=port))
                    if not await _try_listen(connection, handler, port):
                        raise GuestDown(
                            f"{guest.words}: its port {port} is held by another program",
                            remedy=f"end what listens on {LISTEN_HOST}:{port} in the guest",
                        )
        except (TimeoutError, OSError, asyncssh.Error) as error:
            raise GuestDown(
                f"{guest.words} does not open its way out: {str(error) or 'no answer'}",
                remedy=f"look at it with `fluid sandboxes show {guest.words}`",
            ) from error
        return connection


async def _try_listen(connection: asyncssh.SSHClientConnection, handler: Handler, port: int) -> bool:
    """Whether the guest's sshd took the request (RFC 4254 §7.1, tcpip-forward)."""

    def accept(peer_host: str, peer_port: int) -> Handler:
        return handler

    try:
        await connection.start_server(accept, LISTEN_HOST, port, encoding=None)
    except asyncssh.ChannelListenError:
        return False
    return True
