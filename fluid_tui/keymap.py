"""The user's keys: a YAML file of ``action id: key``, laid over the defaults.

An unknown id, a key without meaning and two actions on one key of one screen are refused, with file and ids.
"""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from textual.keys import (
    KEY_NAME_REPLACEMENTS,
    Keys,
    _character_to_key,
    _get_key_aliases,
    _normalize_key_list,
)

from backend.errors import ConfigError
from fluid_tui.actions import ACTIONS, BY_ID, EVERYWHERE, WITHIN

PUNCTUATION = {_character_to_key(sign) for sign in string.punctuation}
NAMED_KEYS = {key.value for key in Keys} | set(KEY_NAME_REPLACEMENTS.values()) | PUNCTUATION
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
    import yaml

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
    for id, keys in overrides.items():
        if id not in BY_ID:
            near = get_close_matches(id, BY_ID, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"{where}: no action {id!r}", remedy=f"{meant}press ? in the console for the ids"
            )
        for key in keys.split(","):
            if not is_key(key.strip()):
                raise ConfigError(
                    f"{where}: {id}: {key!r} is no key",
                    remedy="write one letter, f1 to f24, ctrl+x, alt+x, or a name such as pageup",
                )
    inner = [(place, part) for place, parts in WITHIN.items() for part in parts]
    for together in [*((place,) for place in PLACES), *inner]:
        taken: dict[str, str] = {}
        for action in ACTIONS:
            if action.where not in (*together, *EVERYWHERE):
                continue
            for key in _normalize_key_list(overrides.get(action.id, action.key)).split(","):
                for alias in _get_key_aliases(key):
                    other = taken.setdefault(alias, action.id)
                    if other != action.id:
                        raise ConfigError(
                            f"{where}: key {key!r} is given to {other} and to {action.id}",
                            remedy="give one of the two another key",
                        )


def is_key(name: str) -> bool:
    """A character, or a name that terminals' keys have, with ``ctrl+``, ``alt+`` or ``shift+`` before it."""
    *modifiers, key = name.split("+") if len(name) > 1 else [name]
    known = len(key) == 1 or key in NAMED_KEYS or _normalize_key_list(key) != key
    return known and set(modifiers) <= {"ctrl", "alt", "shift", "meta"}


def effective(overrides: Mapping[str, str]) -> dict[str, str]:
    """The keys of every action, by id."""
    return {action.id: overrides.get(action.id, action.key) for action in ACTIONS}
