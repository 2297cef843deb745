"""``./fluid test --tasks [NAME …]``: the corpus in real guests, and one table of all of it.

Results are kept by a digest of the task, the code and the image: without names, a task whose result is there
is not done again, so that a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
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
from tests.e2e.tasks.judged import Row, report

AT_ONCE = min(4, os.cpu_count() or 1)
TEMPLATE_S = 180
LOOK_S = 0.3
ADDRESS = "192.0.2.1"  # RFC 5737: nobody's


def main() -> int:
    asked = sys.argv[1:]
    known = names()
    if unknown := sorted(set(asked) - set(known)):
        raise BadRequest(f"there is no task {unknown[0]!r}", remedy=f"one of {', '.join(known)}")
    cache = Paths.default()
    image = asyncio.run(Images(cache.images).build(progress=lambda _: None))
    code = code_digest()

    def key(task: Task) -> str:
        return f"{task.digest[:16]}-{code[:16]}-{image.sha256[:16]}"

    folder = cache.cache / "corpus"  # no folder called tasks: ansible-lint would take a playbook for one
    tasks = [load(name) for name in asked or known]
    due = tasks if asked else [task for task in tasks if _kept(folder, task.name).key != key(task)]
    print(f"{len(due)} of {len(tasks)} tasks are to be done, {AT_ONCE} at once", flush=True)
    if due:
        asyncio.run(_all(cache, image.name, due, folder, key))
    rows = [_kept(folder, name) for name in known]
    return report(
        [row for row in rows if row.key], {task.name: key(task) for task in map(load, known)}, asked
    )


async def _all(
    cache: Paths, source: str, tasks: Sequence[Task], folder: Path, key: Callable[[Task], str]
) -> None:
    async with Stage(cache.cache) as stage:
        stage.configure(targets=_nowhere(stage.paths.state))
        await stage.start()
        await asyncio.to_thread(_do, stage.paths, source, tasks, folder, key)


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


def _do(paths: Paths, source: str, tasks: Sequence[Task], folder: Path, key: Callable[[Task], str]) -> None:
    fluid, fingerprint_key = Fluid(paths.operator_socket), (paths.secrets / "fingerprint.key").read_bytes()
    deadline = time.monotonic() + TEMPLATE_S
    while not any(one.template_ready for one in fluid.sources()):
        if time.monotonic() > deadline:
            raise TimedOut(f"no template of {source} within {TEMPLATE_S} s")
        time.sleep(LOOK_S)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {
            pool.submit(run, fluid, source, task, folder / task.name, fingerprint_key): task for task in tasks
        }
        for done in as_completed(running):
            row, task = done.result(), running[done]
            row.key = key(task)
            (folder / task.name / "result.json").write_text(json.dumps(asdict(row), indent=1))
            print("  ".join(row.cells()), flush=True)
            for words in row.problems:
                print(f"  {words}", flush=True)


def _kept(folder: Path, name: str) -> Row:
    """The result of a former run; one without a key where there is none."""
    try:
        return Row(**json.loads((folder / name / "result.json").read_text()))
    except (OSError, ValueError, TypeError):
        return Row(name)


if __name__ == "__main__":
    sys.exit(guarded(main))
