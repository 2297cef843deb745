"""What happened, to one sandbox or to all: the audit with the state of its chain, and what is told live."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal

from backend.errors import FluidError
from backend.models import AuditRow, Command, now
from backend.text import visible
from fluid_tui.actions import bindings
from fluid_tui.paint import Line, Role, line, said
from fluid_tui.screens.base import EventArrived, FluidScreen
from fluid_tui.screens.replay import ReplayScreen
from fluid_tui.timeline_rows import (
    ALL_COLUMNS,
    TIMELINE_COLUMNS,
    UNRECORDED,
    Entry,
    entries,
    entry_lines,
    timeline_filter,
    timeline_rows,
)
from fluid_tui.widgets.filter_field import FilterField
from fluid_tui.widgets.live_list import Column, LiveList
from fluid_tui.widgets.text_view import TextView

PAGE_ROWS = 500
PAGE_MAX = 10_000
GATHER_S = 0.5
"""Events of one burst lead to one reading."""
REREAD_S = 10.0
"""Not every row of the audit comes with an event."""
OUTPUT_CHARS = 20_000


class TimelineScreen(FluidScreen):
    """A list, newest first; beside it (below, when narrow) all of the entry under the cursor."""

    PLACE = "timeline"
    BINDINGS = bindings("timeline")
    FOOTER = (
        ("timeline.output", "open"),
        ("timeline.replay", "replay"),
        ("timeline.filter", "filter"),
        ("timeline.older", "older"),
        ("timeline.all", "all sandboxes"),
        ("app.back", "back"),
    )

    def __init__(self, sandbox_id: str = "") -> None:
        super().__init__()
        self._sandbox_id = sandbox_id
        self._only = sandbox_id
        self._rows: list[AuditRow] = []
        self._made: dict[str, Entry] = {}
        self._outputs: dict[str, list[Line]] = {}
        self._limit = PAGE_ROWS
        self._words = ""
        self._problem = ""
        self._read_once = False
        self._wanted = False  # something happened that was not read
        self._rows_of: tuple[str, int] | None = None

    def again(self) -> FluidScreen:
        return TimelineScreen(self._sandbox_id)

    def crumb(self) -> Line:
        sandbox = self.fluid.mirror.sandbox(self._only)
        whose = sandbox.sandbox_name if sandbox else self._only or "all"
        return line(("timeline ", Role.MUTED), said(whose, Role.TITLE))

    def _columns(self) -> Sequence[Column]:
        return TIMELINE_COLUMNS if self._only else ALL_COLUMNS

    def body(self) -> ComposeResult:
        with Horizontal(id="middle"):
            yield LiveList(self._columns(), id="entries", empty="Reading the audit …")
            yield TextView(id="entry")
        yield FilterField("approval who:ops -what:command.run sandbox:nginx-tls")

    def on_mount(self) -> None:
        self.query_one("#entries").focus()
        self.titled(self.query_one("#entries"), "Timeline")
        self.titled(self.query_one("#entry"), "Entry")
        self._read_soon(0)
        self.set_interval(REREAD_S, lambda: self._read_soon(GATHER_S))

    # --- reading ----------------------------------------------------------------------------------------

    @on(EventArrived)
    def _event(self, message: EventArrived) -> None:
        event = message.event
        elsewhere = event.sandbox_id and self._only and self._only not in (event.sandbox_id, event.id)
        if event.kind not in UNRECORDED and not elsewhere:
            self._read_soon(GATHER_S)

    def on_screen_resume(self) -> None:
        if self._wanted:
            self._read_soon(GATHER_S)

    def _read_soon(self, after_s: float) -> None:
        """At once (0), or with what else happens in that time; what happens while it is read is read next.
        Nobody reads behind another screen."""
        self._wanted = True
        if self.is_current and (after_s == 0 or not self._gathering()):
            self.run_worker(self._keep_reading(after_s), group="audit", exclusive=True)

    def _gathering(self) -> bool:
        return any(worker.group == "audit" and worker.is_running for worker in self.workers)

    async def _keep_reading(self, after_s: float) -> None:
        while self._wanted and self.is_current:
            await asyncio.sleep(after_s)
            self._wanted = False
            await self._read()
            after_s = GATHER_S

    async def _read(self) -> None:
        """The rows since the last reading, or all of them for another view."""
        of, limit = view = self._only, self._limit
        known = self._rows if view == self._rows_of else []
        after = known[0].seq if known else 0
        try:
            found = await self.fluid.client.audit(sandbox_id=of or None, after=after, limit=limit)
            self._rows = [*found, *(known if len(found) < limit else [])][:limit]
            self._rows_of = view
            self._problem = ""
        except FluidError as error:
            self._problem = f"{error.message}. {error.remedy}" if error.remedy else error.message
        self._read_once = True
        self.refresh_data()

    def refresh_data(self) -> None:
        at, fleet = now(), self.fluid.mirror.fleet
        made = entries(self._rows, self.fluid.mirror.recent)
        self._made = {one.key: one for one in made}
        wanted = timeline_filter(self._words)
        shown = self.query_one("#entries", LiveList)
        if self._read_once:
            nothing = "Nothing matches." if self._words else "Nothing has happened yet."
            shown.empty = self._problem or nothing
        shown.show_columns(self._columns())
        shown.set_rows(timeline_rows(made, fleet, wanted, self._only, at))
        words = [f"filter: {self._words}"] if self._words else []
        words += [wanted.problem] if wanted.problem else []
        words += [f"✗ {self._problem}"] if self._problem and self._rows else []
        words += [f"newest {len(self._rows)} rows"] if len(self._rows) >= self._limit else []
        if fleet is not None and not self.is_lost:
            words.append(f"chain {'holds' if fleet.audit_ok else 'BROKEN'}, {fleet.audit_rows} rows")
        self.titled(shown, "Timeline", " · ".join(words))
        self._draw_entry()

    @on(LiveList.RowHighlighted, "#entries")
    def _draw_entry(self) -> None:
        entry = self._made.get(self.query_one("#entries", LiveList).key)
        view = self.query_one("#entry", TextView)
        if entry is None:
            view.set_lines([line(("Nothing to show.", Role.MUTED))])
            return
        self.titled(view, entry.what, entry.key)
        sandbox = self.fluid.mirror.sandbox(entry.sandbox_id)
        name = sandbox.sandbox_name if sandbox else ""
        view.set_lines(entry_lines(entry, self._outputs.get(entry.of, []), name))

    # --- what a command printed ---------------------------------------------------------------------------

    @on(LiveList.RowOpened, "#entries")
    def _opened(self) -> None:
        self.action_output()

    def action_output(self) -> None:
        from fluid_tui.screens.review import ReviewScreen

        entry = self._made.get(self.query_one("#entries", LiveList).key)
        if entry is not None and entry.of.startswith("REC-"):
            self.app.push_screen(ReplayScreen(entry.sandbox_id, entry.of))
        elif entry is not None and entry.of.startswith("APR-"):
            self.app.push_screen(ReviewScreen(entry.of))
        elif entry is None or not entry.of.startswith("CMD-"):
            self.say("Only a command, a request or a recording opens.")
        elif entry.of not in self._outputs:
            self.run_worker(self._fetch(entry), group="output", exclusive=True)
        else:
            self.query_one("#entry").focus()

    async def _fetch(self, entry: Entry) -> None:
        try:
            found = await self.fluid.client.command(entry.of)
        except FluidError as error:
            self.say(error.message, bad=True)
            return
        self._outputs[entry.of] = output_lines(found)
        self._draw_entry()

    def action_replay(self) -> None:
        entry = self._made.get(self.query_one("#entries", LiveList).key)
        sandbox_id = entry.sandbox_id if entry is not None and entry.sandbox_id else self._only
        if sandbox_id:
            self.app.push_screen(ReplayScreen(sandbox_id))
        else:
            self.say("This entry is of no sandbox.")

    # --- the list ----------------------------------------------------------------------------------------

    def action_older(self) -> None:
        if len(self._rows) < self._limit:
            self.say("There is nothing older.")
            return
        if self._limit == PAGE_MAX:
            self.say(f"These are the newest {PAGE_MAX:,} rows. All of them: fluid audit export.")
            return
        self._limit = min(self._limit * 4, PAGE_MAX)
        self._read_soon(0)

    def action_all(self) -> None:
        """All sandboxes, or again the one that this timeline was opened for."""
        if not self._sandbox_id:
            self.say("These are all sandboxes.")
            return
        self._only = "" if self._only else self._sandbox_id
        self.draw_bars()
        self._read_soon(0)

    def action_filter(self) -> None:
        self.query_one(FilterField).open()

    @on(FilterField.Narrowed)
    def _narrowed(self, message: FilterField.Narrowed) -> None:
        self._words = message.words
        self.refresh_data()

    @on(FilterField.Kept)
    def _kept(self) -> None:
        self.query_one("#entries").focus()

    def action_back(self) -> None:
        field = self.query_one(FilterField)
        if field.in_use:
            field.clear_words()
            self.query_one("#entries").focus()
        else:
            super().action_back()


def output_lines(command: Command) -> list[Line]:
    """What a command printed, on both its outputs."""
    lines: list[Line] = []
    for name, text, role in (("stdout", command.stdout, Role.TEXT), ("stderr", command.stderr, Role.WARN)):
        if text:
            clean = visible(text, keep_newlines=True, tab=8, limit=OUTPUT_CHARS).rstrip("\n")
            lines += [line((name, Role.HEAD)), *(line((each, role)) for each in clean.split("\n"))]
    return lines or [line(("It printed nothing.", Role.MUTED))]
