"""Runs a line of the command line: each verb leads to a screen or to a screen's own action."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.models import Sandbox
from backend.models.approval import APPROVAL_OVER
from fluid_tui.commands import CHANGING, WHOLE_ID, Parsed, parse
from fluid_tui.fleet_rows import Sorting, short_id
from fluid_tui.screens.ask import AskScreen
from fluid_tui.screens.diff import DiffScreen, open_compare
from fluid_tui.screens.hosts import HostsScreen
from fluid_tui.screens.panic import PanicScreen
from fluid_tui.screens.replay import ReplayScreen
from fluid_tui.screens.review import ReviewScreen
from fluid_tui.screens.sandbox_actions import SandboxActions
from fluid_tui.screens.terminal import TerminalScreen
from fluid_tui.screens.timeline import TimelineScreen
from fluid_tui.screens.wall import WallScreen

if TYPE_CHECKING:
    from fluid_tui.app import FluidApp
    from fluid_tui.screens.base import FluidScreen


def run(screen: FluidScreen, text: str) -> str:
    """Do what the line says on behalf of this screen; why not, or empty."""
    fluid = screen.fluid
    parsed = parse(text, fluid.mirror.fleet)
    if parsed.verb is None:
        return parsed.problem
    if fluid.read_only and (parsed.verb.changes or CHANGING & set(parsed.arguments[1:])):
        return "this console is read-only"
    return _Commander(screen, fluid).do(parsed)


class _Commander:
    """One line. The mirror's copy has each argument: :func:`parse` looked there."""

    def __init__(self, screen: FluidScreen, fluid: FluidApp) -> None:
        self._screen = screen
        self._fluid = fluid

    def do(self, parsed: Parsed) -> str:
        name = parsed.verb.name if parsed.verb else ""
        argument, rest = (*parsed.arguments, "", "")[:2]
        words = " ".join(parsed.arguments)
        done: dict[str, Callable[[], object]] = {
            "approve": lambda: self._review(argument, "approve"),
            "reject": lambda: self._review(argument, "reject"),
            "review": lambda: self._review(argument, ""),
            "answer": lambda: self._answer(argument),
            "sandbox": lambda: self._sandbox(argument, rest),
            "compare": lambda: self._compare(argument, rest),
            "host": lambda: self._host(argument, rest),
            "hosts": lambda: self._open(HostsScreen()),
            "wall": lambda: self._open(WallScreen(words)),
            "timeline": lambda: self._sandbox(argument, "timeline") if argument else self._timeline(""),
            "fleet": self._fluid.show_fleet,
            "filter": lambda: self._fluid.show_fleet(words=words),
            "sort": lambda: self._fluid.sort_fleet(Sorting(argument)),
            "theme": lambda: self._screen.say(f"Theme {self._fluid.choose_theme(argument)}."),
            "notify": lambda: self._notify(argument),
            "panic": lambda: self._open(PanicScreen()),
            "release": lambda: self._open(PanicScreen(release=True)),
            "help": self._screen.action_help,
            "quit": lambda: self._fluid.exit(0),
        }
        problem = done[name]()
        return problem if isinstance(problem, str) else ""

    def _notify(self, way: str) -> None:
        self._fluid.layout_kept.notify = way
        self._screen.say(f"New requests call by: {way}.")

    def _open(self, screen: FluidScreen) -> None:
        self._fluid.push_screen(screen)

    def _review(self, short: str, begin: str) -> str:
        if WHOLE_ID.fullmatch(short):
            self._fluid.push_screen(ReviewScreen(short, begin=begin))
            return ""
        fleet = self._fluid.mirror.fleet
        found = [one for one in fleet.approvals if one.short_id == short] if fleet else []
        if not found:
            return f"no request {short!r}"
        still_open = [one for one in found if one.state not in APPROVAL_OVER]
        if len(still_open) > 1:
            ids = ", ".join(one.id for one in still_open)
            return f"{len(still_open)} requests are called {short!r}, open one from the fleet: {ids}"
        newest = max(still_open or found, key=lambda one: one.created_at)
        self._fluid.push_screen(ReviewScreen(newest.id, begin=begin))
        return ""

    def _answer(self, short: str) -> str:
        fleet = self._fluid.mirror.fleet
        found = [one for one in fleet.asks if short_id(one.request_id) == short] if fleet else []
        if not found:
            return f"no question {short!r}"
        self._fluid.push_screen(AskScreen(found[0].request_id))
        return ""

    def _host(self, name: str, verb: str) -> None:
        client = self._fluid.client
        if verb == "drain":
            self._screen.do(
                lambda: client.drain_host(name), f"draining {name}", f"{name} takes no new sandboxes."
            )
        elif verb == "resume":
            self._screen.do(
                lambda: client.resume_host(name), f"resuming {name}", f"{name} takes new sandboxes again."
            )
        else:
            self._fluid.push_screen(HostsScreen(name))

    def _sandbox(self, name: str, verb: str) -> str:
        if not name:
            return "sandbox wants SANDBOX"
        sandbox = self._named(name)
        if isinstance(sandbox, str):
            return sandbox
        acts = SandboxActions(self._screen)
        doing = {
            "pause": acts.pause,
            "resume": acts.resume,
            "snapshot": acts.snapshot,
            "extend": acts.extend,
            "stop": acts.stop,
            "destroy": acts.destroy,
        }
        if verb in doing:
            doing[verb]([sandbox])
            return ""
        return self._show(sandbox, verb)

    def _named(self, name: str) -> Sandbox | str:
        """The one of that name; or why it is none."""
        fleet = self._fluid.mirror.fleet
        found = [one for one in fleet.sandboxes if one.sandbox_name == name] if fleet else []
        return found[0] if len(found) == 1 else f"{len(found)} sandboxes are named {name!r}"

    def _compare(self, name: str, other: str) -> str:
        found = [self._named(name), self._named(other)]
        problems = [one for one in found if isinstance(one, str)]
        two = [one for one in found if isinstance(one, Sandbox)]
        return problems[0] if problems else open_compare(self._screen, two)

    def _timeline(self, sandbox_id: str) -> str:
        self._fluid.push_screen(TimelineScreen(sandbox_id))
        return ""

    def _show(self, sandbox: Sandbox, verb: str) -> str:
        if verb == "terminal":
            self._fluid.push_screen(TerminalScreen(sandbox.id))
        elif verb == "timeline":
            return self._timeline(sandbox.id)
        elif verb == "replay":
            self._fluid.push_screen(ReplayScreen(sandbox.id))
        elif verb == "diff":
            self._fluid.push_screen(DiffScreen(sandbox.id))
        elif verb == "review":
            request = self._fluid.mirror.request_of(sandbox.id)
            if request is None:
                return "there is no request for approval of this sandbox"
            self._fluid.push_screen(ReviewScreen(request.id))
        else:
            self._fluid.show_fleet(words="", sandbox=sandbox.id)
        return ""
