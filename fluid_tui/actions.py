"""Every action of the console: its id, its words, its default key. Bindings, footer, help and palette are
made from this table and from nothing else.

An id is ``<where>.<name>``; the screen or widget of that place has the method ``action_<name>``.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding, BindingType

FORBIDDEN_KEYS = frozenset({"ctrl+a", "ctrl+b", "ctrl+s", "ctrl+q", "ctrl+z"})
"""Taken by screen, tmux, flow control and job control."""

EVERYWHERE = ("app", "move")
"""Places whose keys work on every screen."""
WITHIN: dict[str, tuple[str, ...]] = {"review": ("sides", "replay"), "diff": ("sides",)}
"""Places that are parts of a screen: their keys work while that part is in use."""


@dataclass(frozen=True, slots=True)
class Action:
    """``label`` stands in the footer (empty: not shown there), ``words`` in the help and the palette."""

    id: str
    key: str  # Textual's key names, several joined by ","
    label: str
    words: str
    changes: bool = False  # touches more than the console: off in read-only

    @property
    def where(self) -> str:
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        return self.id.partition(".")[2]


ACTIONS: tuple[Action, ...] = (
    Action("app.help", "question_mark", "help", "Show the keys of this screen"),
    Action("app.command", "colon", "command", "Type a command: `:host kvm-02 drain`; tab completes"),
    Action("app.palette", "ctrl+p", "", "Find an action by its words"),
    Action("app.jump", "f", "", "Jump: type the letter that stands beside a row or an area"),
    Action("app.last", "minus", "", "To the view before, and back"),
    Action(
        "app.panic",
        "exclamation_mark",
        "",
        "Pressed twice: pause all, revoke certificates, block applies",
        changes=True,
    ),
    Action("app.copy", "C", "", "Copy the row, the marked rows or the text under the cursor"),
    Action("app.save", "W", "", "Write the same to a file"),
    Action("app.theme", "T", "", "Switch to the next theme"),
    Action("app.redraw", "ctrl+l", "", "Draw the whole screen anew: another program wrote over it"),
    Action("app.back", "q,escape", "", "Go back one screen; on the fleet: leave the console"),
    Action("move.down", "j,down", "", "One line down"),
    Action("move.up", "k,up", "", "One line up"),
    Action("move.page_down", "pagedown,ctrl+d", "", "One page down"),
    Action("move.page_up", "pageup,ctrl+u", "", "One page up"),
    Action("move.top", "home,g", "", "To the first line"),
    Action("move.bottom", "end,G", "", "To the last line"),
    Action("fleet.open", "enter", "open", "Open what is under the cursor: a review, a question, a terminal"),
    Action("fleet.review", "v", "review", "Review the request of this sandbox"),
    Action("fleet.diff", "d", "diff", "Show what changed in this sandbox"),
    Action(
        "fleet.compare", "c", "", "Show how two sandboxes differ: mark one, go to the other; or mark both"
    ),
    Action("fleet.terminal", "t", "terminal", "Watch the agent's terminal"),
    Action(
        "fleet.filter",
        "slash",
        "filter",
        "Show only what matches: nginx host:kvm-02 -paused state:error|lost ttl<30m",
    ),
    Action("fleet.mark", "space", "", "Mark or unmark; sandbox actions then apply to all marked"),
    Action("fleet.mark_all", "M", "", "Mark all that are shown, or none"),
    Action("fleet.sort", "S", "", "Sort by need, name, agent, host, state, time left, activity"),
    Action("fleet.reverse", "R", "", "Turn the order round"),
    Action("fleet.preview", "o", "", "Show or hide the pane beside the list"),
    Action("fleet.wider", "greater_than_sign", "", "A wider list"),
    Action("fleet.narrower", "less_than_sign", "", "A narrower list"),
    Action("fleet.hosts", "h", "hosts", "Show the hypervisors, their room and who waits for them"),
    Action("fleet.wall", "w", "wall", "Watch several terminals at once"),
    Action("fleet.timeline", "l", "timeline", "Show what happened in this sandbox, and to it"),
    Action("fleet.pause", "p", "", "Pause the sandbox", changes=True),
    Action("fleet.resume", "P", "", "Resume a paused sandbox", changes=True),
    Action("fleet.snapshot", "s", "", "Take a snapshot now", changes=True),
    Action("fleet.stop", "x", "", "Stop the sandbox", changes=True),
    Action("fleet.destroy", "D", "", "Destroy the sandbox and all it holds (asks)", changes=True),
    Action("fleet.extend", "e", "", "Extend its time to live by an hour", changes=True),
    Action(
        "review.approve",
        "a",
        "approve",
        "Approve exactly what is shown (asks for the short id)",
        changes=True,
    ),
    Action("review.reject", "r", "reject", "Reject, with a reason", changes=True),
    Action("review.changes", "c", "ask changes", "Reject and tell the agent what to mend", changes=True),
    Action("review.abort", "x", "", "Abort the running apply (asks)", changes=True),
    Action(
        "review.roll_back",
        "b",
        "roll back",
        "Ask to take an apply back that is over (asks for the short id)",
        changes=True,
    ),
    Action("review.tab_evidence", "0", "", "Show request and evidence"),
    Action("review.tab_diff", "1", "", "Show the diff"),
    Action("review.tab_playbook", "2", "", "Show the playbook"),
    Action("review.tab_rehearsal", "3", "", "Show the rehearsal"),
    Action("review.tab_dry_run", "4", "", "Show the dry run of each target"),
    Action("review.tab_commands", "5", "", "Show the agent's commands"),
    Action("review.tab_recording", "6", "", "Play what the agent's terminal showed"),
    Action("review.tab_apply", "7", "", "Show the apply, live"),
    Action("review.next_change", "n", "next", "To the next change"),
    Action("review.previous_change", "N", "", "To the previous change"),
    Action("review.noise", "i", "", "Show or hide what the noise profile hides"),
    Action("review.terminal", "t", "", "Watch the agent's terminal"),
    Action("review.write", "w", "write", "Write the evidence pack to a file"),
    Action("ask.yes", "y", "yes", "Say yes, with an optional note", changes=True),
    Action("ask.no", "n", "no", "Say no, with an optional note", changes=True),
    Action("ask.terminal", "t", "terminal", "Watch the agent's terminal"),
    Action("diff.earlier", "comma", "earlier", "The change before: a snapshot and the one it was made from"),
    Action("diff.later", "full_stop", "later", "The change after it; the last one is the sandbox as it is"),
    Action("diff.since_earlier", "less_than_sign", "since", "Compare with one snapshot further back"),
    Action("diff.since_later", "greater_than_sign", "", "Compare with one snapshot less far back"),
    Action("diff.again", "r", "", "Read it again, also which snapshots there are"),
    Action("diff.noise", "i", "noise", "Show or hide what the noise profile hides"),
    Action("diff.next_change", "n", "next", "To the next change"),
    Action("diff.previous_change", "N", "", "To the previous change"),
    Action("diff.switch", "tab", "tree/text", "Move between the tree and the text"),
    Action("sides.wrap", "z", "", "Wrap long lines, or scroll both sides together"),
    Action("sides.right", "right", "", "Unwrapped: to the right"),
    Action("sides.left", "left", "", "Unwrapped: to the left"),
    Action("sides.unfold", "u", "", "Show the equal lines too, or fold them"),
    Action("hosts.drain", "d", "drain", "Give this host no new sandboxes; those it has stay", changes=True),
    Action("hosts.resume", "r", "resume", "Give this host new sandboxes again", changes=True),
    Action("hosts.open", "enter", "open", "Show the sandboxes of this host on the fleet"),
    Action("hosts.all", "a", "all creates", "Show the creates of all hosts, or of this one only"),
    Action("terminal.next", "n", "next", "The next sandbox's terminal"),
    Action("terminal.previous", "N", "", "The previous sandbox's terminal"),
    Action(
        "terminal.take_over",
        "i",
        "take over",
        "Type instead of the agent, which waits meanwhile",
        changes=True,
    ),
    Action(
        "terminal.hand_back",
        "ctrl+right_square_bracket",
        "hand back",
        "Give the terminal back to its agent, and go back to where you were",
    ),
    Action("terminal.diff", "d", "diff", "Show what changed in this sandbox"),
    Action("terminal.timeline", "l", "timeline", "Show what happened in this sandbox, and to it"),
    Action("wall.open", "enter", "open", "Watch this terminal alone"),
    Action("wall.next", "right,l,tab", "next", "To the next terminal"),
    Action("wall.previous", "left,h,shift+tab", "", "To the terminal before"),
    Action(
        "timeline.output", "enter", "open", "Show what the command printed; open a request; play a recording"
    ),
    Action("timeline.replay", "r", "replay", "Play what the terminal of this sandbox showed"),
    Action("timeline.filter", "slash", "filter", "Show only what matches: approval who:ops -what:command"),
    Action("timeline.older", "o", "older", "Read further back"),
    Action("timeline.all", "a", "all", "Everything, or this sandbox only"),
    Action("replay.pause", "space", "pause", "Stop, and go on; at the end: from the start"),
    Action("replay.faster", "plus,greater_than_sign", "faster", "Twice as fast"),
    Action("replay.slower", "less_than_sign", "slower", "Half as fast"),
    Action("replay.forward", "right,l", "", "Five seconds on"),
    Action("replay.rewind", "left,h", "", "Five seconds back"),
    Action("replay.idle", "s", "", "Cut pauses short, or leave them as they were"),
    Action("replay.earlier", "comma", "", "The recording before"),
    Action("replay.later", "full_stop", "", "The recording after"),
)

TWINS: dict[str, str] = {
    "app.help": "--help",
    "app.panic": "panic --yes",
    "fleet.open": "--plain",
    "fleet.review": "approvals show APPROVAL",
    "fleet.diff": "snapshots diff SANDBOX FROM TO",
    "fleet.compare": "snapshots diff SANDBOX now --to-sandbox OTHER",
    "fleet.terminal": "sandboxes follow SANDBOX",
    "fleet.filter": "sandboxes list --state running --agent AGENT",
    "fleet.hosts": "hosts list",
    "fleet.wall": "sandboxes follow SANDBOX",
    "fleet.timeline": "audit list --sandbox SANDBOX",
    "fleet.pause": "sandboxes pause SANDBOX",
    "fleet.resume": "sandboxes resume SANDBOX",
    "fleet.snapshot": "snapshots create SANDBOX SNAPSHOT",
    "fleet.stop": "sandboxes stop SANDBOX",
    "fleet.destroy": "sandboxes destroy SANDBOX --yes",
    "fleet.extend": "sandboxes extend SANDBOX 3600",
    "review.approve": "approvals approve APPROVAL",
    "review.reject": "approvals reject APPROVAL REASON",
    "review.changes": "approvals reject APPROVAL REASON --changes",
    "review.abort": "approvals abort APPROVAL",
    "review.roll_back": "runs rollback RUN --target TARGET",
    "review.tab_evidence": "approvals show APPROVAL",
    "review.tab_diff": "snapshots diff SANDBOX FROM TO --content",
    "review.tab_playbook": "playbooks show PLAYBOOK",
    "review.tab_rehearsal": "approvals show APPROVAL",
    "review.tab_dry_run": "approvals dry-run APPROVAL",
    "review.tab_commands": "commands list SANDBOX",
    "review.tab_recording": "replay SANDBOX",
    "review.tab_apply": "runs show RUN",
    "review.terminal": "sandboxes follow SANDBOX",
    "review.write": "approvals pack APPROVAL",
    "ask.yes": "asks answer ASK --yes --comment NOTE",
    "ask.no": "asks answer ASK --no --comment NOTE",
    "ask.terminal": "sandboxes follow SANDBOX",
    "hosts.drain": "hosts drain HOST",
    "hosts.resume": "hosts resume HOST",
    "hosts.open": "sandboxes list --host HOST",
    "hosts.all": "sandboxes list",
    "diff.since_earlier": "snapshots diff SANDBOX FROM TO",
    "diff.since_later": "snapshots diff SANDBOX FROM TO",
    "terminal.take_over": "sandboxes attach SANDBOX",
    "terminal.hand_back": "sandboxes hand-back SANDBOX",
    "terminal.diff": "snapshots diff SANDBOX FROM",
    "terminal.timeline": "audit list --sandbox SANDBOX",
    "timeline.output": "commands show COMMAND",
    "timeline.replay": "replay SANDBOX",
    "timeline.filter": "audit list --action approval.approve",
    "timeline.older": "audit list --limit 1000",
    "timeline.all": "audit list",
    "wall.open": "sandboxes follow SANDBOX --pane %3",
    "replay.pause": "replay SANDBOX",
    "replay.faster": "replay SANDBOX --speed 2",
    "replay.slower": "replay SANDBOX --speed 0.5",
    "replay.forward": "replay SANDBOX",
    "replay.rewind": "replay SANDBOX",
    "replay.idle": "replay SANDBOX --idle 2",
    "replay.earlier": "recordings list --sandbox SANDBOX",
    "replay.later": "recordings list --sandbox SANDBOX",
}
"""The command line that does or shows the same, by action id; capitals stand for what is given there. What is
not here moves only the console itself."""

BY_ID: dict[str, Action] = {action.id: action for action in ACTIONS}


def of(*places: str) -> list[Action]:
    """The actions of these places, in the order of the table."""
    return [action for action in ACTIONS if action.where in places]


def bindings(place: str) -> list[BindingType]:
    """Textual's bindings of one place; the id lets a keymap replace the key."""
    return [
        Binding(
            action.key, action.name, action.label, tooltip=action.words, id=action.id, show=bool(action.label)
        )
        for action in of(place)
    ]


def changing_names(place: str) -> frozenset[str]:
    """The method names of a place that touch more than the console."""
    return frozenset(action.name for action in of(place) if action.changes)


KEY_NAMES = {
    "question_mark": "?",
    "colon": ":",
    "slash": "/",
    "comma": ",",
    "full_stop": ".",
    "minus": "-",
    "plus": "+",
    "exclamation_mark": "!",
    "greater_than_sign": ">",
    "less_than_sign": "<",
    "ctrl+right_square_bracket": "ctrl+]",
    "escape": "esc",
    "pageup": "pgup",
    "pagedown": "pgdn",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
}


def shown_keys(keys: str) -> str:
    """``question_mark,ctrl+p`` as an operator reads it: ``? ctrl+p``."""
    return " ".join(KEY_NAMES.get(key, key) for key in keys.split(","))
