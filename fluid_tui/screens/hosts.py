"""The hypervisors: their room, their queue of creates, and what is wrong with one. Drain and resume."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal

from backend.models import HostView, now
from backend.text import visible
from fluid_tui.actions import bindings
from fluid_tui.host_rows import (
    HOST_COLUMNS,
    QUEUE_COLUMNS,
    detail_lines,
    host_rows,
    host_warnings,
    queue_rows,
)
from fluid_tui.paint import Line, Role, line
from fluid_tui.screens.base import FluidScreen
from fluid_tui.widgets.live_list import LiveList
from fluid_tui.widgets.text_view import TextView
from fluid_tui.words import plural

FRAME = 3  # borders and heading of a list
ROWS_SHOWN = 8


class HostsScreen(FluidScreen):
    """A list of hosts; below, the chosen one and who waits for it."""

    PLACE = "hosts"
    BINDINGS = bindings("hosts")
    FOOTER = (
        ("hosts.drain", "drain"),
        ("hosts.resume", "resume"),
        ("hosts.open", "its sandboxes"),
        ("hosts.all", "all creates"),
        ("app.back", "back"),
    )

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self._wanted = name
        self._all = True

    def again(self) -> FluidScreen:
        return HostsScreen()

    def crumb(self) -> Line:
        return line(("hosts", Role.TITLE))

    def body(self) -> ComposeResult:
        yield LiveList(HOST_COLUMNS, id="hosts")
        with Horizontal(id="middle"):
            yield TextView(id="host")
            yield LiveList(QUEUE_COLUMNS, id="queue", heading=False, empty="Not known yet.")

    def on_mount(self) -> None:
        self.query_one("#hosts").focus()
        self.refresh_data()

    def refresh_data(self) -> None:
        fleet, hosts = self.fluid.mirror.fleet, self.query_one("#hosts", LiveList)
        if fleet is None:
            hosts.empty = self.why_nothing()
            return
        hosts.empty = "No host. Add one: fluid hosts add NAME ADDRESS"
        self.query_one("#queue", LiveList).empty = "No create is on its way."
        hosts.set_rows(host_rows(fleet.hosts, now()))
        hosts.styles.height = min(max(1, len(fleet.hosts)), ROWS_SHOWN) + FRAME
        if self._wanted:
            hosts.move_to(self._wanted)
            self._wanted = ""
        self.titled(hosts, "Hosts", self._counts(fleet.hosts))
        self._draw_chosen()

    def _counts(self, hosts: list[HostView]) -> str:
        warned = sum(bool(host_warnings(host) or host.last_error) for host in hosts)
        up = sum(host.status == "up" for host in hosts)
        return f"{up} of {plural(len(hosts), 'host')} up" + (f" · {warned} to look at" if warned else "")

    def _draw_chosen(self) -> None:
        fleet, host = self.fluid.mirror.fleet, self.chosen()
        detail, queue = self.query_one("#host", TextView), self.query_one("#queue", LiveList)
        if fleet is None:
            return
        rows = queue_rows(fleet, "" if self._all or host is None else host.name)
        queue.set_rows(rows)
        whose = "all hosts" if self._all or host is None else host.name
        self.titled(queue, f"Creates · {whose}", f"{len(rows)} on their way" if rows else "")
        self.titled(detail, host.name if host else "No host")
        detail.set_lines(detail_lines(host, now()) if host else [line(("Nothing to show.", Role.MUTED))])

    def chosen(self) -> HostView | None:
        """The host under the cursor."""
        fleet, key = self.fluid.mirror.fleet, self.query_one("#hosts", LiveList).key
        return next((host for host in fleet.hosts if host.name == key), None) if fleet else None

    @on(LiveList.RowHighlighted, "#hosts")
    def _highlighted(self) -> None:
        self._draw_chosen()

    @on(LiveList.RowOpened, "#hosts")
    def _opened(self) -> None:
        self.action_open()

    def action_drain(self) -> None:
        if host := self.chosen():
            client, name = self.fluid.client, host.name
            self.do(
                lambda: client.drain_host(name),
                f"draining {name}",
                f"{visible(name)} takes no new sandboxes; those it has stay.",
            )

    def action_resume(self) -> None:
        if host := self.chosen():
            client, name = self.fluid.client, host.name
            self.do(
                lambda: client.resume_host(name),
                f"resuming {name}",
                f"{visible(name)} takes new sandboxes again.",
            )

    def action_open(self) -> None:
        """The fleet, filtered to this host."""
        if host := self.chosen():
            self.fluid.show_fleet(words=f"host:{host.name}")

    def action_all(self) -> None:
        self._all = not self._all
        self._draw_chosen()
