"""``fluid snapshots …``."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from backend.cli.common import ago, door, sandbox_id, show_json, show_rows, show_text
from backend.cli.hunks import hunks
from backend.cli.options import AsJson, SandboxName, Yes, confirm, examples, noun_app
from backend.client import calls
from backend.file_rights import words as right_words
from backend.text import visible
from backend.wording import some

app = noun_app("Points in time of a sandbox.")

BY_MAX = 3
_MARKS = {"added": "+", "removed": "-", "modified": "~", "metadata": "~"}
_KINDS = (
    ("Packages", "packages", "name"),
    ("Services", "units", "name"),
    ("Users", "users", "name"),
    ("Groups", "groups", "name"),
)

_ASPECTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "mode": lambda state: "" if state["kind"] == "link" else f"{state['mode']:04o}",
    "owner": lambda state: f"{state['owner'] or state['uid']}:{state['group'] or state['gid']}",
    "to": lambda state: state["target"] or "",
    "device": lambda state: state.get("device", ""),
    "one file with": lambda state: ", ".join(state.get("same_file", ())),
}
"""What a reader judges besides the content, each in a word or two."""

SnapshotName = Annotated[str, typer.Argument(metavar="SNAPSHOT")]


@app.command("list", epilog=examples("fluid snapshots list web"))
def list_snapshots(sandbox: SandboxName, as_json: AsJson = False) -> None:
    """A sandbox's snapshots as a tree, oldest first; piped, each names what it stands on."""
    told = door().json(calls.snapshots(sandbox_id(sandbox)))
    if as_json:
        return show_json(told)
    rows = [
        (
            f"{branch}{row['name']}",
            row["parent"],
            row["files"],
            row["has_memory"],
            row["quiesced"],
            ago(row["created_at"]),
            row["note"],
        )
        for branch, row in tree(told["snapshots"], drawn=sys.stdout.isatty())
    ]
    titles = ("name", "stands on", "files", "memory", "quiesced", "age", "note")
    return show_rows(titles, rows, empty="no snapshot; `fluid snapshots create SANDBOX NAME` makes one")


