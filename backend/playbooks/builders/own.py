"""What belongs to this sandbox alone, found in what a task writes: a target would get another machine's.

A file is copied byte by byte, so no variable can stand in it: the task and a note say it, and an operator
decides. The interface is known by the names that systemd.net-naming-scheme(7) and the kernel give.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from backend.models import guest_path
from backend.playbooks.builders.context import Context, Task

OWN = "this sandbox's own "
_MAX_BYTES = 1 << 20
_INTERFACE = r"(?:eth[0-9]|ens[0-9]{1,3}|eno[0-9]{1,3}|enp[0-9]{1,3}s[0-9]{1,3}(?:f[0-9])?|enx[0-9a-f]{12})"
_NAME_HOSTS = ("known_hosts",)  # other modules' ``name`` is a package, a unit or an account
_TELLING = re.compile(r"[0-9-]")  # a machine may be called web: that word says nothing


def own(context: Context, tasks: list[Task]) -> None:
    """A remark on each task that writes the sandbox's address, name or interface, and a note."""
    shapes = list(_shapes(context))
    for task in tasks if not context.undo else ():
        if task.module == "hostname":
            continue  # which says so itself
        for what, shape in shapes:
            found = next((one for text in _texts(context, task) for one in shape.findall(text)), None)
            if found is None:
                continue
            value = found.decode("ascii", "replace")
            place = guest_path(task.paths[0]).decode("utf-8", "replace") if task.paths else task.name
            words = f"holds {OWN}{what} {value}"
            task.remark = f"{words}; {task.remark}" if task.remark else words
            context.note(f"{OWN}{what} {value} stands in {place}: every target gets it as it is")


def _shapes(context: Context) -> Iterator[tuple[str, re.Pattern[bytes]]]:
    facts = context.facts
    name = facts.hostname if _TELLING.search(facts.hostname) else ""
    for what, pattern in (
        ("address", re.escape(facts.address)),
        ("host name", re.escape(name)),
        ("network interface", _INTERFACE),
    ):
        if pattern:
            yield what, re.compile(rf"(?<![\w.-]){pattern}(?![\w-]|\.\w)".encode())


def _texts(context: Context, task: Task) -> Iterator[bytes]:
    sources = [task.args.get("src"), *(item.get("src") for item in task.loop if isinstance(item, dict))]
    for source in sources if task.module == "copy" else ():
        content = context.contents.get(str(source).removeprefix("files/"), b"")
        yield content[:_MAX_BYTES]
    lines = [item for item in task.loop if isinstance(item, str)]
    values = [str(value) for key, value in task.args.items() if key != "name" or task.module in _NAME_HOSTS]
    yield "\n".join([*lines, *values]).encode("utf-8", "replace")
