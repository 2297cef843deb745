"""How busy a host is, whoever makes it so: from what its processors did between two looks."""

from __future__ import annotations

from backend.hypervisor import HostFacts

SPAN_S = 10.0  # a fork that we make ourselves is little of that
NS = 1_000_000_000


class Busy:
    """``share``: of the time of all its processors, lately, 0 to 1; None before it was looked at for long
    enough."""

    def __init__(self) -> None:
        self.share: float | None = None
        self._since: HostFacts | None = None

    def see(self, facts: HostFacts) -> None:
        """The next look. What processors did is counted from the host's start: it begins anew with that."""
        if self._since is None:
            self._since = facts
            return
        busy = facts.cpu_busy_ns - self._since.cpu_busy_ns
        idle = facts.cpu_idle_ns - self._since.cpu_idle_ns
        if busy < 0 or idle < 0:
            self.share, self._since = None, facts
        elif busy + idle >= SPAN_S * NS * facts.cpus:
            self.share, self._since = busy / (busy + idle), facts
