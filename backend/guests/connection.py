"""One kept, multiplexed SSH connection per guest; the host key must be the one that we made, always.

A guest is hostile: it may lie, stall or hang up. Every wait here has a limit, and a connection that died
is dialled again by whoever needs it next.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import asyncssh

from backend.errors import GuestDown, HypervisorDown
from backend.guests._words import SSH_PORT, words_of
from backend.guests.ca import KEY_TYPE, CertificateAuthority, make_client_key
from backend.guests.hosts import HostLink, SessionFactory

SESSIONS_MAX = 64  # sshd's MaxSessions is 100 in our guests; the rest is for files and for ending commands
CERTIFICATE_TTL_S = 300
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 4
REDIAL_TIMEOUT_S = 3.0  # for a guest that was there: how long its port is tried
HANDSHAKE_TIMEOUT_S = 20.0  # an emulated guest under load takes 9 s
TCP_TIMEOUT_S = 0.5  # shorter than the kernel's own SYN retry of 1 s: a waking guest is met sooner
PROBE_TIMEOUT_S = 2.0
BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 0.25
CLOSE_TIMEOUT_S = 1.0
FIRST_COMMAND = "true"

# Emulated guests have no AES instructions, and post-quantum key exchange costs them a tenth of a second.
_KEX = ["curve25519-sha256", "curve25519-sha256@libssh.org"]
_CIPHERS = ["chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com"]


@dataclass(frozen=True, kw_only=True)
class Guest:
    """Where a guest is and what proves that it is the one: the public host key line that we made for it."""

    name: str  # never changes; its connection is kept under it
    address: str
    host_key_public: str
    port: int = SSH_PORT
    user: str = "root"
    via: str = ""  # the host whose SSH connection leads to it; empty: this machine reaches it itself
    called: str = field(default="", compare=False)

    @property
    def words(self) -> str:
        """What people call it."""
        return self.called or self.name


class GuestConnections:
    """The kept connections, by the guest's name."""

    def __init__(self, ca: CertificateAuthority, links: Mapping[str, HostLink] | None = None) -> None:
        """``links`` by the host's name, for guests that are reached ``via`` it; it may change meanwhile."""
        self._ca = ca
        self._hosts: Mapping[str, HostLink] = {} if links is None else links
        private, self._public = make_client_key()
        self._key = asyncssh.import_private_key(private)
        self._links: dict[str, _Link] = {}

    async def connect(self, guest: Guest, *, timeout_s: float) -> None:
        """Dial ``guest`` until its sshd answers with our host key.

        A refused, silent or wrong-keyed guest is tried again until the limit: a fork that just woke carries
        its template's key for a moment.

        Raises:
            GuestDown: with the last reason, when ``timeout_s`` ran out.
        """
        await self.connection(guest, timeout_s=timeout_s)

    async def ready(self, guest: Guest, *, timeout_s: float) -> float:
        """Seconds until sshd answered with our host key and root's first command worked.

        Raises:
            GuestDown: with the last reason, when ``timeout_s`` ran out.
        """
        started = time.monotonic()
        connection = await self.connection(guest, timeout_s=timeout_s)
        left = max(timeout_s - (time.monotonic() - started), CLOSE_TIMEOUT_S)
        try:
            async with asyncio.timeout(left):
                done = await run_unheard(connection, FIRST_COMMAND)
        except (TimeoutError, OSError, asyncssh.Error) as error:
            raise _down(guest, f"its first command did not end: {_words(error)}") from error
        if done.exit_status != 0:
            raise _down(guest, f"its first command ended with {done.returncode}")
        return time.monotonic() - started

    async def connection(
        self, guest: Guest, *, timeout_s: float | None = None
    ) -> asyncssh.SSHClientConnection:
        """The live connection to ``guest``, dialled if there is none.

        Without ``timeout_s`` its port is tried for 3 s, and a handshake that has begun may take 20 s.
        """
        link = self._link(guest)
        async with link.lock:
            live = link.live
            if live is None:
                live = await self._dial(guest, timeout_s)
                if link.gone:
                    live.abort()
                    raise _down(guest, "it was stopped while we dialled")
                link.live = live
            return live

    @asynccontextmanager
    async def slot(self, guest: Guest) -> AsyncIterator[None]:
        """Room for one more session; callers wait in a queue beyond :data:`SESSIONS_MAX`."""
        async with self._link(guest).slots:
            yield

    async def answers(self, guest: Guest) -> bool:
        """Whether the guest's kernel takes a connection: it does under any load, and not when it is gone."""
        try:
            if guest.via:
                channel, _ = await self._host(guest).dial(
                    asyncssh.SSHTCPSession, guest.address, guest.port, timeout_s=PROBE_TIMEOUT_S
                )
                channel.abort()
            else:
                (await _tcp(guest, PROBE_TIMEOUT_S)).close()
        except (OSError, asyncssh.Error, HypervisorDown):
            return False
        return True

    async def sftp(self, guest: Guest) -> asyncssh.SFTPClient:
        """The file client of the kept connection, names as bytes; started once per dial."""
        connection = await self.connection(guest)
        link = self._link(guest)
        async with link.lock:
            if link.sftp is None or link.sftp_of is not connection:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                    link.sftp = await connection.start_sftp_client(path_encoding=None)
                link.sftp_of = connection
            return link.sftp

    def give_up_sftp(self, guest: Guest, client: asyncssh.SFTPClient) -> None:
        """Leave a file client whose server in the guest hangs; the next use starts another."""
        link = self._link(guest)
        if link.sftp is client:
            link.sftp = link.sftp_of = None
        client.exit()

    def hold(self, name: str) -> None:
        """Stop the keepalive while the guest is paused: silence is then expected."""
        if (link := self._links.get(name)) and link.live:
            link.live.set_keepalive(0)

    def release(self, name: str) -> None:
        """The guest runs again."""
        if (link := self._links.get(name)) and link.live:
            link.live.set_keepalive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)

    async def drop(self, name: str) -> None:
        """Hang up at once: the guest was stopped, restored or destroyed. The next use dials anew."""
        if link := self._links.pop(name, None):
            await link.hang_up()

    async def close(self) -> None:
        """Hang up everywhere."""
        links, self._links = self._links, {}
        async with asyncio.TaskGroup() as group:
            for link in links.values():
                group.create_task(link.hang_up())

    def _link(self, guest: Guest) -> _Link:
        link = self._links.get(guest.name)
        if link is None or link.guest != guest:
            if link is not None:
                link.gone = True  # who dials for it hangs up
                if link.live is not None:
                    link.live.abort()
            link = self._links[guest.name] = _Link(guest)
        return link

    async def _dial(self, guest: Guest, timeout_s: float | None) -> asyncssh.SSHClientConnection:
        deadline = time.monotonic() + (REDIAL_TIMEOUT_S if timeout_s is None else timeout_s)
        pause = BACKOFF_FIRST_S
        why: Exception | None = None
        while True:
            try:
                left_s = max(deadline - time.monotonic(), BACKOFF_FIRST_S)
                handshake_s = HANDSHAKE_TIMEOUT_S if timeout_s is None else min(HANDSHAKE_TIMEOUT_S, left_s)
                return await self._dial_once(guest, min(TCP_TIMEOUT_S, left_s), handshake_s)
            except HypervisorDown as error:  # the link to its host tries by itself
                raise _down(guest, error.message) from error
            except (OSError, asyncssh.Error) as error:  # TimeoutError is an OSError
                # The last try is often cut short: what an earlier one found says more than "no answer".
                why = error if why is None or not isinstance(error, TimeoutError) else why
                if time.monotonic() + pause >= deadline:
                    raise _down(guest, _words(why)) from error
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, BACKOFF_MAX_S)

    async def _dial_once(
        self, guest: Guest, tcp_s: float, handshake_s: float
    ) -> asyncssh.SSHClientConnection:
        if guest.via:
            tunnel = _Tunnel(self._host(guest), tcp_s)
            async with asyncio.timeout(tcp_s + handshake_s):
                return await self._handshake(guest, tunnel=tunnel)
        tcp = await _tcp(guest, tcp_s)
        try:
            async with asyncio.timeout(handshake_s):
                return await self._handshake(guest, sock=tcp)
        except BaseException:
            tcp.close()
            raise

    def _host(self, guest: Guest) -> HostLink:
        """The link that leads to the guest.

        Raises:
            HypervisorDown: there is no such host (any longer).
        """
        link = self._hosts.get(guest.via)
        if link is None:
            raise HypervisorDown(f"host {guest.via} is not configured", remedy="see `hosts` in config.yaml")
        return link

    async def _handshake(
        self, guest: Guest, *, sock: socket.socket | None = None, tunnel: _Tunnel | None = None
    ) -> asyncssh.SSHClientConnection:
        line = self._ca.certify(
            self._public,
            ttl_s=CERTIFICATE_TTL_S,
            key_id=f"fluid-backend:{guest.name}",
            principals=[guest.user],
            permits=["port-forwarding"],
        )
        certificate = asyncssh.import_certificate(line)
        expected = asyncssh.import_public_key(guest.host_key_public)
        return await asyncssh.connect(
            guest.address,
            guest.port,
            sock=sock,
            tunnel=tunnel,
            config=None,
            username=guest.user,
            known_hosts=([expected], [], [], [], [], [], []),
            server_host_key_algs=[KEY_TYPE],
            client_keys=[(self._key, certificate)],
            agent_path=None,
            preferred_auth="publickey",
            gss_host=None,
            kex_algs=_KEX,
            encryption_algs=_CIPHERS,
            compression_algs=None,
            keepalive_interval=KEEPALIVE_INTERVAL_S,
            keepalive_count_max=KEEPALIVE_COUNT,
        )


