"""Terminals are recorded over a real tmux: what was printed is played again, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest

from backend.api import Door, Peer, Roles, Services
from backend.api.gate import Gate
from backend.api.operator import operator_app
from backend.asciicast import MARK, Cast, read_cast
from backend.audit import Audit
from backend.config import LimitConfig, RecordingConfig
from backend.errors import RecordingNotFound, RoleDenied
from backend.models import Identity, Recording, Role, now
from backend.panes import Panes, Recorder, Recordings, Shelf
from backend.panes import recorder as recorder_module
from backend.panes import recordings as recordings_module
from backend.replay import Replay
from backend.store import EventBus
from backend.tmux import TmuxServer
from tests.fix_panes import ANN, LIMIT_S, OPERATOR, OneSandbox, follow, shell


class Recorded:
    """Panes that are recorded, on a tmux that outlives them."""

    def __init__(self, tmux: TmuxServer, panes: Panes, recordings: Recordings, recorder: Recorder) -> None:
        self.tmux, self.panes, self.recordings, self.recorder = tmux, panes, recordings, recorder

    async def cast(self, number: int = 0) -> Cast:
        """The newest recording, or one before."""
        found = await self.recordings.list(OPERATOR)
        return read_cast(await self.recordings.cast(OPERATOR, found[number].id))

    async def screen(self, number: int = 0) -> list[str]:
        """What it shows at its end."""
        film = Replay(await self.cast(number))
        film.go(film.duration)
        return ["".join(text for text, _ in row) for row in film.rows()]


@pytest.fixture
def start(open_folder: Path, bus: EventBus, audit: Audit) -> Callable[..., object]:
    folder = open_folder / "recordings"
    folder.mkdir()

    @asynccontextmanager
    async def begin(*, reserve_mb: int = 0, **settings: object) -> AsyncIterator[Recorded]:
        tmux, config = TmuxServer(open_folder / "tmux.sock"), RecordingConfig.model_validate(settings)
        await tmux.start()
        recorder = Recorder(tmux, Shelf(folder), audit, config, reserve_mb)
        panes = Panes(tmux, bus, audit, OneSandbox("web"), shell, LimitConfig(), recorder)
        running = asyncio.create_task(panes.run())
        try:
            yield Recorded(tmux, panes, Recordings(Shelf(folder), recorder, audit, config), recorder)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await tmux.close()

    return begin


@pytest.fixture(autouse=True)
async def no_tmux_left(open_folder: Path) -> AsyncIterator[None]:
    yield
    await TmuxServer(open_folder / "tmux.sock").kill_server()


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await holds():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"never: {what}")


async def typed(seen: Recorded, pane_id: str, text: str, shows: str) -> None:
    """Type a line and wait until the recording shows a row that begins so."""
    await seen.panes.send(ANN, pane_id, text=text, key="Enter")

    async def told() -> bool:
        return any(row.startswith(shows) for row in await seen.screen())

    await until(told, f"{shows!r} after {text!r}")


async def shown_now(seen: Recorded, pane_id: str) -> list[str]:
    """What the live pane shows."""
    rows = await seen.panes.read(OPERATOR, pane_id)
    return [*rows, *[""] * (24 - len(rows))]


async def opened(seen: Recorded) -> str:
    """A new pane, which is recorded by now."""
    pane_id = (await seen.panes.open(ANN, "SBX-1")).pane_id

    async def recorded() -> bool:
        return seen.tmux.is_tapped(pane_id)

    await until(recorded, "it is recorded")
    return pane_id


async def test_what_a_terminal_showed_is_played_again_for_operators_alone(start) -> None:
    async with start() as seen:
        pane_id = await opened(seen)
        await typed(seen, pane_id, "printf '\\033[31mred\\033[0m\\n'", "red")
        assert await seen.screen() == await shown_now(seen, pane_id)
        await seen.panes.close(ANN, pane_id)

        async def ended() -> bool:
            return (await seen.recordings.list(OPERATOR, "SBX-1"))[0].ended_at is not None

        await until(ended, "it has ended")
        one: Recording = (await seen.recordings.list(OPERATOR))[0]
        assert (one.sandbox_name, one.pane_id, one.owner_uid) == ("web", pane_id, ANN.uid)
        assert "red" in await seen.screen() and 0 < one.duration_s < LIMIT_S
        assert await seen.recordings.list(OPERATOR, "SBX-2") == []
        for other in (ANN, Identity(uid=3, role=Role.AUDITOR)):
            with pytest.raises(RoleDenied):
                await seen.recordings.cast(other, one.id)
        with pytest.raises(RecordingNotFound):
            await seen.recordings.cast(OPERATOR, "REC-ffffffff")


async def test_a_restarted_backend_goes_on_with_the_same_recording(start, open_folder: Path) -> None:
    async with start() as seen:
        pane_id = await opened(seen)
        first = (await seen.recordings.list(OPERATOR))[0].id
        await seen.panes.send(ANN, pane_id, text="echo be''fore", key="Enter")

        async def on_the_disk() -> bool:
            return "before" in Shelf(open_folder / "recordings").cast(first)

        await until(on_the_disk, "a kill would find it written")
    async with start() as seen:

        async def recorded() -> bool:
            return seen.tmux.is_tapped(pane_id)

        await until(recorded, "it is recorded again")
        await typed(seen, pane_id, "echo af''ter", "after")
        assert [one.id for one in await seen.recordings.list(OPERATOR)] == [first]
        assert [row for row in await seen.screen() if row in ("before", "after")] == ["before", "after"]
    async with start() as seen:
        await seen.tmux.kill_server()

        async def over() -> bool:
            return (await seen.recordings.list(OPERATOR))[0].ended_at is not None

        await until(over, "a recording whose terminal is gone has ended")


async def test_a_flood_is_bounded_and_its_end_is_shown(start, open_folder: Path) -> None:
    async with start() as seen:
        pane_id = await opened(seen)
        await typed(seen, pane_id, "timeout 1 yes aaaaaaaaaaaaaaaaaaaaaaa; echo; echo the e''nd", "the end")
        cast = await seen.cast()
        size = sum(path.stat().st_size for path in open_folder.glob("recordings/*/*"))
        assert size < 2_000_000, "a second of flood would be tens of megabytes"
        assert any(event.code == MARK and "not recorded" in event.data for event in cast.events)
        assert await seen.screen() == await shown_now(seen, pane_id)


async def test_parts_are_packed_and_the_middle_goes(start, monkeypatch, open_folder: Path) -> None:
    monkeypatch.setattr(recorder_module, "PART_BYTES", 4000)
    monkeypatch.setattr(recorder_module, "FLUSH_S", 0.02)
    async with start(terminal_mb=3) as seen:
        pane_id = await opened(seen)
        await typed(seen, pane_id, "echo fi''rst", "first")
        for number in range(6):
            await typed(seen, pane_id, f"clear; seq -s ' ' 1 1500; echo do''ne {number}", f"done {number}")
        names = sorted(path.name for path in open_folder.glob("recordings/*/0*"))
        assert len(names) in (2, 3) and names[0] == "000001.cast.gz" and names[1] >= "000005"
        assert (await seen.recordings.list(OPERATOR))[0].is_cut
        shown = "".join(event.data for event in (await seen.cast()).events)
        assert "first" in shown and "done 5" in shown and "done 1" not in shown
        assert await seen.screen() == await shown_now(seen, pane_id)


async def test_a_recording_is_kept_for_as_many_days_as_the_config_says(start, monkeypatch) -> None:
    async with start(keep_days=10) as seen:
        pane_id = await opened(seen)
        await typed(seen, pane_id, "echo go''ne", "gone")
        await seen.tmux.kill_server()

        async def over() -> bool:
            return (await seen.recordings.list(OPERATOR))[0].ended_at is not None

        await until(over, "it has ended")
        for days, kept in ((9, 1), (11, 0)):
            monkeypatch.setattr(recordings_module, "now", lambda days=days: now() + timedelta(days=days))
            await seen.recordings.age()
            assert len(await seen.recordings.list(OPERATOR)) == kept, days


async def test_recording_ends_before_the_disk_is_short_and_goes_on_by_itself(
    start, monkeypatch, open_folder: Path
) -> None:
    free = shutil.disk_usage(open_folder).free >> 20
    async with start(reserve_mb=1) as seen:
        pane_id = await opened(seen)
        await typed(seen, pane_id, "echo be''fore", "before")
        monkeypatch.setattr(seen.recorder, "_reserve_mb", free)
        await seen.panes.send(ANN, pane_id, text="echo mean''while", key="Enter")

        async def stopped() -> bool:
            return bool(seen.recorder.stopped) and not seen.tmux.is_tapped(pane_id)

        await until(stopped, "it stops")
        told = await seen.recorder.component()
        assert told.status == "degraded" and "not recorded" in told.message
        await seen.recorder.try_again()
        assert seen.recorder.stopped
        monkeypatch.setattr(seen.recorder, "_reserve_mb", 1)
        await seen.recorder.try_again()
        await typed(seen, pane_id, "echo af''ter", "after")
        assert "meanwhile" in await seen.screen() and (await seen.recorder.component()).status == "ok"


async def test_a_recording_that_a_full_disk_did_not_let_end_ends_when_there_is_room(
    start, monkeypatch
) -> None:
    async with start() as seen:
        pane_id = await opened(seen)
        await typed(seen, pane_id, "echo the e''nd", "the end")

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        async def ended() -> bool:
            return (await seen.recordings.list(OPERATOR))[0].ended_at is not None

        async def stopped() -> bool:
            return bool(seen.recorder.stopped)

        with monkeypatch.context() as disk:
            disk.setattr(Shelf, "pack", full)
            await seen.panes.close(ANN, pane_id)
            await until(stopped, "it stops")
            assert not await ended()
        await seen.recorder.try_again()
        await until(ended, "it has ended")
        assert "the end" in await seen.screen() and seen.recorder.live() == {}


async def test_nobody_is_recorded_where_it_is_off_and_a_pane_that_nobody_follows_is_paused(start) -> None:
    async with start() as seen:
        await seen.panes.open(ANN, "SBX-1")

        async def begun() -> bool:
            return bool(await seen.recordings.list(OPERATOR))

        await until(begun, "it is recorded")
    async with start(enabled=False) as seen:
        pane_id = (await seen.panes.open(ANN, "SBX-1")).pane_id
        async for rows in follow(seen.panes, OPERATOR, pane_id):
            if any(row.startswith("$") for row in rows):
                break
        assert not seen.tmux.is_tapped(pane_id)
        [before] = await seen.recordings.list(OPERATOR)
        assert before.ended_at is not None, "what was under way ends, and ages"


async def test_following_and_recording_do_not_disturb_each_other(start) -> None:
    async with start() as seen:
        pane_id = await opened(seen)
        for number in range(3):
            async for rows in follow(seen.panes, OPERATOR, pane_id):
                if any(row.startswith("$") for row in rows):
                    break
            await typed(seen, pane_id, f"echo lo''ok {number}", f"look {number}")


async def test_the_operator_door_serves_an_asciicast_and_says_who_read_it(start, audit: Audit) -> None:
    async with start() as seen:
        pane_id = await opened(seen)
        await typed(seen, pane_id, "echo hel''lo", "hello")
        services = SimpleNamespace(recordings=seen.recordings)
        app = operator_app(cast("Services", services), asyncio.Event())
        roles = Roles(frozenset({"op"}), frozenset(), frozenset({"carol"}))

        async def get(name: str, path: str) -> httpx2.Response:
            gate = Gate(app, Door.OPERATOR, roles, 1024)
            peer = Peer(1000, 1000, 10, name, frozenset({name}))

            async def with_peer(scope: Any, receive: Any, send: Any) -> None:
                scope["state"] = {"peer": peer}
                await gate(scope, receive, send)

            at = httpx2.ASGITransport(with_peer)
            async with httpx2.AsyncClient(transport=at, base_url="http://fluid") as client:
                return await client.get(path)

        [told] = (await get("op", "/v1/recordings?sandbox_id=SBX-1")).json()["recordings"]
        assert (await get("op", f"/v1/recordings/{told['id']}")).json()["pane_id"] == pane_id
        answer = await get("op", f"/v1/recordings/{told['id']}/cast")
        assert answer.headers["content-type"] == "application/x-asciicast"
        assert answer.headers["content-encoding"] == "gzip"
        assert "hello" in "".join(event.data for event in read_cast(answer.text).events)
        assert (await get("carol", f"/v1/recordings/{told['id']}/cast")).status_code == 403
        assert (await get("op", "/v1/recordings/REC-ffffffff/cast")).status_code == 404
        rows, _ = await audit.list(action="recording.read")
        assert (rows[0].actor_uid, rows[0].id, rows[0].sandbox_id) == (1000, told["id"], "SBX-1")
        begun, _ = await audit.list(action="recording.start")
        assert [row.id for row in begun] == [told["id"]]
