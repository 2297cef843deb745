"""The grammar, P1 to P7 (PLAYBOOKS.md): a playbook is data of an untrusted author, and only this much of it.

:func:`check` runs before every rehearsal, dry run and apply. It answers what each task does in plain values,
or raises :class:`PlaybookRefused` with the task, the value and the rule. P8 is the runner's
(``backend/ansible``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from backend.playbooks import _modules as table
from backend.playbooks._arguments import PROBE_RESULT, arguments, check_guard, is_probe
from backend.playbooks._scope import (
    FACTS,
    PAIR,
    Args,
    Item,
    Reference,
    Scope,
    Value,
    check_variable,
    flag_of,
    is_item,
    text_of,
    value_of,
    variables_of,
)
from backend.playbooks._yaml import Mapping, Node, Scalar, Sequence, read, refuse

MAX_TASKS = 500
MAX_NAME = 250

# A condition on what names a single host would hide a task from the rehearsal.
WHEN_FACTS = frozenset(fact for fact, word in FACTS.items() if word in ("os_family", "distribution_version"))

PLAY_KEYS = frozenset({"name", "hosts", "gather_facts", "become", "vars", "tasks", "handlers"})
TASK_KEYS = frozenset({"name", "when", "loop", "notify", "register", "become", "become_user", "no_log"})
_CONDITION = re.compile(r"(?P<left>\S+) == '(?P<right>[A-Za-z0-9 ._/=+,-]*)'")


@dataclass(frozen=True)
class CheckedTask:
    """A task in plain values. ``index`` counts tasks first, then handlers; ``line`` is of the text."""

    name: str
    module: str
    args: Args
    index: int
    line: int
    opaque: bool = False
    probe: bool = False
    when: tuple[str, ...] = ()
    notify: tuple[str, ...] = ()
    loop: tuple[Item, ...] = ()
    register: str = ""
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckedPlaybook:
    tasks: list[CheckedTask]
    handlers: list[CheckedTask]
    variables: dict[str, Value]
    secrets: list[str]  # the declared ones that are used


def check(text: bytes, files: Collection[str], *, secrets: Collection[str] = ()) -> CheckedPlaybook:
    """The playbook in plain values. ``files`` are the SHA-256 names in its ``files/``.

    Raises:
        PlaybookRefused: ``details`` hold ``rule`` (P1 … P7) and ``task``.
    """
    play = _the_play(read(text))
    for key in play.pairs:
        if key not in PLAY_KEYS:
            raise refuse(f"the play key {key!r} is not allowed", rule="P2")
    if text_of(play.pairs.get("hosts"), "hosts", "P2") != "all":
        raise refuse("hosts must be all", rule="P2", remedy="the approval names the targets")
    _check_name(play.pairs.get("name"), "")
    flag_of(play.pairs.get("become"), "become", "P2")
    scope = Scope(files, secrets, facts=flag_of(play.pairs.get("gather_facts"), "gather_facts", "P2", True))
    for name in secrets:
        check_variable(name)
    scope.variables = variables_of(play.pairs.get("vars"), scope)
    tasks, handlers = _list(play.pairs.get("tasks"), "tasks"), _list(play.pairs.get("handlers"), "handlers")
    if not tasks:
        raise refuse("there are no tasks", rule="P2")
    if len(tasks) + len(handlers) > MAX_TASKS:
        raise refuse(f"{len(tasks) + len(handlers)} tasks are more than {MAX_TASKS}", rule="P1")
    checked = [_task(node, index, scope) for index, node in enumerate(tasks)]
    reacting = [_task(node, len(tasks) + index, scope) for index, node in enumerate(handlers)]
    _check_lines([*checked, *reacting])
    _check_notify(checked, reacting)
    used = {name for task in (*checked, *reacting) for name in task.secrets}
    return CheckedPlaybook(checked, reacting, scope.variables, sorted(used))


def _the_play(root: Node) -> Mapping:
    if not isinstance(root, Sequence) or len(root.items) != 1 or not isinstance(root.items[0], Mapping):
        raise refuse("a playbook is a list of exactly one play", rule="P2")
    return root.items[0]


def _check_lines(tasks: list[CheckedTask]) -> None:
    """Ansible tells a task by its line: of two that share one, what the first did would be the second's."""
    seen: set[int] = set()
    for task in tasks:
        if task.line in seen:
            raise refuse(
                f"line {task.line}: another task begins there",
                rule="P1",
                task=task.name,
                remedy="begin each task on a line of its own",
            )
        seen.add(task.line)


def _check_notify(tasks: list[CheckedTask], handlers: list[CheckedTask]) -> None:
    names = [handler.name for handler in handlers]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise refuse(f"the handler {twice!r} stands twice", rule="P3", task=twice)
    for task in (*tasks, *handlers):
        for name in task.notify:
            if name not in names:
                raise refuse(f"there is no handler {name!r}", rule="P3", task=task.name)


def _list(node: Node | None, what: str) -> list[Node]:
    if node is None:
        return []
    if not isinstance(node, Sequence):
        raise refuse(f"{what} must be a list", rule="P2")
    return node.items


def _check_name(node: Node | None, task: str) -> str:
    name = text_of(node, "name", "P3", task)
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise refuse(
            f"a name is one line of 1 to {MAX_NAME} printable characters: {name!r}", rule="P3", task=task
        )
    return name


# --- tasks --------------------------------------------------------------------------------------------


