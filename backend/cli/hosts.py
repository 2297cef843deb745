"""``fluid hosts …``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.cli.common import door, show_json, show_rows
from backend.cli.options import AsJson, examples, noun_app
from backend.client import operator_calls
from backend.client.call import Call
from backend.text import visible

HostName = Annotated[str, typer.Argument(metavar="HOST", help="Its name in the config.")]

app = noun_app("Hypervisors.")


@app.callback()
def hosts() -> None:
    """Hypervisors."""


@app.command("list", epilog=examples("fluid hosts list", "fluid hosts list --json"))
def list_hosts(as_json: AsJson = False) -> None:
    """Each host with its room and its last error."""
    told = door().json(operator_calls.hosts())
    if as_json:
        return show_json(told)
    rows = [
        (
            row["name"],
            row["status"],
            {"qemu": "emulated"}.get(row["virt_type"], row["virt_type"]),
            row["cpus"],
            f"{row['memory_free_mb']}/{row['memory_mb']} MB",
            f"{row['disk_free_mb']} MB",
            row["sandboxes"],
            row["stock"],
            f"{row['creating']}+{row['waiting']}",
            row["libvirt_version"],
            row["last_error"],
        )
        for row in told["hosts"]
    ]
    titles = (
        "name",
        "status",
        "virt",
        "cpus",
        "memory free",
        "disk free",
        "sandboxes",
        "stock",
        "creating+waiting",
        "libvirt",
        "last error",
    )
    return show_rows(titles, rows, empty="no host; add one under `hosts:` in config.yaml")


@app.command(epilog=examples("fluid hosts drain kvm-02"))
def drain(name: HostName, as_json: AsJson = False) -> None:
    """Give it no new sandboxes; those it has stay until they end."""
    _decide(operator_calls.drain_host(name), as_json)


@app.command(epilog=examples("fluid hosts resume kvm-02"))
def resume(name: HostName, as_json: AsJson = False) -> None:
    """Give it new sandboxes again."""
    _decide(operator_calls.resume_host(name), as_json)


def _decide(call: Call[Any], as_json: bool) -> None:
    told = door().json(call)
    if as_json:
        return show_json(told)
    holds = f"{told['sandboxes']} sandboxes, {told['stock']} in stock"
    print(visible(f"{told['name']} is {told['status']}: {holds}"))
    return None
