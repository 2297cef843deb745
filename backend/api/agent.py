"""The agent door's routes. Nothing that decides is imported into its list."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, FastAPI

from backend import __version__
from backend.api import problems
from backend.api.routes import (
    approvals,
    asks,
    ca,
    catalog,
    commands,
    files,
    health,
    panes,
    playbooks,
    sandboxes,
    snapshots,
)
from backend.api.services import Services

ROUTERS: tuple[APIRouter, ...] = (
    health.agent,
    sandboxes.agent,
    commands.agent,
    snapshots.agent,
    files.agent,
    playbooks.agent,
    approvals.agent,
    asks.agent,
    panes.agent,
    catalog.agent,
    ca.agent,
)


def agent_app(services: Services, stopping: asyncio.Event) -> FastAPI:
    """The application behind ``agent.sock``."""
    return assemble("Fluid, the agent door", ROUTERS, services, stopping)


def assemble(
    title: str, routers: tuple[APIRouter, ...], services: Services, stopping: asyncio.Event
) -> FastAPI:
    """One door's application: its routers, our error bodies, its description at ``/openapi.json``."""
    app = FastAPI(title=title, version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.services = services
    app.state.stopping = stopping
    app.state.running = set()
    problems.install(app)
    for one in routers:
        app.include_router(one)
    return app