def tree(rows: list[dict[str, Any]], *, drawn: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each point after what it stands on, with what is drawn before its name."""
    names = {row["name"] for row in rows}
    by_parent: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_parent[row["parent"] if row["parent"] in names else None].append(row)
    ahead = [(0, row) for row in reversed(by_parent[None])]
    while ahead:
        depth, row = ahead.pop()
        yield "  " * (depth - 1) + "└ " if drawn and depth else "", row
        ahead += [(depth + 1, child) for child in reversed(by_parent[row["name"]])]


@app.command(epilog=examples("fluid snapshots create web before-tls --note 'clean'"))
def create(sandbox: SandboxName, name: SnapshotName, note: str = "", as_json: AsJson = False) -> None:
    """Memory, disk and manifest, as they are now."""
    told = door().json(calls.snapshot(sandbox_id(sandbox), name, note=note))
    if as_json:
        return show_json(told)
    taken = told["snapshot"]
    print(visible(f"{taken['name']}: {taken['files']} files, {taken['took_s']:.1f} s, {_how(taken)}"))
    return None


@app.command(epilog=examples("fluid snapshots restore web before-tls --yes"))
def restore(sandbox: SandboxName, name: SnapshotName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Put the sandbox back; what was done since is lost."""
    id = sandbox_id(sandbox)
    confirm(f"Put {id} back to {name!r}, losing what was done since?", yes)
    told = door().json(calls.restore(id, name))
    if as_json:
        return show_json(told)
    print(visible(f"{id} is {told['sandbox']['phase']}, as it was at {name}"))
    return None


@app.command(epilog=examples("fluid snapshots branch web before-tls --name web-b"))
def branch(
    sandbox: SandboxName,
    snapshot: SnapshotName,
    name: Annotated[str, typer.Option("--name", help="The new sandbox's name.")] = "",
    as_json: AsJson = False,
) -> None:
    """A new sandbox from a snapshot; the first goes on."""
    told = door().json(calls.branch(sandbox_id(sandbox), snapshot, vm_name=name or None))
    if as_json:
        return show_json(told)
    made = told["sandbox"]
    print(visible(f"{made['id']} {made['sandbox_name']} at {made['ip_address']}, {made['ready_s']:.1f} s"))
    return None


@app.command(epilog=examples("fluid snapshots delete web before-tls --yes"))
def delete(sandbox: SandboxName, name: SnapshotName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Forget a snapshot; later ones stay."""
    id = sandbox_id(sandbox)
    confirm(f"Forget the snapshot {name!r} of {id}?", yes)
    told = door().json(calls.delete_snapshot(id, name))
    if as_json:
        return show_json(told)
    print(visible(f"{name} is gone; {told['freed_bytes'] / 1e6:.0f} MB are free again"))
    return None


@app.command(
    epilog=examples(
        "fluid snapshots diff web before after",
        "fluid snapshots diff web before --content",
        "fluid snapshots diff web now --to-sandbox web-b",
    )
)
def diff(
    sandbox: SandboxName,
    from_: Annotated[str, typer.Argument(metavar="FROM")],
    to: Annotated[str, typer.Argument(metavar="TO")] = "now",
    to_sandbox: Annotated[
        str, typer.Option(metavar="SANDBOX", help="Another one of the same source, that TO is a point of.")
    ] = "",
    content: Annotated[bool, typer.Option("--content", help="Show what changed inside text files.")] = False,
    words: Annotated[
        bool, typer.Option("--words", help="As --content, with the words that changed marked.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show each file of a package, and what the noise profile hides.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What changed between two snapshots, or a snapshot and now; or how two sandboxes differ."""
    other = sandbox_id(to_sandbox) if to_sandbox else ""
    told = door().json(calls.diff(sandbox_id(sandbox), from_, to, other))
    if as_json:
        return show_json(told)
    changes = told["diff"]["changes"]
    before, after = (
        f"{name} {point}" if other else point
        for name, point in ((sandbox, changes["from_snapshot"]), (to_sandbox, changes["to_snapshot"]))
    )
    print(visible(f"{before} → {after}, {_how(changes)}"))
    for title, key, name in _KINDS:
        for row in changes[key]:
            print(
                visible(f"{_MARKS[row['verb']]} {title.lower()[:-1]:<8} {row[name]}{_version(row)}{_by(row)}")
            )
    for row in changes.get("settings", ()):
        if every or not (row["hidden"] or row["package"]):
            print(visible(f"{_MARKS[row['verb']]} {row['kind']:<8} {row['name']}{_values(row)}{_by(row)}"))
    for line in _running(changes.get("running"), every):
        print(visible(line))
    shown = {row["path"]: row for row in changes["files"] if every or not (row["hidden"] or row["package"])}
    for row in shown.values():
        if row.get("renamed_to") in shown:
            continue  # it stands there
        mark = ">" if row.get("renamed_from") else _MARKS[row["verb"]]
        print(visible(f"{mark} {_what(row):<8} {_named(row)}{_aspects(row)}{_by(row)}"))
        if (content or words) and (inside := _inside(row, words)):
            show_text(inside)
    brought = Counter(row["package"] for row in changes["files"] if row["package"] and not row["hidden"])
    for package, count in sorted(brought.items() if not every else ()):
        print(visible(f"{count} files of package {package}, as it brings them (--all)"))
    _show_notes(changes)
    return None


def _show_notes(changes: dict[str, Any]) -> None:
    """What could not be read, and how much is hidden."""
    for note in (*changes.get("notes", ()), *(changes.get("running") or {}).get("notes", ())):
        print(visible(f"note: {note}"))
    if changes["hidden"]:
        total = sum(changes["hidden"].values())
        print(visible(f"{total} more hidden as noise: {', '.join(changes['hidden'])} (--all)"))


def _how(row: dict[str, Any]) -> str:
    """Read from the disk, or by asking the guest."""
    from backend.models import how_read

    return how_read(row["read_from"])


def _running(told: dict[str, Any] | None, every: bool) -> Iterator[str]:
    """What came, went and differs, under the word of who told it; with ``every`` also what stayed."""
    from backend.models import RunningChanges

    running = RunningChanges.model_validate(told or {})
    same = running.same() if every else {}
    if running.changes or same:
        yield f"what listens and runs, {_how({'read_from': running.read_from})}"
    for one in running.changes:
        mark = "!" if one.is_bad else _MARKS[one.verb.value]
        words = " → ".join(filter(None, (one.before, one.after)))
        yield f"{mark} {one.kind.value:<8} {one.name}  {words}".rstrip()
    for name, words in same.items():
        yield f"  as before {name}  {words}".rstrip()


def _version(row: dict[str, Any]) -> str:
    versions = [row.get("before_version"), row.get("after_version")]
    return " " + " → ".join(one for one in versions if one) if any(versions) else ""


def _by(row: dict[str, Any]) -> str:
    """The commands that were running when it happened."""
    ids = row.get("commands") or []
    return f"  by {some(ids, BY_MAX)}" if ids else ""


def _values(row: dict[str, Any]) -> str:
    """``  schedule 0 1 * * * → 0 2 * * *``: the values that differ; of a new or a gone one, all of them."""
    before, after = row["before"], row["after"]
    told = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old != new:
            sides = [side or "none" for side in (old, new)] if before and after else [old or new]
            told.append(f"{name} {' → '.join(filter(None, sides))}")
    return "".join(f"  {words}" for words in told)


def _named(row: dict[str, Any]) -> str:
    """The path, and of a renamed one the path before."""
    return f"{old} → {row['path']}" if (old := row.get("renamed_from")) else str(row["path"])


def _what(row: dict[str, Any]) -> str:
    return str((row["after"] or row["before"])["kind"]).split()[0]


def _aspects(row: dict[str, Any]) -> str:
    """``  mode 0755 → 4755``: what differs besides the content; of a new one, all of it."""
    before, after = row["before"], row["after"]
    if after is None:
        return ""
    told = []
    pairs = [(name, of(before) if before else None, of(after)) for name, of in _ASPECTS.items()]
    for name in sorted({*after["xattrs"], *(before or {"xattrs": {}})["xattrs"]}):
        sides = [side and right_words(name, side["xattrs"].get(name, "")) for side in (before, after)]
        pairs.append((name, *sides))
    for name, old, new in pairs:
        if before and old != new:
            told.append(f"{name} {old or 'none'} → {new or 'none'}")
        elif not before and new:
            told.append(f"{name} {new}")
    return "".join(f"  {words}" for words in told)


def _inside(row: dict[str, Any], words: bool) -> str:
    """Hunks, why there are none, or nothing."""
    if row["verb"] == "metadata":
        return ""
    sides = [(row[side] or {}) for side in ("before", "after")]
    texts = [side.get("text") or side.get("decoded") for side in sides]
    secret = next((side["secret"] for side in sides if side.get("secret")), "")
    if secret and (texts[0] == texts[1] or not any(texts)):
        return f"    withheld: {secret}, changed" if all(sides) else f"    withheld: {secret}"
    if not any(texts):
        return _sizes(sides)
    encodings = [side.get("encoding", "") for side in sides if side]
    named = {f"    {one}, shown as UTF-8" for one in encodings if one not in ("", "utf-8")}
    told = [line.replace("\n", "\n    ") for line in hunks(texts[0] or "", texts[1] or "", words=words)]
    return "\n".join([*sorted(named), *(f"    {line}" for line in told)])


def _sizes(sides: list[dict[str, Any]]) -> str:
    """A content that is no text, or too long: size and hash of either side."""
    told = [
        f"{side['size']} bytes, "
        + (f"SHA-256 {side['sha256']}" if side.get("sha256") else "not hashed: it may have changed")
        for side in sides
        if side.get("kind") == "file" and side.get("size")
    ]
    return "    binary or too large: " + " → ".join(dict.fromkeys(told)) if told else ""
