"""Agents' terminals, each a shell in a guest."""

from backend.panes.service import PAINT_EVERY_S, Panes, Sandboxes
from backend.panes.taking import TakeOver, Why

__all__ = ["PAINT_EVERY_S", "Panes", "Sandboxes", "TakeOver", "Why"]
