"""How long a guest is given to go off: the ladder, on a domain that does what the test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from backend.errors import TimedOut
from backend.hypervisor import shutdown
from backend.hypervisor.domains import Domains
from backend.hypervisor.nouns import DomainEvent

NAME = "fluid-1"
WHOLE_S = 1.0


@dataclass
class FakeDomain:
    """One domain, all that the ladder needs of libvirt, and a record of what it was asked."""

    answers: bool = True  # our daemon
    agent: bool = True
    works: bool = True
    obeys: bool = True
    state: str = "running"
    asked: list[str] = field(default_factory=list)
    events: asyncio.Queue[DomainEvent] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.connection = self

    # --- as Domains -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[asyncio.Queue[DomainEvent]]:
        yield self.events

    async def info(self, _: str) -> Any:
        return SimpleNamespace(state=self.state)

    async def ask(self, _: str, operation: str, **__: Any) -> None:
        self.asked.append(operation)
        if not self.answers:
            raise TimedOut("the guest did not answer")
        self._shut_down()

    async def call(self, _: str, function: Callable[[Any], Any], **__: Any) -> Any:
        return function(self)

    async def power_off(self, _: str) -> None:
        self.asked.append("plug")
        self.state = "shutoff"

    # --- as a libvirt domain, and its connection --------------------------------------------------------

    def agentSetResponseTimeout(self, *_: int) -> None:  # noqa: N802 - libvirt's names
        pass

    def shutdownFlags(self, flags: int) -> None:  # noqa: N802
        by_agent = flags == libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT
        self.asked.append("agent" if by_agent else "button")
        if by_agent and not self.agent:
            raise libvirt.libvirtError("no agent")
        self._shut_down()

    def connect(self) -> FakeDomain:
        return self

    def domainListGetStats(self, *_: Any) -> Any:  # noqa: N802
        spent = time.monotonic_ns() if self.works else 0
        return [(self, {"vcpu.maximum": 1, "vcpu.0.time": spent, "block.count": 1, "block.0.wr.reqs": 7})]

    def _shut_down(self) -> None:
        if self.obeys:
            self.state = "shutoff"
            self.events.put_nowait(DomainEvent("fluid-other", "stopped"))
            self.events.put_nowait(DomainEvent(NAME, "stopped"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shutdown, "LOOK_S", 0.02)
    monkeypatch.setattr(shutdown, "IDLE_S", 0.2)
    monkeypatch.setattr(shutdown, "BUTTON_S", 0.4)
    yield


@pytest.mark.parametrize(
    ("domain", "asked", "by_itself", "within"),
    [
        (FakeDomain(), "poweroff", True, (0, 0.2)),
        (FakeDomain(answers=False), "poweroff agent", True, (0, 0.2)),
        (FakeDomain(answers=False, agent=False), "poweroff agent button", True, (0, 0.2)),
        (FakeDomain(obeys=False), "poweroff plug", False, (WHOLE_S, 1.5)),
        (FakeDomain(obeys=False, works=False), "poweroff plug", False, (0.2, 0.5)),
        (FakeDomain(False, False, True, False), "poweroff agent button plug", False, (0.4, 0.8)),
        (FakeDomain(state="paused"), "plug", False, (0, 0.2)),
        (FakeDomain(state="shutoff"), "", True, (0, 0.2)),
    ],
    ids=["daemon", "agent", "button", "at work", "stands still", "spins", "paused", "off"],
)
async def test_who_is_asked_and_how_long_it_may_take(
    domain: FakeDomain, asked: str, by_itself: bool, within: tuple[float, float]
) -> None:
    began = time.monotonic()
    assert await shutdown.stop(cast("Domains", domain), NAME, WHOLE_S) is by_itself
    took = time.monotonic() - began
    assert " ".join(domain.asked) == asked
    assert within[0] <= took < within[1] + 0.5  # a crowded machine


async def test_one_that_is_gone_before_it_is_looked_at_went_by_itself() -> None:
    domain = FakeDomain()

    def gone(*_: Any) -> Any:
        raise TimedOut("the domain is not running")

    domain.domainListGetStats = gone  # type: ignore[method-assign]
    assert await shutdown.stop(cast("Domains", domain), NAME, WHOLE_S)
    assert domain.asked == ["poweroff"]
