"""Rules P6 and P7: what a playbook may refer to, and how a scalar becomes a value.

Jinja stands only as a whole ``{{ name }}`` of a declared variable, a secret, a listed fact or ``item``.
Everything else that looks like a template must be ``!unsafe``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from backend.playbooks._yaml import Mapping, Node, Scalar, refuse

FACTS = {
    "ansible_facts['default_ipv4']['address']": "address",
    "ansible_facts['default_ipv4']['interface']": "interface",
    "ansible_facts['hostname']": "hostname",
    "ansible_facts['os_family']": "os_family",
    "ansible_facts['distribution_version']": "distribution_version",
}
ITEM = "item"
PAIR = ("src", "dest")
"""What an item of a loop holds that is no plain value: a file's content and its place."""
TEMPLATE = re.compile(r"\{\{|\{%|\{#|\A#jinja2:")

_VARIABLE = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Names with a meaning of their own to Ansible or to the mitogen strategy (`mitogen_via` picks a connection).
_RESERVED = re.compile(
    r"(ansible|mitogen|hostvars|inventory|playbook|play|role)(_.*)?|groups?|group_names|omit|vars|item|environment"
    r"|lookup|query|q|now|undef|range|dict|namespace|self|loop|true|false|none|not|and|or|in|is|if|else|port"
    r"|remote_user|become.*|delegated_vars|connection|hosts|name|tasks|handlers|no_log|register|when|notify"
)
_REFERENCE = re.compile(r"\{\{ (?P<name>[^{}]+) \}\}")


class Reference(str):
    """The name of a variable, a fact, a secret or ``item`` that stands where a value would."""

    __slots__ = ()


Value = str | int | bool | Reference
Item = Value | dict[str, Value]
"""One turn of a loop: a plain value, or the literals that :data:`PAIR` names."""
Args = dict[str, "Value | list[Value]"]


@dataclass
class Scope:
    """What a task may refer to."""

    files: Collection[str]
    secrets: Collection[str]
    facts: bool
    variables: dict[str, Value] = field(default_factory=dict)
    registered: set[str] = field(default_factory=set)
    probes: set[str] = field(default_factory=set)


def text_of(node: Node | None, what: str, rule: str, task: str = "") -> str:
    """Literal text: no template, whether Ansible would expand it or not."""
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise refuse(f"{what} must be text", rule=rule, task=task)
    if TEMPLATE.search(node.value) and not node.unsafe:
        raise refuse(f"{what} holds a template: {node.value!r}", rule="P6", task=task)
    return node.value


def flag_of(node: Node | None, what: str, rule: str, default: bool = False, task: str = "") -> bool:
    if node is None:
        return default
    if not isinstance(node, Scalar) or not isinstance(node.value, bool):
        raise refuse(f"{what} must be true or false", rule=rule, task=task)
    return node.value


def check_variable(name: str, task: str = "") -> str:
    if not _VARIABLE.fullmatch(name) or _RESERVED.fullmatch(name):
        raise refuse(
            f"{name!r} is not a name for a variable", rule="P7", task=task, remedy="use [a-z][a-z0-9_]*"
        )
    return name


def variables_of(node: Node | None, scope: Scope) -> dict[str, Value]:
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        raise refuse("vars must be names and values", rule="P2")
    found: dict[str, Value] = {}
    for name, value in node.pairs.items():
        check_variable(name)
        if name in scope.secrets:
            raise refuse(f"{name!r} is a secret: its value is not written here", rule="P7")
        if not isinstance(value, Scalar):
            raise refuse(f"the variable {name!r} must be one value", rule="P7")
        found[name] = value_of(value, scope, "")
        if isinstance(found[name], Reference) and found[name] not in FACTS:
            raise refuse(f"the variable {name!r} may hold a value or a listed fact only", rule="P6")
    return found


def value_of(node: Scalar, scope: Scope, task: str) -> Value:
    """The literal, or the :class:`Reference` that a whole ``{{ name }}`` is."""
    if not isinstance(node.value, str) or node.unsafe or not TEMPLATE.search(node.value):
        return node.value
    found = _REFERENCE.fullmatch(node.value)
    if found is None:
        raise refuse(f"a template must be one whole {{{{ name }}}}: {node.value!r}", rule="P6", task=task)
    name = found["name"]
    if name in FACTS and not scope.facts:
        raise refuse(f"{name!r} needs gather_facts: true", rule="P6", task=task)
    known = name in FACTS or name in scope.variables or name in scope.secrets
    if not known and not is_item(name):
        raise refuse(f"{name!r} is neither a declared variable nor a listed fact", rule="P6", task=task)
    return Reference(name)


def is_item(name: str) -> bool:
    """``item``, ``item.src`` or ``item.dest``."""
    return name == ITEM or name in (f"{ITEM}.{part}" for part in PAIR)


def turns(value: Reference, loop: Sequence[Item]) -> list[Value]:
    """What ``item``, or a part of it, is in each turn of a loop; nothing in one whose items are not so."""
    part = value.removeprefix(ITEM).removeprefix(".")
    if part:
        return [item[part] for item in loop if isinstance(item, dict)]
    return [item for item in loop if not isinstance(item, dict)]


def literals(value: Value, scope: Scope, loop: Sequence[Item], task: str) -> list[Value]:
    """What a value can be once Ansible has put everything in; facts and secrets stay references."""
    if not isinstance(value, Reference) or value in FACTS or value in scope.secrets:
        return [value]
    if is_item(value):
        found = turns(value, loop)
        if not found or len(found) != len(loop):
            raise refuse(f"{value} stands without a loop of such items", rule="P6", task=task)
        return [one for item in found for one in literals(item, scope, (), task)]
    return [scope.variables[value]]
