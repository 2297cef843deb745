"""Fixtures that more than one group of tests uses."""

from tests.fix_demo import demo, operator, told

__all__ = ["demo", "operator", "told"]
