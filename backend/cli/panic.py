"""``fluid panic``: stop everything, and release it."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.common import door, show_json
from backend.cli.options import AsJson, Yes, confirm, examples, verb_app
from backend.client import operator_calls
from backend.text import visible

app = verb_app()


@app.command(epilog=examples("fluid panic --yes", "fluid panic --release --yes"))
def panic(
    release: Annotated[bool, typer.Option("--release", help="Go on: thaw what the panic paused.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Pause every sandbox, revoke every certificate, and let no apply start until it is released."""
    ask = "Pause every sandbox, revoke every certificate and block every apply?"
    confirm("Release the panic?" if release else ask, yes)
    call = operator_calls.release_panic() if release else operator_calls.panic()
    told = door().json(call)
    if as_json:
        return show_json(told)
    count = len(told["paused"])
    revoked = ", every certificate revoked" if told["revoked"] else ""
    said = f"released: {count} thawed" if release else f"panic: no apply starts, {count} paused{revoked}"
    print(said if release else f"{said}; `fluid panic --release` ends it")
    for name, why in told["failed"].items():
        print(visible(f"  {name}: {why}"))
    return None
