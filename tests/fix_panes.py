"""Panes over a real tmux, a local shell standing in for the guest's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from backend.audit import Audit
from backend.config import LimitConfig
from backend.errors import SandboxNotFound
from backend.models import Identity, Role, Sandbox, now
from backend.panes import Panes
from backend.store import EventBus, Store
from backend.tmux import TmuxServer

ANN = Identity(uid=1001, name="ann")
BOB = Identity(uid=1002, name="bob")
OPERATOR = Identity(uid=1000, name="op", role=Role.OPERATOR)
LIMIT_S = 20


class OneSandbox:
    """A fleet of one sandbox, Ann's, until it is destroyed."""

    def __init__(self, name: str = "nginx-tls") -> None:
        self.asked = asyncio.Event()
        self.typed: list[str] = []
        self.sandbox: Sandbox | None = Sandbox(
            id="SBX-1",
            sandbox_name=name,
            base_image="debian-12",
            owner_uid=ANN.uid,
            created_at=now(),
            updated_at=now(),
        )

    async def get(self, actor: Identity, sandbox_id: str) -> Sandbox:
        self.asked.set()
        if self.sandbox is None or (actor.role is Role.AGENT and actor.uid != ANN.uid):
            raise SandboxNotFound(sandbox_id)
        return self.sandbox

    running = get

    async def before_typing(self, actor: Identity, sandbox_id: str, text: str) -> None:
        self.typed.append(text)


async def follow(panes: Panes, actor: Identity, pane_id: str) -> AsyncIterator[list[str]]:
    """The rows of the pane's screens."""
    async with aclosing(panes.screens(actor, pane_id)) as screens:
        async for shown in screens:
            yield shown.rows


async def shell(_: Sandbox) -> list[str]:
    return ["env", "PS1=$ ", "bash", "--norc", "--noprofile", "-i"]


@pytest.fixture
async def tmux(open_folder: Path) -> AsyncIterator[TmuxServer]:
    server = TmuxServer(open_folder / "tmux.sock")
    await server.start()
    yield server
    await server.kill_server()


@pytest.fixture
def fleet() -> OneSandbox:
    return OneSandbox()


@pytest.fixture
def audit(store: Store, tmp_path: Path) -> Audit:
    return Audit(store, tmp_path / "spool", tmp_path / "key", tmp_path / "head")


@pytest.fixture
async def panes(tmux: TmuxServer, bus: EventBus, audit: Audit, fleet: OneSandbox) -> AsyncIterator[Panes]:
    panes = Panes(tmux, bus, audit, fleet, shell, LimitConfig())
    running = asyncio.create_task(panes.run())
    yield panes
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until_shown(panes: Panes, pane_id: str, row: str) -> list[str]:
    async with asyncio.timeout(LIMIT_S):
        async for rows in follow(panes, OPERATOR, pane_id):
            if any(one.startswith(row) for one in rows):
                return rows
    raise AssertionError("the pane ended")
