"""Values of a playbook's secrets: from a file that nobody else can read, or typed without echo."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer
import yaml

from backend.client.secret_file import read_private
from backend.errors import BadRequest


def secret_values(names: Sequence[str], file: Path | None) -> dict[str, str]:
    """What ``file`` holds, and a value for each of ``names``: what the file lacks is asked for.

    Raises:
        BadRequest: others can read the file, it holds something else, or nobody is there to type.
    """
    values = _from_file(file) if file else {}
    for name in names:
        if name not in values:
            values[name] = _typed(name)
    return values


def _typed(name: str) -> str:
    if not sys.stdin.isatty():
        raise BadRequest(
            f"nobody is there to type the secret {name}", remedy="--secrets-file FILE (mode 0600)"
        )
    return str(typer.prompt(f"{name} (not shown)", hide_input=True))


def _from_file(file: Path) -> dict[str, str]:
    data = read_private(file)
    try:
        values = yaml.safe_load(data)
    except yaml.YAMLError:
        values = None  # its words would repeat the text
    if not isinstance(values, dict) or not all(
        isinstance(part, str) for row in values.items() for part in row
    ):
        raise BadRequest(
            f"{file} must hold names and quoted texts, as JSON or YAML, up to 1 MiB", remedy="mend it"
        )
    return values
