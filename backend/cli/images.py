"""``fluid images …``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.cli.common import ago, door, show_json, show_rows
from backend.cli.options import AsJson, Yes, confirm, examples, noun_app
from backend.client import calls, operator_calls
from backend.text import visible

app = noun_app("Guest images.")

MIB = 1024**2
ImageName = Annotated[str, typer.Argument(metavar="IMAGE", help="Its name.")]


class Format(StrEnum):
    """How a disk lies in a file."""

    QCOW2 = "qcow2"
    RAW = "raw"


@app.command("list", epilog=examples("fluid images list", "fluid images list --json"))
def list_images(as_json: AsJson = False) -> None:
    """What sandboxes are forked from, what it takes on the disk, and who stands on it."""
    told = door().json(calls.images())
    if as_json:
        return show_json(told)
    rows = [
        (
            row["name"],
            row["kind"],
            row["arch"],
            f"{row['size_bytes'] // MIB} MiB",
            _users(row),
            row["packages"],
            ago(row["built_at"]),
            row["sha256"][:12],
        )
        for row in told["images"]
    ]
    titles = ("name", "kind", "arch", "used", "used by", "packages", "age", "sha256")
    return show_rows(titles, rows, empty="no image; `fluid images build` makes one of this host's release")


def _users(row: dict[str, Any]) -> str:
    """Sandboxes by name; what the backend made of the image for its own use as counts."""
    made = [f"{len(row[kind])} {kind}" for kind in ("stock", "templates") if row[kind]]
    return ", ".join([*row["sandboxes"], *made])


@app.command(
    epilog=examples("fluid images build", "fluid images build debian-13", "fluid images build --force")
)
def build(
    name: Annotated[
        str, typer.Argument(help="A release such as debian-13; by default this host's own.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="From nothing, also where one is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build one of a release of this host's distribution, from its package sources."""
    told = door().json(operator_calls.build_image(name, force=force))
    return show_json(told) if as_json else _show_made(told)


@app.command(
    "import",
    epilog=examples(
        "fluid images import ./debian-12-generic.qcow2 --format qcow2",
        "fluid images import https://cloud.example/noble.img --format qcow2 --sha256 5a1c… --name ubuntu",
    ),
)
def import_image(
    source: Annotated[str, typer.Argument(metavar="FILE|URL", help="A cloud image with cloud-init.")],
    format: Annotated[Format, typer.Option(help="Disk format, never detected.")],
    sha256: Annotated[str, typer.Option(help="Its checksum; needed for a URL.")] = "",
    name: Annotated[str, typer.Option(help="By default the file's, made valid.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a source of a cloud image: it is checked, converted, booted once and prepared. Takes minutes."""
    if "://" not in source:  # the backend opens it, and stands elsewhere
        source = str(Path(source).absolute())
    told = door().json(operator_calls.import_image(source, format.value, sha256=sha256.lower(), name=name))
    return show_json(told) if as_json else _show_made(told)


@app.command(epilog=examples("fluid images remove debian-12 --yes"))
def remove(image: ImageName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove one that no sandbox stands on, with its stock and its templates."""
    confirm(f"Remove the image {image} with its stock and templates?", yes)
    told = door().json(operator_calls.remove_image(image))
    if as_json:
        return show_json(told)
    print(visible(f"{image} is gone; {told['freed_bytes'] / 1e6:.0f} MB are free again"))
    return None


def _show_made(told: dict[str, Any]) -> None:
    print(
        visible(f"{told['name']} {told['sha256'][:12]}: {told['packages']} packages, {told['build_s']:.0f} s")
    )
