"""A call is a value: what to send and how to read the answer. Both clients send the same calls.

A *flow* is a generator of calls for what takes more than one; its driver sends each
and throws errors into it.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload
from urllib.parse import quote, urlencode

from backend.client.sse import Frame
from backend.errors import UpgradeRequired

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

QUICK_S = 30.0
WORK_S = 3600.0
"""Creating, snapshots, runs: the backend has limits of its own, this one only catches a hung connection."""


@dataclass(frozen=True)
class Call(Generic[T_co]):
    """One request. ``read`` gets the parsed JSON, or the bytes if ``binary``; ``follow`` gets each frame of a
    stream until it returns what ``read`` is to get."""

    method: str
    path: str
    read: Callable[[Any], T_co]
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    content: bytes | None = None
    binary: bool = False
    follow: Callable[[Frame], Any] | None = None
    timeout_s: float = QUICK_S

    @property
    def target(self) -> str:
        """Path and query as they go on the wire."""
        asked = {key: _text(value) for key, value in self.query.items() if value is not None}
        return f"{self.path}?{urlencode(asked)}" if asked else self.path


@dataclass(frozen=True)
class Pause:
    """What a flow yields to wait without a call."""

    seconds: float


Flow = Generator[Call[Any] | Pause, Any, T]


def path(*parts: str) -> str:
    """``/v1/…`` with each part quoted whole."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {key: value for key, value in fields.items() if value is not None}


def as_is(answer: Any) -> Any:
    """The parsed JSON itself."""
    return answer


def nothing(_: Any) -> None:
    """For answers without a body."""


def noun(name: str, key: str | None = None) -> Callable[[Any], Any]:
    """Reads one noun of :mod:`backend.models`, which is imported when the first answer comes.

    ``read`` raises:
        UpgradeRequired: the answer has what this side does not know.
    """

    def read(answer: Any) -> Any:
        from pydantic import ValidationError

        from backend import models

        try:
            return getattr(models, name).model_validate(answer[key] if key else answer)
        except (ValidationError, KeyError, TypeError) as error:
            raise not_understood(name) from error

    return read


def not_understood(name: str) -> UpgradeRequired:
    """A noun that is not as this side knows it. What it holds is not told: it may be a secret."""
    return UpgradeRequired(
        f"this side does not understand the backend's {name.lower()}: it is older than the backend",
        remedy="upgrade it to the backend's version (`fluid status` shows both)",
    )


def nouns(name: str, key: str) -> Callable[[Any], Any]:
    """Reads a list of nouns."""
    one = noun(name)

    def read(answer: Any) -> Any:
        try:
            entries = list(answer[key])
        except (KeyError, TypeError) as error:
            raise not_understood(name) from error
        return [one(entry) for entry in entries]

    return read


class Blocking(Protocol):
    """A client that returns answers."""

    def send(self, call: Call[T]) -> T: ...
    def drive(self, flow: Flow[T]) -> T: ...


class Awaiting(Protocol):
    """A client that returns awaitables."""

    async def send(self, call: Call[T]) -> T: ...
    async def drive(self, flow: Flow[T]) -> T: ...


class HandleOf(Protocol[T_co]):
    """A sandbox's handle: its client and its id."""

    @property
    def door(self) -> T_co: ...
    @property
    def id(self) -> str: ...


class method(Generic[P, T]):  # noqa: N801 - a descriptor used like a decorator
    """A method of both clients, made from the function that builds its call."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: Blocking, owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: Any = None) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: Any, owner: Any = None) -> Any:
        return self if client is None else _joined(self._build, client.send)


class flow_method(Generic[P, T]):  # noqa: N801 - a descriptor used like a decorator
    """A method of both clients, made from a flow."""

    def __init__(self, flow: Callable[P, Flow[T]]) -> None:
        self._flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, client: Blocking, owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: Any = None) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, client: Any, owner: Any = None) -> Any:
        return self if client is None else _joined(self._flow, client.drive)


class on_sandbox(Generic[P, T]):  # noqa: N801 - a descriptor used like a decorator
    """A method of both handles, made from a builder whose first parameter is the sandbox's id."""

    def __init__(self, build: Callable[Concatenate[str, P], Call[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, handle: HandleOf[Blocking], owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, handle: HandleOf[Awaiting], owner: Any = None) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, handle: Any, owner: Any = None) -> Any:
        if handle is None:
            return self
        return _joined(functools.partial(self._build, handle.id), handle.door.send, self._build)


def _joined(
    build: Callable[..., Any], send: Callable[[Any], Any], named: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    @functools.wraps(named or build)
    def bound(*args: Any, **kwargs: Any) -> Any:
        return send(build(*args, **kwargs))

    return bound


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
