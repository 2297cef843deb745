"""What is installed is what stands in the checkout."""

from __future__ import annotations

import tomllib
from pathlib import Path

from fluid_tui.app import STYLES, styles_folder

ROOT = Path(__file__).parents[2]


def test_every_package_is_shipped() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("backend", "fluid_tui")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(listed) == found | {"fluid_tui.styles"}


def test_every_style_is_used_and_there() -> None:
    assert {path.stem for path in styles_folder().glob("*.tcss")} == set(STYLES)