class _Link:
    """What is kept per guest."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.gone = False
        self.lock = asyncio.Lock()
        self.slots = asyncio.Semaphore(SESSIONS_MAX)
        self.sftp: asyncssh.SFTPClient | None = None
        self.sftp_of: asyncssh.SSHClientConnection | None = None
        self._live: asyncssh.SSHClientConnection | None = None

    @property
    def live(self) -> asyncssh.SSHClientConnection | None:
        """The connection, unless it has died."""
        if self._live is not None and self._live.is_closed():
            self._live = self.sftp = self.sftp_of = None
        return self._live

    @live.setter
    def live(self, connection: asyncssh.SSHClientConnection) -> None:
        self._live = connection

    async def hang_up(self) -> None:
        self.gone = True
        connection, self._live = self._live, None
        if connection is None:
            return
        connection.abort()
        with suppress(TimeoutError, OSError, asyncssh.Error):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await connection.wait_closed()


class _Tunnel:
    """A host's link as asyncssh takes it: the connection to the guest runs in one channel of it."""

    def __init__(self, link: HostLink, timeout_s: float) -> None:
        self._link = link
        self._timeout_s = timeout_s

    async def create_connection(
        self, session_factory: SessionFactory, remote_host: str, remote_port: int
    ) -> tuple[asyncssh.SSHTCPChannel[bytes], asyncssh.SSHTCPSession[bytes]]:
        return await self._link.dial(session_factory, remote_host, remote_port, timeout_s=self._timeout_s)

    def close(self) -> None:
        """The link is its owner's to close."""

    async def wait_closed(self) -> None:
        """Nothing is waited for."""


async def run_unheard(connection: asyncssh.SSHClientConnection, command: str) -> asyncssh.SSHCompletedProcess:
    """Wait for the end of a command that has nothing to say: what a guest says all the same is not kept."""
    none = asyncssh.DEVNULL
    return await connection.run(command, encoding=None, stdin=none, stdout=none, stderr=none)


async def _tcp(guest: Guest, timeout_s: float) -> socket.socket:
    """A connected TCP socket without Nagle's delay. The address is a literal: no name is looked up."""
    family = socket.AF_INET6 if ":" in guest.address else socket.AF_INET
    tcp = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(tcp, (guest.address, guest.port))
    except BaseException:
        tcp.close()
        raise
    return tcp


def _words(error: BaseException) -> str:
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return "it shows another host key than the one made for it"
    if isinstance(error, asyncssh.PermissionDenied):
        return "it refuses our certificate (its clock or its TrustedUserCAKeys is wrong)"
    return words_of(error)


def _down(guest: Guest, why: str) -> GuestDown:
    return GuestDown(
        f"{guest.words} cannot be reached by SSH at {guest.address}:{guest.port}: {why}",
        remedy=f"look at its state with `fluid sandboxes show {guest.words}`, then start it or destroy it",
    )
