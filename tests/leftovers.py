"""What a test leaves over, on a machine where other checkouts have built images too."""

from __future__ import annotations

from backend.fleet.leftovers import HERE
from backend.models import Leftover, LeftoverReport


def left_of(report: LeftoverReport) -> list[Leftover]:
    """All but former images in the cache: that is the whole machine's."""
    return [one for one in report.found if one.host != HERE or not one.name.endswith(".former")]
