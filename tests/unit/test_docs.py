"""The README and the manual say what the program does: the commands, pages and keys they name are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command

from backend import config
from backend.cli import app as program
from backend.cli.app import NOUNS
from backend.paths import Paths
from tests.bench.__main__ import IN_README
from tests.bench.figures import into_page

CHECKOUT = Path(__file__).resolve().parents[2]
README = CHECKOUT / "README.md"
PAGES = {page.stem: page for page in (CHECKOUT / "backend/docs").glob("*.md")}
WRITTEN = {file.name: file.read_text() for file in (README, *PAGES.values())}


def _verbs(noun: str) -> set[str]:
    group: Any = get_command(program.app)
    return set(getattr(group.get_command(None, noun), "commands", {}))


def _named() -> Iterator[tuple[str, str, str]]:
    """Each ``fluid NOUN [VERB|VERB …]`` in backquotes or at the start of an indented line."""
    for page, text in WRITTEN.items():
        spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        lines = [line.strip() for line in text.splitlines() if re.match(r" {4}fluid |fluid ", line)]
        for words in (" ".join(one.split()) for one in (*spans, *lines)):
            if found := re.match(r"(?:\./)?fluid ([a-z]+)(?: ([a-z][-a-z|\\]*))?(?=$|[ .])", words):
                yield page, found[1], (found[2] or "").replace("\\", "")


@pytest.mark.parametrize("page", WRITTEN)
def test_every_command_that_is_named_is_there(page: str) -> None:
    named = [(noun, verbs) for where, noun, verbs in _named() if where == page]
    assert page not in ("README.md", "operators.md", "keeping.md") or len(named) > 5
    for noun, verbs in named:
        assert noun in NOUNS
        if known := _verbs(noun):
            assert set(filter(None, verbs.split("|"))) <= known, (noun, verbs)


def test_a_noun_is_summed_up_with_all_its_verbs() -> None:
    for noun, (_, summary) in NOUNS.items():
        assert not [verb for verb in _verbs(noun) if verb not in re.findall(r"[-a-z]+", summary)], noun


def test_every_page_that_is_named_is_there() -> None:
    """In errors, too: who is told to restore a backup is told where it is written how."""
    sources = [*(CHECKOUT / "backend").rglob("*.py"), *(CHECKOUT / "fluid_tui").rglob("*.py")]
    texts = [*WRITTEN.values(), *(file.read_text() for file in sources)]
    named = {page for text in texts for page in re.findall(r"`fluid help ([a-z]+)`", text)}
    assert named and named <= set(PAGES)
    advised = [text for text in texts if "restore it from a backup" in text]
    assert len(advised) == 4
    assert all(
        text.count("restore it from a backup") == text.count("a backup (`fluid help keeping`)")
        for text in advised
    )
    assert "## Restore" in PAGES["keeping"].read_text()


def _yaml_of(file: Path) -> str:
    return file.read_text().partition("```yaml\n")[2].partition("```")[0]


def test_the_readmes_settings_are_taken(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.make()
    written = _yaml_of(README)
    for text in (written, re.sub(r"(?m)^# ?(?=hosts|database|  -)", "", written)):
        paths.config_file.write_text(text)
        told = config.load(paths)
        assert told.server.socket_group_operators == "sre" and "@sre" in told.operators
    assert told.hosts[1].name == "kvm-02" and told.database


def test_the_page_of_settings_holds_every_key_once_with_its_default(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.make()
    paths.config_file.write_text(_yaml_of(PAGES["config"]))
    config.load(paths)  # no key twice, none unknown
    _same_keys(config.Config, yaml.safe_load(_yaml_of(PAGES["config"])))


def _same_keys(model: type[BaseModel], written: dict[str, Any]) -> None:
    fields = model.model_fields
    assert list(written) == [key for key in written if key in fields] and set(written) == set(fields)
    for key, value in written.items():
        inner = next(
            (one for one in (fields[key].annotation, *get_args(fields[key].annotation)) if _is_section(one)),
            None,
        )
        if isinstance(value, dict) and fields[key].annotation in (config.TargetsConfig, inner):
            _same_keys(inner, value)
        elif inner and isinstance(value, dict) and key in ("groups", "hosts"):
            for one in value.values():
                _same_keys(inner, one)
        elif inner and key == "database":
            _same_keys(inner, value)
        elif not inner and not fields[key].is_required():
            assert value == fields[key].get_default(call_default_factory=True), key


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def test_the_schema_says_what_every_key_means() -> None:
    told = config.schema()
    for name, section in {"config.yaml": told, **told["$defs"]}.items():
        assert section["description"], name
        for key, value in section["properties"].items():
            refers = "$ref" in value or any("$ref" in one for one in value.get("anyOf", ()))
            assert value.get("description") or refers, f"{name}: {key}"


def test_the_readme_and_the_page_hold_the_same_figures() -> None:
    page, readme = PAGES["figures"].read_text(), README.read_text()
    rows = {line.split(" | ")[0][2:]: line for line in page.splitlines() if line.startswith("| ")}
    assert set(IN_README) <= set(rows)
    for name in IN_README:
        assert " | ".join(rows[name].split(" | ")[:4]) in readme
    failed = [name for name, line in rows.items() if "DOES NOT HOLD" in line]
    assert all(f"\n- {name}: " in text for name in failed for text in (page, readme))
    for text in (page, readme):
        assert into_page(text, [])  # it has its marks
