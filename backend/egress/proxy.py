"""The HTTP proxy that is a sandbox's only way out: each request is decided, bounded and recorded.

Names are looked up here, once, and the connection goes to that very address. A record holds no path and no
query: they may hold secrets.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from backend.egress._exchange import Exchange, Stale, Upstream, refusal_answer
from backend.egress._http import Malformed, RequestHead, parse_request
from backend.egress._meter import Exhausted, Meter
from backend.egress._streams import Reader, Side, Writer
from backend.egress.policy import EgressPolicy, Grant, Refusal, is_literal
from backend.models import now

CONNECT_TIMEOUT_S = 10.0
RESOLVE_TIMEOUT_S = 5.0
ADDRESSES_TRIED = 3
REFUSED_IDLE_S = 1.0
RECORD_BYTES = 16_384  # what each record costs a sandbox at least: refusals too come to an end
OUT_OF_BYTES = "egress.bytes"

Resolver = Callable[[str, int], Awaitable[list[str]]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EgressRecord:
    """One request, allowed or refused. ``rule`` is the entry that allowed it or the rule that did not."""

    client: str
    method: str
    host: str
    port: int
    status: int
    rule: str
    reason: str
    bytes_up: int
    bytes_down: int
    allowed: bool
    started_at: datetime
    ended_at: datetime


class EgressProxy:
    """Serves connections of sandboxes; ``client`` names the sandbox.

    Args:
        on_request: given each record when the request is over; awaited when it returns an awaitable.
        resolver: names to addresses; the system's by default.
        upstream: the proxy that this host itself must use. It looks names up by itself, so that only exact
            entries are served through it.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        on_request: Callable[[EgressRecord], Awaitable[None] | None],
        resolver: Resolver | None = None,
        upstream: tuple[str, int] | None = None,
    ) -> None:
        self.policy = policy
        self._on_request = on_request
        self._resolver = resolver or system_resolver
        self._upstream = upstream
        self._meters: dict[str, Meter] = {}

    async def serve(self, reader: Reader, writer: Writer, *, client: str) -> None:
        """One connection, until either side ends it. Never raises for what a guest or a server does."""
        side = Side(reader, writer)
        meter = self._meter(client)
        meter.connections += 1
        try:
            refusal = self._refusal(meter)
            if refusal:
                await self._refuse_connection(side, client, meter, refusal)
            else:
                await _Conversation(self, side, client, meter).run()
        except (OSError, EOFError, TimeoutError, Malformed) as error:
            log.debug("egress of %s ended: %s", client, type(error).__name__)
        except Exception:  # a guest's transport has errors of its own; none may end the backend
            log.debug("egress of %s ended", client, exc_info=True)
        finally:
            meter.connections -= 1
            with suppress(OSError):
                side.close()

    def used(self, client: str) -> int:
        """Bytes that a sandbox has used, both directions."""
        return self._meters[client].used if client in self._meters else 0

    def restore(self, client: str, used_bytes: int) -> None:
        """Start a sandbox's account at ``used_bytes``: what its records add up to after a restart."""
        self._meter(client).used = used_bytes

    def forget(self, client: str) -> None:
        """The sandbox is gone."""
        self._meters.pop(client, None)

    def _meter(self, client: str) -> Meter:
        if client not in self._meters:
            self._meters[client] = Meter(self.policy.bytes_per_sandbox, self.policy.rate_bytes_s)
        return self._meters[client]

    def _refusal(self, meter: Meter) -> Refusal | None:
        if meter.exhausted:
            return self.no_bytes_left()
        count = self.policy.connections_per_sandbox
        if meter.connections <= count:
            return None
        return Refusal(
            "egress.connections", f"more than {count} connections at once; close some and try again", 429
        )

    def no_bytes_left(self) -> Refusal:
        limit = self.policy.bytes_per_sandbox
        return Refusal(
            OUT_OF_BYTES, f"the sandbox has used its {limit} bytes; ask the operator or take a new sandbox"
        )

    async def _refuse_connection(self, side: Side, client: str, meter: Meter, refusal: Refusal) -> None:
        await self.record(Exchange(client, "", "", 0), refusal, meter)
        with suppress(TimeoutError):
            await side.some(idle_s=REFUSED_IDLE_S)  # unread input would make TCP throw our answer away
        await side.send(refusal_answer(refusal, keep_alive=False))

    async def record(self, exchange: Exchange, why: Grant | Refusal, meter: Meter) -> None:
        """Hand the finished exchange to the audit. That a sandbox has no bytes left is on record once."""
        if isinstance(why, Refusal) and why.rule == OUT_OF_BYTES:
            if meter.told and not exchange.up:
                return
            meter.told = True
        meter.charge(max(0, RECORD_BYTES - exchange.up - exchange.down))
        rule, reason = (why.entry, exchange.reason) if isinstance(why, Grant) else (why.rule, why.message)
        told = self._on_request(
            EgressRecord(
                client=exchange.client,
                method=exchange.method,
                host=exchange.host,
                port=exchange.port,
                status=why.status if isinstance(why, Refusal) else exchange.status,
                rule=rule,
                reason=reason,
                bytes_up=exchange.up,
                bytes_down=exchange.down,
                allowed=isinstance(why, Grant),
                started_at=exchange.started_at,
                ended_at=now(),
            )
        )
        if told is not None:
            await told

    async def open(self, grant: Grant, request: RequestHead) -> Upstream | Refusal:
        """A connection to the origin, or to the upstream proxy, or why there is none."""
        host, port = request.host, request.port
        if self._upstream:
            if not grant.exact:
                return Refusal(
                    "egress.upstream",
                    f"behind a proxy only exact entries are served; list {host}:{port} in egress.allow",
                )
            addresses: list[str] | Refusal = [self._upstream[0]]
            port = self._upstream[1]
        else:
            addresses = await self._look_up(grant, host, port)
        if isinstance(addresses, Refusal):
            return addresses
        why = "no answer"
        for address in addresses[:ADDRESSES_TRIED]:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    reader, writer = await asyncio.open_connection(address, port)
            except (OSError, TimeoutError) as error:
                why = getattr(error, "strerror", None) or "no answer"
                continue
            return Upstream(Side(reader, writer), (request.host, request.port), bool(self._upstream))
        return Refusal("egress.connect", f"{host}:{port} cannot be reached: {why}; try again later", 502)

    async def _look_up(self, grant: Grant, host: str, port: int) -> list[str] | Refusal:
        if is_literal(host):
            return self.policy.admit(grant, host, [host])
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                addresses = await self._resolver(host, port)
        except (OSError, TimeoutError):
            return Refusal("egress.resolve", f"{host} cannot be resolved; check the name", 502)
        return self.policy.admit(grant, host, addresses)


