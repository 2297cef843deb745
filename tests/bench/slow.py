"""What an operator feels at the end of a line of 2,400 bytes a second: seconds until the screen is right."""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from time import time

from tests.bench.figures import Figure, figure
from tests.bench.stage import CHECKOUT
from tests.bench.terminal import SlowTerminal

RATE = 2_400
TIMES = 5
LOOKS, LOOK_S, SETTLED_S = 30, 0.5, 0.5
APP = (sys.executable, "-P", "-m", "tests.console.busy_app")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
STEPS = (
    ("move the cursor", b"j", ("▌ ? 5b11",)),
    ("open a review", b"\x1b[A\r", ("Evidence", "c ask changes")),
    ("back to the fleet", b"q", ("Needs you", "kernel-cve", "? help")),
)
LINE = (
    f"a line of {RATE:,} B/s behind buffers of 64 KiB, 80x24, 16 colours, the real console on a sample fleet"
)
_STAMP = re.compile(r"\b(\d{10}\.\d\d) ")


def measure() -> list[Figure]:
    took, ages, deepest = defaultdict[str, list[float]](list), [], []
    for _ in range(TIMES):
        with SlowTerminal(APP, ENVIRONMENT, 80, 24, rate=RATE) as seen:
            took["start"].append(seen.shows("Needs you", "kernel-cve", "? help"))
            seen.settle(SETTLED_S)
            for name, key, words in STEPS:
                took[name].append(seen.shows(*words, began=seen.press(key)))
                seen.settle(SETTLED_S)
            seen.press(b"t")
            ages += follow(seen)
            took["leave a busy pane"].append(seen.shows("Needs you", "? help", began=seen.press(b"q")))
            deepest.append(seen.deepest / RATE)
    figures = [
        figure(f"slow line: {name}", samples, "s", f"until the screen is right, {LINE}")
        for name, samples in took.items()
    ]
    return [
        *figures,
        figure("slow line: age of a busy pane", ages, "s", f"of the oldest row on the screen, {LINE}"),
        figure("slow line: most that was on its way", deepest, "s", f"of the line's time, {LINE}"),
    ]


def follow(seen: SlowTerminal) -> list[float]:
    """How old the oldest row of a busy pane is, as often as it is looked at."""
    seen.shows("live")
    ages = []
    for _ in range(LOOKS):
        seen.count(LOOK_S)
        stamps = [float(found[1]) for row in seen.screen if (found := _STAMP.search(row))]
        ages += [time() - min(stamps)] if stamps else []
    return ages
