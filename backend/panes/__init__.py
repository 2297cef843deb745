"""Agents' terminals, each a shell in a guest."""

from backend.panes.recorder import Recorder
from backend.panes.recordings import Recordings
from backend.panes.service import PAINT_EVERY_S, Panes, Sandboxes
from backend.panes.shelf import Shelf
from backend.panes.taking import TakeOver, Why

__all__ = [
    "PAINT_EVERY_S",
    "Panes",
    "Recorder",
    "Recordings",
    "Sandboxes",
    "Shelf",
    "TakeOver",
    "Why",
]
