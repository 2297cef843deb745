"""Being called: once for each that newly waits, in counts only, as the terminal and the operator want it."""

from __future__ import annotations

import asyncio
import json

import pytest

from backend.cli import watching
from backend.cli.watching import Waits, watch
from backend.errors import BackendDown, DatabaseDown, FluidError, RoleDenied, TimedOut
from backend.models import ApprovalState, Ask, FleetView, now
from fluid_tui.attention import Attention, Notify, wrapped
from tests.console.fake_backend import FakeBackend
from tests.console.sample import fleet


class Line:
    """What was written to a terminal."""

    def __init__(
        self, way: Notify = Notify.BELL, term: str = "xterm-256color", *, tmux: bool = False
    ) -> None:
        self.written: list[str] = []
        self.calls = Attention(self.written.append, lambda: way, term, tmux)


def one_more(text: str = "\x1b]0;owned\x07") -> Ask:
    return (
        fleet().asks[0].model_copy(update={"request_id": "ASK-99990000", "prompt": text, "created_at": now()})
    )


def test_who_waited_before_does_not_ring_and_who_comes_does_once() -> None:
    line, view = Line(), fleet()
    assert not line.calls.look(view)
    assert "".join(line.written) == "\x1b[22;2t\x1b]2;fluid: 2 need you\x07"
    line.written.clear()
    view.asks.append(one_more())
    assert line.calls.look(view)
    assert not line.calls.look(view)
    assert line.written == ["\x1b]2;fluid: 3 need you\x07", "\x07"]
    view.asks.clear()
    line.calls.look(view)
    line.calls.close()
    assert line.written[2:] == ["\x1b]2;fluid: 1 needs you\x07", "\x1b[23;2t"]


@pytest.mark.parametrize("term", ["linux", "vt100", "dumb", ""])
def test_a_terminal_without_titles_only_rings(term: str) -> None:
    line, view = Line(term=term), fleet()
    line.calls.look(view)
    view.asks.append(one_more())
    line.calls.look(view)
    line.calls.close()
    assert line.written == ["\x07"]


def test_osc_9_goes_through_tmux_and_says_counts_only() -> None:
    line, view = Line(Notify.OSC9, "tmux-256color", tmux=True), fleet()
    line.calls.look(view)
    view.asks.append(one_more())
    line.calls.look(view)
    assert line.written[-1] == "\x1bPtmux;\x1b\x1b]9;fluid: 3 need you\x07\x1b\\"
    assert "owned" not in "".join(line.written)
    assert wrapped("\x1b]9;x\x07", tmux=False) == "\x1b]9;x\x07"


def test_off_is_silent() -> None:
    line, view = Line(Notify.OFF, "linux"), fleet()
    line.calls.look(view)
    view.asks.append(one_more())
    assert line.calls.look(view)
    assert line.written == []


async def test_the_console_calls_and_the_way_is_chosen_by_a_command(console, monkeypatch) -> None:
    async with console() as seen:
        written: list[str] = []
        monkeypatch.setattr(seen.app, "_to_terminal", written.append)
        monkeypatch.setattr(seen.app._attention, "_write", written.append)
        seen.backend.view.asks.append(one_more("One more?"))
        await seen.backend.tell("ask.created", "ASK-99990000")
        await seen.sees("! 3 need you")
        assert "\x07" in written
        await seen.press("colon", *"notify", "space", *"off", "enter")
        await seen.sees("New requests call by: off.")
        assert seen.app.layout_kept.notify == "off"


def test_watching_tells_who_newly_waits_and_what_is_over() -> None:
    told: list[tuple[str, str, bool]] = []
    waits = Waits(lambda one, *, new: told.append((one["short"], one["state"], new)))
    view = fleet()
    assert waits.look(view)
    assert told == [("4f2a", "pending", True), ("ASK-5b11aa00", "pending", True)]
    told.clear()
    assert not waits.look(view)
    view.approvals[0].state = ApprovalState.APPROVED
    view.asks = [one_more()]
    assert waits.look(view)
    assert sorted(told) == [
        ("4f2a", "approved", False),
        ("ASK-5b11aa00", "gone", False),
        ("ASK-99990000", "pending", True),
    ]


class Door(FakeBackend):
    """As the client that ``approvals watch`` is given."""

    async def __aenter__(self) -> Door:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def test_watching_once_ends_when_somebody_waits_and_prints_no_control(capsys) -> None:
    door = Door()
    door.view.asks[0].prompt = "\x1b]0;owned\x07"
    watch(door, once=True, bell=True, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "request 4f2a waits for you: nginx-tls to web-01, web-02: Serve the shop" in lines[0]
    assert "␛]0;owned␇" in lines[1]
    assert all(line.isprintable() for line in lines)
    watch(Door(), once=True, bell=True, as_json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[0])["short"] == "4f2a"


class Hiccup(Door):
    """What each reading of the fleet fails with, in turn; at the last one a question waits."""

    def __init__(self, *problems: FluidError | None) -> None:
        super().__init__()
        self.view.approvals = []
        self._problems = list(problems)
        asyncio.run(self.tell("ask.changed", "ASK-99990000"))

    async def fleet(self) -> FleetView:
        problem = self._problems.pop(0)
        if problem is not None:
            raise problem
        self.view.asks = [] if self._problems else [one_more("Drop it?")]
        return await super().fleet()


def test_watching_goes_on_after_a_hiccup_and_tells_it_once(capsys, monkeypatch) -> None:
    monkeypatch.setattr(watching, "RECONNECT_S", 0.001)
    door = Hiccup(None, DatabaseDown("no \x1bdatabase"), BackendDown("gone"), TimedOut("slow"), None)
    watch(door, once=True, bell=False, as_json=False)
    told = capsys.readouterr()
    assert told.err == "fluid: no ␛database; tried again until it answers\nfluid: it answers again\n"
    assert "Drop it?" in told.out


@pytest.mark.parametrize("problems", [[BackendDown("nobody is there")], [None, RoleDenied("not yours")]])
def test_watching_ends_where_no_wait_helps(problems: list[FluidError | None]) -> None:
    with pytest.raises(type(problems[-1])):
        watch(Hiccup(*problems), once=True, bell=False, as_json=False)
