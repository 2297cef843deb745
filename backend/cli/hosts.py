"""``fluid hosts …``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.cli.common import door, show_json, show_rows
from backend.cli.options import AsJson, confirm, examples, noun_app
from backend.client import operator_calls
from backend.client.call import Call
from backend.errors import Conflict
from backend.text import visible

CLOCK_SKEW_MAX_S = 2.0  # beyond it an operator is told

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
            "" if row["busy_percent"] is None else f"{row['busy_percent']} %",
            f"{row['memory_free_mb']}/{row['memory_mb']} MB",
            f"{row['disk_free_mb']} MB",
            row["sandboxes"],
            row["stock"],
            f"{row['creating']}+{row['waiting']}",
            "" if row["clock_skew_s"] is None else f"{row['clock_skew_s']:+.2f} s",
            row["libvirt_version"],
            "; ".join(warnings(row)),
            row["last_error"],
        )
        for row in told["hosts"]
    ]
    titles = (
        "name",
        "status",
        "virt",
        "cpus",
        "busy",
        "memory free",
        "disk free",
        "sandboxes",
        "stock",
        "creating+waiting",
        "clock",
        "libvirt",
        "notes",
        "last error",
    )
    return show_rows(titles, rows, empty="no host; add one under `hosts:` in config.yaml")


def warnings(row: dict[str, Any]) -> dict[str, str]:
    """What an operator must know of a host beside its state, each with what mends it."""
    found = {}
    skew_s = row["clock_skew_s"] or 0.0
    if abs(skew_s) > CLOCK_SKEW_MAX_S:
        way = "ahead of" if skew_s > 0 else "behind"
        found[f"the clock of {row['name']} is {abs(skew_s):.1f} s {way} this machine's"] = (
            "set it there: timedatectl set-ntp true"
        )
    if row["draining"] and row["status"] == "lost":
        found[f"{row['name']} takes no new sandboxes, also once it is back"] = (
            f"fluid hosts resume {row['name']}"
        )
    if not row["isolated"]:
        found[f"guests on {row['name']} are not isolated"] = (
            "take `network` of that host out of config.yaml: new guests have a network of ours then"
        )
    return found


@app.command(epilog=examples("fluid hosts drain kvm-02"))
def drain(name: HostName, as_json: AsJson = False) -> None:
    """Give it no new sandboxes; those it has stay until they end."""
    _decide(operator_calls.drain_host(name), as_json)


@app.command(epilog=examples("fluid hosts resume kvm-02"))
def resume(name: HostName, as_json: AsJson = False) -> None:
    """Give it new sandboxes again."""
    _decide(operator_calls.resume_host(name), as_json)


@app.command(
    epilog=examples(
        "fluid hosts add kvm-02 192.0.2.12 --user fluid --key /etc/fluid/keys/kvm-02",
        "fluid hosts add kvm-02 192.0.2.12 --fingerprint SHA256:…",
    )
)
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called here.")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where its sshd answers.")],
    user: Annotated[str | None, typer.Option(help="A user of its libvirt group; root is not needed.")] = None,
    port: Annotated[int | None, typer.Option(help="Of its sshd.")] = None,
    key: Annotated[str | None, typer.Option(help="File of the private key, as the backend sees it.")] = None,
    pool_path: Annotated[str | None, typer.Option(help="The folder for Fluid's files there.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="The expected fingerprint; skips the question.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a hypervisor behind SSH, after its key was compared. Hosts in config.yaml need no such command."""
    shown = door().json(operator_calls.host_key(address, port))
    if fingerprint is None:
        print(visible(f"{address} shows the key {shown['fingerprint']}"))
        confirm(
            "Is that its own, as its console or its administrator tells?",
            False,
            "--fingerprint SHA256:… as its console or its administrator tells it",
        )
    elif fingerprint != shown["fingerprint"]:
        raise Conflict(
            f"{address} shows {shown['fingerprint']}, not {fingerprint}",
            remedy="somebody else answers there, or its key is another: nothing was added",
        )
    wanted = {"name": name, "address": address, "user": user, "port": port, "key": key}
    settings = {
        word: value for word, value in {**wanted, "pool_path": pool_path}.items() if value is not None
    }
    _decide(operator_calls.add_host(settings, shown["line"]), as_json)


@app.command(epilog=examples("fluid hosts remove kvm-02"))
def remove(name: HostName, as_json: AsJson = False) -> None:
    """Forget a host that was added by this program and has no sandbox left."""
    door().send(operator_calls.remove_host(name))
    if as_json:
        return show_json({"removed": name})
    print(visible(f"{name} is forgotten"))
    return None


def _decide(call: Call[Any], as_json: bool) -> None:
    told = door().json(call)
    if as_json:
        return show_json(told)
    holds = f"{told['sandboxes']} sandboxes, {told['stock']} in stock"
    later = ", and drains when it is back" if told["draining"] and told["status"] == "lost" else ""
    print(visible(f"{told['name']} is {told['status']}{later}: {holds}"))
    return None
