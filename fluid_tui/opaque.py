"""The command lines of a playbook's opaque tasks, read from the YAML that the digest covers."""

from __future__ import annotations

import shlex

import yaml

from backend.models import Playbook


class _Reader(yaml.SafeLoader):
    """Plain data, and ``!unsafe`` text: Ansible's tag of what it must not take for a template."""


def _text(reader: _Reader, node: yaml.ScalarNode) -> str:
    return reader.construct_scalar(node)


_Reader.add_constructor("!unsafe", _text)


def command_lines(playbook: Playbook) -> dict[str, list[str]]:
    """By the task's name; a task that is not in here has none that could be read."""
    names = {task.name for task in playbook.tasks if task.opaque}
    try:
        plays = yaml.load(playbook.yaml, _Reader) if names else None  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        plays = None
    found: dict[str, list[str]] = {}
    for play in plays if isinstance(plays, list) else ():
        tasks = [*(play.get("tasks") or ()), *(play.get("handlers") or ())] if isinstance(play, dict) else []
        for task in tasks:
            how = task.get("ansible.builtin.command") if isinstance(task, dict) else None
            argv = how.get("argv") if isinstance(how, dict) else None
            if isinstance(argv, list) and (name := str(task.get("name"))) in names:
                found.setdefault(name, []).append(shlex.join(map(str, argv)))
    return found
