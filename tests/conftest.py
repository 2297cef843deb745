"""Fixtures that more than one group of tests uses."""

from hypothesis import settings

from tests.fix_demo import demo, operator, told

__all__ = ["demo", "operator", "told"]

settings.register_profile("fluid", deadline=None)  # a busy machine is no failure
settings.load_profile("fluid")
