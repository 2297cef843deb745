"""What builders share: the diff, the command log, and what they have made so far."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from backend.models import Changes, ChangeVerb, Command, FileChange, FileState, guest_path
from backend.playbooks._scope import Reference
from backend.playbooks._shell import SimpleCommand, simple_commands
from backend.playbooks._values import NOT_OF_THE_DISK, is_link_target, is_path, is_written

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


class Blobs(Protocol):
    """Where the contents of changed files are."""

    def get(self, sha256: str) -> bytes: ...


class Phase(IntEnum):
    """The order that works: what a task needs comes before it."""

    STOPPED = 0  # a service, before what it runs goes
    SOURCES = 1
    PACKAGES = 2
    REMOVED = 3
    GROUPS = 4
    USERS = 5
    LEFT = 6  # groups, once nobody is in them
    DIRECTORIES = 7
    TREES = 8  # folders that a program fills
    FILES = 9
    LINKS = 10
    CERTIFICATES = 11
    RIGHTS = 12  # of what is there
    UNITS = 13


@dataclass(frozen=True)
class GuestFacts:
    """What belongs to the sandbox itself and to no target."""

    hostname: str = ""
    address: str = ""


@dataclass
class Task:
    """A task before it is text. ``module`` without ``ansible.builtin.``."""

    phase: Phase
    name: str
    module: str
    args: dict[str, Any]
    notify: list[str] = field(default_factory=list)
    loop: list[str] | list[dict[str, str]] = field(default_factory=list)  # of paths, lines, or src and dest
    commands: list[str] = field(default_factory=list)  # ids
    paths: list[str] = field(default_factory=list)  # wire form
    remark: str = ""
    register: str = ""  # of a probe: the variable that has what it printed
    when: str = ""
    no_log: bool = False  # it holds a secret


@dataclass
class Context:
    changes: Changes
    commands: Sequence[Command]
    blobs: Blobs
    facts: GuestFacts
    undo: bool = False  # the change takes back one of ours
    swaps: Collection[str] = ()  # paths that the machine swaps to now
    contents: dict[str, bytes] = field(default_factory=dict)  # sha256 → content, goes to files/
    handlers: dict[str, Task] = field(default_factory=dict)
    variables: dict[str, str | Reference] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)  # names of the variables that the operator must give
    notes: list[str] = field(default_factory=list)
    claimed: set[str] = field(default_factory=set)  # wire paths that need no further task
    probes: int = 0
    anew: set[str] = field(default_factory=set)  # of these, what a command makes anew on each machine

    def __post_init__(self) -> None:
        self.shell = [
            (command, simple) for command in self.commands for simple in simple_commands(command.command)
        ]
        self.by_path = {change.path: change for change in self.changes.files}

    def pending(self) -> Iterable[FileChange]:
        """The visible changes that no builder has claimed, in the order of their paths."""
        return [change for change in self.changes.shown() if change.path not in self.claimed]

    def note(self, text: str) -> None:
        """What was left out, with the reason."""
        if text not in self.notes:
            self.notes.append(text)

    def path(self, wire: str) -> str | None:
        """The path as text, or None (and a note) where Ansible cannot name it literally."""
        try:
            text = guest_path(wire).decode("utf-8")
        except UnicodeDecodeError:
            self.note(f"{wire}: its name is not UTF-8, which a playbook cannot express")
            return None
        if not is_path(text):
            self.note(f"{wire}: Ansible would expand or alter this name")
            return None
        if not is_written(text):
            self.note(f"{wire}: no task writes below {', '.join(NOT_OF_THE_DISK)}, which are not of the disk")
            return None
        return text

    def text_of(self, path: str) -> str:
        """The new text of a changed file; empty for any other."""
        change = self.by_path.get(path)
        return (change.after.text if change is not None and change.after is not None else None) or ""

    def commands_about(self, *words: str) -> list[str]:
        """The ids of the commands that name one of ``words``."""
        return [command.id for command in self.commands if any(word in command.command for word in words)]

    def commands_naming(self, path: str) -> list[str]:
        """The ids of the commands that name a path: as a word, else anywhere, else by a telling last part."""
        last = path.rpartition("/")[2]
        words = [
            command.id
            for command, simple in self.shell
            if path in (word.lstrip("0123456789&>") for word in simple.argv)
        ]
        return words or self.commands_about(path) or (self.commands_about(last) if "." in last else [])

    def calls(self, *programs: str) -> list[tuple[Command, SimpleCommand]]:
        """The successful calls of a program, without ``VARIABLE=value`` in front, in order."""
        found = []
        for command, simple in self.shell:
            argv = list(simple.argv)
            while argv and _ASSIGNMENT.match(argv[0]):
                argv.pop(0)
            if argv and argv[0].rpartition("/")[2] in programs and command.exit_code in (0, None):
                found.append((command, SimpleCommand(argv, simple.simple, simple.folder)))
        return found

    def localized(self, word: str) -> str | Reference:
        """A variable where ``word`` is the sandbox's own host name or address as a whole."""
        for name, value, fact in (
            ("machine_hostname", self.facts.hostname, "ansible_facts['hostname']"),
            ("machine_address", self.facts.address, "ansible_facts['default_ipv4']['address']"),
        ):
            if value and word == value:
                self.variables[name] = Reference(fact)
                return Reference(name)
        return word

    def secret(self, what: str, thing: str) -> Reference:
        """A named variable in the place of a value that is never copied."""
        word = re.sub(r"[^a-z0-9]+", "_", thing.lower()).strip("_")[:40] or "file"
        name, number = f"{what}_{word}", 2
        while name in self.secrets:
            name, number = f"{what}_{word}_{number}", number + 1
        self.secrets.append(name)
        return Reference(name)

    def result(self, what: str) -> str:
        """A name for what a probe prints."""
        self.probes += 1
        return f"{what}_{self.probes}"

    def handler(self, called: str, module: str = "systemd_service", **args: Any) -> str:
        """The name of a handler, made on its first use; later uses may add to what it does."""
        self.handlers.setdefault(called, Task(Phase.UNITS, called, module, {})).args.update(args)
        return called


def link_target(state: FileState) -> str | None:
    """Where a link points, as text; None for a name that Ansible would change or cannot say."""
    try:
        target = guest_path(state.target or "").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return target if is_link_target(target) else None


def mode_of(state: FileState) -> str:
    """The quoted octal form that YAML cannot take for a number."""
    return f"{state.mode:04o}"


def owned(state: FileState) -> dict[str, str]:
    """Owner, group and mode as arguments; numbers where the guest had no name for them."""
    return {
        "owner": state.owner or str(state.uid),
        "group": state.group or str(state.gid),
        "mode": mode_of(state),
    }


def title(text: str) -> str:
    """A task's name: printable, and no template to Ansible: ``{{`` is drawn as ``{ {``."""
    shown = "".join(char if char.isprintable() else "?" for char in text)
    shown = re.sub(r"\{(?=[{%#])", "{ ", shown.removeprefix("#jinja2:"))
    return shown if len(shown) <= 120 else shown[:119] + "…"


def gone(change: FileChange) -> bool:
    """True for a path that is no longer there."""
    return change.verb is ChangeVerb.REMOVED or change.after is None