def _task(node: Node, index: int, scope: Scope) -> CheckedTask:
    if not isinstance(node, Mapping):
        raise refuse(f"line {node.line}: a task must be names and values", rule="P3")
    name = _check_name(node.pairs.get("name"), f"#{index + 1}")
    module, args_node = _the_module(node, name)
    if module == "meta":
        return _meta(node, args_node, name, index)
    loop = _loop(node.pairs.get("loop"), scope, name)
    register = _register(node.pairs.get("register"), scope, name)
    when = _conditions(node.pairs.get("when"), scope, name)
    args = arguments(module, args_node, scope, loop, name)
    probe = module == "command" and is_probe(args)
    if module == "command":
        check_guard(args, when, probe=probe, register=register, task=name)
    if probe:
        scope.probes.add(register)
    _become(node, name)
    return CheckedTask(
        name=name,
        module=table.PREFIX + module,
        args=args,
        index=index,
        line=node.line,
        opaque=module == "command" and not probe,
        probe=probe,
        when=when,
        notify=_notify(node.pairs.get("notify"), name),
        loop=loop,
        register=register,
        secrets=_secrets(node, args, loop, scope, name),
    )


def _the_module(node: Mapping, task: str) -> tuple[str, Node]:
    others = [key for key in node.pairs if key not in TASK_KEYS]
    for key in others:
        if "." not in key:
            raise refuse(
                f"the key {key!r} is not allowed in a task",
                rule="P3",
                task=task,
                remedy="name a module in full, such as ansible.builtin.copy",
            )
    if len(others) != 1:
        raise refuse(
            f"a task calls exactly one module, here: {', '.join(others) or 'none'}", rule="P3", task=task
        )
    module = others[0].removeprefix(table.PREFIX)
    if module not in table.MODULES and module != "meta":
        raise refuse(f"the module {others[0]!r} is not allowed", rule="P4", task=task)
    return module, node.pairs[others[0]]


def _meta(node: Mapping, args: Node, name: str, index: int) -> CheckedTask:
    if text_of(args, "meta", "P4", name) != "flush_handlers":
        raise refuse("meta may only be flush_handlers", rule="P4", task=name)
    if extra := set(node.pairs) - {"name", table.PREFIX + "meta"}:
        raise refuse(f"meta takes no {sorted(extra)[0]!r}", rule="P3", task=name)
    return CheckedTask(name, table.PREFIX + "meta", {}, index, node.line)


def _loop(node: Node | None, scope: Scope, task: str) -> tuple[Item, ...]:
    if node is None:
        return ()
    if not isinstance(node, Sequence) or not node.items:
        raise refuse("loop must be a literal list", rule="P3", task=task)
    return tuple(_item(item, scope, task) for item in node.items)


def _item(node: Node, scope: Scope, task: str) -> Item:
    if isinstance(node, Mapping) and set(node.pairs) == set(PAIR):
        return {name: text_of(part, f"item.{name}", "P6", task) for name, part in node.pairs.items()}
    if not isinstance(node, Scalar):
        raise refuse("loop holds plain values, or pairs of src and dest", rule="P3", task=task)
    value = value_of(node, scope, task)
    if isinstance(value, Reference) and is_item(value):
        raise refuse("loop cannot hold its own item", rule="P6", task=task)
    return value


def _register(node: Node | None, scope: Scope, task: str) -> str:
    """A registered result wins over a variable of that name, and the target writes it: no name twice."""
    if node is None:
        return ""
    name = check_variable(text_of(node, "register", "P3", task), task)
    if name in scope.variables or name in scope.secrets or name in scope.registered:
        raise refuse(f"register would overwrite {name!r}", rule="P7", task=task)
    scope.registered.add(name)
    return name


def _notify(node: Node | None, task: str) -> tuple[str, ...]:
    if node is None:
        return ()
    items = node.items if isinstance(node, Sequence) else [node]
    return tuple(text_of(item, "notify", "P3", task) for item in items)


def _become(node: Mapping, task: str) -> None:
    flag_of(node.pairs.get("become"), "become", "P3", task=task)
    if (user := node.pairs.get("become_user")) is not None:
        name = text_of(user, "become_user", "P3", task)
        if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name):
            raise refuse(f"become_user {name!r} is not the name of a user", rule="P3", task=task)


def _conditions(node: Node | None, scope: Scope, task: str) -> tuple[str, ...]:
    if node is None:
        return ()
    found = []
    for item in node.items if isinstance(node, Sequence) else [node]:
        if not isinstance(item, Scalar) or not isinstance(item.value, str) or item.unsafe:
            raise refuse("when must be a comparison", rule="P6", task=task)
        condition = _CONDITION.fullmatch(item.value)
        left = condition["left"] if condition else ""
        probe = PROBE_RESULT.fullmatch(left)
        if left not in WHEN_FACTS and not (probe and probe["name"] in scope.probes):
            raise refuse(
                f"when may only compare a listed fact or a probe's result with text: {item.value!r}",
                rule="P6",
                task=task,
            )
        if left in WHEN_FACTS and not scope.facts:
            raise refuse(f"{item.value!r} needs gather_facts: true", rule="P6", task=task)
        found.append(item.value)
    return tuple(found)


def _secrets(node: Mapping, args: Args, loop: tuple[Item, ...], scope: Scope, task: str) -> tuple[str, ...]:
    values = [*loop, *args.values()]
    found = tuple(sorted({str(v) for v in values if isinstance(v, Reference) and v in scope.secrets}))
    hidden = flag_of(node.pairs.get("no_log"), "no_log", "P3", task=task)
    if found and not hidden:
        raise refuse(f"{found[0]!r} is a secret: the task needs no_log: true", rule="P3", task=task)
    if hidden and not found:
        raise refuse("no_log stands only beside a declared secret", rule="P3", task=task)
    return found
