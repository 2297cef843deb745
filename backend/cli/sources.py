"""``fluid sources …``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.cli.common import door, show_fields, show_json, show_rows
from backend.cli.options import AsJson, Yes, confirm, examples, noun_app
from backend.client import calls, operator_calls
from backend.text import visible

app = noun_app("What sandboxes are forked from: images, and existing machines of libvirt.")

SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="Its name.")]


@app.command("list", epilog=examples("fluid sources list", "fluid sources list --json"))
def list_sources(as_json: AsJson = False) -> None:
    """All that may be forked, and the domains that may become a source."""
    told = door().json(calls.sources())
    if as_json:
        return show_json(told)
    rows = [
        (row["name"], row["kind"], row["arch"], _ready(row), row["host"], row["state"], row["problem"])
        for row in told["sources"]
    ]
    titles = ("name", "kind", "arch", "ready", "host", "state", "problem")
    return show_rows(titles, rows, empty="no source; `fluid images build` makes one of this host's release")


def _ready(row: dict[str, Any]) -> str:
    if not row["ready"]:
        return "not prepared"
    return "in a second" if row["template_ready"] else "after a boot"


@app.command(epilog=examples("fluid sources check web-golden"))
def check(source: SourceName, as_json: AsJson = False) -> None:
    """Look at a domain before it becomes a source: what is wrong, what mends it, which secrets it holds."""
    told = door().json(operator_calls.check_source(source))
    return show_json(told) if as_json else _show_check(told)


@app.command(
    epilog=examples("fluid sources prepare web-golden", "fluid sources prepare web-golden --as-it-is --yes")
)
def prepare(
    source: SourceName,
    as_it_is: Annotated[
        bool, typer.Option("--as-it-is", help="Clone it unprepared; the config must acknowledge that.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Copy a domain's disk and prepare the copy, which sandboxes are forked from. Takes minutes. The domain
    itself is not changed; one that runs goes on."""
    checked = door().json(operator_calls.check_source(source))
    if not as_json:
        _show_check(checked, changes=not as_it_is)
    confirm(f"Make a source of {source}, with the secrets that stay on it?", yes)
    told = door().json(operator_calls.prepare_source(source, as_it_is=as_it_is))
    if as_json:
        return show_json(told)
    print(visible(f"{told['name']} {told['sha256'][:12]}: {told['origin']}, {told['build_s']:.0f} s"))
    return None


def _show_check(told: dict[str, Any], *, changes: bool = False) -> None:
    show_fields((("domain", told["domain"]), ("host", told["host"]), ("state", told["state"])))
    rows = [(row["name"], row["status"], row["message"], row["remedy"]) for row in told["findings"]]
    show_rows(("name", "state", "message", "what mends it"), rows, empty="nothing was found")
    if changes:
        print("Preparing changes the copy:")
        for line in told["changes"]:
            print(visible(f"  - {line}"))
    if not told["secrets_known"]:
        print("Which secrets are on its disk is not known: it could not be looked into.")
    elif told["secrets"]:
        more = ", and there may be more" if told["secrets_cut"] else ""
        print(f"Secrets on its disk, which every clone would hold{more}:")
        for row in told["secrets"]:
            print(visible(f"  - {row['path']}: {row['kind']}"))
    else:
        so_far = ", as far as it was looked through" if told["secrets_cut"] else ""
        print(f"No secret was found on its disk{so_far}.")
