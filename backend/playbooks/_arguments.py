"""Rule P5: the arguments of one task against the table, and the guard that a command must have (P4)."""

from __future__ import annotations

import re

from backend.playbooks import _modules as table
from backend.playbooks._scope import Args, Item, Reference, Scope, Value, literals, value_of
from backend.playbooks._values import PATH, Kind, is_path
from backend.playbooks._yaml import Mapping, Node, Scalar, Sequence, refuse

PROBE_RESULT = re.compile(r"(?P<name>[a-z][a-z0-9_]{0,63})\.stdout")
_SOURCE = re.compile(r"files/(?P<sha>[0-9a-f]{64})")


def arguments(module: str, node: Node, scope: Scope, loop: tuple[Item, ...], task: str) -> Args:
    spec = table.MODULES[module]
    if not isinstance(node, Mapping):
        raise refuse(f"the arguments of {module} must be names and values", rule="P5", task=task)
    args: Args = {}
    for name, value in node.pairs.items():
        kind = spec.args.get(name)
        if kind is None:
            raise refuse(f"{module} takes no {name!r} here", rule="P5", task=task)
        args[name] = _argument(f"{module}.{name}", kind, value, scope, loop, task)
    if missing := sorted(spec.required - set(args)):
        raise refuse(f"{module} needs {missing[0]!r}", rule="P5", task=task)
    _check_together(module, args, task)
    return args


def _check_together(module: str, args: Args, task: str) -> None:
    """What one argument alone cannot tell."""
    if module == "copy" and ("src" in args) == ("content" in args):
        raise refuse("copy needs src, or content with a secret", rule="P5", task=task)
    if module == "file":
        if ("src" in args) != (args.get("state") == "link"):
            raise refuse("file.src belongs to state: link", rule="P5", task=task)
        if args.get("state") == "touch" and not {"access_time", "modification_time"} <= set(args):
            raise refuse("file with state: touch must preserve the times", rule="P5", task=task)
    if args.get("state") == "latest" and not (
        args.get("only_upgrade") is True or args.get("update_only") is True
    ):
        raise refuse(
            f"{module} with state: latest only upgrades what is there", rule="P5", task=task,
            remedy="add only_upgrade: true (apt) or update_only: true (dnf)",
        )  # fmt: skip
    if "*" in _names(args) and args.get("state") != "latest":
        raise refuse(f"{module} of '*' only upgrades what is there", rule="P5", task=task)
    if module == "apt" and "upgrade" in args and {"name", "state"} & set(args):
        raise refuse("apt with upgrade takes no name and no state", rule="P5", task=task)
    if module == "systemd_service" and "name" not in args and set(args) != {"daemon_reload"}:
        raise refuse("systemd_service needs 'name'", rule="P5", task=task)


def _names(args: Args) -> list[Value]:
    names = args.get("name", "")
    return names if isinstance(names, list) else [names]


def _argument(
    what: str, kind: Kind, node: Node, scope: Scope, loop: tuple[Item, ...], task: str
) -> Value | list[Value]:
    if kind is table.ARGV:
        return _argv(node, scope, loop, task)
    if isinstance(node, Sequence):
        if not kind.many or not node.items:
            raise refuse(f"{what} must be {kind.word}", rule="P5", task=task)
        return [_single(what, kind, item, scope, loop, task) for item in node.items]
    return _single(what, kind, node, scope, loop, task)


def _single(what: str, kind: Kind, node: Node, scope: Scope, loop: tuple[Item, ...], task: str) -> Value:
    if not isinstance(node, Scalar):
        raise refuse(f"{what} must be {kind.word}", rule="P5", task=task)
    value = value_of(node, scope, task)
    for literal in literals(value, scope, loop, task):
        if not _holds(kind, literal, scope):
            raise refuse(f"{what} must be {kind.word}, not {literal!r}", rule="P5", task=task)
    return value


def _holds(kind: Kind, value: Value, scope: Scope) -> bool:
    if isinstance(value, Reference):
        return kind.secret if value in scope.secrets else kind.fact
    if kind is table.SOURCE:
        found = _SOURCE.fullmatch(value) if isinstance(value, str) else None
        return found is not None and found["sha"] in scope.files
    return kind.holds(value)


def _argv(node: Node, scope: Scope, loop: tuple[Item, ...], task: str) -> list[Value]:
    if not isinstance(node, Sequence) or not node.items:
        raise refuse("command.argv must be a list of arguments", rule="P5", task=task)
    kind = Kind("text without a NUL", lambda value: "\0" not in str(value), fact=True)
    values = [_single("command.argv", kind, item, scope, loop, task) for item in node.items]
    if isinstance(values[0], Reference) or not re.fullmatch(r"/?[A-Za-z0-9_.+/-]+", str(values[0])):
        raise refuse(f"command.argv starts with a literal program, not {values[0]!r}", rule="P5", task=task)
    return values


def is_probe(args: Args) -> bool:
    """True for a command of the table that only looks."""
    argv = args["argv"]
    if not isinstance(argv, list):
        return False
    shape = ["PATH" if is_path(word) else word for word in argv]
    return set(args) == {"argv"} and tuple(shape) in table.PROBES


def check_guard(args: Args, when: tuple[str, ...], *, probe: bool, register: str, task: str) -> None:
    if probe:
        if not register:
            raise refuse("a probe must register its result", rule="P4", task=task)
        return
    behind_probe = any(PROBE_RESULT.match(condition) for condition in when)
    if "creates" not in args and "removes" not in args and not behind_probe:
        raise refuse(
            f"a command needs {PATH.word} in creates or removes", rule="P4", task=task, remedy="guard it"
        )
