"""``./fluid`` before and after a machine is set up: what it asks, what it costs, what it leaves."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.resuming import whole_files

CHECKOUT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 0.3
TOOLS = ("sh", "sha256sum", "cut", "tr", "id", "uname", "mkdir", "date", "sed", "readlink", "tail", "awk")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with a shell's tools and an apt-get that fails and leaves a witness.

    What lies in /usr/sbin and /usr/include is seen all the same: tests name what lies in /usr/bin.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    witness = tmp_path / "apt-ran"
    (programs / "apt-get").write_text(f'#!/bin/sh\necho "$@" >>{witness}\necho no network >&2\nexit 100\n')
    (programs / "apt-get").chmod(0o755)
    (programs / "env").symlink_to("/usr/bin/env")
    return {"PATH": str(programs), "HOME": str(tmp_path), "FLUID_CACHE": str(tmp_path / "cache")}


def fluid(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``./fluid`` without a terminal."""
    return subprocess.run(
        [str(CHECKOUT / "fluid"), *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def pretend_set_up(cache: Path, python: str) -> None:
    """A finished environment, for this lock, whose python is ``python``."""
    lock = subprocess.run(
        ["sha256sum", CHECKOUT / ".requirements.lock"], capture_output=True, text=True, check=True
    )
    bin_folder = cache / f"venv-{lock.stdout[:16]}" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").write_text(f"#!/bin/sh\n{python}\n")
    (bin_folder / "python").chmod(0o755)


def test_without_consent_it_names_packages_reasons_and_the_command_and_changes_nothing(
    bare: dict[str, str], tmp_path: Path
) -> None:
    done = fluid(bare, "demo")
    assert done.returncode == 2
    assert "mmdebstrap" in done.stderr
    assert "builds the guest image from your package sources" in done.stderr
    assert "apt-get install --no-install-recommends qemu-system" in done.stderr
    assert "--yes" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "apt-ran").exists()
    assert not list((tmp_path / "cache").glob("venv-*"))


def test_the_other_architectures_test_asks_for_its_emulators_and_no_other_command_does(
    bare: dict[str, str],
) -> None:
    asked = {words: fluid(bare, *words.split()).stderr for words in ("test --arm64", "test", "demo --arm64")}
    assert "emulates the arm64 guest" in asked["test --arm64"]
    assert "runs its packages' scripts while its image is built" in asked["test --arm64"]
    for words in ("test", "demo --arm64"):
        assert "mmdebstrap" in asked[words] and "arm64" not in asked[words].replace("--arm64", "")


def test_the_benchmarks_ask_for_what_they_compare_with_and_no_other_command_does(
    bare: dict[str, str], tmp_path: Path
) -> None:
    pretend_set_up(tmp_path / "cache", 'printf "%s|" "$@"')
    asked = fluid(bare, "bench", "changes")
    assert asked.returncode == 2 and "fuse2fs" in asked.stderr and "we are compared with" in asked.stderr
    assert fluid(bare, "check", "bench").stdout == "-P|-m|backend.cli|check|bench|"
    (tmp_path / "bin/fuse2fs").touch(0o755)
    assert fluid(bare, "bench", "changes").stdout == "-P|-m|backend.cli|bench|changes|"


def test_with_consent_a_failure_shows_the_last_words_and_the_log(
    bare: dict[str, str], tmp_path: Path
) -> None:
    if os.geteuid():
        (tmp_path / "bin/sudo").write_text('#!/bin/sh\n[ "$1" = -v ] || { shift; exec "$@"; }\n')
        (tmp_path / "bin/sudo").chmod(0o755)
    done = fluid(bare, "demo", "--yes")
    assert done.returncode == 6
    assert "installing packages: failed" in done.stderr
    assert "no network" in done.stderr
    assert str(tmp_path / "cache/setup.log") in done.stderr
    asked = (tmp_path / "apt-ran").read_text()
    assert "install -y --no-install-recommends" in asked
    assert "mmdebstrap" in asked


def test_help_and_version_need_no_set_up(bare: dict[str, str], tmp_path: Path) -> None:
    assert "Usage: ./fluid" in fluid(bare, "--help").stdout
    assert fluid(bare, "--version").stdout.startswith("fluid 0.")
    assert not (tmp_path / "cache").exists()


def test_a_second_start_hands_over_every_word_as_it_was(bare: dict[str, str], tmp_path: Path) -> None:
    pretend_set_up(tmp_path / "cache", 'printf "%s|" "$PYTHONPATH" "$@"')
    words = ["exec", "a b", "", "--", "$HOME", "--yes"]
    given = fluid(bare, *words).stdout.split("|")
    assert given == [str(CHECKOUT), "-P", "-m", "backend.cli", *words, ""]


@pytest.mark.parametrize("verb", ["check", "test", "bench"])
def test_the_consent_to_set_up_is_not_handed_to_a_checkouts_commands(
    bare: dict[str, str], tmp_path: Path, verb: str
) -> None:
    pretend_set_up(tmp_path / "cache", 'printf "%s|" "$@"')
    (tmp_path / "bin/fuse2fs").touch(0o755)
    assert fluid(bare, verb, "--yes", "-k", "a b").stdout == f"-P|-m|backend.cli|{verb}|-k|a b|"


def test_a_second_start_adds_less_than_its_limit(bare: dict[str, str], tmp_path: Path) -> None:
    pretend_set_up(tmp_path / "cache", "exit 7")
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert fluid(bare, "status").returncode == 7
        times.append(time.perf_counter() - began)
    assert min(times) < START_LIMIT_S


def test_the_yes_before_a_command_is_the_set_ups(bare: dict[str, str], tmp_path: Path) -> None:
    assert "Nothing was changed. Run:" not in fluid(bare, "--yes", "doctor").stderr
    pretend_set_up(tmp_path / "cache", 'printf "%s|" "$@"')
    assert fluid(bare, "--yes", "doctor", "--json").stdout == "-P|-m|backend.cli|doctor|--json|"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts another /var/cache")
@pytest.mark.parametrize("own", [False, True])
def test_a_user_without_an_environment_takes_roots(bare: dict[str, str], tmp_path: Path, own: bool) -> None:
    pretend_set_up(tmp_path / "var/fluid", "echo roots")
    if own:
        pretend_set_up(tmp_path / ".cache/fluid", "echo mine")
    (tmp_path / "bin/id").unlink()
    (tmp_path / "bin/id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "bin/id").chmod(0o755)
    del bare["FLUID_CACHE"]
    script = f'mount --bind {tmp_path}/var /var/cache && PATH={bare["PATH"]} exec "$0" status'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, CHECKOUT / "fluid"],
        env={**bare, "PATH": os.defpath}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == ("mine\n" if own else "roots\n")


def test_an_environment_whose_python_is_gone_is_not_used(bare: dict[str, str], tmp_path: Path) -> None:
    pretend_set_up(tmp_path / "cache", "exit 0")
    (python,) = (tmp_path / "cache").glob("venv-*/bin/python")
    python.unlink()
    python.symlink_to("/usr/bin/python3.5-that-was-upgraded")
    assert fluid(bare, "demo").returncode == 2


def test_the_lock_pins_every_package_by_hash_and_names_no_place() -> None:
    text = (CHECKOUT / ".requirements.lock").read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert "--index" not in text
    entries = [
        block
        for block in text.replace("\\\n", " ").splitlines()
        if block and not block.lstrip().startswith("#")
    ]
    assert len(entries) > 60
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    for name in ("textual==8.2.8", "libvirt-python==", "setuptools==", "pytest=="):
        assert any(entry.startswith(name) for entry in entries), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_a_run_of_tests_waits_until_it_has_ended_what_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As a terminal's ctrl-c, which all of them hear, and as a kill of the first alone."""
    ended = tmp_path / "ended"
    child = (
        "import signal, sys, time, pathlib\n"
        "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.default_int_handler)\n"
        "try: print('on', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: time.sleep(1); pathlib.Path(sys.argv[1]).touch(); sys.exit(2)\n"
    )
    parent = (
        "import subprocess, sys; from backend.cli.develop import _ended\n"
        "sys.exit(_ended(subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]))[0])\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", parent, child, str(ended)],
        stdout=subprocess.PIPE, start_new_session=True, cwd=CHECKOUT,
    )  # fmt: skip
    with run:
        assert run.stdout is not None and run.stdout.readline() == b"on\n"
        os.killpg(run.pid, number) if number is signal.SIGINT else run.send_signal(number)
        assert run.wait(30) == 2 and ended.exists()


