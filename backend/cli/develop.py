"""``fluid check`` and ``fluid test``: what CI runs, in a checkout, and ``fluid bench``: how fast it is.
Tools run as programs of this venv."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from backend.errors import BadRequest
from backend.paths import Paths

CHECKOUT = Path(__file__).resolve().parents[2]
GROUPS = ("unit", "service", "console", "security", "e2e", "faults")
"""Folders under tests/, the quick ones first."""
BESIDE = (("service",), ("unit", "console"))
"""They boot no guest: when everything runs they run beside the others, which mostly wait for guests."""
GUESTS = tuple(group for group in GROUPS if not any(group in lane for lane in BESIDE))

CHECKS = (
    ("ruff check", ("-m", "ruff", "check", "--quiet")),
    ("ruff format", ("-m", "ruff", "format", "--check", "--quiet")),
    ("mypy", ("-m", "mypy", "--no-error-summary")),
    (
        "import-linter",
        ("-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"),
    ),
)
ARM64 = ("-m", "arm64", "-rP", "tests/e2e/test_arm64.py")
"""What was measured is shown, too: nobody runs this but to read it."""
SEED_VARIABLE = "FLUID_TEST_SEED"
PASSED_VARIABLE = "FLUID_TEST_PASSED"
RUNS_TESTS = ("backend/cli/develop.py", "tests/resuming.py")
TREE = ("backend", "fluid_tui", "styles", "tests", "pyproject.toml", ".requirements.lock", ".bootstrap.sh")
NO_TESTS = 5  # pytest's exit status


def check() -> int:
    """Lint, format, types and floors; 0 when all hold. A failed check does not keep the next from running."""
    _need_checkout()
    began = time.monotonic()
    failed = []
    for name, words in CHECKS:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, *words],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        verdict = "ok" if done.returncode == 0 else "FAILED"
        print(f"{name:<14} {verdict:<7} {time.monotonic() - started:5.1f} s", flush=True)
        if done.returncode:
            print(done.stdout.rstrip())
            failed.append(name)
    verdict = f"{', '.join(failed)} failed" if failed else "all hold"
    print(f"{verdict}, {time.monotonic() - began:.1f} s")
    return 1 if failed else 0


def test(args: list[str]) -> int:
    """Run pytest. ``args`` are groups, ``--full`` for the long ones too, ``--arm64`` for the emulated arm64
    guest alone, and anything that pytest takes. ``--tasks`` runs the corpus of real tasks instead, or those
    that are named.

    Every part's closing line is pytest's own. The end-to-end tests' seed is random unless ``FLUID_TEST_SEED``
    is set. ``--full`` alone goes on where a run was stopped.
    """
    _need_checkout()
    if "--tasks" in args:
        return _module("tests.e2e.tasks", [word for word in args if word != "--tasks"])
    seed = os.environ.get(SEED_VARIABLE) or str(secrets.randbelow(10**6))
    if args == ["--full"]:
        return _test_full(seed)
    again = shlex.join(["./fluid", "test", *args])
    print(f"seed {seed}; {SEED_VARIABLE}={seed} {again} repeats this run", flush=True)
    environment = {**os.environ, SEED_VARIABLE: seed}
    if "--arm64" in args or any(word in GROUPS or word.startswith("tests/") for word in args):
        return _ended(subprocess.Popen(_pytest(args), cwd=CHECKOUT, env=environment))[0]
    return _test_all(args, environment)


def _test_full(seed: str) -> int:
    """What passed here in a run that was stopped or failed is not run again, unless what it stands on changed
    since."""
    passed = Paths.default().cache / "tests" / "passed"
    trees = {group: _tree(group) for group in GROUPS}
    old_seed, kept = _passed(passed, trees)
    if kept:
        seed = old_seed
        print(f"goes on: {len(kept)} tests passed already, and nothing changed for them ({passed})")
    print(f"seed {seed}", flush=True)
    passed.parent.mkdir(parents=True, exist_ok=True)
    passed.write_text("\n".join([json.dumps({"seed": seed, "trees": trees}), *sorted(kept)]) + "\n")
    code = _test_all(["--full"], {**os.environ, SEED_VARIABLE: seed, PASSED_VARIABLE: str(passed)})
    if code in (0, NO_TESTS):
        passed.unlink()
        print("all of it has passed")
        return 0
    return code


def _passed(file: Path, trees: dict[str, str]) -> tuple[str, set[str]]:
    """The seed of an earlier run, and what passed in it of the groups that are as they were."""
    try:
        head, *tests = file.read_text().splitlines()
        was = json.loads(head)
    except (OSError, ValueError):
        return "", set()
    return was["seed"], {test for test in tests if _is_same(test.split("/")[1], was["trees"], trees)}


def _is_same(group: str, before: dict[str, str], now: dict[str, str]) -> bool:
    return group in now and before.get(group) == now[group]


def _tree(group: str, checkout: Path = CHECKOUT) -> str:
    """A digest of all that decides what a group's tests find. Those that need a guest stand on no other
    group."""
    others = [checkout / "tests" / other for other in GROUPS if other != group] if group in GUESTS else []
    left_out = [*others, *(checkout / name for name in RUNS_TESTS)]
    found = (file for name in TREE for file in (checkout / name, *(checkout / name).rglob("*")))
    return digest_of((file for file in found if not any(map(file.is_relative_to, left_out))), checkout)


def digest_of(files: Iterable[Path], checkout: Path) -> str:
    """Of files of the checkout, by their names and contents; what Python made of them does not count."""
    whole = hashlib.sha256()
    for file in sorted(files):
        if file.is_file() and file.parent.name != "__pycache__":
            content = hashlib.sha256(file.read_bytes()).digest()
            whole.update(str(file.relative_to(checkout)).encode() + b"\0" + content)
    return whole.hexdigest()


def _test_all(args: list[str], environment: dict[str, str]) -> int:
    """Each lane in a process of its own; what those say that run beside the guests follows at the end."""
    lanes = [", ".join(lane) for lane in BESIDE]
    print(f"{'; '.join(lanes)}: beside {', '.join(GUESTS)}; what they say comes last", flush=True)
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in BESIDE]
        beside = [
            subprocess.Popen(_pytest([*args, *lane]), cwd=CHECKOUT, env=environment, stdout=file, stderr=file)
            for lane, file in zip(BESIDE, said, strict=True)
        ]
        first = subprocess.Popen(_pytest([*args, *GUESTS]), cwd=CHECKOUT, env=environment)
        codes = _ended(first, *beside)
        for file in said:
            file.seek(0)
            print(file.read().decode("utf-8", "replace"), end="", flush=True)
        return max({*codes} - {NO_TESTS}, default=NO_TESTS)  # `-k` may leave one of them without


def _ended(*programs: subprocess.Popen[bytes]) -> list[int]:
    """Their exit statuses. Whoever ends this process ends them, and they are waited for: they may have
    machines to end. A terminal tells all of a ctrl-c by itself."""

    def pass_on(number: int, _frame: object) -> None:
        for program in programs:
            program.send_signal(number)

    handlers = {signal.SIGTERM: pass_on, signal.SIGINT: lambda *_: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        return [abs(program.wait()) for program in programs]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pytest(args: list[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "pytest", *pytest_words(args)]


def pytest_words(args: list[str]) -> list[str]:
    """Our words as pytest's: groups become folders, all of them when neither group nor path is given."""
    groups = [word for word in args if word in GROUPS]
    paths = [word for word in args if word.startswith("tests/")]
    rest = [word for word in args if word not in groups and word not in ("--full", "--arm64")]
    if "--arm64" in args:
        return [*ARM64, *rest]
    there = [group for group in GROUPS if (CHECKOUT / "tests" / group).is_dir()]
    chosen = [] if paths and not groups else groups or there
    left_out = [] if paths else ["-m", "not arm64" if "--full" in args else "not full and not arm64"]
    return [*left_out, *rest, *(f"tests/{group}" for group in chosen)]


def bench(names: list[str], json: Path | None, readme: Path | None) -> int:
    """Measure what ``names`` say, all of it by default. ``json`` keeps the figures; ``readme`` is such a
    file, from which the README's table and the page of all figures are written instead."""
    _need_checkout()
    files = [(word, file) for word, file in (("--json", json), ("--readme", readme)) if file]
    return _module(
        "tests.bench", [*names, *(part for word, file in files for part in (word, str(file.absolute())))]
    )


def _module(name: str, args: Sequence[str]) -> int:
    """The exit status of a program of the checkout."""
    command = [sys.executable, "-P", "-m", name, *args]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return _ended(subprocess.Popen(command, cwd=CHECKOUT, env=environment))[0]


def _need_checkout() -> None:
    if not (CHECKOUT / "tests").is_dir():
        raise BadRequest(
            "the tests are not installed with the program",
            remedy="run ./fluid in a checkout of the repository",
        )
