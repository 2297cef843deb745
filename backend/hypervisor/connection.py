"""One libvirt connection: every call on this host's own threads, with a time limit, and events on the loop.

No libvirt function runs on the event loop. What moves many bytes has threads apart: calls never wait for it.
A lost connection fails the calls that wait on it, is opened again with growing pauses, and both are told to
whoever listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import libvirt

from backend.errors import FluidError, HypervisorDown, HypervisorFailed, NotFound, TimedOut
from backend.hypervisor.nouns import DomainEvent, EventKind

log = logging.getLogger(__name__)
T = TypeVar("T")

WORKERS = 8
MOVERS = 4
GIVE_UP_S = 5.0  # a transfer that nobody waits for ends after the piece that is under way
CALL_TIMEOUT_S = 30.0
OPEN_TIMEOUT_S = 20.0
LOOKS = 5
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 5
SETTLED_S = 5.0  # for a libvirtd that is back to find its guests' QEMUs
FILTER_REFUSED = re.compile("firewall (rules|command)")  # no code of libvirt's says it
FILTER_TRIES, FILTER_PAUSE_S = 4, 0.3
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 15.0

_events_started = threading.Lock()
_events_thread: threading.Thread | None = None

# virDomainEventType and, for `stopped`, its detail.
LIFECYCLE: dict[int, EventKind] = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "paused",
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: "paused",
    libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: "removed",
}
# QEMU died, or was killed: nobody asked for it, in the guest or outside.
DIED = {libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED}
ABSENT_CODES = {
    libvirt.VIR_ERR_NO_DOMAIN,
    libvirt.VIR_ERR_NO_NETWORK,
    libvirt.VIR_ERR_NO_NWFILTER,
    libvirt.VIR_ERR_NO_STORAGE_POOL,
    libvirt.VIR_ERR_NO_STORAGE_VOL,
}
DOWN_CODES = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_INTERNAL_ERROR,
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_ERR_RPC,
}


def start_events() -> None:
    """Run libvirt's event loop in one daemon thread; it must exist before a connection opens."""
    global _events_thread
    with _events_started:
        if _events_thread is None:
            libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised, not printed as well
            libvirt.virEventRegisterDefaultImpl()
            _events_thread = threading.Thread(target=_run_events, name="libvirt-events", daemon=True)
            _events_thread.start()


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def looked_up(look: Callable[[], T], absent: int) -> T | None:
    """What ``look`` finds; None where libvirt says by the code ``absent`` that there is none.

    Between a failed call and its exception Python's garbage collector may run, and what it ends of libvirt's
    objects wipes the error: where no code is left it is asked again.
    """
    for left in reversed(range(LOOKS)):
        try:
            return look()
        except libvirt.libvirtError as error:
            code = error.get_error_code()
            if code == absent:
                return None
            if code or not left:
                raise
    raise AssertionError("the last look returns or raises")


def translate(error: libvirt.libvirtError, what: str) -> FluidError:
    """libvirt's error as one of ours."""
    code, words = error.get_error_code(), error.get_error_message() or str(error)
    if code in ABSENT_CODES:
        return NotFound(f"{what}: {words}", remedy="list what there is, and use its name")
    if code in DOWN_CODES and error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
        return HypervisorDown(
            f"{what}: {words}", remedy="see that libvirtd runs on the host; it is tried again"
        )
    return HypervisorFailed(f"{what}: {words}", remedy="read the host's libvirt log")


@contextlib.contextmanager
def _told_as_ours(what: str, limit_s: float) -> Iterator[None]:
    """Another's errors as ours."""
    try:
        yield
    except TimeoutError:
        raise TimedOut(
            f"{what}: libvirt did not answer within {limit_s:g} s",
            remedy="try again; see the host's load",
        ) from None
    except libvirt.libvirtError as error:
        raise translate(error, what) from error


def _hang_up(dialled: Future[libvirt.virConnect]) -> None:
    """Nobody waits for it any more."""
    if not dialled.cancelled() and dialled.exception() is None:
        dialled.result().close()


