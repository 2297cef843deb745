"""``fluid images …``."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.cli.common import ago, door, show_json, show_rows
from backend.cli.options import AsJson, examples, noun_app
from backend.client import calls, operator_calls
from backend.text import visible

app = noun_app("Guest images.")

MIB = 1024**2


@app.command("list", epilog=examples("fluid images list"))
def list_images(as_json: AsJson = False) -> None:
    """What sandboxes are forked from."""
    told = door().json(calls.images())
    if as_json:
        return show_json(told)
    rows = [
        (
            row["name"],
            row["arch"],
            f"{row['size_bytes'] // MIB} MiB",
            row["packages"],
            ago(row["built_at"]),
            row["sha256"][:12],
        )
        for row in told["images"]
    ]
    titles = ("name", "arch", "size", "packages", "age", "sha256")
    return show_rows(titles, rows, empty="no image; `fluid images build` makes one of this host's release")


@app.command(epilog=examples("fluid images build", "fluid images build --force"))
def build(
    name: Annotated[str, typer.Argument(help="Its name; by default this host's own release.")] = "",
    force: Annotated[bool, typer.Option("--force", help="From nothing, also where one is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build one of this host's release, from its package sources."""
    told = door().json(operator_calls.build_image(name, force=force))
    if as_json:
        return show_json(told)
    print(
        visible(f"{told['name']} {told['sha256'][:12]}: {told['packages']} packages, {told['build_s']:.0f} s")
    )
    return None
