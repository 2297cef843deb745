"""``fluid status``: the command. What it prints is :mod:`backend.cli.overview`."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.options import AsJson, examples, verb_app
from backend.cli.overview import LINE_OPTION, print_line, print_status

app = verb_app()


@app.command(
    epilog=examples(
        "fluid status",
        "fluid status --json | jq .waiting",
        "set -g status-right '#(fluid status --line)'   (tmux.conf)",
    )
)
def status(
    as_json: AsJson = False,
    line: Annotated[bool, typer.Option(LINE_OPTION, help="One line, for a status bar.")] = False,
) -> None:
    """What runs, who waits, and how each part is. Exit 6 when no backend answers."""
    if line:
        print_line()
    else:
        print_status(as_json)
