"""How the benchmark of machines words what it saw; nothing is measured here."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.bench import fleet


def test_a_step_takes_the_median_of_what_lies_before_it() -> None:
    trails = [{"overlay": 0.1, "login": 1.1}, {"login": 2.3, "overlay": 0.3}, {"overlay": 0.2, "login": 4.2}]
    assert fleet._by_step(trails) == "overlay 0.20, login 2.00"
    assert fleet._by_step([{"row": 0.004, "login": 1.0}]) == "login 1.00"


def test_a_record_counts_the_answers_and_the_long_waits_of_all_branches() -> None:
    record = fleet._record([[0.1, 0.21, 0.1], [0.41, 0.05]])
    assert record == "3 answers in all, waits: 2 of more than 0.2 s, 1 of more than 0.4 s"


class Door:
    """Creates take no time, and their turns a second."""

    def __init__(self) -> None:
        self.live = set[str]()
        self.most = self.made = 0

    def create(self, source: str, *, agent_id: str, name: str) -> SimpleNamespace:
        assert name not in self.live
        self.live.add(name)
        self.most, self.made = max(self.most, len(self.live)), self.made + 1
        return SimpleNamespace(id=name)

    def sandbox(self, id: str) -> SimpleNamespace:
        return SimpleNamespace(id=id, ready_s=1.0, steps={"overlay": 0.25, "login": 1.0})

    def destroy(self, id: str) -> None:
        self.live.remove(id)


def test_many_at_once_are_measured_in_rounds_step_by_step() -> None:
    door = Door()
    figure = fleet._at_once(cast("Any", door), "debian-12", "emulated", 2.0)
    assert (door.most, door.made, door.live) == (fleet.AT_ONCE, fleet.ROUNDS * fleet.AT_ONCE, set())
    assert "each 1.00 s once its turn has come (steps: overlay 0.25, login 0.75)" in figure.how
    assert f"; {fleet.ROUNDS} times, " in figure.how and figure.p95 is not None and figure.holds


class Guest:
    """Has some names, and makes the files that it is told to make, in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names, self.asked = folder, 10_800, list[str]()

    def snapshot(self, id: str, name: str) -> SimpleNamespace:
        self.asked.append(name)
        made = sum(1 for _ in self.folder.rglob("*"))
        point = SimpleNamespace(name=name, files=self.names + made, meta_json='{"stood_still_s": 0.5}')
        self.points = [*getattr(self, "points", []), point]
        return point

    def snapshots(self, id: str) -> list[SimpleNamespace]:
        return self.points

    def run(self, id: str, command: str, *, timeout: int) -> SimpleNamespace:
        self.asked.append("run")
        command = command.replace("/srv/", f"{self.folder}/")
        done = subprocess.run(["bash", "-c", command], timeout=timeout, check=False)
        return SimpleNamespace(exit_code=done.returncode, stderr="")


def test_a_snapshot_is_measured_of_a_guest_with_30_000_names(tmp_path: Path) -> None:
    guest, box = Guest(tmp_path), cast("Any", SimpleNamespace(id="SBX-1"))
    planted, point = fleet._planted(cast("Any", guest), box)
    assert point.files == 30_000 and guest.asked == ["fresh", "run", "planted"]
    assert planted == sum(path.is_file() for path in tmp_path.rglob("*"))
    taken, stood = fleet._points(cast("Any", guest), box, ["p0", "p1"])
    assert len(taken) == len(stood) == 2, "what was taken before is not among those that were measured"
