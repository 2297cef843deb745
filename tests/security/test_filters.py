"""What keeps a guest in its place stays, whatever else happens on the host."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
LIMIT_S = 120


def test_a_guest_keeps_its_filter_when_another_libvirtd_cleans_up_after_a_dead_one(tmp_path: Path) -> None:
    """With libvirt's own names both taps are vnet0, and the second libvirtd takes the first one's filter."""
    done = subprocess.run(
        [
            *("unshare", "--net", "--mount", sys.executable, "-P", "-m", "tests.security.two_libvirtds"),
            str(tmp_path),
        ],
        cwd=CHECKOUT,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(CHECKOUT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"before": True, "after": True}
