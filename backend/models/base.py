"""What all nouns share: strict requests, lenient answers, ids, names, times."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from backend.errors import InvalidName

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Request(BaseModel):
    """A body that somebody sends us: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """A noun as we tell it: unknown fields are ignored when read."""

    model_config = ConfigDict(extra="ignore")


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
