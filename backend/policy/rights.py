"""Who may: each noun asks here before it does what not everybody may."""

from __future__ import annotations

from backend.errors import RoleDenied
from backend.models import Identity, Role


def operators_only(
    actor: Identity, words: str = "", *, remedy: str = "`operators:` in config.yaml lists them"
) -> None:
    """Raises :class:`RoleDenied` for everybody else, in ``words`` where there are any."""
    if actor.role is not Role.OPERATOR:
        raise RoleDenied(words or f"{actor.name or actor.uid} is no operator", remedy=remedy)


def refuse_agents(actor: Identity) -> None:
    """Raises :class:`RoleDenied` for whoever may not see what was shown of production: auditors may."""
    if actor.role is not Role.AUDITOR:
        operators_only(actor)
