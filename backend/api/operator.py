"""The operator door's routes: the agent's, and those that watch and decide."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, FastAPI

from backend.api.agent import ROUTERS as AGENT_ROUTERS
from backend.api.agent import assemble
from backend.api.routes import (
    approvals,
    asks,
    ca,
    catalog,
    operations,
    panes,
    presence,
    recordings,
)
from backend.api.services import Services

ROUTERS: tuple[APIRouter, ...] = (
    *AGENT_ROUTERS,
    approvals.operator,
    asks.operator,
    panes.operator,
    presence.operator,
    recordings.operator,
    catalog.operator,
    ca.operator,
    operations.operator,
)


def operator_app(services: Services, stopping: asyncio.Event) -> FastAPI:
    """The application behind ``operator.sock``."""
    return assemble("Fluid, the operator door", ROUTERS, services, stopping)
