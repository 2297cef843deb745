"""``fluid status``: the command. What it prints is :mod:`backend.cli.overview`."""

from __future__ import annotations

from backend.cli.options import AsJson, examples, verb_app
from backend.cli.overview import print_status

app = verb_app()


@app.command(epilog=examples("fluid status", "fluid status --json | jq .waiting"))
def status(as_json: AsJson = False) -> None:
    """What runs, who waits, and how each part is. Exit 6 when no backend answers."""
    print_status(as_json)
