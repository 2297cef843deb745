"""What all nouns share: strict requests, lenient answers, ids, names, times."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

from backend.errors import InvalidName

_SURROGATE = re.compile("[\ud800-\udfff]")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Request(BaseModel):
    """A body that somebody sends us: unknown fields are refused, and text that no answer could repeat."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_lone_surrogate(cls, value: object) -> object:
        if not _is_unicode(value):
            raise PydanticCustomError("string_unicode", "a lone surrogate is not Unicode text")
        return value


class Answer(BaseModel):
    """A noun as we tell it: unknown fields are ignored when read."""

    model_config = ConfigDict(extra="ignore", defer_build=True)


def _is_unicode(value: object) -> bool:
    match value:
        case str():
            return value.isascii() or not _SURROGATE.search(value)
        case list():
            return all(map(_is_unicode, value))
        case dict():
            return all(_is_unicode(key) and _is_unicode(each) for key, each in value.items())
    return True


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """A fresh id such as ``SBX-1f0c9a2b``; 32 random bits, the database refuses the rare clash."""
    return f"{prefix}-{secrets.token_hex(4)}"


def check_name(name: str, what: str = "name") -> str:
    """``name`` itself, or :class:`InvalidName`."""
    if NAME.fullmatch(name):
        return name
    raise InvalidName(
        f"{name!r} is not a {what}",
        remedy="use 1 to 63 of a-z, 0-9 and '-', starting with a letter or a digit",
    )
