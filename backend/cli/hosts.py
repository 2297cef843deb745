"""``fluid hosts …``."""

from __future__ import annotations

from backend.cli.common import door, show_json, show_rows
from backend.cli.options import AsJson, examples, noun_app
from backend.client import operator_calls

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
        "libvirt",
        "last error",
    )
    return show_rows(titles, rows, empty="no host; add one under `hosts:` in config.yaml")