class Connection:
    """A connection that comes back. ``alive`` is False while the host does not answer."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.alive = False
        self._connection: libvirt.virConnect | None = None
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="libvirt")
        self._movers = ThreadPoolExecutor(MOVERS, thread_name_prefix="libvirt-move")
        self._listeners: set[asyncio.Queue[DomainEvent]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._dropped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle = -1
        self._dialling: Future[libvirt.virConnect] | None = None

    async def open(self) -> None:
        """Connect, or raise HypervisorDown; from then on the connection is kept."""
        start_events()
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect()
        except BaseException:
            await self.close()
            raise
        self._keeper = asyncio.create_task(self._keep(), name=f"libvirt {self.uri}")

    async def close(self) -> None:
        """End the connection; calls under way fail."""
        if self._keeper:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        connection, self._connection, self.alive = self._connection, None, False
        if self._dialling:
            self._dialling.add_done_callback(_hang_up)
        if connection:
            with contextlib.suppress(libvirt.libvirtError, TimeoutError):
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    await self._in_thread(lambda: self._disconnect(connection))
        for threads in (self._threads, self._movers):
            threads.shutdown(wait=False, cancel_futures=True)

    async def call(
        self,
        function: Callable[[libvirt.virConnect], T],
        *,
        what: str,
        limit_s: float = CALL_TIMEOUT_S,
    ) -> T:
        """``function`` with the connection, on a thread. ``what`` names the work in errors.

        Whatever puts a filter on a card (a start, a restore, an update) the kernel refuses while another
        program changes the host's packet filter: nothing is done then, and it is tried again.

        Raises HypervisorDown, HypervisorFailed, NotFound, or TimedOut after ``limit_s`` seconds.
        """
        connection = self._standing(what)
        with _told_as_ours(what, limit_s):
            async with asyncio.timeout(limit_s):
                for _ in range(FILTER_TRIES - 1):
                    try:
                        return await self._in_thread(lambda: function(connection))
                    except libvirt.libvirtError as error:
                        if not FILTER_REFUSED.search(str(error)):
                            raise
                    await asyncio.sleep(FILTER_PAUSE_S)
                return await self._in_thread(lambda: function(connection))

    async def transfer(
        self,
        function: Callable[[libvirt.virConnect, threading.Event], T],
        *,
        what: str,
        limit_s: float,
    ) -> T:
        """As :meth:`call`, for work that moves many bytes. The event is set when nobody waits any more:
        ``function`` looks at it between two pieces, and leaves."""
        connection, given_up = self._standing(what), threading.Event()
        thread = self._movers.submit(function, connection, given_up)
        work = asyncio.wrap_future(thread)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        with _told_as_ours(what, limit_s):
            try:
                async with asyncio.timeout(limit_s):
                    return await asyncio.shield(work)
            finally:
                given_up.set()
                if not thread.cancel():  # one that has not begun never does
                    await asyncio.wait([work], timeout=GIVE_UP_S)

    def _standing(self, what: str) -> libvirt.virConnect:
        if self._connection is None or not self.alive:
            raise HypervisorDown(
                f"{what}: no connection to {self.uri}",
                remedy="see that libvirtd runs on the host; it is tried again",
            )
        return self._connection

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[asyncio.Queue[DomainEvent]]:
        """Events from the moment of entering: nothing is missed between a call and its effect."""
        queue: asyncio.Queue[DomainEvent] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _connect(self) -> None:
        """A host that is slow to answer is dialled once: the next try waits for the same answer."""
        if self._dialling is None:
            self._dropped.clear()  # it may drop before anybody looks at it
            self._dialling = self._threads.submit(self._dial)
        dialled = asyncio.wrap_future(self._dialling)
        dialled.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                self._connection = await asyncio.shield(dialled)
        except TimeoutError:
            raise HypervisorDown(
                f"{self.uri} does not answer within {OPEN_TIMEOUT_S:g} s",
                remedy="see that libvirtd runs there",
            ) from None
        except libvirt.libvirtError as error:
            raise HypervisorDown(
                f"{self.uri}: {error.get_error_message()}", remedy="see that libvirtd runs there"
            ) from error
        finally:
            if self._dialling.done():
                self._dialling = None
        self.alive = True

    def _dial(self) -> libvirt.virConnect:
        connection = libvirt.open(self.uri)
        with contextlib.suppress(libvirt.libvirtError):  # the test driver has no keepalive
            connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
            connection.registerCloseCallback(self._closed, None)
        self._handle = connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None
        )
        return connection

    def _disconnect(self, connection: libvirt.virConnect) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            connection.domainEventDeregisterAny(self._handle)
            connection.unregisterCloseCallback()
        connection.close()

    def _closed(self, _connection: libvirt.virConnect, reason: int, _opaque: Any) -> None:
        """On libvirt's event thread."""
        log.warning("connection to %s lost (reason %d)", self.uri, reason)
        self._on_loop(self._dropped.set)

    def _lifecycle(
        self,
        _connection: libvirt.virConnect,
        domain: libvirt.virDomain,
        event: int,
        detail: int,
        _opaque: Any,
    ) -> None:
        """On libvirt's event thread."""
        kind = LIFECYCLE.get(event)
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and detail in DIED:
            kind = "crashed"
        if kind:
            self._on_loop(self._publish, DomainEvent(domain.name(), kind))

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _publish(self, event: DomainEvent) -> None:
        for queue in self._listeners:
            queue.put_nowait(event)

    async def _keep(self) -> None:
        """Open the connection again whenever it drops."""
        while True:
            await self._dropped.wait()
            self.alive = False
            self._publish(DomainEvent("", "lost"))
            pause_s = BACKOFF_FIRST_S
            while not self.alive:
                try:
                    await self._connect()
                except HypervisorDown as error:
                    log.info("%s; next try in %.1f s", error.message, pause_s)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, BACKOFF_MAX_S)
            await self._settled()
            self._publish(DomainEvent("", "connected"))

    async def _settled(self) -> None:
        """A libvirtd that was started shows a guest that died meanwhile as running until it has looked for
        its QEMU, and tells nobody then: a question to every QEMU waits for that, as long as none hangs."""

        def ask(connection: libvirt.virConnect) -> None:
            connection.getAllDomainStats(
                libvirt.VIR_DOMAIN_STATS_BALLOON, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
            )

        with contextlib.suppress(FluidError):
            await self.call(ask, what="ask each guest's QEMU", limit_s=SETTLED_S)
