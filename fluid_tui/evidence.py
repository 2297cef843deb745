"""A request for approval as an operator judges it: what is asked, the evidence as a checklist, what misses.

Pure. Whatever is not measured is said to be so; a tick stands only for something that was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from backend.models import (
    FROM_DISK,
    FROM_GUEST,
    Approval,
    ApprovalState,
    Evidence,
    Playbook,
    PlaybookTask,
    Run,
    TargetEvidence,
    TargetResult,
    by_whom,
)
from backend.text import visible
from fluid_tui.paint import BLANK, Line, Role, line, said
from fluid_tui.paint import Run as Piece
from fluid_tui.words import (
    RUNS,
    SETTINGS,
    STEP_S,
    TASKS,
    ago,
    approval_mark,
    elapsed,
    left,
    plural,
    requester,
    span,
)

RESIDUAL_SHOWN = NOTES_SHOWN = 12
TARGETS_FIRST = 4
"""Of more targets than these the others stand below what runs."""
UNREAD = "its command is not shown here: read it in the Playbook tab"
NO_LOGIN = "address not noted by the version that made this evidence"
FULFILLED: Piece = ("✓ ", Role.GOOD)
BROKEN: Piece = ("✗ ", Role.BAD)
OPEN: Piece = ("◌ ", Role.ACCENT)
WARNING: Piece = ("! ", Role.WARN)


def obstacles(approval: Approval) -> list[str]:
    """Why this cannot be approved now, a sentence each; empty when it can."""
    if approval.state is not ApprovalState.PENDING:
        return [f"it is {approval_mark(approval).word}" + (f": {approval.ending}" if approval.ending else "")]
    evidence, missing = approval.evidence, []
    if evidence.rehearsal is None:
        missing.append("the rehearsal has not run")
    if evidence.failure:
        missing.append(f"the rehearsal failed: {evidence.failure}")
    if evidence.again_changed is None:
        missing.append("the second run is not measured")
    for target in approval.targets:
        dry_run = evidence.dry_run.get(target)
        if dry_run is None:
            missing.append(f"no dry run on {target} yet")
        elif dry_run.error:
            missing.append(f"the dry run on {target} failed: {dry_run.error}")
    if not approval.digest and not missing:
        missing.append("the evidence has no digest yet")
    return [] if approval.digest else missing


def request_lines(approval: Approval, earlier: list[Approval], now: datetime) -> list[Line]:
    """What is asked, by whom, why, where; and what was said to the same agent before."""
    mark = approval_mark(approval)
    lines = [
        line(mark.run, (f"   id {approval.short_id}", Role.TITLE)),
        line(said(approval.progress, Role.MUTED)) if approval.progress else BLANK,
        line(("asks   ", Role.MUTED), said(approval.reason)),
        line(("who    ", Role.MUTED), (requester(approval), Role.TEXT)),
        line(("from   ", Role.MUTED), said(approval.sandbox_name or approval.sandbox_id)),
        line(("undoes ", Role.MUTED), said(approval.rolls_back)) if approval.rolls_back else BLANK,
    ]
    for target in approval.targets:
        group = approval.groups.get(target, "")
        lines.append(
            line(
                ("apply  ", Role.MUTED),
                said(target, Role.TITLE),
                said(f"  {login}" if (login := approval.evidence.login(target)) else ""),
                said(f"  group {group}" if group else "", Role.MUTED),
            )
        )
    lines.append(
        line(
            ("asked  ", Role.MUTED),
            (ago(approval.created_at, now), Role.TEXT),
            (
                f", {left(approval.expires_at, now)} left" if approval.state is ApprovalState.PENDING else "",
                Role.TEXT,
            ),
        )
    )
    for decision in approval.decisions:
        verb = "approved" if decision.verb == "approve" else "rejected"
        if verb == "approved" and decision not in approval.given:
            verb = "approved other evidence"
        words = f"{verb} by {decision.name}" + (f": {decision.comment}" if decision.comment else "")
        lines.append(
            line(("said   ", Role.MUTED), said(words, Role.GOOD if verb == "approved" else Role.WARN))
        )
    if approval.ending:
        lines.append(line(("end    ", Role.MUTED), said(approval.ending, mark.role)))
    lines += [
        line(
            ("before ", Role.MUTED),
            said(
                f"{old.short_id} {old.sandbox_name} {old.state} {ago(old.updated_at, now)}: "
                f"{old.ending or old.reason}",
                Role.WARN,
            ),
        )
        for old in earlier
    ]
    return [each for each in lines if each]


def checklist(approval: Approval) -> list[Line]:
    """The evidence, one measured thing a line."""
    evidence = approval.evidence
    return [
        *_flag("unrehearsed", evidence.unrehearsed),
        *_changes(evidence),
        *_notes(evidence),
        *_rehearsal(evidence),
        *_again(evidence),
        *_residual(evidence),
        *_running(evidence),
        *_flag("opaque", evidence.opaque),
        *_dry_runs(approval),
        *_risk(evidence),
    ]


def _changes(evidence: Evidence) -> Iterator[Line]:
    if not evidence.counts:
        yield line(OPEN, ("changes  ", Role.TITLE), ("not read yet", Role.MUTED))
        return
    nouns = {"files": "file", "packages": "package", "units": "service", "users": "user", "groups": "group"}
    nouns |= {kind.value: noun for kind, (_, noun) in SETTINGS.items()}
    words = [plural(evidence.counts[key], noun) for key, noun in nouns.items() if evidence.counts.get(key)]
    hidden = evidence.counts.get("hidden", 0)
    yield line(
        FULFILLED,
        ("changes  ", Role.TITLE),
        (", ".join(words) or "none", Role.TEXT),
        (f" ({hidden} hidden as noise)" if hidden else "", Role.MUTED),
    )


def _notes(evidence: Evidence) -> Iterator[Line]:
    """What the diffs say of themselves: how they were read, and what they do not tell."""
    notes = evidence.notes or ()
    if notes:
        yield line(WARNING, ("diff  ", Role.TITLE), (plural(len(notes), "note"), Role.WARN))
    for note in notes[:NOTES_SHOWN]:
        yield line(("    ", Role.TEXT), said(note, Role.WARN))
    if len(notes) > NOTES_SHOWN:
        yield line((f"    and {len(notes) - NOTES_SHOWN} more", Role.MUTED))


def _rehearsal(evidence: Evidence) -> Iterator[Line]:
    if evidence.failure:
        yield line(BROKEN, ("rehearsal  ", Role.TITLE), said(evidence.failure, Role.BAD))
    elif evidence.rehearsal is None:
        yield line(OPEN, ("rehearsal  ", Role.TITLE), ("not run yet", Role.MUTED))
    else:
        ok = not evidence.rehearsal.failed and not evidence.rehearsal.unreachable
        yield line(FULFILLED if ok else BROKEN, ("rehearsal  ", Role.TITLE), recap(evidence.rehearsal))


def _again(evidence: Evidence) -> Iterator[Line]:
    changed = evidence.again_changed
    if changed is None:
        yield line(OPEN, ("again  ", Role.TITLE), ("not measured yet", Role.MUTED))
        return
    words = f"changed={changed} {by_whom(evidence.read_from)}" + (": idempotent" if changed == 0 else "")
    good = FULFILLED if evidence.read_from == FROM_DISK else WARNING
    yield line(good if changed == 0 else BROKEN, ("again  ", Role.TITLE), (words, Role.TEXT))
    for path in evidence.again_paths[:RESIDUAL_SHOWN]:
        yield line(("    ~ ", Role.WARN), said(path))


def _residual(evidence: Evidence) -> Iterator[Line]:
    if evidence.rehearsal is None:
        yield line(OPEN, ("residual  ", Role.TITLE), ("not compared yet", Role.MUTED))
        return
    counts = {kind: len(evidence.rows(kind)) for kind in ("missing", "extra", "regenerated")}
    clean = not counts["missing"] and not counts["extra"]
    words = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    words += "; not frozen, unwritten data is not compared" if evidence.unwritten else ""
    good = WARNING if evidence.unwritten else FULFILLED
    yield line(good if clean else BROKEN, ("residual  ", Role.TITLE), (words, Role.TEXT))
    for row in [*evidence.rows("missing"), *evidence.rows("extra")][:RESIDUAL_SHOWN]:
        yield line(
            ("    ", Role.TEXT),
            said(f"{row.kind} {row.noun} {row.name}", Role.BAD),
            said(f"  {row.reason}" if row.reason else "", Role.MUTED),
        )
    for row in evidence.rows("regenerated")[:RESIDUAL_SHOWN]:
        yield line(("    ≈ ", Role.MUTED), said(f"{row.name}  {row.reason}", Role.MUTED))


def _running(evidence: Evidence) -> Iterator[Line]:
    """What listens and runs in the sandbox or in its twin only. Nothing vouches for it: no tick."""
    rows = evidence.running
    if rows is None:
        return
    words = plural(len(rows), "difference") if rows else "as in the sandbox"
    glyph: Piece = WARNING if rows else ("· ", Role.MUTED)
    yield line(glyph, ("running  ", Role.TITLE), (f"{words}, {by_whom(FROM_GUEST)}", Role.TEXT))
    for row in rows[:RESIDUAL_SHOWN]:
        yield line(
            ("    ", Role.TEXT),
            said(f"{row.kind} {row.noun} {row.name}", Role.WARN),
            said(f"  {row.reason}", Role.MUTED),
        )
    if len(rows) > RESIDUAL_SHOWN:
        yield line((f"    and {len(rows) - RESIDUAL_SHOWN} more", Role.MUTED))


def _flag(word: str, names: Sequence[str]) -> Iterator[Line]:
    if names:
        yield line(WARNING, (f"{word}  ", Role.TITLE), (plural(len(names), "task"), Role.WARN))
        for name in names:
            yield line(("    ", Role.TEXT), said(name, Role.WARN))


def _dry_runs(approval: Approval) -> Iterator[Line]:
    for target in approval.targets:
        found = approval.evidence.dry_run.get(target)
        if found is None:
            yield line(OPEN, ("dry run  ", Role.TITLE), said(target), (" not run yet", Role.MUTED))
            continue
        yield from _dry_run(found)


def _dry_run(found: TargetEvidence) -> Iterator[Line]:
    name = said(f"{found.target}  ")
    if found.error:
        yield line(BROKEN, ("dry run  ", Role.TITLE), name, said(found.error, Role.BAD))
        return
    bad = found.result.failed or found.result.unreachable
    differs = f"; {_differs(found)}" if found.differs else "; as rehearsed"
    yield line(
        BROKEN if bad else WARNING if found.differs else FULFILLED,
        ("dry run  ", Role.TITLE),
        name,
        (f"would change {found.result.changed}{differs}", Role.TEXT),
    )
    for sentence in found.differs:
        yield line(("    ≠ ", Role.WARN), said(sentence))


def _differs(found: TargetEvidence) -> str:
    return f"differs from the rehearsal in {plural(len(found.differs), 'place')}"


def _risk(evidence: Evidence) -> Iterator[Line]:
    for words in evidence.risk:
        yield line(WARNING, ("risk  ", Role.TITLE), said(words, Role.WARN))


def may_approve(approval: Approval, uid: int | None) -> bool:
    """Whether ``uid`` can be one of those who approve: not twice, and not what they asked for."""
    return not _own_obstacles(approval, uid)


def _own_obstacles(approval: Approval, uid: int | None) -> list[str]:
    if uid is None:
        return []
    found = []
    if approval.requester_uid == uid:
        found.append("you asked for this yourself: another operator approves it")
    if any(one.uid == uid for one in approval.given):
        found.append("you have approved it: another operator is needed")
    return found


def policy_lines(approval: Approval, uid: int | None) -> list[Line]:
    """What the rules say of this request and of the operator ``uid`` who looks at it."""
    if approval.state is not ApprovalState.PENDING:
        return []
    given = [one.name for one in approval.given]
    found = []
    if approval.threshold > 1:
        found.append(f"{approval.threshold} operators must approve; so far {', '.join(given) or 'none'}")
    found += _own_obstacles(approval, uid)
    return [line(WARNING, ("policy  ", Role.TITLE), said(words, Role.WARN)) for words in found]


def recap(result: TargetResult) -> Piece:
    """Ansible's recap in its own words."""
    words = [f"ok={result.ok}", f"changed={result.changed}"]
    rare = {"failed": result.failed, "skipped": result.skipped, "unreachable": result.unreachable}
    words += [f"{name}={count}" for name, count in rare.items() if count]
    return (" ".join(words), Role.BAD if result.failed or result.unreachable else Role.TEXT)


