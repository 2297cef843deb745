"""The user's keys: a YAML file of ``action id: key``, laid over the defaults.

An unknown id, a key without meaning and two actions on one key of one screen are refused, with file and ids.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml
from textual.keys import _get_key_aliases, _normalize_key_list

from backend.errors import ConfigError
from fluid_tui.actions import ACTIONS, BY_ID, EVERYWHERE

KEYMAP_NAME = "keymap.yaml"
PLACES = tuple(dict.fromkeys(action.where for action in ACTIONS if action.where not in EVERYWHERE))


def default_path() -> Path:
    """``$XDG_CONFIG_HOME/fluid/keymap.yaml``."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "fluid" / KEYMAP_NAME


def load(path: Path) -> dict[str, str]:
    """The user's overrides; empty without a file. Raises :class:`ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", remedy="make it a readable UTF-8 file, or remove it") from error
    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}: not YAML: {error}", remedy="write lines such as `fleet.diff: f2`"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a mapping", remedy="write lines such as `fleet.diff: f2`")
    overrides = {str(id): str(key) for id, key in found.items()}
    check(overrides, str(path))
    return overrides


def check(overrides: Mapping[str, str], where: str) -> None:
    """Refuse unknown ids and clashes of the effective keys. Raises :class:`ConfigError`."""
    for id in overrides:
        if id not in BY_ID:
            raise ConfigError(f"{where}: no action {id!r}", remedy="press ? in the console for the ids")
    for place in PLACES:
        taken: dict[str, str] = {}
        for action in ACTIONS:
            if action.where not in (place, *EVERYWHERE):
                continue
            for key in _normalize_key_list(overrides.get(action.id, action.key)).split(","):
                for alias in _get_key_aliases(key):
                    other = taken.setdefault(alias, action.id)
                    if other != action.id:
                        raise ConfigError(
                            f"{where}: key {key!r} is given to {other} and to {action.id}",
                            remedy="give one of the two another key",
                        )


def effective(overrides: Mapping[str, str]) -> dict[str, str]:
    """The keys of every action, by id."""
    return {action.id: overrides.get(action.id, action.key) for action in ACTIONS}
