"""An installation's id: no other has it, whatever its path, and it stays as long as the state does."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backend.config import Config
from backend.daemon import _Backend
from backend.errors import ConfigError
from backend.fleet import object_prefix
from backend.paths import Paths

HOMES = 40
TELL = """
import sys
from pathlib import Path
from backend.fleet import object_prefix
from backend.paths import Paths
print("ready", flush=True)
sys.stdin.read()
for home in sys.argv[1:]:
    print(object_prefix(Paths.under(Path(home))))
"""


def fresh(home: Path) -> Paths:
    paths = Paths.under(home)
    paths.make()
    return paths


def of_path(paths: Paths) -> str:
    """The prefix of the days when a path made it."""
    return f"fluid-{hashlib.sha256(str(paths.state).encode()).hexdigest()[:6]}"


def test_two_installations_at_the_same_path_have_different_prefixes(tmp_path: Path) -> None:
    one = object_prefix(fresh(tmp_path / "home"))
    (tmp_path / "home").rename(tmp_path / "another machine")
    assert object_prefix(fresh(tmp_path / "home")) != one


def test_the_prefix_outlives_a_restart_and_goes_where_the_state_goes(tmp_path: Path) -> None:
    paths = fresh(tmp_path / "home")
    prefix = object_prefix(paths)
    (paths.secrets / "audit.key").touch()
    assert object_prefix(fresh(tmp_path / "home")) == prefix
    shutil.copytree(tmp_path / "home", tmp_path / "restored")
    assert object_prefix(Paths.under(tmp_path / "restored")) == prefix
    assert stat.S_IMODE(paths.id_file.stat().st_mode) == 0o644


@pytest.mark.parametrize("there", ["postgresql/data/PG_VERSION", "secrets/audit.key"])
def test_an_installation_that_has_no_id_yet_keeps_the_prefix_of_its_path(tmp_path: Path, there: str) -> None:
    """The database may be elsewhere: the keys are here always."""
    paths = fresh(tmp_path / "home")
    (paths.state / there).parent.mkdir(parents=True, exist_ok=True)
    (paths.state / there).touch()
    prefix = of_path(paths)
    assert object_prefix(paths) == prefix
    (tmp_path / "home").rename(tmp_path / "elsewhere")
    assert object_prefix(Paths.under(tmp_path / "elsewhere")) == prefix, "it is kept from now on"


def test_a_start_that_is_cut_off_after_its_database_was_made_is_no_older_installation(tmp_path: Path) -> None:
    paths = fresh(tmp_path)
    _Backend(Config(), paths)._foresee()
    paths.database.mkdir()
    (paths.database / "data").mkdir()
    assert object_prefix(paths) != of_path(paths)


def test_who_comes_second_takes_the_id_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, told, make = fresh(tmp_path), list[str](), secrets.token_hex

    def late(size: int) -> str:
        monkeypatch.setattr(secrets, "token_hex", make)
        told.append(object_prefix(paths))
        return make(size)

    monkeypatch.setattr(secrets, "token_hex", late)
    told.append(object_prefix(paths))
    assert told[0] == told[1] == object_prefix(paths)


def test_two_processes_at_once_agree(tmp_path: Path) -> None:
    homes = [str(tmp_path / str(number)) for number in range(HOMES)]
    for home in homes:
        fresh(Path(home))
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TELL, *homes], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for one in both:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.close()
        one.stdin = None
    first, second = (one.communicate(timeout=60)[0].split() for one in both)
    assert first == second and len(set(first)) == HOMES


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"0123456\n", b"ABCDEF\n", b"../../\n"])
def test_an_id_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    paths = fresh(tmp_path)
    paths.id_file.write_bytes(content)
    with pytest.raises(ConfigError, match="id does not hold this installation's id") as refused:
        object_prefix(paths)
    assert "backup" in refused.value.remedy
    assert paths.id_file.read_bytes() == content