class _Conversation:
    """The requests of one connection, one after the other."""

    def __init__(self, proxy: EgressProxy, side: Side, client: str, meter: Meter) -> None:
        self._proxy = proxy
        self._side = side
        self._client = client
        self._meter = meter
        self._origin: Upstream | None = None

    async def run(self) -> None:
        try:
            while await self._one():
                pass
        finally:
            self._leave_origin()

    async def _one(self) -> bool:
        """Serve one request; whether another may follow."""
        head = await self._head()
        if head is None:
            return False
        exchange = Exchange(self._client, head.method, head.host, head.port)
        why: Grant | Refusal = self._decide(head)
        try:
            if isinstance(why, Grant):
                opened = await self._reach(why, head)
                if isinstance(opened, Refusal):
                    why = opened
                else:
                    return await self._carry_out(exchange, why, head, opened)
        except (Exhausted, Malformed, OSError, EOFError, TimeoutError) as error:
            failure = self._failure(head, error)
            if exchange.status:  # the answer has begun: it can only be cut off
                exchange.reason = f"{failure.rule}: {failure.message}"
                return False
            why = failure
        finally:
            if exchange.spoiled:
                self._leave_origin()
            await self._proxy.record(exchange, why, self._meter)
        keep = head.keep_alive and head.body == 0 and head.method != "CONNECT" and not exchange.up
        keep = keep and not self._meter.exhausted
        await self._side.send(refusal_answer(why, keep_alive=keep, bodiless=head.method == "HEAD"))
        return keep

    async def _carry_out(self, exchange: Exchange, grant: Grant, head: RequestHead, opened: Upstream) -> bool:
        try:
            return await exchange.run(head, self._side, opened, self._meter)
        except Stale:
            self._leave_origin()
        fresh = await self._reach(grant, head)
        if isinstance(fresh, Refusal):
            raise Malformed(fresh.message)
        return await exchange.run(head, self._side, fresh, self._meter)

    def _failure(self, head: RequestHead, error: Exception) -> Refusal:
        where = f"{head.host}:{head.port}"
        if isinstance(error, Exhausted):
            return self._proxy.no_bytes_left()
        if isinstance(error, Malformed):
            return Refusal("egress.answer", f"{where}: {error}", 502)
        if isinstance(error, TimeoutError):
            return Refusal("egress.timeout", f"{where} stalled; try again later", 504)
        return Refusal("egress.answer", f"the connection to {where} broke; try again", 502)

    async def _head(self) -> RequestHead | None:
        try:
            raw = await self._side.head()
            return parse_request(raw) if raw else None
        except Malformed as error:
            refusal = Refusal("egress.request", str(error), 400)
            await self._proxy.record(Exchange(self._client, "", "", 0), refusal, self._meter)
            await self._side.send(refusal_answer(refusal, keep_alive=False))
            return None

    def _decide(self, head: RequestHead) -> Grant | Refusal:
        if self._meter.exhausted:
            return self._proxy.no_bytes_left()
        return self._proxy.policy.decide(head.host, head.port)

    async def _reach(self, grant: Grant, head: RequestHead) -> Upstream | Refusal:
        """The kept connection if it leads to the same origin, else a fresh one."""
        kept = self._origin
        if kept and kept.origin == (head.host, head.port) and head.method != "CONNECT":
            kept.reused = True
            return kept
        self._leave_origin()
        opened = await self._proxy.open(grant, head)
        if isinstance(opened, Upstream):
            self._origin = opened
        return opened

    def _leave_origin(self) -> None:
        if self._origin:
            with suppress(OSError):
                self._origin.side.close()
            self._origin = None


async def system_resolver(host: str, port: int) -> list[str]:
    """The system's answer, in its order (getaddrinfo(3))."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
