"""``fluid ca …``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.cli.common import ago, door, left, show_fields, show_json
from backend.cli.options import AsJson, Yes, confirm, examples, noun_app
from backend.client import calls, operator_calls
from backend.text import visible

app = noun_app("The SSH user CA that guests trust.")

KEY_FILE = "/etc/ssh/fluid_ca.pub"
LINES = (f"TrustedUserCAKeys {KEY_FILE}", "PermitRootLogin prohibit-password")


@app.command(epilog=examples("fluid ca show", "fluid ca show --json"))
def show(as_json: AsJson = False) -> None:
    """The public key that signs, its fingerprint, and the one before while it is trusted."""
    _show(door().json(operator_calls.ca()), as_json)


@app.command(epilog=examples("fluid ca rotate --yes"))
def rotate(yes: Yes = False, as_json: AsJson = False) -> None:
    """Sign with a new key once the guests trust it; the old one is trusted for ten more minutes."""
    confirm("Make a new CA key, and bring it to every guest?", yes)
    _show(door().json(operator_calls.rotate_ca()), as_json)


@app.command(epilog=examples("fluid ca install debian-12", "fluid ca install web-golden --json"))
def install(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="An image, or a machine of yours.")],
    as_json: AsJson = False,
) -> None:
    """How a source is made to trust the CA. Nothing is changed by this command."""
    known = {row["name"] for row in door().json(calls.sources())["sources"] if row.get("ready", True)}
    told = door().json(operator_calls.ca())
    keys = [told[which]["public_key"] for which in ("current", "pending", "old") if told[which]]
    if as_json:
        return show_json(
            {"source": source, "is_image": source in known, "file": KEY_FILE, "keys": keys, "lines": LINES}
        )
    if source in known:
        print(visible(f"{source} is an image of ours: each fork gets the key with its identity."))
        print("There is nothing to install.")
        return None
    print(visible(f"{source} is no image of ours. A copy gets all by `fluid sources prepare`;"))
    print("the machine itself by hand, as root.")
    print(f"\nInto {KEY_FILE} there, owned by root, mode 0644:\n")
    for key in keys:
        print(f"  {visible(key)}")
    print("\nInto its /etc/ssh/sshd_config, above any Match block:\n")
    for line in LINES:
        print(f"  {line}")
    print("\nThen: sshd -t && systemctl reload ssh")
    return None


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return show_json(told)
    current, pending, old = told["current"], told["pending"], told["old"]
    pairs = [
        ("key", current["public_key"]),
        ("fingerprint", current["fingerprint"]),
        ("since", f"{current['since']} ({ago(current['since'])} ago)"),
    ]
    if pending:
        pairs.append(("next", f"{pending['fingerprint']}, signs once the guests trust it"))
    if old:
        until = f"{old['trusted_until']} ({left(old['trusted_until'])})"
        pairs.append(("before", f"{old['fingerprint']}, trusted until {until}"))
    pairs.append(("not told yet", ", ".join(told["behind"])))
    return show_fields(pairs)
