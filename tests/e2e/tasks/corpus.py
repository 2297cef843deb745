"""Real administration tasks: each a script as an agent would run it, and beside it the truth of what it does.

``NAME.sh`` is one command of the agent for each line that begins with ``## ``. ``NAME.truth`` has a line for
each thing that differs afterwards (``+`` added, ``-`` removed, ``~`` modified, ``*`` owner, mode or reason
only), and one for each row of the residual that is expected, with the reason: ``missing file /x  # why``.
What a package's own content and scripts bring need not be named.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from backend.cli.develop import digest_of

FOLDER = Path(__file__).parent
CHECKOUT = FOLDER.parents[2]
STEP = "## "
RESIDUAL = ("missing ", "extra ", "regenerated ")
LEFT_OUT = ("cli", "demo", "docs", "panes", "tmux")
"""The rooms of ``backend/`` that no task comes through: a result depends on all others."""
BESIDE = ("tests/e2e/tasks/*.py", ".requirements.lock")
"""And on the judge, and on Ansible and its linter."""


@dataclass(frozen=True)
class Task:
    """``changes`` are the truth's lines, ``residual`` those expected with their reasons."""

    name: str
    steps: tuple[str, ...]
    changes: frozenset[str]
    residual: dict[str, str]
    digest: str


def names(folder: Path = FOLDER) -> list[str]:
    """Every task, in the order of names."""
    return sorted(file.stem for file in folder.glob("*.sh"))


def load(name: str, folder: Path = FOLDER) -> Task:
    """One task with its truth.

    Raises:
        ValueError: an expected row without a reason, or a line that is no row.
    """
    script, truth = (folder / f"{name}{suffix}" for suffix in (".sh", ".truth"))
    changes, residual = set(), {}
    for line in truth.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith(RESIDUAL):
            row, separator, why = line.partition("  # ")
            if not separator:
                raise ValueError(f"{truth.name}: {line!r} has no reason")
            residual[row] = why
        elif line[:2] in ("+ ", "- ", "~ ", "* "):
            changes.add(line)
        else:
            raise ValueError(f"{truth.name}: {line!r} is no row")
    digest = hashlib.sha256(script.read_bytes() + b"\0" + truth.read_bytes()).hexdigest()
    return Task(name, steps(script.read_text()), frozenset(changes), residual, digest)


def steps(script: str) -> tuple[str, ...]:
    """The agent's commands, in order, without the line that says what each is for."""
    parts = f"\n{script}".split(f"\n{STEP}")[1:]
    return tuple(part.partition("\n")[2].strip("\n") for part in parts)


def deciding(checkout: Path = CHECKOUT) -> list[Path]:
    """The files that a result depends on, sorted."""
    backend = checkout / "backend"
    found = [file for file in backend.rglob("*") if file.relative_to(backend).parts[0] not in LEFT_OUT]
    found += [file for pattern in BESIDE for file in checkout.glob(pattern)]
    return sorted(file for file in found if file.is_file() and file.parent.name != "__pycache__")


def code_digest(checkout: Path = CHECKOUT) -> str:
    """Over all that decides a result but the task and the image."""
    return digest_of(deciding(checkout), checkout)
