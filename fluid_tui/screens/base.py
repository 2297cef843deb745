"""What every screen has: the two bars, the action table's keys, the state of the connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget

from backend.errors import FluidError
from backend.models import Event, now
from backend.text import visible
from fluid_tui.actions import BY_ID, Action, bindings, changing_names
from fluid_tui.commands import complete
from fluid_tui.copying import clipboard_sequence, write_new
from fluid_tui.fleet_rows import headline, open_guests
from fluid_tui.jump import Jump
from fluid_tui.mirror import Contact
from fluid_tui.paint import Line, Role, Run, line, said
from fluid_tui.screens.confirm import Dialog
from fluid_tui.widgets.bars import KeyBar, TopBar
from fluid_tui.widgets.command_bar import CommandBar
from fluid_tui.widgets.painted import Painted
from fluid_tui.words import clock, for_so_long

if TYPE_CHECKING:
    from fluid_tui.app import FluidApp

TICK_S = 10.0
"""Relative times move in steps of ten seconds."""
NARROW_BELOW = 100
SHORT_BELOW = 16
CRUMBS_SHOWN = 3
DOING_CHARS = 32


class FleetChanged(Message):
    """The mirror has a fresh copy, or the connection changed."""


class EventArrived(Message):
    """Something happened in the backend."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


