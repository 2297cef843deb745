"""``fluid gc``: what nobody needs any more."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.common import door, show_json
from backend.cli.options import AsJson, examples, verb_app
from backend.client import operator_calls
from backend.text import visible

app = verb_app()


@app.command(epilog=examples("fluid gc --dry-run", "fluid gc --json"))
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, and touch nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove domains, files, networks, templates and former images of ours that no sandbox, stock or image
    needs, and recordings past their time. Foreign ones are not looked at."""
    told = door().json(operator_calls.leftovers() if dry_run else operator_calls.clear_leftovers())
    if as_json:
        return show_json(told)
    done = "left over" if dry_run else "removed"
    for one in told["found"]:
        print(visible(f"{one['host']}: {one['kind']} {one['name']} {done}: {one['why']}"))
    looked = (
        f"{told['domains']} domains, {told['files']} sets of files, {told['networks']} networks, "
        f"{told['templates']} templates, {told['images']} images"
    )
    print(f"looked at {looked}: {len(told['found']) or 'nothing'} {done}")
    for held in told["held"]:
        print(visible(held))
    for silent in told["silent"]:
        print(visible(f"not looked at: {silent}"))
    return None
