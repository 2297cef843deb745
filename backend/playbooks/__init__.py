"""Playbooks: generated from a disk diff, held to a closed grammar (PLAYBOOKS.md)."""

from backend.playbooks._scope import Reference
from backend.playbooks.builders.context import GuestFacts
from backend.playbooks.generate import Draft, digest, export, generate
from backend.playbooks.grammar import CheckedPlaybook, CheckedTask, check
from backend.playbooks.rehearse import Rehearser
from backend.playbooks.runs import Runs
from backend.playbooks.service import Playbooks
from backend.playbooks.tasks import told

__all__ = [
    "CheckedPlaybook",
    "CheckedTask",
    "Draft",
    "GuestFacts",
    "Playbooks",
    "Reference",
    "Rehearser",
    "Runs",
    "check",
    "digest",
    "export",
    "generate",
    "told",
]
