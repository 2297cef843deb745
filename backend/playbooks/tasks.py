"""What the tasks of a checked playbook are to a reader: name, module, whether opaque, the paths they manage.

Told from the text itself, so that an edited playbook cannot hide a command behind what was generated before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backend.models import PlaybookTask, wire_path
from backend.playbooks import builders
from backend.playbooks._scope import Reference, Value, is_item, turns
from backend.playbooks.grammar import CheckedPlaybook, CheckedTask

_PATHS = ("path", "dest")
_CRON_FOLDER = "/etc/cron.d/"


def told(playbook: CheckedPlaybook, before: Sequence[PlaybookTask] = ()) -> list[PlaybookTask]:
    """The tasks, then the handlers. A task that stood there ``before`` keeps the commands it came from."""
    origins = {(task.module, task.name): task.commands for task in before}
    return [
        PlaybookTask(
            name=task.name,
            module=task.module,
            opaque=task.opaque,
            commands=origins.get((task.module, task.name), []),
            paths=list(dict.fromkeys(wire_path(path.encode()) for path in paths_of(task, playbook))),
        )
        for task in (*playbook.tasks, *playbook.handlers)
    ]


def paths_of(task: CheckedTask, playbook: CheckedPlaybook) -> Iterator[str]:
    """The paths on the target that a task manages."""
    if task.opaque:
        argv = task.args["argv"]
        words = [str(word) for word in argv] if isinstance(argv, list) else []
        yield from builders.made_by(words, str(task.args.get("chdir", "")))
    if file := task.args.get("cron_file"):
        yield f"{_CRON_FOLDER}{file}"
    for name in _PATHS:
        yield from values_of(task, name, playbook)


def values_of(task: CheckedTask, name: str, playbook: CheckedPlaybook) -> Iterator[str]:
    """What an argument that is no list is, in each turn of a loop."""
    value = task.args.get(name, "")
    if not isinstance(value, list):
        yield from literals_of(value, task, playbook)


def literals_of(value: Value | list[Value], task: CheckedTask, playbook: CheckedPlaybook) -> Iterator[str]:
    """What an argument says, in each turn of its loop, with variables put in, without facts and secrets."""
    if isinstance(value, list):
        for each in value:
            yield from literals_of(each, task, playbook)
    elif not isinstance(value, Reference):
        if value:
            yield str(value)
    elif is_item(value):
        for item in turns(value, task.loop):
            yield from literals_of(item, task, playbook)
    elif value in playbook.variables:
        yield from literals_of(playbook.variables[value], task, playbook)
