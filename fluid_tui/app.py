"""The console. Small on purpose: screens own their handlers, the mirror the data, the tables the keys."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePath
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import RenderableType
from textual import events
from textual._compositor import CompositorUpdate
from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.driver import Driver
from textual.message_pump import MessagePump
from textual.screen import Screen

from backend.client.door import DoorAddress
from backend.models import Event
from fluid_tui import keymap, memory
from fluid_tui.actions import EVERYWHERE, WITHIN, of, shown_keys
from fluid_tui.attention import Attention, Notify, surroundings
from fluid_tui.colourless import Colourless
from fluid_tui.copying import clipboard_sequence
from fluid_tui.fleet_rows import Sorting
from fluid_tui.mirror import Contact, Mirror
from fluid_tui.plain_text import AsciiFilter, wants_ascii
from fluid_tui.screens.base import EventArrived, FleetChanged, FluidScreen
from fluid_tui.screens.fleet import FleetScreen
from fluid_tui.slow_line import SlowLineDriver
from fluid_tui.themes import DARK, SIXTEEN, THEMES
from fluid_tui.turns import Turns

if TYPE_CHECKING:
    from fluid_tui.backend_port import BackendPort
    from fluid_tui.screens.panic import Panicking

STYLES = ("base", "fleet", "hosts", "review", "diff", "terminal", "timeline", "wall", "dialog", "command")

FEW_COLOURS = "standard"
"""What Rich calls the 16 colours of old terminals."""
PANIC_S = 3.0
"""The key of the panic counts when it is pressed twice within so long."""
LONG_S = 1.0
"""What is over sooner is told by its end alone."""
FIRST_PAINT_S = 0.25
"""The first paint waits so long for the fleet, and no longer: each paint is kilobytes on a slow line."""


def styles_folder() -> Path:
    """``fluid_tui/styles`` where installed, ``styles/`` at the top of a checkout."""
    here = Path(__file__).parent
    return next(path for path in (here / "styles", here.parent / "styles") if path.is_dir())


class FluidApp(App[int], inherit_bindings=False):
    """One operator's console on one backend."""

    TITLE = "fluid"
    CSS_PATH: ClassVar[list[str | PurePath]] = [styles_folder() / f"{name}.tcss" for name in STYLES]
    BINDINGS: ClassVar[list[BindingType]] = []
    ENABLE_COMMAND_PALETTE = False  # with a key of Textual's, before all of ours: app.palette opens it

    def __init__(
        self,
        client: BackendPort,
        *,
        read_only: bool = False,
        keys: dict[str, str] | None = None,
        layout_file: Path | None = None,
        where: str = "",
    ) -> None:
        super().__init__()
        self.use_command_palette = True
        self.where = where  # the machine whose backend this is, if it is another
        self._layout_file = layout_file
        self._attention = Attention(self._to_terminal, self._notify, *surroundings())
        self.layout_kept = memory.load(layout_file)
        self._turns = Turns(self)
        self._panic_at = -PANIC_S
        self._under_way: list[tuple[str, float]] = []
        self.panics: dict[bool, Panicking] = {}  # under way: the panic, and by True its release
        self.left: FluidScreen | None = None  # the view that was left last
        self.client = client
        self.read_only = read_only
        self._overrides = keys or {}
        self.keys = keymap.effective(self._overrides)
        self.mirror = Mirror(client, self._fleet_changed, self._event_arrived)
        self.animation_level = "none"
        if self.no_color:
            self._filters = [Colourless()]  # Textual 8.2.8 would send greys
        if wants_ascii():
            self._filters.append(AsciiFilter())
        self._held = ExitStack()
        self._holding = True
        for theme in THEMES:
            self.register_theme(theme)
        known = [theme.name for theme in THEMES]
        kept = self.layout_kept.theme if self.layout_kept.theme in known else DARK.name
        self.theme = SIXTEEN.name if self.console.color_system == FEW_COLOURS else kept

    async def on_event(self, event: events.Event) -> None:
        """Keys and pastes have turns; at the end they are nobody's any more. A terminal of another size may
        show anything."""
        if isinstance(event, events.Resize) and isinstance(self._driver, SlowLineDriver):
            self._driver.shown.forget()
        if isinstance(event, events.Key | events.Paste) and not self.screen_stack:
            return
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
            await self._turns.take(event, super().on_event)
        else:
            await super().on_event(event)

    def key_of(self, id: str) -> str:
        """The key of an action as its operator reads it; the first one of several."""
        return shown_keys(self.keys[id].split(",")[0])

    @property
    def key_under_way(self) -> bool:
        """Whether a key was pressed and not all that it sets off has happened."""
        return self._turns.busy

    def on_mount(self) -> None:
        self.set_keymap(self._overrides)
        self._held.enter_context(self.batch_update())
        self.set_timer(FIRST_PAINT_S, self._paint)
        self.run_worker(self.mirror.run(), name="mirror")

    def get_default_screen(self) -> Screen[None]:
        return FleetScreen()

    def get_driver_class(self) -> type[Driver]:
        return SlowLineDriver

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        """What stands there already is not painted; what the line to the terminal has no room for is painted
        later, as it is then."""
        line = self._driver
        if not isinstance(line, SlowLineDriver) or not isinstance(renderable, CompositorUpdate):
            super()._display(screen, renderable)
        elif self._batch_count:
            return  # nothing is painted now
        elif not line.has_room():
            line.owe(screen, renderable)
        else:
            fresh = line.shown.fresh(renderable, screen.outer_size, self.console)
            super()._display(screen, fresh)
            line.painted()

    def refresh_css(self, animate: bool = True) -> None:
        """Before there is a screen, Textual 8.2.8 would parse all styles for the theme, and then anew."""
        if self.screen_stack:
            super().refresh_css(animate)
        else:
            self.stylesheet.set_variables(self.get_css_variables())

    def redraw(self) -> None:
        """All of the screen, whatever stands there."""
        if isinstance(self._driver, SlowLineDriver):
            self._driver.shown.forget()
        self.screen.refresh()

    @property
    def _background_screens(self) -> list[Screen[Any]]:
        """For Textual 8.2.8 what another screen covers whole is visible: each message to it repaints all."""
        return [] if self.screen.styles.background.a == 1 else super()._background_screens

    def gather(self) -> None:
        """A screen opens: what it shows is on its way."""
        if isinstance(self._driver, SlowLineDriver):
            self._driver.gather()

    def when_drawn(self, node: MessagePump, call: Callable[[], object]) -> None:
        """``node`` is to ``call`` it when what has changed until now stands on the terminal."""
        if isinstance(self._driver, SlowLineDriver):
            self._driver.when_drawn(partial(node.call_later, call))
        else:
            call()

    def _paint(self) -> None:
        """The first paint; from now on each change is painted."""
        if self._holding:
            self._holding = False
            self._held.close()
            self.screen.refresh()

    @contextmanager
    def under_way(self, doing: str) -> Iterator[None]:
        """While it lasts, and if it does for longer than a moment, ``doing`` is told on every screen."""
        one = doing, monotonic()
        self._under_way.append(one)
        timer = self.set_timer(LONG_S, self._draw_bars)
        try:
            yield
        finally:
            timer.stop()
            self._under_way.remove(one)
            self._draw_bars()

    def takes_long(self) -> list[tuple[str, float]]:
        """What the operator asked for and is not over after a moment: words, and when it began; oldest
        first."""
        return [one for one in self._under_way if monotonic() - one[1] >= LONG_S]

    def _draw_bars(self) -> None:
        if isinstance(self.screen, FluidScreen):
            self.screen.draw_bars()

    def _fleet_changed(self) -> None:
        if self.mirror.fleet is not None and self.mirror.link.contact is Contact.LIVE:
            self._attention.look(self.mirror.fleet)
        for screen in self.screen_stack:
            if isinstance(screen, FluidScreen):
                screen.post_message(FleetChanged())
        if self._holding:
            self.screen.call_after_refresh(self._paint)

    def _notify(self) -> Notify:
        kept = self.layout_kept.notify
        return Notify(kept) if kept in list(Notify) else Notify.BELL

    def _to_terminal(self, sequence: str) -> None:
        if self._driver is not None and sequence:
            self._driver.write(sequence)
            self._driver.flush()

    def copy_to_clipboard(self, text: str) -> None:
        """As Textual's, through tmux and screen; a terminal that has no clipboard is sent nothing."""
        self._clipboard = text
        self._to_terminal(clipboard_sequence(text))

    def _set_pointer_shape(self, shape: str) -> None:
        """Textual 8.2.8 would send OSC 22, which old terminals print: the mouse's pointer stays as it is."""

    def _event_arrived(self, event: Event) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, FluidScreen):
                screen.post_message(EventArrived(event))

    def show_fleet(self, *, words: str | None = None, sandbox: str = "") -> None:
        """Back home: with ``words`` filtered by them, with ``sandbox`` (an id) the cursor on it."""
        while len(self.screen_stack) > 1:
            self.pop_screen()
        home = self.screen
        if isinstance(home, FleetScreen):
            home.look_for(words, sandbox)

    def sort_fleet(self, sorting: Sorting) -> None:
        """Order the sandboxes from wherever the operator is."""
        self.show_fleet()
        if isinstance(self.screen, FleetScreen):
            self.screen.sort_by(sorting)

    def panic_meant(self) -> bool:
        """Whether the key was pressed a moment ago too; the next one is a first one again."""
        at = monotonic()
        meant = at - self._panic_at < PANIC_S
        self._panic_at = -PANIC_S if meant else at
        return meant

    def next_theme(self) -> str:
        """Switch to the theme after this one; its name."""
        names = [theme.name for theme in THEMES]
        return self.choose_theme(names[(names.index(self.theme) + 1) % len(names)])

    def choose_theme(self, name: str) -> str:
        """Switch to a theme of ours, by its name with or without ``fluid-``; its whole name."""
        self.theme = self.layout_kept.theme = next(
            theme.name for theme in THEMES if name in (theme.name, theme.name.removeprefix("fluid-"))
        )
        return self.theme

    def on_unmount(self) -> None:
        self._attention.close()
        memory.save(self.layout_kept, self._layout_file)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette: every action of the screen it was opened on, and of its parts, by its words."""
        if not isinstance(screen, FluidScreen):
            return
        for action in of(screen.PLACE, *WITHIN.get(screen.PLACE, ()), *EVERYWHERE):
            if action.id == "app.palette" or (self.read_only and action.changes):
                continue
            if (act := screen.method_of(action)) is not None:
                yield SystemCommand(action.words, f"{shown_keys(self.keys[action.id])}  {action.id}", act)


def run_console(
    door: str | Path | DoorAddress,
    *,
    read_only: bool = False,
    keymap_file: Path | None = None,
    where: str = "",
    mouse: bool = True,
) -> int:
    """Run the console on this operator door until the operator leaves; an exit code. Without ``mouse`` (or
    with ``FLUID_MOUSE=0``) it is the terminal's own.

    The backend may be down: the console shows it and connects when it is there. Raises
    :class:`backend.errors.ConfigError` for a keymap file that cannot be used.
    """
    from backend.client import AsyncFluid

    overrides = keymap.load(keymap_file or keymap.default_path())
    app = FluidApp(
        AsyncFluid(door),
        read_only=read_only,
        keys=overrides,
        layout_file=memory.default_path(),
        where=where,
    )
    gc.freeze()  # what the imports made lives as long as we do: no collection looks through it again
    gc.enable()
    code = app.run(mouse=mouse and os.environ.get("FLUID_MOUSE") != "0")
    return code if code is not None else app.return_code or 0
