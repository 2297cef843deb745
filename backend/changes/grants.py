"""What a sudo rule lets somebody do, in parts that can be told. Source: sudoers(5). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ROOT = ("root", "ALL", "#0")
_FREE = "NOPASSWD:"
_PART = re.compile(r"(?:\(([^)]*)\)\s*)?((?:[A-Z_]+:\s*)*)(.*)", re.DOTALL)
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "su", "sudo", "env", "visudo", "perl", "python3"})
_COMMA = re.compile(r"(?<!\\),\s*")


@dataclass(frozen=True, slots=True)
class Grant:
    """Commands that a sudo rule lets somebody run as ``user``; ``free``: without a password."""

    user: str
    free: bool
    commands: tuple[str, ...]

    @property
    def as_root(self) -> bool:
        """As root, or as anybody."""
        return self.user in _ROOT

    @property
    def everything(self) -> bool:
        """Any command as root, by its name or through a shell."""
        programs = {command.partition(" ")[0].rpartition("/")[2] for command in self.commands}
        return self.as_root and ("ALL" in programs or bool(programs & _SHELLS))


def grants(may: str) -> list[Grant]:
    """The parts of a rule as sudoers(5) reads it: user and tags hold until others are named.

    ``may`` is what follows the name: ``ALL=(root) NOPASSWD: /bin/a, PASSWD: /bin/b``.
    """
    _, separator, listing = may.partition("=")
    if not separator:
        return []
    found: dict[tuple[str, bool], list[str]] = {}
    user, free = "root", False
    for part in _COMMA.split(_in_one(listing)):
        match = _PART.fullmatch(part.strip())
        if match is None or not match[3]:
            continue
        if match[1] is not None:
            user = match[1].partition(":")[0].strip() or "the same user"
        if match[2]:
            free = _FREE in match[2] or (free and "PASSWD:" not in match[2])
        found.setdefault((user, free), []).append(match[3].strip())
    return [Grant(user, free, tuple(commands)) for (user, free), commands in found.items()]


def _in_one(listing: str) -> str:
    """Several users in one pair of brackets are one word here."""
    return re.sub(r"\(([^)]*)\)", lambda found: "(" + found[1].replace(",", " and") + ")", listing)


def people(who: str) -> str:
    """Whom a sudo rule is for."""
    if who == "ALL":
        return "everybody"
    if who.startswith("%"):
        return f"group {who[1:].lstrip(':')}"
    return f"uid {who[1:]}" if who.startswith("#") else who