def test_a_full_run_goes_on_with_whole_files_of_what_did_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from backend.cli import develop

    assert whole_files(["a.py::x", "a.py::y", "b.py::x"], {"a.py::x", "b.py::x", "c.py::x"}) == {"b.py::x"}
    monkeypatch.setenv("FLUID_HOME", str(tmp_path))
    monkeypatch.delenv("FLUID_TEST_SEED", raising=False)
    trees, seeds, codes = dict.fromkeys(develop.GROUPS, "as it is"), list[str](), [1, 130, 130, 0, 0]

    def run(args: list[str], environment: dict[str, str]) -> int:
        assert args == ["--full"]
        seeds.append(environment["FLUID_TEST_SEED"])
        with Path(environment["FLUID_TEST_PASSED"]).open("a") as passed:
            passed.write(f"tests/e2e/a.py::{len(seeds)}\ntests/unit/b.py::{len(seeds)}\n")
        return codes.pop(0)

    monkeypatch.setattr(develop, "_test_all", run)
    monkeypatch.setattr(develop, "_tree", trees.__getitem__)
    assert [develop.test(["--full"]) for _ in range(2)] == [1, 130]
    trees["unit"] = "another"
    assert [develop.test(["--full"]) for _ in range(3)] == [130, 0, 0]
    assert len(set(seeds[:4])) == 1 and len(set(seeds)) == 2, "the same run until it is over"
    told = capsys.readouterr().out
    assert [int(count) for count in re.findall(r"goes on: (\d+) tests", told)] == [2, 2, 4]
    assert told.count("all of it has passed") == 2


