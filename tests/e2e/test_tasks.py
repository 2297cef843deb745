"""Three tasks of the corpus in CI, which install nothing, through sandbox, diff, playbook, ansible-lint and
rehearsal; ``./fluid test --tasks`` runs all of them."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.tasks.corpus import CHECKOUT

NAMES = ("strange-names", "users-sudo", "swap-file")
LIMIT_S = 600


def test_names_accounts_and_a_swap_file_come_through_every_stage() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.e2e.tasks", *NAMES],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
