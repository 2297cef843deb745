"""``fluid commands …``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.cli.common import ago, door, sandbox_id, show_fields, show_json, show_rows, show_text
from backend.cli.options import AsJson, SandboxName, examples, noun_app
from backend.client import calls

app = noun_app("What agents ran.")

PAGE = 100
COMMAND_CHARS = 100


@app.command("list", epilog=examples("fluid commands list web", "fluid commands list web --from 100"))
def list_commands(
    sandbox: SandboxName,
    first: Annotated[int, typer.Option("--from", min=0, help="Skip this many.")] = 0,
    as_json: AsJson = False,
) -> None:
    """What was run in a sandbox, oldest first, a hundred at a time."""
    told = door().json(calls.commands(sandbox_id(sandbox), limit=PAGE, offset=first))
    if as_json:
        return show_json(told)
    rows = [
        (row["id"], ago(row["started_at"]), _ended(row), row["command"][:COMMAND_CHARS])
        for row in told["commands"]
    ]
    return show_rows(("id", "ago", "exit", "command"), rows, empty="no command")


@app.command(epilog=examples("fluid commands show CMD-1f0c9a2b"))
def show(command: Annotated[str, typer.Argument(metavar="COMMAND")], as_json: AsJson = False) -> None:
    """One command, how it ended, and what it printed on both its outputs."""
    told = door().json(calls.command(command))["command"]
    if as_json:
        return show_json(told)
    started = ("started", told["started_at"])
    show_fields(
        [("command", told["command"]), ("sandbox", told["sandbox_id"]), started, ("exit", _ended(told))]
    )
    for name in ("stdout", "stderr"):
        if told[name]:
            print(f"\n{name}:")
            show_text(told[name].rstrip("\n"))
    return None


def _ended(row: dict[str, Any]) -> str:
    if row.get("timed_out"):
        return "timed out"
    if row["exit_code"] is not None:
        return str(row["exit_code"])
    return "running" if row.get("ended_at") is None else "not known"
