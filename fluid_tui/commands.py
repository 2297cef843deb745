"""The command line's words: its verbs, what may follow them, and what completes them. Pure.

A verb is found by its whole name or by a beginning that no other has. What follows must be exact: completion
types it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from backend.models import FleetView
from backend.text import visible
from fluid_tui.attention import Notify
from fluid_tui.fleet_rows import Sorting, short_id, waiting
from fluid_tui.themes import SIXTEEN, THEMES

SANDBOX_VERBS = {
    "terminal": "watch its agent's terminal",
    "diff": "show what changed in it",
    "timeline": "show what happened in it",
    "replay": "play what its terminal showed",
    "review": "review its request",
    "pause": "freeze it as it is",
    "resume": "thaw it",
    "snapshot": "take a snapshot now",
    "extend": "an hour more to live",
    "stop": "shut it down; its disk stays",
    "destroy": "remove it with all it holds (asks)",
}
CHANGING = frozenset({"pause", "resume", "snapshot", "extend", "stop", "destroy", "drain"})


class Choice(NamedTuple):
    """A word that may stand here, and what it means."""

    word: str
    hint: str = ""


Choices = Callable[[FleetView, list[str]], list[Choice]]


def _sandboxes(fleet: FleetView, _: list[str]) -> list[Choice]:
    return [Choice(visible(one.sandbox_name), _about(one.agent_id, one.host_name)) for one in fleet.sandboxes]


def _sandbox_verbs(_: FleetView, __: list[str]) -> list[Choice]:
    return [Choice(*pair) for pair in SANDBOX_VERBS.items()]


def _hosts(fleet: FleetView, _: list[str]) -> list[Choice]:
    return [Choice(visible(host.name), visible(host.status)) for host in fleet.hosts]


def _host_verbs(_: FleetView, __: list[str]) -> list[Choice]:
    return [Choice("drain", "no new sandboxes"), Choice("resume", "new sandboxes again")]


def _waiting(fleet: FleetView, _: list[str]) -> list[Choice]:
    return [Choice(visible(one.short_id), _about(one.sandbox_name, one.reason)) for one in waiting(fleet)[0]]


def _requests(fleet: FleetView, _: list[str]) -> list[Choice]:
    return [
        Choice(visible(one.short_id), _about(one.sandbox_name, one.state, one.reason))
        for one in fleet.approvals
    ]


def _asks(fleet: FleetView, _: list[str]) -> list[Choice]:
    return [Choice(short_id(one.request_id), _about(one.prompt)) for one in waiting(fleet)[1]]


def _themes(_: FleetView, __: list[str]) -> list[Choice]:
    kinds = {SIXTEEN.name: "for terminals with 16 colours"}
    return [
        Choice(theme.name.removeprefix("fluid-"), kinds.get(theme.name, "dark" if theme.dark else "light"))
        for theme in THEMES
    ]


def _ways(_: FleetView, __: list[str]) -> list[Choice]:
    hints = {
        Notify.BELL: "the bell",
        Notify.OSC9: "the bell, and a notification of the terminal",
        Notify.OFF: "",
    }
    return [Choice(str(way), hints[way]) for way in Notify]


def _orders(_: FleetView, __: list[str]) -> list[Choice]:
    return [Choice(str(order)) for order in Sorting]


def _about(*words: str) -> str:
    return visible(" · ".join(word for word in words if word), limit=60)


WHOLE_ID = re.compile(r"APR-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Verb:
    """``arguments``: what may stand at each place after the verb; the first ``needed`` must."""

    name: str
    usage: str
    words: str
    arguments: tuple[Choices, ...] = ()
    needed: int = 0
    free: bool = False  # any words may follow
    changes: bool = False


VERBS: tuple[Verb, ...] = (
    Verb("approve", "REQUEST", "Open the review and approve it there", (_waiting,), 1, changes=True),
    Verb("reject", "REQUEST", "Open the review and reject it there", (_waiting,), 1, changes=True),
    Verb("review", "REQUEST", "Show a request, also by its whole id", (_requests,), 1),
    Verb("answer", "QUESTION", "Open an agent's question", (_asks,), 1),
    Verb("sandbox", "SANDBOX [VERB]", "Go to a sandbox, or act on it", (_sandboxes, _sandbox_verbs)),
    Verb("compare", "SANDBOX SANDBOX", "Show how two sandboxes differ", (_sandboxes, _sandboxes), 2),
    Verb("host", "HOST [drain|resume]", "Go to a host, drain or resume it", (_hosts, _host_verbs)),
    Verb("hosts", "", "Show the hypervisors"),
    Verb("fleet", "", "Back home"),
    Verb("wall", "WORDS…", "Watch several terminals at once", free=True),
    Verb("timeline", "[SANDBOX]", "What happened, to one or to all", (_sandboxes,)),
    Verb("filter", "WORDS…", "Show only sandboxes that match", free=True),
    Verb("sort", "ORDER", "Order the sandboxes", (_orders,), 1),
    Verb("notify", "bell|osc9|off", "How a new request calls you", (_ways,), 1),
    Verb("theme", "THEME", "Switch colours", (_themes,), 1),
    Verb("panic", "", "Stop all, revoke certificates", changes=True),
    Verb("release", "", "Release the panic (asks)", changes=True),
    Verb("help", "", "Show the keys of this screen"),
    Verb("quit", "", "Leave the console"),
)


class Parsed(NamedTuple):
    """A line that was understood, or why not."""

    verb: Verb | None
    arguments: list[str]
    problem: str = ""


def parse(text: str, fleet: FleetView | None) -> Parsed:
    """The verb and its arguments, each one of the choices."""
    name, *arguments = text.split() or [""]
    verb, problem = _verb(name)
    if verb is None or verb.free:
        return Parsed(verb, arguments, problem)
    if len(arguments) < verb.needed:
        return Parsed(None, arguments, f"{verb.name} wants {verb.usage}")
    if len(arguments) > len(verb.arguments):
        return Parsed(None, arguments, f"too many words: {verb.name} {verb.usage}".rstrip())
    for at, given in enumerate(arguments):
        known = verb.arguments[at](fleet, arguments) if fleet else []
        if verb.name == "review" and WHOLE_ID.fullmatch(given):
            continue  # of one that ended long ago
        if given not in [choice.word for choice in known]:
            return Parsed(None, arguments, f"no {verb.usage.split()[at].strip('[]').lower()} {given!r}")
    return Parsed(verb, arguments)


def _verb(name: str) -> tuple[Verb | None, str]:
    found = [verb for verb in VERBS if verb.name == name] or [v for v in VERBS if v.name.startswith(name)]
    if len(found) == 1:
        return found[0], ""
    if not name or not found:
        return None, f"no command {name!r}: ? shows the keys, tab the commands" if name else "nothing typed"
    return None, f"{name!r} may be {', '.join(verb.name for verb in found)}"


def complete(text: str, fleet: FleetView | None) -> list[Choice]:
    """What the last word may become, those that begin so first, then those that hold it."""
    words = text.split(" ")
    last, before = words[-1].lower(), [word for word in words[:-1] if word]
    if not before:
        choices = [Choice(verb.name, f"{verb.usage:<20}{verb.words}") for verb in VERBS]
    else:
        verb, _ = _verb(before[0])
        at = len(before) - 1
        if verb is None or fleet is None or at >= len(verb.arguments):
            return []
        choices = verb.arguments[at](fleet, before[1:])
    begins = [choice for choice in choices if choice.word.lower().startswith(last)]
    holds = [choice for choice in choices if last in choice.word.lower() and choice not in begins]
    return begins + (holds if before else [])


def completed(text: str, choice: Choice) -> str:
    """The line with its last word replaced, ready for the next one."""
    head, space, _ = text.rpartition(" ")
    return f"{head}{space}{choice.word} "
