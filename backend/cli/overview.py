"""What ``fluid status`` prints, without the command line library: it has a quarter of a second."""

from __future__ import annotations

from typing import Any

from backend.cli.common import door, show_json
from backend.client import operator_calls
from backend.errors import FluidError
from backend.text import visible

LINE_OPTION = "--line"


def print_line() -> None:
    """One line for tmux's status bar: who waits, then what is wrong. Without a backend it says so, and ends
    as any command does."""
    try:
        told: dict[str, Any] = door().json(operator_calls.status())
    except FluidError:
        print("fluid: no backend")
        raise
    print(visible(" · ".join(line_words(told))))


def line_words(told: dict[str, Any]) -> list[str]:
    """The parts of that line, the most important first."""
    waiting, count = told["waiting"], sum(told["sandboxes"].values())
    words = [f"{waiting} need{'s' if waiting == 1 else ''} you"] if waiting else []
    words += [f"{host['name']} {host['status']}" for host in told["hosts"] if host["status"] != "up"]
    words += [f"{part['name']} {part['status']}" for part in told["components"] if part["status"] != "ok"]
    words += [] if told["audit"]["ok"] else ["audit BROKEN"]
    return [*words, f"{count} sandbox{'' if count == 1 else 'es'}"]


def print_status(as_json: bool) -> None:
    """Counts, who waits, and each part."""
    told: dict[str, Any] = door().json(operator_calls.status())
    if as_json:
        return show_json(told)
    counts = [f"{count} {phase}" for phase, count in told["sandboxes"].items()] or ["no sandbox"]
    waiting = told["waiting"]
    needs = f"{waiting} need{'s' if waiting == 1 else ''} you" if waiting else "nobody needs you"
    audit = told["audit"]
    chain = f"audit {'ok' if audit['ok'] else 'BROKEN: fluid audit verify'} ({audit['rows']} rows)"
    print(visible(" · ".join([f"fluid {told['version']}", *counts, needs, chain])))
    for host in told["hosts"]:
        virt = {"qemu": "emulated"}.get(host["virt"], host["virt"])
        print(visible(f"host {host['name']}: {host['status']} {virt}".rstrip()))
    for part in told["components"]:
        tail = f" {part['message']}" if part.get("message") else ""
        mend = f" — {part['remedy']}" if part.get("remedy") else ""
        print(visible(f"{part['name']}: {part['status']}{tail}{mend}"))
    return None
