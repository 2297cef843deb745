"""A strict reader of static Ansible inventories, INI and YAML: groups, hosts, where they are, nothing else.

Ansible itself never sees this file. What it could mean beyond addresses (variables, ranges, children of
children, plugins) is refused with file and line, so that nobody believes it counts.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from backend.errors import ConfigError
from backend.models.base import NAME

SSH_PORT = 22
_SECTION = re.compile(r"\[(?P<name>[^\]]+)\]")
_GROUP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_VARIABLES = ("ansible_host", "ansible_port", "ansible_user")
_UNGROUPED = ("", "all", "ungrouped")


@dataclass(frozen=True)
class Listed:
    """A host of the file. ``address`` and ``user`` are empty where the file is silent."""

    name: str
    group: str
    line: int
    address: str = ""
    port: int = SSH_PORT
    user: str = ""


def read_inventory(file: Path) -> list[Listed]:
    """The hosts of ``file``, one entry per host and group; those outside any group are left out.

    Raises:
        ConfigError: naming the file and the line.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}", remedy="check targets.inventory") from error
    listed = _from_yaml(file, text) if file.suffix in (".yml", ".yaml") else _from_ini(file, text)
    return [host for host in listed if host.group not in _UNGROUPED]


def _refuse(file: Path, line: int, message: str) -> ConfigError:
    return ConfigError(
        f"{file}:{line}: {message}", remedy="an inventory holds groups, hosts and " + ", ".join(_VARIABLES)
    )


def _host(file: Path, line: int, name: str, group: str, values: dict[str, str]) -> Listed:
    if not NAME.fullmatch(name):
        raise _refuse(file, line, f"{name!r} is not a name for a target; give the address as ansible_host")
    if unknown := next((key for key in values if key not in _VARIABLES), None):
        raise _refuse(file, line, f"the variable {unknown!r} is not read")
    port = values.get("ansible_port", str(SSH_PORT))
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise _refuse(file, line, f"{port!r} is not a port")
    return Listed(
        name, group, line, values.get("ansible_host", ""), int(port), values.get("ansible_user", "")
    )


def _group(file: Path, line: int, name: str) -> str:
    if not _GROUP.fullmatch(name):
        raise _refuse(file, line, f"{name!r} is not a group of hosts")
    return name


def _from_ini(file: Path, text: str) -> list[Listed]:
    found: list[Listed] = []
    group = ""
    for number, line in enumerate(text.splitlines(), 1):
        content = line.strip()
        if not content or content[0] in "#;":
            continue
        if section := _SECTION.fullmatch(content):
            group = _group(file, number, section["name"])
            continue
        try:
            name, *pairs = shlex.split(content, comments=True)
        except ValueError as error:
            raise _refuse(file, number, str(error)) from error
        if bad := next((pair for pair in pairs if "=" not in pair), None):
            raise _refuse(file, number, f"{bad!r} is not name=value")
        values = dict(pair.split("=", 1) for pair in pairs)
        found.append(_host(file, number, name, group, values))
    return found


def _from_yaml(file: Path, text: str) -> list[Listed]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _refuse(file, mark.line + 1 if mark else 0, "not YAML") from error
    found: list[Listed] = []
    for key, node in _pairs(file, root):
        found += _yaml_group(file, key, node)
    return found


def _yaml_group(file: Path, key: yaml.Node, node: yaml.Node) -> list[Listed]:
    group = _group(file, _line(key), str(key.value))
    found: list[Listed] = []
    for part, value in _pairs(file, node):
        if part.value == "hosts":
            found += [_yaml_host(file, name, variables, group) for name, variables in _pairs(file, value)]
        elif part.value == "children" and group == "all":
            for name, child in _pairs(file, value):
                found += _yaml_group(file, name, child)
        else:
            raise _refuse(file, _line(part), f"the key {part.value!r} is not read")
    return found


def _yaml_host(file: Path, name: yaml.Node, node: yaml.Node, group: str) -> Listed:
    values: dict[str, str] = {}
    for key, value in _pairs(file, node):
        if not isinstance(value, yaml.ScalarNode):
            raise _refuse(file, _line(value), f"{key.value!r} must be one value")
        values[str(key.value)] = str(value.value)
    return _host(file, _line(name), str(name.value), group, values)


def _pairs(file: Path, node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value in ("", "null", "~")):
        return []
    if not isinstance(node, yaml.MappingNode):
        raise _refuse(file, _line(node), "names and values are expected")
    return list(node.value)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0
