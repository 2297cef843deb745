"""One agent's terminal, full size, following; page up reads back, and its operator may type instead of it.

Neither looking nor typing resizes its window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.message import Message

from backend.errors import FluidError
from backend.models import Pane, now
from backend.text import visible
from fluid_tui.actions import bindings
from fluid_tui.backend_port import Hands
from fluid_tui.fleet_rows import Sorting, sandbox_rows
from fluid_tui.mirror import Contact
from fluid_tui.paint import Line, Role, line, said, wrap
from fluid_tui.screens.base import FluidScreen
from fluid_tui.screens.confirm import TypedConfirm, consequences
from fluid_tui.screens.diff import DiffScreen
from fluid_tui.screens.timeline import TimelineScreen
from fluid_tui.widgets.pane_view import AGAIN_S, PaneView
from fluid_tui.words import ago, clock

TAKE = "take"


class HandsOff(Message):
    """Keys no longer go to the pane. ``meant``: this operator handed it back."""

    def __init__(self, words: str, *, meant: bool) -> None:
        super().__init__()
        self.words, self.meant = words, meant


NO_TERMINAL = "Its agent has opened none. One of yours: fluid sandboxes ssh NAME"


class TerminalScreen(FluidScreen):
    """The pane of one sandbox."""

    PLACE = "terminal"
    BINDINGS = bindings("terminal")
    FOOTER = (
        ("move.page_up", "scroll back"),
        ("move.bottom", "follow"),
        ("terminal.take_over", "take over"),
        ("terminal.next", "next"),
        ("terminal.diff", "diff"),
        ("terminal.timeline", "timeline"),
        ("app.back", "back"),
    )

    def __init__(self, sandbox_id: str) -> None:
        super().__init__()
        self._sandbox_id = sandbox_id
        self._problem = ""
        self._leaving = False

    def again(self) -> FluidScreen:
        return TerminalScreen(self._sandbox_id)

    def crumb(self) -> Line:
        sandbox = self.fluid.mirror.sandbox(self._sandbox_id)
        name = sandbox.sandbox_name if sandbox else self._sandbox_id
        return line(("terminal ", Role.MUTED), said(name, Role.TITLE))

    @property
    def looks_at(self) -> tuple[str, str]:
        return self.PLACE, self._sandbox_id

    @property
    def keys_elsewhere(self) -> bool:
        return self.composed and self.query_one(PaneView).typing

    def footer(self) -> Sequence[tuple[str, str]]:
        """While keys are the pane's, only what takes them back is true."""
        return (("terminal.hand_back", "hand back"),) if self.keys_elsewhere else self.FOOTER

    def body(self) -> ComposeResult:
        yield PaneView(id="pane")

    def on_mount(self) -> None:
        self.query_one(PaneView).focus()
        self.refresh_data()

    def refresh_data(self) -> None:
        view = self.query_one(PaneView)
        pane = self.fluid.mirror.pane_of(self._sandbox_id)
        cut = not view.pane_id and view.following and self.fluid.mirror.link.contact is Contact.LIVE
        if cut and pane is not None and pane.alive:
            self._problem = ""
            view.watch_pane(self.fluid.client, pane.pane_id)
        self._draw_title()

    def on_resize(self) -> None:
        if self.composed:
            self._draw_title()

    def _draw_title(self) -> None:
        view = self.query_one(PaneView)
        sandbox = self.fluid.mirror.sandbox(self._sandbox_id)
        pane = self.fluid.mirror.pane_of(self._sandbox_id)
        if pane is None:
            self.titled(view, "No terminal")
            known = self.fluid.mirror.fleet is not None
            words = line(said(NO_TERMINAL if known else self.why_nothing(), Role.MUTED))
            view.set_lines(wrap(words, view.size.width or self.size.width))
            return
        who = f"{sandbox.sandbox_name} · {sandbox.agent_id}" if sandbox else self._sandbox_id
        state = "live" if view.following else "history"
        if self.fluid.mirror.link.contact is Contact.LOST:
            state = "lost"
        elif self._problem or not pane.alive:
            state = "ended"
        elif pane.taken_by:
            state = f"{pane.taken_by} types"
        below = visible(self._problem) or (
            f"{pane.width}x{pane.height} · last output {ago(pane.last_output_at, now()) or 'unknown'}"
        )
        if not view.following:
            below = f"reading back: {self.fluid.key_of('move.bottom')} follows again"
        view.set_class(view.typing, "-taken")
        if view.typing:
            key = self.fluid.key_of("terminal.hand_back")
            self.titled(
                view, f"● YOU TYPE · {who} · {view.pane_id}", f"its agent waits · {key} hands it back"
            )
        else:
            self.titled(view, f"{who} · {pane.pane_id} · {state}", below)

    @on(PaneView.FollowingChanged)
    def _following_changed(self, message: PaneView.FollowingChanged) -> None:
        self._problem = message.problem
        self._draw_title()
        if not self.query_one(PaneView).pane_id:
            self.set_timer(AGAIN_S, self.refresh_data)

    def action_next(self) -> None:
        self._step(1)

    def action_previous(self) -> None:
        self._step(-1)

    def _step(self, by: int) -> None:
        """The sandboxes in the fleet's order, those with a terminal."""
        mirror = self.fluid.mirror
        if mirror.fleet is None:
            return
        ids = [
            row.key for row in sandbox_rows(mirror.fleet, now(), "", Sorting.NEED) if mirror.pane_of(row.key)
        ]
        others = [id for id in ids if id != self._sandbox_id]
        if not others:
            self.say("There is no other terminal.")
            return
        at = ids.index(self._sandbox_id) + by if self._sandbox_id in ids else min(by, 0)
        self._sandbox_id = ids[at % len(ids)]
        self._problem = ""
        mirror.look_at(*self.looks_at)
        pane = mirror.pane_of(self._sandbox_id)
        self.query_one(PaneView).watch_pane(self.fluid.client, pane.pane_id if pane else "")
        self.draw_bars()
        self._draw_title()

    def action_timeline(self) -> None:
        self.app.push_screen(TimelineScreen(self._sandbox_id))

    def action_diff(self) -> None:
        self.app.push_screen(DiffScreen(self._sandbox_id))

    # --- typing -----------------------------------------------------------------------------------------

    def action_take_over(self) -> None:
        """Only what is on the screen: another pane of the sandbox may have printed since."""
        view = self.query_one(PaneView)
        fleet = self.fluid.mirror.fleet
        pane = next((one for one in fleet.panes if one.pane_id == view.pane_id), None) if fleet else None
        if pane is None or not pane.alive or view.typing:
            self.say("There is no live terminal to type into.", bad=True)
        elif pane.taken_by:
            self._ask_to_take(pane)
        else:
            self._take_over(pane.pane_id, force=False)

    def _ask_to_take(self, pane: Pane) -> None:
        since = f" since {clock(pane.taken_at)}" if pane.taken_at else ""
        what = consequences(
            f"{visible(pane.taken_by)} types into {pane.pane_id}{since}.",
            "You take it from them: their next key goes nowhere, and they are told.",
        )

        def take(yes: bool | None) -> None:
            if yes:
                self._take_over(pane.pane_id, force=True)

        self.app.push_screen(TypedConfirm("Take the terminal over", what, TAKE, "take it", bad=True), take)

    def _take_over(self, pane_id: str, *, force: bool) -> None:
        """Keys are the pane's from now on: what is typed before it is ours waits, or is dropped."""
        view = self.query_one(PaneView)
        self._leaving = False
        typed = view.begin_typing(frozenset(self.fluid.keys["terminal.hand_back"].split(",")))
        view.focus()
        self.run_worker(self._type(pane_id, typed, force), group="hands", exclusive=True)
        self._draw_typing()

    async def _type(self, pane_id: str, typed: asyncio.Queue[bytes | None], force: bool) -> None:
        try:
            async with self.fluid.client.take_over(pane_id, force=force) as hands:
                sending = asyncio.create_task(_send(hands, typed))
                try:
                    end = await hands.over()
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
            off = HandsOff(end.words, meant=end.why == "handed_back" and not end.by)
        except FluidError as error:
            off = HandsOff(f"{error.message}. Nothing goes to the terminal now. {error.remedy}", meant=False)
        self.post_message(off)

    @on(PaneView.HandBackAsked)
    def _hand_back(self) -> None:
        """Once what was typed has been sent; asked for twice, the connection is cut, which does it too."""
        view = self.query_one(PaneView)
        if self._leaving:
            self.workers.cancel_group(self, "hands")
            self.post_message(HandsOff("You let go: the terminal is its agent's again.", meant=True))
        self._leaving = True
        view.leave()

    @on(HandsOff)
    def _hands_off(self, message: HandsOff) -> None:
        view = self.query_one(PaneView)
        if view.typing:
            view.end_typing(meant=message.meant)
            self.say(message.words, bad=not message.meant)
        self.fluid.mirror.touch()
        self._draw_typing()

    def action_hand_back(self) -> None:
        """While keys are the pane's this key never comes here."""
        self.say("You type nowhere: there is nothing to hand back.")

    def _draw_typing(self) -> None:
        self.draw_bars()
        self._draw_title()


async def _send(hands: Hands, typed: asyncio.Queue[bytes | None]) -> None:
    """What is typed, in order; None hands the pane back."""
    while (data := await typed.get()) is not None:
        await hands.type(data)
    await hands.hand_back()
