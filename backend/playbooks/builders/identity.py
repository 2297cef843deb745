"""The machine's name, and the lines of ``/etc/hosts``.

That file also holds what each machine has of its own: it is edited line by line and never copied.
"""

from __future__ import annotations

import re

from backend.changes.settings.repositories import ARCHITECTURE
from backend.changes.settings.system import HARDWARE_CLOCK
from backend.models import SettingChange, SettingKind
from backend.playbooks.builders.context import Context, Phase, Task, title

HOSTS = "/etc/hosts"
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,127}")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_WORDS = re.compile(r"[A-Za-z0-9._:%-]+(?: [A-Za-z0-9._:%-]+)*")


def identity(context: Context) -> list[Task]:
    """Tasks for what somebody meant; what a machine has by itself is hidden as noise."""
    tasks = []
    for change in context.changes.settings:
        if change.hidden:
            continue
        if change.kind is SettingKind.HOSTNAME and change.after:
            tasks += _named(context, change)
        elif change.kind is SettingKind.HOSTS:
            tasks += _hosts_line(context, change)
        elif change.name == HARDWARE_CLOCK or change.name.startswith(ARCHITECTURE):
            _note_machine(context, change)
    return tasks


def _note_machine(context: Context, change: SettingChange) -> None:
    """What no module of ansible.builtin sets, with the command that does."""
    word, command = change.name.removeprefix(ARCHITECTURE), ""
    if change.name == HARDWARE_CLOCK:
        command = f"timedatectl set-local-rtc {int(bool(change.after))}"
    elif _ARCHITECTURE.fullmatch(word):
        command = f"dpkg --{'add' if change.after else 'remove'}-architecture {word}"
    does = f"; `{command}` does" if command else ""
    context.note(f"{change.name}: no module of ansible.builtin sets it{does}")


def _named(context: Context, change: SettingChange) -> list[Task]:
    name = change.after.get("value", "")
    if not _HOST_NAME.fullmatch(name):
        context.note(f"the host name {name!a} cannot be expressed")
        return []
    if not context.undo:
        context.note(f"every target gets the host name {name}")
    words = title(f"Name the machine {name}")
    return [Task(Phase.FILES, words, "hostname", {"name": name}, commands=change.commands)]


def _hosts_line(context: Context, change: SettingChange) -> list[Task]:
    old, new = change.before.get("names", ""), change.after.get("names", "")
    if not all(_WORDS.fullmatch(words) for words in (change.name, old, new) if words):
        context.note(f"{HOSTS}: the line of {change.name} cannot be expressed")
        return []
    args: dict[str, object] = {"path": HOSTS, "state": "present" if new else "absent"}
    if old:
        words = [re.escape(one) for one in (change.name, *old.split())]
        args["regexp"] = r"^\s*" + r"\s+".join(words) + r"\s*(#.*)?$"
    if new:
        args["line"] = f"{change.name} {new}"
    name = title(f"Let {new} be {change.name}" if new else f"Let {old} no longer be {change.name}")
    return [Task(Phase.FILES, name, "lineinfile", args, commands=change.commands, paths=change.paths)]
