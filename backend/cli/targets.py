"""``fluid targets …``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.cli.common import door, show_json, show_rows
from backend.cli.options import AsJson, examples, noun_app
from backend.client import calls, operator_calls
from backend.errors import Unavailable

app = noun_app("Production machines.")


@app.command("list", epilog=examples("fluid targets list"))
def list_targets(as_json: AsJson = False) -> None:
    """The machines that the config names."""
    _show(door().json(calls.targets()), as_json)


@app.command(epilog=examples("fluid targets check", "fluid targets check web-01"))
def check(
    target: Annotated[str | None, typer.Argument(help="One of them; else all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try each over SSH with its group's key. Exit 6 when one does not answer."""
    told = door().json(operator_calls.check_targets(target))
    _show(told, as_json)
    if lost := [row["name"] for row in told["targets"] if not row["reachable"]]:
        raise Unavailable(f"{', '.join(lost)} cannot be reached", remedy="the table's last column says why")


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return show_json(told)
    words = {True: "yes", False: "NO", None: "not tried"}
    rows = [
        (row["name"], row["group"], row["address"], row["approvals"], words[row["reachable"]], row["problem"])
        for row in told["targets"]
    ]
    titles = ("name", "group", "address", "approvals", "reachable", "problem")
    return show_rows(titles, rows, empty="no target; add a group under `targets:` in config.yaml")
