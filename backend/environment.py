"""The environment as whoever started this program gave it."""

from __future__ import annotations

import os
from pathlib import Path

COERCED = "LC_CTYPE"
"""Where no locale or only ``LANG=C`` is set, CPython sets this one to UTF-8 before any code of ours runs
(PEP 538), and what we start would take it for the operator's."""


def as_given(given: Path = Path("/proc/self/environ")) -> dict[str, str]:
    """``os.environ`` without what CPython added. Where ``given`` (proc(5)) cannot be read, all of it."""
    environment = dict(os.environ)
    try:
        named = {each.partition(b"=")[0] for each in given.read_bytes().split(b"\0")}
    except OSError:
        return environment
    if COERCED.encode() not in named:
        environment.pop(COERCED, None)
    return environment
