"""Packages of a target against those of the rehearsal. A task asks for a name: which version that is, and
what comes or goes with it, each machine's own sources and packages decide. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from backend.changes.dpkg import parse_status
from backend.models import Changes, Run
from backend.wording import some

NAMED = 5


def other_packages(done: Changes, dry_run: Run, target: str, status: bytes | None) -> list[str]:
    """A sentence each, the first few by name. ``done``: what the rehearsal changed; ``status``: the target's
    own of dpkg(1), None where there is none."""
    planned: dict[str, str] = {}
    for event in dry_run.events:
        planned |= event.packages if event.host == target else {}
    if not done.packages and not planned:
        return []
    if status is None:
        return [f"packages: not compared, {target} tells no versions of its own"]
    has = defaultdict[str, set[str]](set)
    for package in parse_status(status).values():
        has[package.name].add(package.version)
    return list(_sentences(done, planned, has, target))


def _sentences(
    done: Changes, planned: Mapping[str, str], has: Mapping[str, set[str]], target: str
) -> Iterator[str]:
    rehearsed = defaultdict[str, set[str]](set)
    for one in done.packages:
        rehearsed[one.name].update({one.after_version} - {""})
    others = []
    for name, versions in sorted(rehearsed.items()):
        would = {planned[name]} - {""} if name in planned else has.get(name, set())
        if versions and would and not would & versions:
            others.append(f"{name} {'/'.join(sorted(would))} ({'/'.join(sorted(versions))})")
    if others:
        yield f"packages: another version on {target} than (in the rehearsal): {some(others, NAMED)}"
    if gone := [name for name, version in planned.items() if not version and name not in rehearsed]:
        yield f"packages: {target} would lose what the rehearsal did not: {some(sorted(gone), NAMED)}"
    new = [name for name, version in planned.items() if version and not (name in rehearsed or has.get(name))]
    if new:
        yield f"packages: {target} would get what the rehearsal did not: {some(sorted(new), NAMED)}"
