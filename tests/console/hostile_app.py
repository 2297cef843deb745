"""The real console on a backend whose every word is an attack; a line on the pipe brings other words."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal, get_origin

from pydantic import BaseModel

from backend.asciicast import OUTPUT, CastEvent, event_line, header_line
from backend.errors import FluidError
from backend.models import Event, PaneScreen, now
from fluid_tui.app import FluidApp
from tests.console.attacks import CORPUS
from tests.console.fake_backend import FakeBackend

LINE_BYTES = 1 << 24
KEPT = frozenset(
    {
        "id",
        "request_id",
        "pane_id",
        "session",
        "sandbox_id",
        "approval_id",
        "playbook_id",
        "run_id",
        "changes_id",
    }
    | {"rehearsal_run", "repeat_run", "apply_run", "verify_run", "digest", "hash", "intent"}
)
"""What the backend makes itself and the console finds things by."""


def poisoned(value: Any, words: Iterator[str]) -> Any:
    """The same with other words wherever there are any."""
    if isinstance(value, BaseModel):
        return value.model_copy(
            update={
                name: poisoned(getattr(value, name), words)
                for name, field in type(value).model_fields.items()
                if name not in KEPT and get_origin(field.annotation) is not Literal
            }
        )
    if isinstance(value, list):
        return [poisoned(one, words) for one in value]
    if isinstance(value, dict):
        return {name: poisoned(one, words) for name, one in value.items()}
    return next(words) if type(value) is str else value


class HostileBackend:
    """Answers as the fake does, in words from the pipe."""

    def __init__(self, pipe: str) -> None:
        self._fake = FakeBackend()
        self._pipe = pipe
        self.words = self.rows = list(CORPUS)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answer = getattr(self._fake, name)

        async def said(*given: Any, **named: Any) -> Any:
            return poisoned(await answer(*given, **named), itertools.cycle(self.words))

        return said

    async def events(self, after: int | None = None) -> AsyncIterator[Event]:
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        pipe = os.fdopen(os.open(self._pipe, os.O_RDWR), "rb")  # also a writer: it never ends
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        while line := await reader.readline():
            told = json.loads(line)
            self.words, self.rows = told["words"], told.get("rows", told["words"])
            self._fake.painted.set()
            self._fake.view.seq += 1
            yield Event(
                seq=self._fake.view.seq, at=now(), kind="host.changed", noun="host", id="kvm-01", data={}
            )

    async def pane_screens(self, pane_id: str) -> AsyncIterator[PaneScreen]:
        while True:
            yield PaneScreen(rows=list(self.rows), cursor=None)
            self._fake.painted.clear()
            await self._fake.painted.wait()

    async def recording_cast(self, id: str) -> bytes:
        frames = (CastEvent(at / 10, OUTPUT, f"{words}\r\n") for at, words in enumerate(self.words))
        named = header_line(60, 6, 0, self.words[0], self.words[1])
        return "".join([named, *map(event_line, frames)]).encode("ascii")

    async def read_pane(self, pane_id: str, last_n_lines: int = 0) -> list[str]:
        return list(self.rows) * 3

    async def pause(self, id: str) -> None:
        raise FluidError(self.words[0], remedy=self.words[1])


if __name__ == "__main__":
    FluidApp(HostileBackend(sys.argv[1])).run()
