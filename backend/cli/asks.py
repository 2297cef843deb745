"""``fluid asks …``: agents' plain questions."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.common import door, left, show_json, show_rows
from backend.cli.options import AsJson, examples, noun_app
from backend.client import operator_calls
from backend.errors import BadRequest
from backend.text import visible

app = noun_app("Agents' questions.")


@app.command("list", epilog=examples("fluid asks list"))
def list_asks(as_json: AsJson = False) -> None:
    """The questions that wait for an answer."""
    told = door().json(operator_calls.asks())
    if as_json:
        return show_json(told)
    rows = [
        (
            row["request_id"],
            row["urgency"],
            row["action_type"],
            row["requester_name"],
            left(row["expires_at"]),
            row["prompt"],
        )
        for row in told["pending"]
    ]
    return show_rows(("id", "urgency", "kind", "from", "left", "question"), rows, empty="nobody asks")


@app.command(epilog=examples("fluid asks answer ASK-5b110000 --no --comment 'not before the backup'"))
def answer(
    ask: Annotated[str, typer.Argument(metavar="ASK")],
    yes: Annotated[bool | None, typer.Option("--yes/--no", help="The answer.")] = None,
    comment: Annotated[str, typer.Option(help="What the agent is told.")] = "",
    as_json: AsJson = False,
) -> None:
    """Answer one."""
    if yes is None:
        raise BadRequest("neither yes nor no", remedy="add --yes or --no")
    told = door().json(operator_calls.answer(ask, yes, comment))
    return show_json(told) if as_json else print(visible(f"{told['request_id']} is {told['status']}"))