# --- tabs ------------------------------------------------------------------------------------------------


def playbook_lines(playbook: Playbook) -> list[Line]:
    """The playbook as it will run, and what was left out of it."""
    lines = [line(said(playbook.name, Role.TITLE), (f"  digest {visible(playbook.digest[:16])}", Role.MUTED))]
    if playbook.edited:
        lines.append(line(WARNING, ("edited by the agent after it was generated", Role.WARN)))
    lines += [line(("not in the playbook: ", Role.MUTED), said(note)) for note in playbook.notes]
    lines.append(BLANK)
    text = visible(playbook.yaml, keep_newlines=True, tab=8).rstrip("\n")
    return [*lines, *(_yaml(each) for each in text.split("\n"))]


def _yaml(text: str) -> Line:
    stripped = text.lstrip()
    if stripped.startswith("#"):
        return line((text, Role.MUTED))
    key, colon, value = text.partition(":")
    if stripped.startswith("- name") and colon:
        return line((key + colon, Role.MUTED), (value, Role.TITLE))
    if colon and (not value or value.startswith(" ")) and " " not in key.strip().removeprefix("- "):
        return line((key + colon, Role.ACCENT), (value, Role.TEXT))
    return line(text)


def run_lines(title: str, run: Run | None, now: datetime) -> list[Line]:
    """One run: its state, its recap, every result, with Ansible's own diffs."""
    if run is None:
        return [line((title, Role.TITLE), ("  not run", Role.MUTED)), BLANK]
    lasted = ((run.ended_at or now) - run.started_at).total_seconds()
    took = elapsed(lasted) if run.ended_at else f"for {span(lasted)}" if lasted >= STEP_S else ""
    lines = [line((title, Role.TITLE), ("  ", Role.TEXT), RUNS[run.state].run, (f"  {took}", Role.MUTED))]
    if run.reason:
        lines.append(line(said(run.reason, RUNS[run.state].role)))
    for host, result in run.results.items():
        lines.append(line(said(f"  {host}  "), recap(result)))
    for event in run.events:
        mark = TASKS.get(event.status, TASKS["note"])
        lines.append(
            line(
                (f"  {mark.glyph} {mark.word:<8} ", mark.role),
                said(f"{event.host}  " if len(run.targets) > 1 else "", Role.MUTED),
                said(event.task),
                said(
                    f"  {event.message}" if event.message else "",
                    Role.MUTED if mark.role is not Role.BAD else Role.BAD,
                ),
            )
        )
        if event.diff:
            lines += [
                _diff_line(each)
                for each in visible(event.diff, keep_newlines=True, tab=8).split("\n")
                if each
            ]
    return [*lines, BLANK]


