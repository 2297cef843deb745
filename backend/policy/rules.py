"""The rules, their limits, and their words for a reader."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from backend.config import LimitConfig


@dataclass(frozen=True)
class Refusal:
    """Why not: the rule's name, a sentence, and what to do instead."""

    rule: str
    words: str
    remedy: str


@dataclass(frozen=True)
class _Denied:
    rule: str
    pattern: re.Pattern[str]
    words: str


# What only ever happens by mistake. Whoever means it writes a script, and harms nobody but the VM.
_DENIED = (
    _Denied(
        "no-root-wipe",
        re.compile(r"\brm\s{1,9}((-[a-zA-Z]{1,20}|--[a-z-]{1,30})\s{1,9}){0,9}(/|/\*)(\s|$)"),
        "this removes the whole file system",
    ),
    _Denied(
        "no-fork-bomb",
        re.compile(r":\s*\(\s*\)\s*\{\s*:\s*\|\s*:\s*&\s*\}\s*;\s*:"),
        "this is a fork bomb",
    ),
    _Denied(
        "no-disk-overwrite",
        re.compile(r"(\bof=|>\s{0,9})/dev/vd[a-z]\b|\bmkfs(\.\w{1,9})?\s.{0,200}/dev/vd[a-z]\b"),
        "this overwrites the disk that the system runs from",
    ),
)


# What destroys more than its writer may have meant. It runs; with `snapshots.before_dangerous` a snapshot is
# made before it. Every repetition has an end: a hostile command costs milliseconds.
_FEW = r"[^\n;|&]{0,200}\s"
_DANGEROUS = (
    (re.compile(rf"\brm\b{_FEW}(-[a-zA-Z]{{0,20}}[rR]|--recursive\b)"), "it removes folders"),
    (re.compile(rf"\b(mkfs|wipefs|fdisk|sgdisk|parted)\b|\bdd\b{_FEW}of=/dev/"), "it writes to a disk"),
    (
        re.compile(rf"\b(apt|apt-get|aptitude)\b{_FEW}(remove|purge|autoremove|full-upgrade|dist-upgrade)\b"),
        "it removes or replaces packages",
    ),
    (re.compile(rf"\bdpkg\b{_FEW}(-r|-P|--remove|--purge)\b"), "it removes packages"),
    (re.compile(r"\b(userdel|groupdel|deluser|delgroup)\b"), "it removes accounts"),
    (re.compile(rf"\bip6?tables\b{_FEW}-F\b|\bnft\s{{1,9}}flush\b"), "it empties the firewall"),
    (re.compile(r"\bdrop\s{1,9}(table|database|schema)\b", re.IGNORECASE), "it drops data"),
    (re.compile(rf"\bch(mod|own|grp)\b{_FEW}(-[a-zA-Z]{{0,20}}R|--recursive\b)"), "it changes many rights"),
)


@dataclass(frozen=True)
class Policy:
    """The guard rails of one installation."""

    limits: LimitConfig

    def check_command(self, command: str) -> Refusal | None:
        """None if it may run."""
        if len(command) > self.limits.command_chars:
            return Refusal(
                "command-length",
                f"the command has {len(command)} characters, the limit is {self.limits.command_chars}",
                "write a script file and run that",
            )
        for denied in _DENIED:
            if denied.pattern.search(command):
                return Refusal(denied.rule, denied.words, "create a fresh sandbox if you want an empty one")
        return None

    def danger(self, command: str) -> str:
        """What is dangerous about it, in words; empty where nothing is."""
        return next((words for pattern, words in _DANGEROUS if pattern.search(command)), "")

    def check_ttl(self, seconds: int) -> Refusal | None:
        """None if a sandbox may end so many seconds from now."""
        most = self.limits.ttl_max_s
        if seconds <= most:
            return None
        return Refusal(
            "ttl-max",
            f"an end {seconds} s ahead is beyond the limit of {most} s",
            f"ask for {most} s or less",
        )

    def check_disk(self, size_gb: int) -> Refusal | None:
        """None if a guest may have a disk of that size."""
        most = self.limits.disk_gb_max
        if size_gb <= most:
            return None
        words = f"a disk of {size_gb} GB is larger than the limit of {most} GB"
        return Refusal("disk-max", words, f"ask for {most} GB or less, or fork a smaller source")

    def timeout_s(self, asked: int | None) -> int:
        """The time limit of a command: what was asked for, the default otherwise, never over the maximum."""
        return min(asked or self.limits.command_s, self.limits.command_s_max)

    def describe(self) -> dict[str, Any]:
        """For a reader and as data: GET /v1/policy."""
        limits = self.limits
        words = [f"{denied.rule}: {denied.words}" for denied in _DENIED]
        words.append(f"a command may run {limits.command_s_max} s, and be {limits.command_chars} characters")
        words.append(f"you may hold {limits.sandboxes_per_owner} sandboxes")
        words.append(f"a sandbox has at most {limits.panes_per_sandbox} terminals, ended ones counted")
        words.append(f"you may have {limits.requests_per_requester} open requests for approval")
        words.append(f"of these {limits.rehearsals_per_requester} are rehearsed at once")
        words.append(f"you may have {limits.asks_per_requester} open questions")
        words.append(f"a sandbox ends at most {limits.ttl_max_s} s from now; ask again before that")
        words.append(f"a sandbox's disk has at most {limits.disk_gb_max} GB")
        words.append("a sandbox reaches nothing but its proxy, 127.0.0.1:3128")
        return {"words": words, "limits": limits.model_dump(), "denied": [denied.rule for denied in _DENIED]}