def test_a_guests_tests_stand_on_no_other_group_and_the_quick_ones_on_all(tmp_path: Path) -> None:
    from backend.cli.develop import _tree

    def trees() -> tuple[str, str]:
        return _tree("e2e", tmp_path), _tree("unit", tmp_path)

    def write(name: str, text: str) -> tuple[bool, bool]:
        """Whether that changes for the two what they stand on."""
        before = trees()
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        e2e, unit = trees()
        return e2e != before[0], unit != before[1]

    assert write("backend/a.py", "x") == write("tests/fix_a.py", "x") == (True, True)
    assert write("tests/e2e/test_a.py", "x") == (True, True)
    assert write("tests/faults/test_a.py", "x") == write("tests/unit/test_a.py", "x") == (False, True)
    assert write("README.md", "x") == write("backend/__pycache__/a.pyc", "x") == (False, False)
    assert write("backend/cli/develop.py", "runs them") == write("tests/resuming.py", "x") == (False, False)


def test_pytest_words_choose_groups_and_leave_out_the_long_ones() -> None:
    from backend.cli.develop import pytest_words

    everything = pytest_words([])
    assert everything[:3] == ["-m", "not full and not arm64", "tests/unit"]
    assert all((CHECKOUT / folder).is_dir() for folder in everything[2:])
    assert pytest_words(["unit", "-x"]) == ["-m", "not full and not arm64", "-x", "tests/unit"]
    assert pytest_words(["--full", "e2e"]) == ["-m", "not arm64", "tests/e2e"]
    arm64 = pytest_words(["--arm64", "-x"])
    assert arm64[:2] == ["-m", "arm64"] and (CHECKOUT / "tests/e2e/test_arm64.py").is_file()
    assert arm64[-2:] == ["tests/e2e/test_arm64.py", "-x"]
    assert pytest_words(["tests/unit/test_config.py"]) == ["tests/unit/test_config.py"]
