"""What a panic did, and how it is released."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(eq=False)
class Panicking:
    """One panic, or one release: it goes on whoever looks at it."""

    release: bool
    began: float
    lines: list[Line] | None = None  # how it went

    @property
    def doing(self) -> str:
        return "releasing the panic" if self.release else "pausing every sandbox"


class PanicScreen(FluidScreen):
    """It starts the panic (again: tries what failed once more), or with ``release`` asks and ends it. Of the
    one that is under way it shows how it goes, and starts no other."""

    PLACE = "panic"
    FOOTER = (("app.command", "command"), ("app.back", "back"))

    def __init__(self, *, release: bool = False) -> None:
        super().__init__()
        self._release = release
        self._one = self.fluid.panics.get(release)  # what is shown: it may end before this is drawn

    def crumb(self) -> Line:
        return line(("release", Role.TITLE) if self._release else ("panic", Role.BAD))

    def body(self) -> ComposeResult:
        yield TextView(id="panic")

    def on_mount(self) -> None:
        view = self.query_one(TextView)
        view.focus()
        self.app.clear_notifications()  # the word that it must be pressed again
        self.titled(view, "Release" if self._release else "Panic")
        if self._one is not None:
            self.refresh_data()
        elif self._release:
            what = consequences("Applies may start again; the sandboxes that the panic paused go on.")
            ask = TypedConfirm("Release the panic", what, RELEASE_WORD, "go on")
            self.app.push_screen(ask, self._released)
        else:
            self._start()

    def again(self) -> FluidScreen | None:
        return PanicScreen(release=self._release) if self._release in self.fluid.panics else None

    def action_panic(self) -> None:
        """Who presses on and on means the one that is under way."""
        if self._release or self._one is None or self._one.lines is not None:
            super().action_panic()

    def panic(self) -> None:
        """Once more, here."""
        self._release = False
        self.titled(self.query_one(TextView), "Panic")
        self._one = self.fluid.panics.get(False)
        if self._one is None:
            self._start()
        self.draw_bars()
        self.refresh_data()

    def _released(self, yes: bool | None) -> None:
        if yes:
            self._start()
        else:
            self.action_back()

    def _start(self) -> None:
        one = self._one = self.fluid.panics[self._release] = Panicking(self._release, monotonic())
        self.refresh_data()
        self.app.run_worker(self._work(one), group="do")

    async def _work(self, one: Panicking) -> None:
        client = self.fluid.client
        try:
            with self.fluid.under_way(one.doing):
                done = await (client.release_panic() if one.release else client.panic())
        except FluidError as error:
            self._end(one, [line(said(f"✗ {error.message}. {error.remedy}", Role.BAD))], bad=True)
        else:
            lines = self._released_lines(done) if one.release else self._lines(done)
            self._end(one, lines, bad=bool(done.failed))
        self.fluid.mirror.touch()

    def _end(self, one: Panicking, lines: list[Line], *, bad: bool) -> None:
        """How it went; whoever looks at something else is told it in short."""
        one.lines = lines
        del self.fluid.panics[one.release]
        screens = [each for each in self.app.screen_stack if isinstance(each, PanicScreen)]
        showing = [each for each in screens if each._one is one]
        for each in showing:
            each.refresh_data()
        if not showing:
            told = [runs for runs in lines if runs and runs[0][1] is not Role.MUTED]
            self.say(" ".join(text for runs in told for text, _ in runs), bad=bad)

    def refresh_data(self) -> None:
        """What is under way, and for how long; then how it went."""
        one = self._one
        if one is None or not self.composed:
            return
        lines = one.lines
        if lines is None:
            words = "The sandboxes go on …" if one.release else "Pausing every sandbox …"
            lines = [line((f"{words}{for_so_long(one.began, monotonic())}", Role.WARN))]
        self.query_one(TextView).set_lines(lines)

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
