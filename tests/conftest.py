"""Fixtures that more than one group of tests uses."""

import signal

from hypothesis import settings

from tests.fix_demo import demo, operator, told
from tests.resuming import pytest_collection_modifyitems, pytest_runtest_logreport

__all__ = ["demo", "operator", "pytest_collection_modifyitems", "pytest_runtest_logreport", "told"]

signal.signal(signal.SIGTERM, signal.default_int_handler)  # fixtures end what they started

settings.register_profile("fluid", deadline=None)  # a busy machine is no failure
settings.load_profile("fluid")
