"""What an agent's terminal showed, played again."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult

from fluid_tui.paint import Line, Role, line, said
from fluid_tui.screens.base import FluidScreen
from fluid_tui.widgets.replay_view import ReplayView


class ReplayScreen(FluidScreen):
    """One recording of a sandbox; the others are a key away."""

    PLACE = "replay"
    FOOTER = (
        ("replay.pause", "pause"),
        ("replay.faster", "faster"),
        ("replay.slower", "slower"),
        ("replay.rewind", "5 s back"),
        ("replay.forward", "5 s on"),
        ("replay.idle", "skip pauses"),
        ("app.back", "back"),
    )

    def __init__(self, sandbox_id: str, recording_id: str = "") -> None:
        super().__init__()
        self._sandbox_id = sandbox_id
        self._recording_id = recording_id

    def again(self) -> FluidScreen:
        return ReplayScreen(self._sandbox_id, self._recording_id)

    def crumb(self) -> Line:
        sandbox = self.fluid.mirror.sandbox(self._sandbox_id)
        name = sandbox.sandbox_name if sandbox else self._sandbox_id
        return line(("replay ", Role.MUTED), said(name, Role.TITLE))

    def body(self) -> ComposeResult:
        yield ReplayView(id="replay")

    def on_mount(self) -> None:
        view = self.query_one(ReplayView)
        view.focus()
        self.titled(view, "Recording")
        view.show(self.fluid.client, self._sandbox_id, self._recording_id)

    @on(ReplayView.Moved)
    def _moved(self) -> None:
        view = self.query_one(ReplayView)
        recording = view.recording
        title = "Recording"
        if recording is not None:
            began = recording.started_at.astimezone().strftime("%Y-%m-%d %H:%M")
            title = f"{recording.sandbox_name} · {recording.pane_id} · {began}"
        self.titled(view, title, view.words())
