"""What changed between two points of a sandbox: a tree by kind on the left, the changes on the right."""

from __future__ import annotations

from collections.abc import Callable

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal

from backend.errors import FluidError
from backend.models import EVENTS_MISSED, Changes
from backend.text import visible
from fluid_tui.actions import bindings
from fluid_tui.diff_rows import KINDS, SIGNS, DiffDocument, Item, document, folder_of, header_line
from fluid_tui.paint import Line, Role, line, said
from fluid_tui.points import NOW, Pair, Points, points
from fluid_tui.screens.base import EventArrived, FluidScreen
from fluid_tui.widgets.diff_view import DiffView
from fluid_tui.widgets.live_list import Column, LiveList, Row
from fluid_tui.widgets.text_view import TextView
from fluid_tui.words import clock

TREE_COLUMNS = (Column("", 0),)


class DiffScreen(FluidScreen):
    """From a snapshot to one made from it, or to the sandbox as it is."""

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

    def __init__(self, sandbox_id: str) -> None:
        super().__init__()
        self._sandbox_id = sandbox_id
        self._points: Points | None = None
        self._pair = ("", "")
        self._noise = False
        self._changes: Changes | None = None

    def again(self) -> FluidScreen:
        return DiffScreen(self._sandbox_id)

    def crumb(self) -> Line:
        sandbox = self.fluid.mirror.sandbox(self._sandbox_id)
        name = sandbox.sandbox_name if sandbox else self._sandbox_id
        return line(("diff ", Role.MUTED), said(name, Role.TITLE))

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
            snapshots = await self.fluid.client.snapshots(self._sandbox_id)
            sandbox = await self.fluid.client.sandbox(self._sandbox_id)
        except FluidError as error:
            self._failed(error)
            return
        if not snapshots:
            self._how(
                line(("This sandbox has no snapshot to compare with. Take one on the fleet: s.", Role.WARN))
            )
            self.query_one("#tree", LiveList).empty = "Nothing to compare."
            return
        pane = self.fluid.mirror.pane_of(self._sandbox_id)
        self._points = points(snapshots, sandbox, pane.last_output_at if pane else None)
        if not set(self._pair) <= set(self._points.names):
            self._pair = self._points.pairs[self._points.first]
        await self._read()

    async def _read(self) -> None:
        before, after = self._pair
        self._how(
            line(
                ("Comparing ", Role.MUTED),
                said(before),
                (" with ", Role.MUTED),
                said(after),
                (" …", Role.MUTED),
            )
        )
        try:
            self._changes = await self.fluid.client.diff(self._sandbox_id, before, after)
        except FluidError as error:
            self._failed(error)
            return
        self._draw()

    def _failed(self, error: FluidError) -> None:
        self._how(line(said(f"✗ {error.message}. {error.remedy}", Role.BAD)))
        self.query_one("#tree", LiveList).empty = "Could not be read."

    def _how(self, words: Line) -> None:
        self.query_one("#how", TextView).set_lines([words])

    def _draw(self) -> None:
        if self._changes is None or self._points is None:
            return
        made = document(self._changes, noise=self._noise)
        self.query_one("#text", DiffView).show(made)
        tree = self.query_one("#tree", LiveList)
        tree.empty = "No change."
        tree.set_rows(tree_rows(made))
        rules = ", ".join(f"{visible(rule)} {count}" for rule, count in self._changes.hidden.items())
        before, after = self._changes.from_snapshot, self._changes.to_snapshot
        read = f", read at {clock(self._changes.created_at)}" if after == NOW else ""
        lines = [header_line(self._changes), (*self._points.words(before, after), (read, Role.MUTED))]
        if self._noise and rules:
            lines.append(line(("shown noise: ", Role.MUTED), (rules, Role.MUTED)))
        lines += [line(said(note, Role.WARN)) for note in self._changes.notes]
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
        self._draw()

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

    def _move(self, to: Callable[[Points], Pair | None]) -> None:
        if self._points is None:
            self.say("The snapshots are still being read.")
        elif (pair := to(self._points)) is None:
            self.say("There is no snapshot beyond.")
        else:
            self._pair = pair
            self.run_worker(self._read(), group="read", exclusive=True)


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
