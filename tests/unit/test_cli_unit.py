"""The systemd unit that ``fluid serve --unit`` prints, read by systemd itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backend.cli import unit

CHECKOUT = "a b%c$d"
HOME = 'a b%c$d"e\\f'


def printed(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "backend.cli", "serve", "--unit"],
        env={**os.environ, "PYTHONPATH": str(unit.CHECKOUT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_unit_runs_this_checkout_and_leaves_machines_alone() -> None:
    lines = printed().splitlines()
    assert f'ExecStart="{unit.CHECKOUT}/fluid" serve' in lines
    assert {"Type=notify", "KillMode=process", "WantedBy=multi-user.target"} <= set(lines)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd to read it")
def test_systemd_understands_it_whatever_the_folder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / CHECKOUT / "fluid"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setattr(unit, "CHECKOUT", program.parent)
    monkeypatch.setenv("FLUID_HOME", str(tmp_path / HOME))
    file = tmp_path / "fluid.service"
    file.write_text(unit.unit())
    done = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
