"""A playbook from what changed on the disk: idempotent tasks in the order that works.

The facts come from the diff; the command log only tells why, and how a private key was made. What cannot be
expressed is a note with its reason, never silence. The result passes :func:`backend.playbooks.check`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.models import Changes, Command, PlaybookTask, guest_path
from backend.playbooks import builders
from backend.playbooks._emit import Title, block, comment
from backend.playbooks._origins import WITHHELD, origin
from backend.playbooks._scope import ITEM, Reference
from backend.playbooks._yaml import refuse
from backend.playbooks.builders.context import Blobs, Context, GuestFacts, Phase, Task, title
from backend.playbooks.builders.services import notified
from backend.playbooks.grammar import check

PREFIX = "ansible.builtin."
_PHASES_BACK = (
    Phase.STOPPED,
    Phase.REMOVED,
    *(one for one in Phase if one not in (Phase.STOPPED, Phase.REMOVED)),
)
_UNMEASURED = "no-changed-when"
MAX_ORIGINS = 2  # command lines shown above a task


@dataclass(frozen=True)
class Draft:
    """A generated playbook. ``files`` maps SHA-256 to content."""

    yaml: str
    files: dict[str, bytes]
    tasks: list[PlaybookTask]
    variables: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def generate(
    changes: Changes,
    commands: Sequence[Command],
    blobs: Blobs,
    *,
    name: str,
    facts: GuestFacts | None = None,
    undo: bool = False,
    swaps: Collection[str] = (),
) -> Draft:
    """The playbook that does to another machine what ``changes`` show. ``undo``: they take back what a
    playbook did, so that packages go with their settings, and after what was put beside these. ``swaps``: the
    paths that the machine swaps to now.

    Raises:
        PlaybookRefused: rule P3, when nothing in the diff can be expressed.
    """
    context = Context(changes, commands, blobs, facts or GuestFacts(), undo, swaps)
    builders.data(context)
    tasks = [
        *builders.swap_off(context),
        *builders.groups(context),
        *builders.users(context),
        *builders.answers(context),
        *builders.packages(context),
        *builders.certificates(context),
        *builders.units(context),
        *builders.identity(context),
        *builders.venvs(context),
        *builders.swap_files(context),
        *_rest(context),
    ]
    tasks.sort(key=lambda task: _PHASES_BACK.index(task.phase) if undo else task.phase)
    if not tasks:
        raise refuse(
            "the change holds nothing that a playbook can do", rule="P3", remedy="snapshot after the work"
        )
    _notify_removed(context, tasks)
    handlers = _used(context, tasks)
    builders.own(context, tasks)
    text = _text(name, context, tasks, handlers)
    check(text.encode(), set(context.contents), secrets=context.secrets)
    return Draft(
        yaml=text,
        files=dict(context.contents),
        tasks=[_told(task) for task in (*tasks, *handlers)],
        variables={key: str(value) for key, value in context.variables.items()},
        secrets=context.secrets,
        notes=context.notes,
    )


def _rest(context: Context) -> list[Task]:
    builders.derived(context)
    return builders.files(context)


def digest(yaml: str, files: Mapping[str, bytes] | Sequence[str]) -> str:
    """SHA-256 over the text and the names of its files, which are their contents' digests."""
    whole = hashlib.sha256(yaml.encode())
    for name in sorted(files):
        whole.update(b"\0" + name.encode())
    return whole.hexdigest()


def export(yaml: str, files: Mapping[str, bytes], folder: Path) -> None:
    """Write ``playbook.yml`` and ``files/`` into a new folder, for plain ``ansible-playbook``."""
    (folder / "files").mkdir(parents=True)
    (folder / "playbook.yml").write_text(yaml, encoding="utf-8")
    for name, content in files.items():
        (folder / "files" / name).write_bytes(content)


def _notify_removed(context: Context, tasks: list[Task]) -> None:
    """A removed default site counts once its server reads its folder again."""
    for task in tasks:
        if task.phase is Phase.REMOVED and task.module == "file" and not task.notify:
            task.notify = notified(context, str(task.args["path"]))


def _used(context: Context, tasks: list[Task]) -> list[Task]:
    """Handlers that some task notifies; a restart makes the reload of the same unit needless."""
    wanted = [name for task in tasks for name in task.notify]
    restarts = {name.removeprefix("Restart ") for name in wanted if name.startswith("Restart ")}
    for task in tasks:
        task.notify = [
            f"Restart {name.removeprefix('Reload ')}" if name.removeprefix("Reload ") in restarts else name
            for name in task.notify
        ]
    names = {name for task in tasks for name in task.notify}
    return [handler for name, handler in context.handlers.items() if name in names]


def _told(task: Task) -> PlaybookTask:
    return PlaybookTask(
        name=task.name,
        module=PREFIX + task.module,
        opaque=task.module == "command" and not task.register,
        commands=list(dict.fromkeys(task.commands)),
        paths=task.paths,
    )


def _text(name: str, context: Context, tasks: list[Task], handlers: list[Task]) -> str:
    lines = {command.id: command.command for command in context.commands}
    play: dict[str, Any] = {
        "name": Title(title(name[:1].upper() + name[1:])),
        "hosts": "all",
        "become": True,
        "gather_facts": bool(context.variables),
    }
    if context.variables:
        play["vars"] = dict(context.variables)
    text = "---\n" + "".join(comment(line, 0) for line in _needs(context.secrets)) + block([play], 0)
    text += "  tasks:\n" + "\n".join(_task_text(task, lines) for task in tasks)
    if handlers:
        text += "\n  handlers:\n" + "\n".join(_task_text(handler, lines) for handler in handlers)
    return text


def _needs(secrets: list[str]) -> list[str]:
    """What a run by hand must be told."""
    return ["needs these variables, as from -e @FILE:", *(f"  {name}" for name in secrets)] if secrets else []


def _task_text(task: Task, lines: dict[str, str]) -> str:
    words = [guest_path(wire).decode("utf-8", "replace") for wire in task.paths]
    words += [str(task.args["name"])] if task.module in ("user", "group") else []
    told = dict.fromkeys(
        (WITHHELD, True) if task.no_log else origin(lines[one], words)
        for one in task.commands
        if one in lines
    )
    origins = [shown for shown, named in told if named] or [shown for shown, _ in told]
    text = "".join(comment(origin, 4) for origin in origins[:MAX_ORIGINS])
    if len(origins) > MAX_ORIGINS:
        text += comment(f"and {len(origins) - MAX_ORIGINS} more commands", 4)
    if task.remark:
        text += comment(task.remark, 4)
    shown: dict[str, Any] = {"name": Title(task.name), PREFIX + task.module: _turning(task)}
    if task.loop:
        shown["loop"] = task.loop
    if task.when:
        shown["when"] = task.when
    if task.register:
        shown["register"] = task.register
    if task.no_log:
        shown["no_log"] = True
    if task.notify:
        names = [Title(name) for name in task.notify]
        shown["notify"] = names[0] if len(names) == 1 else names
    measured = task.register or task.when  # the disk measures what it changes
    return text + block([shown], 4, aside=f"noqa: {_UNMEASURED}" if measured else "")


def _turning(task: Task) -> dict[str, Any]:
    """The arguments, with what each turn of a loop brings in the place of the first's."""
    if not task.loop or ITEM in task.args.values():
        return task.args
    parts = task.loop[0]
    names = {name: f"{ITEM}.{name}" for name in parts} if isinstance(parts, dict) else {"path": ITEM}
    return task.args | {name: Reference(item) for name, item in names.items()}
