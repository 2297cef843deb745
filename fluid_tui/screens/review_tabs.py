"""The tabs of a review, and what each draws from what was read so far."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from backend.models import Approval, Command
from backend.text import visible
from fluid_tui.evidence import apply_lines, dry_run_lines, playbook_lines, run_lines
from fluid_tui.paint import Line, Role, line, said
from fluid_tui.widgets.tab_bar import Tab
from fluid_tui.words import clock, elapsed, span

if TYPE_CHECKING:
    from fluid_tui.screens.review_data import ReviewData

TABS = (
    Tab("0", "evidence", "Evidence", narrow_only=True),
    Tab("1", "diff", "Diff"),
    Tab("2", "playbook", "Playbook"),
    Tab("3", "rehearsal", "Rehearsal", short="Rehears."),
    Tab("4", "dry_run", "Dry run"),
    Tab("5", "commands", "Commands"),
    Tab("6", "recording", "Recording", short="Record."),
    Tab("7", "apply", "Apply"),
)
TEXT_TABS = tuple(tab for tab in TABS if tab.id not in ("evidence", "diff", "recording"))
OUTPUT_LINES = 6


def draw_tab(id: str, approval: Approval, data: ReviewData, at: datetime) -> list[Line]:
    """The lines of one text tab, as it is at this moment."""
    if id == "playbook":
        return playbook_lines(data.playbook) if data.playbook else _waiting("playbook", data)
    if id == "rehearsal":
        if not approval.evidence.rehearsal_run:
            return [
                line(("The rehearsal has not run yet. ", Role.MUTED), said(approval.progress, Role.ACCENT))
            ]
        runs = data.runs
        return [
            *run_lines("First run, on a pristine fork", runs.get(approval.evidence.rehearsal_run), at),
            *run_lines("Second run, on the same fork", runs.get(approval.evidence.repeat_run), at),
        ]
    if id == "dry_run":
        by_target = {
            name: data.runs[found.run_id]
            for name, found in approval.evidence.dry_run.items()
            if found.run_id in data.runs
        }
        return dry_run_lines(approval, by_target, at)
    if id == "commands":
        if data.commands is None:
            return _waiting("commands", data)
        cut = f"Only its first {len(data.commands):,} commands are shown." if data.commands_cut else ""
        return [*command_lines(data.commands, at), *([line((cut, Role.WARN))] if cut else [])]
    return apply_lines(approval, data.runs.get(approval.apply_run), at)


def _waiting(what: str, data: ReviewData) -> list[Line]:
    problem = data.problems.get(what)
    return [line(said(f"✗ {problem}", Role.BAD)) if problem else line((f"Reading the {what} …", Role.MUTED))]


def _ended(command: Command, at: datetime) -> tuple[str, bool]:
    """How a command ended, in words, and whether that is bad."""
    if command.ended_at is None and command.exit_code is None:
        return f"running for {span((at - command.started_at).total_seconds())}", False
    took = f", {elapsed(command.duration_ms / 1000)}" if command.duration_ms is not None else ""
    if command.timed_out:
        return f"timed out{took}", True
    if command.exit_code is None:
        return visible(str(command.metadata.get("failure") or "its end is not known")), True
    return f"exit {command.exit_code}{took}", command.exit_code != 0


def command_lines(commands: list[Command], at: datetime) -> list[Line]:
    """What the agent ran, with its outcome and the first lines of what it printed."""
    if not commands:
        return [line(("The agent ran no command.", Role.MUTED))]
    lines: list[Line] = []
    for command in commands:
        ended, failed = _ended(command, at)
        lines.append(
            line(
                (f"{clock(command.started_at)} ", Role.MUTED),
                ("✗ " if failed else "· ", Role.BAD if failed else Role.MUTED),
                said(command.command, Role.TITLE),
                (f"  {ended}", Role.BAD if failed else Role.MUTED),
            )
        )
        for stream, text in (("out", command.stdout), ("err", command.stderr)):
            shown = text.rstrip("\n").split("\n") if text else []
            lines += [
                line((f"      {stream} ", Role.MUTED), said(each[:400])) for each in shown[:OUTPUT_LINES]
            ]
            if len(shown) > OUTPUT_LINES:
                lines.append(line((f"          … {len(shown) - OUTPUT_LINES} more lines", Role.MUTED)))
    return lines
