"""Playbooks: generated from a disk diff, held to a closed grammar (PLAYBOOKS.md)."""

from backend.playbooks._scope import Reference
from backend.playbooks.builders.context import GuestFacts
from backend.playbooks.generate import Draft, digest, export, generate, regenerated
from backend.playbooks.grammar import CheckedPlaybook, CheckedTask, check

__all__ = [
    "CheckedPlaybook",
    "CheckedTask",
    "Draft",
    "GuestFacts",
    "Reference",
    "check",
    "digest",
    "export",
    "generate",
    "regenerated",
]
