"""Rule P1: one YAML document, plain data plus ``!unsafe``, read without building anything but strings.

The text comes from an untrusted author and is read a second time by Ansible. So this reader works on the
events of the same libyaml, and refuses whatever two readers could take for different things.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from backend.errors import PlaybookRefused

MAX_BYTES = 1024**2
MAX_DEPTH = 12
UNSAFE = "!unsafe"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Scalar:
    """A leaf. ``unsafe`` says that Ansible will not template it."""

    value: str | int | bool
    line: int
    unsafe: bool = False


@dataclass(frozen=True)
class Sequence:
    items: list[Node] = field(default_factory=list)
    line: int = 0


@dataclass(frozen=True)
class Mapping:
    pairs: dict[str, Node] = field(default_factory=dict)
    line: int = 0


Node = Scalar | Sequence | Mapping


def refuse(message: str, *, rule: str, task: str = "", remedy: str = "") -> PlaybookRefused:
    """The one shape of a refusal: the rule and the task are in the message and in the details."""
    where = f"task {task!r}: " if task else ""
    return PlaybookRefused(f"{where}{message} ({rule})", remedy=remedy, rule=rule, task=task)


def plain_type(text: str) -> str:
    """What YAML 1.1 takes an unquoted ``text`` for: ``str``, ``int``, ``bool``, ``float``, ``null`` …"""
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag.removeprefix(_TAG)


def read(text: bytes) -> Node:
    """The document as nodes.

    Raises:
        PlaybookRefused: rule P1, naming the line.
    """
    if len(text) > MAX_BYTES:
        raise refuse(f"{len(text)} bytes are more than {MAX_BYTES}", rule="P1")
    try:
        events = yaml.parse(text.decode("utf-8"), Loader=_LOADER)
        return _build(events)
    except UnicodeDecodeError as error:
        raise refuse(f"byte {error.start} is not UTF-8", rule="P1") from error
    except yaml.YAMLError as error:
        raise refuse(f"not YAML: {_first_line(error)}", rule="P1") from error


def _first_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return f"line {mark.line + 1}: {problem}" if mark else problem


class _Tree:
    """Puts nodes where they belong while events come in."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[tuple[Sequence | Mapping, str | None]] = []

    def add(self, node: Node) -> None:
        """A finished leaf or a container that starts."""
        if not self._open:
            self.root = node
            return
        parent, key = self._open[-1]
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif key is None:
            self._open[-1] = (parent, self._key(parent, node))
        else:
            parent.pairs[key] = node
            self._open[-1] = (parent, None)

    def enter(self, node: Sequence | Mapping) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise refuse(f"line {node.line}: deeper than {MAX_DEPTH} levels", rule="P1")
        self.add(node)
        self._open.append((node, None))

    def leave(self) -> None:
        self._open.pop()

    @staticmethod
    def _key(parent: Mapping, node: Node) -> str:
        if not isinstance(node, Scalar) or not isinstance(node.value, str) or node.unsafe:
            raise refuse(f"line {node.line}: a key must be plain text", rule="P1")
        if node.value in parent.pairs:
            raise refuse(f"line {node.line}: the key {node.value!r} stands twice", rule="P1")
        return node.value


def _build(events: Iterator[yaml.Event]) -> Node:
    tree = _Tree()
    documents = 0
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark else 0
        if getattr(event, "anchor", None) is not None:
            raise refuse(f"line {line}: anchors and aliases are not allowed", rule="P1")
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1 or event.version or event.tags:
                raise refuse(f"line {line}: one document without directives is expected", rule="P1")
        elif isinstance(event, yaml.ScalarEvent):
            tree.add(_scalar(event, line))
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            if event.tag is not None:
                raise refuse(f"line {line}: the tag {event.tag!r} is not allowed here", rule="P1")
            tree.enter(
                Sequence([], line) if isinstance(event, yaml.SequenceStartEvent) else Mapping({}, line)
            )
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            tree.leave()
    if tree.root is None:
        raise refuse("the document is empty", rule="P1")
    return tree.root


def _scalar(event: yaml.ScalarEvent, line: int) -> Scalar:
    if event.tag == UNSAFE:
        # Ansible resolves a tagged scalar as if it stood without quotes.
        if plain_type(event.value) != "str":
            raise refuse(f"line {line}: {event.value!r} after !unsafe would not be text", rule="P1")
        return Scalar(event.value, line, unsafe=True)
    if event.tag is not None:
        raise refuse(f"line {line}: the tag {event.tag!r} is not allowed", rule="P1")
    if not event.implicit[0] or plain_type(event.value) == "str":
        return Scalar(event.value, line)
    if event.value in ("true", "false"):
        return Scalar(event.value == "true", line)
    if _DECIMAL.fullmatch(event.value):
        return Scalar(int(event.value), line)
    raise refuse(
        f"line {line}: {event.value!r} could be read in two ways",
        rule="P1",
        remedy="quote it; write true or false, and numbers in decimal",
    )
