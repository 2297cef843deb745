"""One task of the corpus in CI, through sandbox, diff, playbook, ansible-lint and rehearsal; ``./fluid test
--tasks`` runs all of them."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.tasks.corpus import CHECKOUT

NAME = "strange-names"
LIMIT_S = 600


def test_names_that_people_really_give_come_through_every_stage() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.e2e.tasks", NAME],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
