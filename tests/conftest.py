"""Fixtures that more than one group of tests uses."""

from tests.fix_demo import demo

__all__ = ["demo"]