class FluidScreen(Screen[None]):
    """``PLACE`` names its actions, ``FOOTER`` the ids that its last line shows, in order."""

    BINDINGS = bindings("app")
    PLACE: ClassVar[str] = ""
    FOOTER: ClassVar[Sequence[tuple[str, str]]] = ()
    FOOTER_KEPT: ClassVar[int] = 2  # the way back and the help, also where not all fit
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (NARROW_BELOW, "-wide")]  # noqa: RUF012  Textual declares it so
    VERTICAL_BREAKPOINTS = [(0, "-short"), (SHORT_BELOW, "-tall")]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self._titles: dict[tuple[Widget, str], str] = {}
        self._jump: Jump | None = None
        self._focus_before: Widget | None = None

    @property
    def fluid(self) -> FluidApp:
        return cast("FluidApp", self.app)

    def compose(self) -> ComposeResult:
        width, height = self.app.size
        self.add_class(  # before the first resize, which would style all widgets once more
            "-narrow" if width < NARROW_BELOW else "-wide",
            "-short" if height < SHORT_BELOW else "-tall",
            update=False,
        )
        yield TopBar(id="top")
        yield from self.body()
        yield KeyBar(id="keys")

    def body(self) -> ComposeResult:
        """The widgets between the bars."""
        yield from ()

    def on_mount(self) -> None:
        self.draw_bars()
        self.set_interval(TICK_S, self._tick)

    def _tick(self) -> None:
        """Ages and the clock move on also when nothing happens."""
        if self.is_current and self.composed:
            self.draw_bars()
            self.refresh_data()

    @property
    def composed(self) -> bool:
        """Whether the widgets are there: words of the mirror may come before."""
        return bool(self.query("#keys"))

    @property
    def looks_at(self) -> tuple[str, str]:
        """The place, and the id of what is looked at there: other operators see it."""
        return self.PLACE, ""

    @property
    def keys_elsewhere(self) -> bool:
        """Whether keys are not the console's now."""
        return False

    def method_of(self, action: Action) -> Callable[[], object] | None:
        """What an action does here: by this screen, by what has the focus, or by a part that is in sight."""
        parts = [each for each in self.query(Painted) if each.can_focus and each.region]
        for owner in (self, self.focused, *parts):
            if (method := getattr(owner, f"action_{action.name}", None)) is not None:
                return cast("Callable[[], object]", method)
        return None

    def on_screen_resume(self) -> None:
        self.fluid.gather()
        self.fluid.mirror.look_at(*self.looks_at)
        self._tick()

    def footer(self) -> Sequence[tuple[str, str]]:
        """The actions named at the foot, as they stand now."""
        return self.FOOTER

    def crumb(self) -> Line:
        """What this screen is about: the last of the crumbs in its top line."""
        return ()

    def name_line(self) -> Line:
        """``fluid``, and the machine whose backend it shows if it is another."""
        where = self.fluid.where
        return line(("fluid", Role.TITLE), *([said(f" {where}", Role.ACCENT)] if where else []))

    def title_line(self) -> Line:
        """The way here: ``fluid › nginx-tls › review 4f2a``, the oldest crumbs left out."""
        stack = self.app.screen_stack
        at = stack.index(self) + 1 if self in stack else len(stack)
        crumbs = [each.crumb() for each in stack[:at] if isinstance(each, FluidScreen) and each.crumb()]
        runs: list[Run] = [*self.name_line()]
        if len(crumbs) > CRUMBS_SHOWN:
            runs.append((" › …", Role.MUTED))
        for crumb in crumbs[-CRUMBS_SHOWN:]:
            here = crumb is crumbs[-1]
            runs.append((" › ", Role.MUTED))
            runs += crumb if here else [(text, Role.MUTED) for text, _ in crumb]
        return tuple(runs)

    def on_fleet_changed(self) -> None:
        if self.composed:
            self.draw_bars()
            self.refresh_data()

    def refresh_data(self) -> None:
        """Draw the mirror's copy."""

    def _refresh_layout(self, size: Size | None = None, scroll: bool = False) -> None:
        """Textual 8.2.8 paints a screen that is both laid out and refreshed twice; this paints it once."""
        if self._repaint_required and not self.app._batch_count:
            self._repaint_required = False
            self._dirty_widgets.add(self)
        super()._refresh_layout(size, scroll)

    def _compositor_refresh(self) -> None:
        """Textual 8.2.8 would paint what a dialog stands on whole at every message from then on."""
        super()._compositor_refresh()
        if self.app.screen is not self:
            self._repaint_required = False

    def why_nothing(self) -> str:
        """What stands in place of a copy that was never read: nothing is claimed of what is not known."""
        return f"Not known: {why}" if (why := self.why_lost()) else "Connecting …"

    def why_lost(self) -> str:
        """Why nothing new is known, and what to do; empty while it is."""
        link = self.fluid.mirror.link
        return f"{link.problem}. {link.remedy}".rstrip(" .") if link.contact is Contact.LOST else ""

    @property
    def is_lost(self) -> bool:
        """Whether the backend does not answer: what is shown may be old."""
        return self.fluid.mirror.link.contact is Contact.LOST

    def as_it_was(self) -> list[Line]:
        """Old state is never shown as new."""
        if not self.is_lost:
            return []
        since = self.fluid.mirror.link.since
        when = f"As it was at {clock(since)}" if since else "As it was"
        return [line(("✗ ", Role.BAD), (f"{when}: the backend does not answer.", Role.BAD))]

    def draw_bars(self) -> None:
        """Both bars; they paint only what differs."""
        if not self.composed:
            return
        fleet = self.fluid.mirror.fleet
        here = self._also_here()
        warnings = [*here, *(open_guests(fleet) if fleet else [])]
        short = [*here, *(open_guests(fleet, short=True) if fleet else [])]
        self.query_one(TopBar).show(self.title_line(), self._facts(), warnings, short)
        self.set_class(self.fluid.mirror.link.contact is Contact.LOST, "-stale")
        help = () if self.keys_elsewhere else (("app.help", BY_ID["app.help"].label),)
        pairs = [
            (self.fluid.key_of(id), label)
            for id, label in (*self.footer(), *help)
            if not (self.fluid.read_only and BY_ID[id].changes)
        ]
        if self._jump:
            pairs = [("a letter", "goes to its row or area"), ("esc", "stays")]
        self.query_one(KeyBar).show(pairs, self.FOOTER_KEPT)

    def _also_here(self) -> list[Run]:
        """The other operators who look at the same."""
        names = self.fluid.mirror.also_at(*self.looks_at) if self.looks_at[1] else []
        return [(f"also here: {visible(', '.join(names))}", Role.WARN)] if names else []

    def _facts(self) -> list[Run]:
        mirror = self.fluid.mirror
        link, at = mirror.link, (clock(now()), Role.MUTED)
        read_only: list[Run] = [("read-only", Role.ACCENT)] if self.fluid.read_only else []
        if link.contact is Contact.LIVE and mirror.fleet is not None:
            return [*headline(mirror.fleet, self._under_way(), read_only), at]
        if link.contact is Contact.CONNECTING:
            return [*read_only, ("◌ connecting", Role.ACCENT), at]
        since = f" since {clock(link.since)}" if link.since else ""
        return [*read_only, (f"✗ {link.word}{since}", Role.BAD), at]

    def _under_way(self) -> list[Run]:
        """The oldest of what takes long, with how many others do."""
        long = self.fluid.takes_long()
        if not long:
            return []
        words, began = long[0]
        more = f" and {len(long) - 1} more" if len(long) > 1 else ""
        return [
            (f"◌ {visible(words, limit=DOING_CHARS)}{more}{for_so_long(began, monotonic())}", Role.ACCENT)
        ]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In read-only, what touches more than the console is off."""
        if self.fluid.read_only and action in changing_names(self.PLACE) | changing_names("app"):
            return None
        return True

    def say(self, words: str, *, bad: bool = False) -> None:
        """A word to the operator, made harmless."""
        self.app.notify(visible(words), severity="error" if bad else "information", markup=False)

    def say_decided(self, words: str) -> None:
        """Somebody else was first: also in the dialog that asks the same."""
        self.say(words, bad=True)
        if isinstance(self.app.screen, Dialog):
            self.app.screen.tell(visible(words))

    def do(self, work: Callable[[], Awaitable[Any]], doing: str, done: str | Callable[[Any], str]) -> None:
        """Send something to the backend in the background; what takes long stands in the top line. Say how it
        went (``done``, of the answer where it depends on it), also to who has left this screen by then, and
        read the fleet anew."""

        async def run() -> None:
            try:
                with self.fluid.under_way(doing):
                    told = await work()
            except FluidError as error:
                self.say(f"{error.message}. {error.remedy}" if error.remedy else error.message, bad=True)
            else:
                self.say(done if isinstance(done, str) else done(told))
            self.fluid.mirror.touch()

        self.app.run_worker(run(), group="do")

    def action_back(self) -> None:
        self.fluid.left = self
        self.app.pop_screen()

    def again(self) -> FluidScreen | None:
        """This view made anew, for the way back to it."""
        return None

    # --- the command line and jump mode -----------------------------------------------------------------

    async def action_command(self, start: str = "") -> None:
        """Open the command line at the foot of this screen; it has the next key."""
        if self.query("#command"):
            return
        self._focus_before = self.focused
        mirror, history = self.fluid.mirror, self.fluid.layout_kept.history
        await self.mount(CommandBar(lambda text: complete(text, mirror.fleet), history, start))

    @on(CommandBar.Left)
    def _command_left(self, message: CommandBar.Left) -> None:
        message.stop()
        self._close_command()

    def _close_command(self) -> None:
        """The cursor goes back to where it was, unless the command has led it elsewhere."""
        for bar in self.query(CommandBar):
            if self._focus_before is not None and self.focused in bar.walk_children():
                self.set_focus(self._focus_before)
            bar.remove()

    @on(CommandBar.Ran)
    def _command_ran(self, message: CommandBar.Ran) -> None:
        from fluid_tui import commander

        message.stop()
        text = message.text
        if not text:
            self._close_command()
            return
        if problem := commander.run(self, text):
            self.query_one(CommandBar).refuse(problem)
            return
        self.fluid.layout_kept.remember(text)
        self._close_command()

    def action_jump(self) -> None:
        jump = Jump(self)
        self._jump = None if jump.over else jump
        self.draw_bars()

    def on_key(self, event: events.Key) -> None:
        """In jump mode every key is a letter or the way out of it."""
        if self._jump is None:
            return
        event.stop()
        event.prevent_default()
        self._jump.key(event.key)
        if self._jump.over:
            self._jump = None
            self.draw_bars()

    def has_title(self, widget: Widget) -> bool:
        """Whether a letter can stand there."""
        return (widget, "border_title") in self._titles

    def label_titles(self, labels: Mapping[Widget, str]) -> None:
        """Letters in front of the titles of areas, for as long as a jump lasts."""
        for (widget, name), words in self._titles.items():
            if name == "border_title":
                letters = f"{labels[widget]} " if widget in labels else ""
                widget.border_title = Content(visible(letters + words))

    def action_last(self) -> None:
        """The view that was left last, or back from it."""
        if len(self.app.screen_stack) > 1:
            self.action_back()
        elif self.fluid.left is not None and (view := self.fluid.left.again()) is not None:
            self.app.push_screen(view)
        else:
            self.say("There is no view before this one.")

    def action_panic(self) -> None:
        """The second time within a moment it is meant."""
        if self.fluid.panic_meant():
            self.panic()
        else:
            key, what = self.fluid.key_of("app.panic"), "all sandboxes pause, certificates are revoked"
            self.say(f"Press {key} again: {what}, no apply starts.", bad=True)

    def panic(self) -> None:
        """It is meant: begin it."""
        from fluid_tui.screens.panic import PanicScreen

        self.app.push_screen(PanicScreen())

    def _taken(self) -> tuple[str, str]:
        """What is under the cursor, or else the first text of this screen."""
        shown = [each for each in self.query(Painted) if each.can_focus and each.display]
        held = self.focused if isinstance(self.focused, Painted) else next(iter(shown), None)
        return held.taken() if held is not None else ("", "")

    def action_copy(self) -> None:
        what, text = self._taken()
        if not text:
            self.say("There is nothing to copy.")
        elif clipboard_sequence(text):
            self.app.copy_to_clipboard(text)
            save = self.fluid.key_of("app.save")
            self.say(f"Sent {what} to the terminal's clipboard (OSC 52); {save} writes a file.")
        else:
            self._save(what, text, "No clipboard here takes it: ")

    def action_save(self) -> None:
        what, text = self._taken()
        if text:
            self._save(what, text)
        else:
            self.say("There is nothing to write.")

    def _save(self, what: str, text: str, because: str = "Written: ") -> None:
        path = Path.cwd() / f"fluid-{self.PLACE}-{now().astimezone():%Y%m%d-%H%M%S}.txt"
        try:
            write_new(path, text + "\n")
        except OSError as error:
            self.say(f"Could not write {path}: {error.strerror}", bad=True)
        else:
            self.say(f"{because}{what} is in {path}")

    def action_palette(self) -> None:
        self.app.action_command_palette()

    def action_theme(self) -> None:
        self.say(f"Theme {self.fluid.next_theme()}.")

    def action_redraw(self) -> None:
        self.fluid.redraw()

    def action_help(self) -> None:
        from fluid_tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen(self.PLACE))

    def titled(self, widget: Widget, title: str, subtitle: str = "") -> None:
        """The words in a widget's border; never markup. Equal words paint nothing."""
        for name, words in (("border_title", title), ("border_subtitle", subtitle)):
            if self._titles.get((widget, name)) != words:
                self._titles[widget, name] = words
                setattr(widget, name, Content(visible(words)))
