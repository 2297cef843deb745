"""What a panic did, and how it is released."""

from __future__ import annotations

from time import monotonic

from textual.app import ComposeResult

from backend.errors import FluidError
from backend.models import ApprovalState, PanicView
from fluid_tui.paint import BLANK, Line, Role, line, said
from fluid_tui.screens.base import FluidScreen
from fluid_tui.screens.confirm import TypedConfirm, consequences
from fluid_tui.widgets.text_view import TextView
from fluid_tui.words import for_so_long, plural

RELEASE_WORD = "release"


class PanicScreen(FluidScreen):
    """It starts the panic (again: tries what failed once more), or with ``release`` asks and ends it."""

    PLACE = "panic"
    FOOTER = (("app.command", "command"), ("app.back", "back"))

    def __init__(self, *, release: bool = False) -> None:
        super().__init__()
        self._release = release
        self._began: float | None = None  # when what is under way began

    def crumb(self) -> Line:
        return line(("release", Role.TITLE) if self._release else ("panic", Role.BAD))

    def body(self) -> ComposeResult:
        yield TextView(id="panic")

    def on_mount(self) -> None:
        view = self.query_one(TextView)
        view.focus()
        self.app.clear_notifications()  # the word that it must be pressed again
        self.titled(view, "Release" if self._release else "Panic")
        if self._release:
            what = consequences("Applies may start again; the sandboxes that the panic paused go on.")
            ask = TypedConfirm("Release the panic", what, RELEASE_WORD, "go on")
            self.app.push_screen(ask, self._released)
        else:
            self._start()

    def action_panic(self) -> None:
        """Who presses on and on means the one that is under way."""
        if self._began is None:
            super().action_panic()

    def panic(self) -> None:
        """Once more, here."""
        self._release = False
        self.titled(self.query_one(TextView), "Panic")
        self.draw_bars()
        self._start()

    def _released(self, yes: bool | None) -> None:
        if yes:
            self._start()
        else:
            self.action_back()

    def _start(self) -> None:
        self._began = monotonic()
        self.refresh_data()
        self.app.run_worker(self._work(), group="do")

    async def _work(self) -> None:
        client = self.fluid.client
        try:
            done = await (client.release_panic() if self._release else client.panic())
        except FluidError as error:
            self._end([line(said(f"✗ {error.message}. {error.remedy}", Role.BAD))], bad=True)
        else:
            lines = self._released_lines(done) if self._release else self._lines(done)
            self._end(lines, bad=bool(done.failed))
        self.fluid.mirror.touch()

    def _end(self, lines: list[Line], *, bad: bool) -> None:
        """How it went; whoever has left this screen is told it in short."""
        self._began = None
        if self in self.app.screen_stack:
            self.query_one(TextView).set_lines(lines)
        else:
            told = [runs for runs in lines if runs and runs[0][1] is not Role.MUTED]
            self.say(" ".join(text for runs in told for text, _ in runs), bad=bad)

    def refresh_data(self) -> None:
        """What is under way, and for how long."""
        if self._began is not None:
            words = "The sandboxes go on …" if self._release else "Pausing every sandbox …"
            so_long = for_so_long(self._began, monotonic())
            self.query_one(TextView).set_lines([line((f"{words}{so_long}", Role.WARN))])

    def _lines(self, done: PanicView) -> list[Line]:
        fleet = self.fluid.mirror.fleet
        running = [one for one in fleet.approvals if one.state is ApprovalState.APPLYING] if fleet else []
        lines = [
            line(("✓ ", Role.GOOD), ("No apply starts from now on.", Role.TITLE)),
            line(("✓ ", Role.GOOD), (f"{_count(len(done.paused))} paused.", Role.TITLE)),
            *_failed(done, "still runs"),
            line(("✓ ", Role.GOOD), ("Every certificate is revoked: a new CA key signs.", Role.TITLE)),
            line(
                (
                    "  Guests trust only it: a paused one before it goes on, others in seconds.",
                    Role.MUTED,
                )
            ),
            line(("  Who was not told yet: ", Role.MUTED), ("fluid ca show", Role.ACCENT)),
        ]
        abort = self.fluid.key_of("review.abort")
        lines += [
            line(
                ("! ", Role.WARN),
                said(f"{one.short_id} is being applied; abort it in its review: {abort}.", Role.WARN),
            )
            for one in running
        ]
        return [
            *lines,
            BLANK,
            line(("It lasts until somebody releases it, also over a restart.", Role.MUTED)),
            line(
                ("Release: ", Role.MUTED),
                (":release", Role.ACCENT),
                (" here, or ", Role.MUTED),
                ("fluid panic --release", Role.ACCENT),
            ),
        ]

    def _released_lines(self, done: PanicView) -> list[Line]:
        thawed = len(done.paused) - len(done.failed)
        return [
            line(("✓ ", Role.GOOD), ("Applies may start again.", Role.TITLE)),
            line(("✓ ", Role.GOOD), (f"{_count(thawed)} resumed.", Role.TITLE)),
            *_failed(done, "is still paused"),
        ]


def _count(number: int) -> str:
    return plural(number, "sandbox", "sandboxes")


def _failed(done: PanicView, state: str) -> list[Line]:
    return [
        line(("✗ ", Role.BAD), said(f"{name} {state}: {why}", Role.BAD)) for name, why in done.failed.items()
    ]
