"""``fluid demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.options import Yes, examples, verb_app

app = verb_app()


@app.command(
    epilog=examples("fluid demo", "fluid demo --unattended --yes --json figures.json", "fluid demo --clean")
)
def demo(
    yes: Yes = False,
    seed: Annotated[int | None, typer.Option(min=0, help="What the agent does is drawn from it.")] = None,
    unattended: Annotated[
        bool, typer.Option("--unattended", help="Approve as the operator, no console.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures.")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Remove everything that the demo made.")] = False,
) -> int:
    """The whole path of one change on this machine, with nothing mocked."""
    from backend.cli.console import need_terminal
    from backend.demo.cli import demo as run_demo

    if not (unattended or clean):
        need_terminal("add --unattended: the demo then decides as the operator")

    return run_demo(seed=seed, unattended=unattended, json_file=json_file, clean=clean)
