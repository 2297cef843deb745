"""How our tmux server behaves: nothing that a guest prints, or that is typed into its pane, acts here."""

from __future__ import annotations

TERM = "screen-256color"  # in the guests' ncurses-base
HISTORY_LINES = 10_000
SETTINGS: tuple[tuple[str, ...], ...] = (
    ("-s", "exit-empty", "off"),
    ("-s", "set-clipboard", "off"),
    ("-s", "escape-time", "20"),  # a key comes in one piece
    ("-s", "default-terminal", TERM),
    ("-g", "status", "off"),
    ("-g", "prefix", "None"),
    ("-g", "prefix2", "None"),
    ("-g", "mouse", "off"),
    ("-g", "detach-on-destroy", "on"),  # whose pane is gone must not type into another's
    ("-g", "history-limit", str(HISTORY_LINES)),
    ("-g", "remain-on-exit", "on"),
    ("-g", "allow-rename", "off"),
    ("-g", "automatic-rename", "off"),
    ("-g", "allow-passthrough", "off"),
    ("-g", "set-titles", "off"),
    ("-g", "update-environment", ""),
    ("-g", "default-command", "exec false"),  # a window without a command must not be a shell of ours
)
KEY_TABLES = ("prefix", "root", "copy-mode", "copy-mode-vi")
"""Emptied: whoever types into a pane reaches nothing of tmux, which could run programs here."""


def set_words() -> list[str]:
    """The commands that bring it about, each after a semicolon."""
    setting = [word for each in SETTINGS for word in (";", "set-option", *each)]
    return [*setting, *(word for table in KEY_TABLES for word in (";", "unbind-key", "-aqT", table))]
