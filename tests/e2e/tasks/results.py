"""What former runs found, each kept under a key of all that it was made of: another task, code or image, and
it is due again; a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tests.e2e.tasks.corpus import Task
from tests.e2e.tasks.judged import Row

FILE = "result.json"


class Results:
    """The results in ``folder``, which has a folder for each task. ``code`` and ``image`` are digests."""

    def __init__(self, folder: Path, code: str, image: str) -> None:
        self._folder, self._made_of = folder, f"{code[:16]}-{image[:16]}"

    def place(self, task: Task) -> Path:
        """Where all that is kept of a task is."""
        return self._folder / task.name

    def key(self, task: Task) -> str:
        """What a result of this task, made now, is kept under."""
        return f"{task.digest[:16]}-{self._made_of}"

    def row(self, name: str) -> Row:
        """The newest result; one without a key where there is none."""
        try:
            return Row(**json.loads((self._folder / name / FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return Row(name)

    def due(self, tasks: Iterable[Task]) -> list[Task]:
        """Those without a result of what is here now."""
        return [task for task in tasks if self.row(task.name).key != self.key(task)]

    def keep(self, task: Task, row: Row) -> None:
        """As the newest result."""
        row.key = self.key(task)
        place = self.place(task)
        place.mkdir(parents=True, exist_ok=True)
        (place / FILE).write_text(json.dumps(asdict(row), indent=1))
