"""Plain values to YAML that reads as if a person had written it, and that Ansible never templates.

PyYAML's node serialiser does the quoting; this module chooses the style of each scalar and adds comments.
Text that came from a guest is ``!unsafe`` wherever Ansible could take it for a template.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from backend.playbooks._scope import TEMPLATE, Reference
from backend.playbooks._yaml import UNSAFE, plain_type

WIDTH = 120
MAX_COMMENT = 100

_STR, _MAP, _SEQ = "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_PLAIN = re.compile(r"-{0,2}[A-Za-z0-9/_.]([A-Za-z0-9 ./_:@+=,-]*[A-Za-z0-9/_.])?")
_SAFE = re.compile(r"[^{}#]*")  # no template can be without one of these
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]")


class Title(str):
    """A name that holds no template (``builders.context.title``): quoted, and nothing more."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Indents a list below its key, as ansible-lint wants it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _scalar(value: str | int | bool) -> yaml.ScalarNode:
    if isinstance(value, bool):
        return yaml.ScalarNode("tag:yaml.org,2002:bool", str(value).lower())
    if isinstance(value, int):
        return yaml.ScalarNode("tag:yaml.org,2002:int", str(value))
    if isinstance(value, Reference):
        return yaml.ScalarNode(_STR, f"{{{{ {value} }}}}", style='"')
    kind = plain_type(value)
    if kind == "str" and _PLAIN.fullmatch(value) and ": " not in value:
        return yaml.ScalarNode(_STR, value)
    titled = isinstance(value, Title) and not TEMPLATE.search(value)
    if kind != "str" or titled or (_SAFE.fullmatch(value) and value.isprintable()):
        return yaml.ScalarNode(_STR, value, style='"')
    return yaml.ScalarNode(UNSAFE, value, style='"')


def _node(value: Any) -> yaml.Node:
    if isinstance(value, dict):
        pairs = [(yaml.ScalarNode(_STR, key), _node(item)) for key, item in value.items()]
        return yaml.MappingNode(_MAP, pairs, flow_style=False)
    if isinstance(value, (list, tuple)):
        return yaml.SequenceNode(_SEQ, [_node(item) for item in value], flow_style=False)
    return _scalar(value)


def block(value: Any, indent: int, *, aside: str = "") -> str:
    """``value`` (dicts, lists, text, numbers, switches) as block YAML, each line ``indent`` spaces in.
    ``aside``: a comment at the end of the first line."""
    text = yaml.serialize(_node(value), Dumper=_Dumper, allow_unicode=True, width=WIDTH - indent)
    lines = text.removesuffix("...\n").rstrip("\n").split("\n")
    lines[0] += f"  # {aside}" if aside else ""
    return "".join(" " * indent + line + "\n" for line in lines)


def comment(text: str, indent: int) -> str:
    """One comment line: control and invisible characters made visible, cut at a fixed length."""
    shown = _INVISIBLE.sub(lambda found: "␤" if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text.strip())
    if len(shown) > MAX_COMMENT:
        shown = shown[: MAX_COMMENT - 1] + "…"
    return f"{' ' * indent}# {shown}\n"
