"""``./fluid test --tasks [NAME …]``: the corpus in real guests, and one table of all of it.

Without names, a task whose result is there is not done again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from backend.cli.guard import guarded
from backend.client import Fluid
from backend.errors import BadRequest, TimedOut
from backend.images import Images
from backend.paths import Paths
from tests.bench.stage import Stage
from tests.e2e.tasks.corpus import Task, code_digest, load, names
from tests.e2e.tasks.driven import TARGET, run
from tests.e2e.tasks.judged import report
from tests.e2e.tasks.results import Results

AT_ONCE = min(4, os.cpu_count() or 1)
TEMPLATE_S = 180
LOOK_S = 0.3
ADDRESS = "192.0.2.1"  # RFC 5737: nobody's


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended
    asked = sys.argv[1:]
    known = names()
    if unknown := sorted(set(asked) - set(known)):
        raise BadRequest(f"there is no task {unknown[0]!r}", remedy=f"one of {', '.join(known)}")
    cache = Paths.default()
    image = asyncio.run(Images(cache.images).build(progress=lambda _: None))
    # No folder called tasks: ansible-lint would take a playbook for one.
    results = Results(cache.cache / "corpus", code_digest(), image.sha256)
    tasks = [load(name) for name in asked or known]
    due = tasks if asked else results.due(tasks)
    print(f"{len(due)} of {len(tasks)} tasks are to be done, {AT_ONCE} at once", flush=True)
    if due:
        asyncio.run(_all(cache, image.name, due, results))
    rows = [results.row(name) for name in known]
    keys = {task.name: results.key(task) for task in map(load, known)}
    return report([row for row in rows if row.key], keys, asked)


async def _all(cache: Paths, source: str, tasks: Sequence[Task], results: Results) -> None:
    cut = threading.Event()
    async with Stage(cache.cache) as stage:
        stage.configure(targets=_nowhere(stage.paths.state))
        await stage.start()
        fluid, key = Fluid(stage.paths.operator_socket), stage.paths.secrets / "fingerprint.key"
        try:
            await asyncio.to_thread(_template, fluid, source)
            await asyncio.to_thread(each, fluid, source, tasks, results, key.read_bytes(), cut)
        finally:
            cut.set()  # before its backend goes


def _nowhere(folder: Path) -> dict[str, Any]:
    """A target that a request can name and that nobody reaches."""
    known, login = folder / "known_hosts", folder / "id_nowhere"
    known.write_text(f"{ADDRESS} ssh-ed25519 {'A' * 68}\n")
    login.write_text("")
    return {
        "groups": {
            "nowhere": {
                "ssh_key_file": str(login),
                "known_hosts": str(known),
                "hosts": {TARGET: {"address": ADDRESS}},
            }
        }
    }


def _template(fluid: Fluid, source: str) -> None:
    """Wait until it is there."""
    deadline = time.monotonic() + TEMPLATE_S
    while not any(one.template_ready for one in fluid.sources()):
        if time.monotonic() > deadline:
            raise TimedOut(f"no template of {source} within {TEMPLATE_S} s")
        time.sleep(LOOK_S)


def each(
    fluid: Fluid, source: str, tasks: Sequence[Task], results: Results, key: bytes, cut: threading.Event
) -> None:
    """Do the tasks, some at once; each result is kept as soon as it is there. Once ``cut`` is set no other
    begins, and what then ends is nobody's result."""

    def one(task: Task) -> None:
        if cut.is_set():
            return
        row = run(fluid, source, task, results.place(task), key)
        if cut.is_set():
            return
        results.keep(task, row)
        print("\n  ".join(["  ".join(row.cells()), *row.problems]), flush=True)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(one, task) for task in tasks]:
            done.result()


if __name__ == "__main__":
    sys.exit(guarded(main))
