"""Nouns to JSON that PostgreSQL's ``jsonb`` can hold, and back without loss.

``jsonb`` refuses U+0000 and lone surrogates, and a hostile guest sends both. They are escaped with a
private-use character: ``U+E000 U+E002`` is NUL, ``U+E000 U+E001`` is U+E000 itself, ``U+E000`` and one of
``U+E800 … U+EFFF`` is the surrogate ``U+D800 … U+DFFF``. Text without these costs one scan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)

ESCAPE = "\ue000"
_UNSAFE = re.compile("[\x00\ud800-\udfff\ue000]")
_ESCAPED = re.compile("\ue000([\ue001\ue002\ue800-\uefff])")
_TO_PRIVATE = 0x1000  # from a surrogate to its place in the private-use area


def escape(text: str) -> str:
    """``text`` without NUL and lone surrogates."""
    return _UNSAFE.sub(_escape_one, text)


def unescape(text: str) -> str:
    """The inverse of :func:`escape`."""
    return _ESCAPED.sub(_unescape_one, text)


def dump(model: BaseModel, *, exclude: set[str] | None = None) -> str:
    """The JSON of a noun, safe for ``jsonb``. Computed fields are left out: they are computed again."""
    left_out = (exclude or set()) | set(type(model).model_computed_fields)
    tree = model.model_dump(mode="python", exclude=left_out)
    text = json.dumps(tree, ensure_ascii=False, default=_plain)
    if "\\u0000" in text or _UNSAFE.search(text):
        text = json.dumps(_walk(json.loads(text), escape), ensure_ascii=False)
    return text


def load(kind: type[T], text: str) -> T:
    """A noun from what :func:`dump` made of it."""
    if ESCAPE not in text:
        return kind.model_validate_json(text)
    return kind.model_validate(_walk(json.loads(text), unescape))


def _plain(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


def _walk(tree: Any, change: Callable[[str], str]) -> Any:
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, list):
        return [_walk(item, change) for item in tree]
    if isinstance(tree, dict):
        return {change(key): _walk(value, change) for key, value in tree.items()}
    return tree


def _escape_one(found: re.Match[str]) -> str:
    char = found[0]
    if char == "\x00":
        return ESCAPE + "\ue002"
    if char == ESCAPE:
        return ESCAPE + "\ue001"
    return ESCAPE + chr(ord(char) + _TO_PRIVATE)


def _unescape_one(found: re.Match[str]) -> str:
    char = found[1]
    if char == "\ue002":
        return "\x00"
    if char == "\ue001":
        return ESCAPE
    return chr(ord(char) - _TO_PRIVATE)