def _diff_line(text: str) -> Line:
    role = {"+": Role.ADDED, "-": Role.REMOVED, "@": Role.ACCENT}.get(text[:1], Role.MUTED)
    return line(("      ", Role.TEXT), (text, role))


def dry_run_lines(approval: Approval, runs: dict[str, Run], now: datetime) -> list[Line]:
    """Each target: what would change, where it differs from the rehearsal, what could not be tried."""
    lines: list[Line] = []
    for target in approval.targets:
        found = approval.evidence.dry_run.get(target)
        if found is None:
            lines += [
                line(OPEN, said(target, Role.TITLE), (f"  {dry_run_state(approval)}", Role.MUTED)),
                BLANK,
            ]
            continue
        lines += list(_dry_run(found))
        for task in found.not_previewed:
            lines.append(line(("    – check mode cannot try: ", Role.MUTED), said(task)))
        lines.append(BLANK)
        lines += run_lines(f"{visible(target)} in check mode", runs.get(target), now)
    return lines


def dry_run_state(approval: Approval) -> str:
    """Why there is no dry run yet, in words."""
    if approval.state is ApprovalState.PENDING:
        return visible(approval.progress) or "the dry run is on its way"
    return "no dry run was made"


def apply_lines(approval: Approval, run: Run | None, now: datetime) -> list[Line]:
    """The apply, host by host, and its end."""
    if not approval.apply_run:
        return [line(("Nothing has been applied.", Role.MUTED))]
    mark = approval_mark(approval)
    lines = [line(mark.run, said(f"  {approval.progress}" if approval.progress else "", Role.MUTED))]
    if approval.ending:
        lines.append(line(said(approval.ending, mark.role)))
    if approval.verified_changed is not None:
        good = approval.verified_changed == 0
        word = "verified" if good else "not verified"
        words = f"{word}: checked again after the apply, changed={approval.verified_changed}"
        lines.append(line(FULFILLED if good else BROKEN, (words, Role.TEXT)))
    return [*lines, BLANK, *run_lines("Apply", run, now)]


