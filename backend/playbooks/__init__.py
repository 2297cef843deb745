"""Playbooks: generated from a disk diff, held to a closed grammar (PLAYBOOKS.md)."""

from backend.playbooks._scope import Reference
from backend.playbooks.builders.context import GuestFacts
from backend.playbooks.generate import Draft, digest, export, generate
from backend.playbooks.grammar import CheckedPlaybook, CheckedTask, check
from backend.playbooks.rehearse import Rehearser
from backend.playbooks.rollback import SWAPS, WayBack, kept_values, way_back
from backend.playbooks.runs import Runs
from backend.playbooks.service import Playbooks
from backend.playbooks.tasks import literals_of, told
from backend.playbooks.touched import added_folders, overwritten, touched
from backend.playbooks.versions import other_packages

__all__ = [
    "SWAPS",
    "CheckedPlaybook",
    "CheckedTask",
    "Draft",
    "GuestFacts",
    "Playbooks",
    "Reference",
    "Rehearser",
    "Runs",
    "WayBack",
    "added_folders",
    "check",
    "digest",
    "export",
    "generate",
    "kept_values",
    "literals_of",
    "other_packages",
    "overwritten",
    "told",
    "touched",
    "way_back",
]
