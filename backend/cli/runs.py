"""``fluid runs …``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.cli.common import ago, door, show_fields, show_json, show_rows
from backend.cli.options import AsJson, Yes, confirm, examples, noun_app
from backend.client import operator_calls
from backend.text import visible

app = noun_app("Rehearsals, dry runs, applies.")

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Its id; `fluid approvals show` names it.")]


@app.command(epilog=examples("fluid runs show RUN-1f0c9a2b"))
def show(run: RunName, as_json: AsJson = False) -> None:
    """How it stands and what each task did."""
    told = door().json(operator_calls.run_of(run))
    return show_json(told) if as_json else _show(told)


@app.command(epilog=examples("fluid runs cancel RUN-1f0c9a2b --yes"))
def cancel(run: RunName, yes: Yes = False, as_json: AsJson = False) -> None:
    """End it cleanly: what is done stays done, and the run says where."""
    confirm(f"Cancel {visible(run)}? What is done on its targets stays done.", yes)
    told = door().json(operator_calls.cancel_run(run))
    return show_json(told) if as_json else _show(told)


@app.command(
    epilog=examples("fluid runs rollback RUN-1f0c9a2b", "fluid runs rollback RUN-1f0c9a2b --target web-01")
)
def rollback(
    run: RunName,
    target: Annotated[str, typer.Option(help="One of its targets; else all.")] = "",
    as_json: AsJson = False,
) -> None:
    """Ask to take an apply back, to what its targets had before: a request of its own, which another operator
    approves."""
    told = door().json(operator_calls.roll_back(run, target))
    if as_json:
        return show_json(told)
    return print(visible(f"{told['id']} is {told['state']}: fluid approvals show {told['short_id']}"))


def _show(told: dict[str, Any]) -> None:
    show_fields(
        [
            ("run", told["id"]),
            ("kind", told["kind"]),
            ("state", told["state"]),
            ("request", told["approval_id"]),
            ("targets", ", ".join(told["targets"])),
            ("started", f"{ago(told['started_at'])} ago"),
            ("reason", told["reason"]),
        ]
    )
    rows = [(row["host"], row["status"], row["task"], row["message"]) for row in told["events"]]
    show_rows(
        ("target", "status", "task", "message"),
        rows,
        empty="nothing is done yet" if told["ended_at"] is None else "nothing was done",
    )
