"""What an operator does to sandboxes, from whichever screen; what cannot be undone is asked first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from backend.models import Sandbox
from backend.text import visible
from fluid_tui.screens.base import FluidScreen
from fluid_tui.screens.confirm import NameDialog, TypedConfirm, consequences

EXTEND_S = 3600
NONE_MEANT = "There is no sandbox under the cursor."
Meant = Sequence[Sandbox]


class SandboxActions:
    """Acts on behalf of one screen, which says how it went."""

    def __init__(self, screen: FluidScreen) -> None:
        self._screen = screen

    def _each(self, meant: Meant, act: Callable[[str], Awaitable[object]], doing: str, done: str) -> None:
        if not meant:
            self._screen.say(NONE_MEANT)
        for sandbox in meant:
            name = sandbox.sandbox_name
            self._screen.do(lambda id=sandbox.id: act(id), f"{doing} {name}", f"{name}: {done}")  # type: ignore[misc]

    def pause(self, meant: Meant) -> None:
        self._each(meant, self._screen.fluid.client.pause, "pausing", "paused")

    def resume(self, meant: Meant) -> None:
        self._each(meant, self._screen.fluid.client.resume, "resuming", "resumed")

    def stop(self, meant: Meant) -> None:
        self._each(meant, self._screen.fluid.client.stop, "stopping", "stopped")

    def extend(self, meant: Meant) -> None:
        client = self._screen.fluid.client
        self._each(meant, lambda id: client.extend(id, EXTEND_S), "extending", "an hour more")

    def snapshot(self, meant: Meant) -> None:
        if not meant:
            self._screen.say(NONE_MEANT)
            return
        names = ", ".join(one.sandbox_name for one in meant)
        what = consequences(visible(f"Memory and disk of {names}, as they are now."))

        def take(name: str | None) -> None:
            if name:
                client = self._screen.fluid.client
                taken = f"snapshot {name} taken"
                self._each(meant, lambda id: client.snapshot(id, name), "taking a snapshot of", taken)

        self._screen.app.push_screen(NameDialog("Take a snapshot", what, "Its name:"), take)

    def destroy(self, meant: Meant) -> None:
        if not meant:
            self._screen.say(NONE_MEANT)
            return
        names = ", ".join(visible(one.sandbox_name) for one in meant)
        word = visible(meant[0].sandbox_name) if len(meant) == 1 else str(len(meant))
        what = consequences(
            f"{names}: the machine, its disk and its snapshots are removed. This cannot be undone."
        )

        def destroy(yes: bool | None) -> None:
            if yes:
                self._each(meant, self._screen.fluid.client.destroy, "destroying", "destroyed")

        self._screen.app.push_screen(TypedConfirm("Destroy", what, word, "destroy", bad=True), destroy)
