"""What changed between two points of a sandbox, or of two sandboxes: a tree by kind on the left, the changes
on the right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal

from backend.errors import FluidError
from backend.models import EVENTS_MISSED, Changes, Sandbox, Snapshot
from backend.text import visible
from fluid_tui.actions import bindings
from fluid_tui.diff_rows import KINDS, SIGNS, DiffDocument, Item, document, folder_of, header_line
from fluid_tui.paint import Line, Role, line, said
from fluid_tui.points import NOW, Pair, Points, TwoPoints, points, two_points
from fluid_tui.screens.base import EventArrived, FluidScreen
from fluid_tui.widgets.diff_view import DiffView
from fluid_tui.widgets.live_list import Column, LiveList, Row
from fluid_tui.widgets.text_view import TextView
from fluid_tui.words import clock, for_so_long

TREE_COLUMNS = (Column("", 0),)


class DiffScreen(FluidScreen):
    """From a snapshot to one made from it, or to the sandbox as it is; or from one sandbox to another."""

    PLACE = "diff"
    BINDINGS = bindings("diff")
    FOOTER = (
        ("diff.earlier", "earlier"),
        ("diff.later", "later"),
        ("diff.since_earlier", "since"),
        ("diff.next_change", "next"),
        ("diff.noise", "noise"),
        ("diff.switch", "tree/text"),
        ("app.back", "back"),
    )

    def __init__(self, sandbox_id: str, other_id: str = "") -> None:
        super().__init__()
        self._sandbox_id, self._other_id = sandbox_id, other_id
        self._points: Points | TwoPoints | None = None
        self._pair = ("", "")
        self._began: float | None = None  # when the comparison that is under way began
        self._noise = False
        self._changes: Changes | None = None

    def again(self) -> FluidScreen:
        return DiffScreen(self._sandbox_id, self._other_id)

    def crumb(self) -> Line:
        other = [(" → ", Role.MUTED), said(self._named(self._other_id), Role.TITLE)] if self._other_id else []
        return line(("diff ", Role.MUTED), said(self._named(self._sandbox_id), Role.TITLE), *other)

    def _named(self, id: str) -> str:
        sandbox = self.fluid.mirror.sandbox(id)
        return sandbox.sandbox_name if sandbox else id

    def body(self) -> ComposeResult:
        yield TextView(id="how")
        with Horizontal(id="middle"):
            yield LiveList(TREE_COLUMNS, id="tree", heading=False, empty="Reading …")
            yield DiffView(id="text")

    def on_mount(self) -> None:
        self.query_one("#how", TextView).can_focus = False
        self.titled(self.query_one("#tree"), "Changes")
        self.query_one("#tree").focus()
        self._how(line(("Reading the snapshots …", Role.MUTED)))
        self.action_again()

    @on(EventArrived)
    def _event(self, message: EventArrived) -> None:
        """What could not be read is tried again once the backend is back."""
        if message.event.kind == EVENTS_MISSED and self._changes is None:
            self.action_again()

    async def _start(self) -> None:
        try:
            self._points = await (self._points_of_two() if self._other_id else self._points_of_one())
        except FluidError as error:
            self._failed(error)
            return
        if self._points is None:
            words = "One of the two" if self._other_id else "This sandbox"
            take = f"Take one on the fleet: {self.fluid.key_of('fleet.snapshot')}."
            self._how(line((f"{words} has no snapshot to compare with. {take}", Role.WARN)))
            self.query_one("#tree", LiveList).empty = "Nothing to compare."
            return
        if not self._points.has(self._pair):
            self._pair = self._points.begin
        await self._read()

    async def _points_of_one(self) -> Points | None:
        sandbox, snapshots = await self._known(self._sandbox_id)
        pane = self.fluid.mirror.pane_of(self._sandbox_id)
        return points(snapshots, sandbox, pane.last_output_at if pane else None) if snapshots else None

    async def _points_of_two(self) -> TwoPoints | None:
        return two_points(await self._known(self._sandbox_id), await self._known(self._other_id))

    async def _known(self, id: str) -> tuple[Sandbox, list[Snapshot]]:
        client = self.fluid.client
        return await client.sandbox(id), await client.snapshots(id)

    async def _read(self) -> None:
        before, after = self._pair
        self._began = monotonic()
        self.refresh_data()
        try:
            client = self.fluid.client
            self._changes = await client.diff(self._sandbox_id, before, after, self._other_id)
        except FluidError as error:
            self._began = None
            self._failed(error)
            return
        await self._draw()
        self._began = None

    def refresh_data(self) -> None:
        """What is being compared, and for how long."""
        if self._began is None:
            return
        before, after = self._pair
        self._how(
            line(
                ("Comparing ", Role.MUTED),
                said(self._called(self._sandbox_id, before)),
                (" with ", Role.MUTED),
                said(self._called(self._other_id, after)),
                (f" …{for_so_long(self._began, monotonic())}", Role.MUTED),
            )
        )

    def _called(self, id: str, point: str) -> str:
        """A point, of which of the two if there are two."""
        return f"{self._named(id)} {point}" if self._other_id else point

    def _failed(self, error: FluidError) -> None:
        self._how(line(said(f"✗ {error.message}. {error.remedy}", Role.BAD)))
        self.query_one("#tree", LiveList).empty = "Could not be read."

    def _how(self, words: Line) -> None:
        self.query_one("#how", TextView).set_lines([words])

    async def _draw(self) -> None:
        changes = self._changes
        if changes is None or self._points is None:
            return
        made = await asyncio.to_thread(document, changes, noise=self._noise)
        self.query_one("#text", DiffView).show(made)
        tree = self.query_one("#tree", LiveList)
        tree.empty = "No change."
        tree.set_rows(tree_rows(made))
        rules = ", ".join(f"{visible(rule)} {count}" for rule, count in changes.hidden.items())
        before, after = changes.from_snapshot, changes.to_snapshot
        read = f", read at {clock(changes.created_at)}" if NOW in (before, after) else ""
        ends = self._called(self._sandbox_id, before), self._called(self._other_id, after)
        lines = [header_line(changes, *ends), (*self._points.words(before, after), (read, Role.MUTED))]
        if self._noise and rules:
            lines.append(line(("shown noise: ", Role.MUTED), (rules, Role.MUTED)))
        lines += [line(said(note, Role.WARN)) for note in changes.notes]
        self.query_one("#how", TextView).set_lines(lines)
        self.titled(tree, "Changes", f"{len(made.items)} shown")

    @on(LiveList.RowHighlighted, "#tree")
    def _chosen(self, message: LiveList.RowHighlighted) -> None:
        self.query_one("#text", DiffView).go_to(message.key)

    @on(LiveList.RowOpened, "#tree")
    def _opened(self) -> None:
        self.query_one("#text").focus()

    def action_switch(self) -> None:
        tree, text = self.query_one("#tree"), self.query_one("#text")
        (text if tree.has_focus else tree).focus()

    def action_next_change(self) -> None:
        self.query_one("#text", DiffView).step(1)

    def action_previous_change(self) -> None:
        self.query_one("#text", DiffView).step(-1)

    def action_noise(self) -> None:
        self._noise = not self._noise
        if self._began is None:
            self.run_worker(self._draw(), group="read", exclusive=True)

    def action_again(self) -> None:
        self.run_worker(self._start(), group="read", exclusive=True)

    def action_earlier(self) -> None:
        self._move(lambda known: known.step(self._pair, -1))

    def action_later(self) -> None:
        self._move(lambda known: known.step(self._pair, 1))

    def action_since_earlier(self) -> None:
        self._move(lambda known: known.since(self._pair, -1))

    def action_since_later(self) -> None:
        self._move(lambda known: known.since(self._pair, 1))

    def _move(self, to: Callable[[Points | TwoPoints], Pair | None]) -> None:
        if self._points is None:
            self.say("The snapshots are still being read.")
        elif (pair := to(self._points)) is None:
            self.say("There is no snapshot beyond.")
        else:
            self._pair = pair
            self.run_worker(self._read(), group="read", exclusive=True)


def open_compare(screen: FluidScreen, meant: Sequence[Sandbox]) -> str:
    """Show how the second of two sandboxes differs from the first; why not, or empty."""
    if len(meant) != 2 or meant[0].id == meant[1].id:
        return "Two sandboxes are compared: mark one and go to the other, or mark both."
    one, other = meant
    if one.base_image != other.base_image:
        words = (
            f"{one.sandbox_name} comes from {one.base_image}, {other.sandbox_name} from {other.base_image}"
        )
        return f"{words}: only forks of one source are compared."
    screen.app.push_screen(DiffScreen(one.id, other.id))
    return ""


def tree_rows(made: DiffDocument) -> list[Row]:
    """Kinds with counts, files under their folders; the changes lead to their place in the text."""
    rows: list[Row] = []
    for kind in KINDS:
        items = [item for item in made.items if item.kind == kind]
        if not items:
            continue
        rows.append(
            Row(f"kind {kind}", (line((kind, Role.HEAD), (f" {len(items)}  {_signs(items)}", Role.MUTED)),))
        )
        folder = ""
        for item in items:
            name = item.name
            if kind == "Files":
                if folder_of(item.name) != folder:
                    folder = folder_of(item.name)
                    rows.append(Row(f"folder {folder}", (line((f" {visible(folder)}/", Role.MUTED)),)))
                name = _in_folder(item)
            rows.append(Row(item.key, (line((f"  {item.sign} ", item.role), said(name)),)))
    return rows


def _in_folder(item: Item) -> str:
    """A file under its folder; a renamed one with its path before, or only its name if that is all that
    changed."""
    name = item.name.rpartition("/")[2]
    if not item.was:
        return name
    same = folder_of(item.was) == folder_of(item.name)
    return f"{item.was.rpartition('/')[2] if same else item.was} → {name}"


def _signs(items: list[Item]) -> str:
    counts = {sign: sum(item.sign == sign for item in items) for sign in SIGNS}
    return " ".join(f"{sign}{count}" for sign, count in counts.items() if count)