def yes_to(evidence: Evidence) -> str:
    """What typing the id does, with the count of what no dry run tries."""
    opaque = plural(len(evidence.opaque), "opaque task")
    return f"approve with {opaque}" if evidence.opaque else "approve"


def what_will_run(approval: Approval, playbook: Playbook) -> list[Line]:
    """Exactly what an approval starts, and where: for the confirm dialog. Of many targets most stand at the
    end, so that what runs is in sight."""
    from fluid_tui.opaque import command_lines  # reads YAML, which a console that only looks never does

    places = [_where(approval, target) for target in approval.targets]
    folded = places[TARGETS_FIRST:] if len(places) > TARGETS_FIRST + 1 else []
    lines = places[: len(places) - len(folded)]
    if folded:
        lines.append(line(("     ", Role.MUTED), (f"and {len(folded)} more, named at the end", Role.TEXT)))
    commands = command_lines(playbook)
    lines += [line(("risk ", Role.WARN), said(words, Role.WARN)) for words in approval.evidence.risk]
    for task in playbook.tasks:
        flag = ("  opaque", Role.WARN) if task.opaque else ("", Role.TEXT)
        where = f"  {task.module} {_paths(task)}".rstrip()
        lines.append(line(("run  ", Role.MUTED), said(task.name), said(where, Role.MUTED), flag))
        lines += [
            line(("     $ ", Role.MUTED), said(words, Role.WARN)) for words in commands.get(task.name, ())
        ]
        if task.opaque and task.name not in commands:
            lines.append(line((f"     ! {UNREAD}", Role.WARN)))
    if playbook.asked:
        asked = ", ".join(playbook.asked)
        lines.append(line(("asks ", Role.MUTED), said(f"for the secrets {asked}, once this is confirmed")))
    lines.append(line(("digest ", Role.MUTED), (visible(approval.digest[:32]), Role.MUTED)))
    return lines + folded


def _paths(task: PlaybookTask) -> str:
    """What a task writes: its name is the agent's own text, and counts only where it ends in the path."""
    if not task.paths:
        return ""
    first, more = task.paths[0], len(task.paths) - 1
    if not more and f" {task.name}".endswith(f" {first}"):
        return ""
    return f"{first} and {more} more" if more else first


def _where(approval: Approval, target: str) -> Line:
    """One target as the evidence has it: its name, where it is reached, its group, its dry run."""
    found = approval.evidence.dry_run.get(target)
    login = approval.evidence.login(target)
    group = approval.groups.get(target, "")
    return line(
        ("on   ", Role.MUTED),
        said(target, Role.TITLE),
        said(f"  {login}") if login else (f"  {NO_LOGIN}", Role.WARN),
        said(f"  group {group}" if group else "", Role.MUTED),
        (f"  dry run: would change {found.result.changed}" if found else "  no dry run", Role.TEXT),
        (f"; {_differs(found)}" if found and found.differs else "", Role.WARN),
    )
