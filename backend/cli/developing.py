"""``fluid check``, ``fluid test`` and ``fluid bench``, for a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.options import examples, verb_app

apps = {"check": verb_app(), "test": verb_app(), "bench": verb_app()}


@apps["check"].command(epilog=examples("fluid check"))
def check() -> int:
    """Lint, format, types and import floors."""
    from backend.cli.develop import check as run_checks

    return run_checks()


@apps["test"].command(
    epilog=examples(
        "fluid test",
        "fluid test unit service",
        "fluid test --full",
        "fluid test --arm64",
        "fluid test --tasks",
        "fluid test --tasks web-tls swap-file",
        "fluid test -k tmux",
    ),
    context_settings={"ignore_unknown_options": True},
)
def test(
    args: Annotated[list[str] | None, typer.Argument(help="Groups, paths, pytest's options.")] = None,
) -> int:
    """The tests, as CI runs them."""
    from backend.cli.develop import test as run_tests

    return run_tests(args or [])


@apps["bench"].command(
    epilog=examples(
        "fluid bench api", "fluid bench all --json figures.json", "fluid bench --readme figures.json"
    )
)
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Modules of tests/bench, or all.")] = None,
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    readme: Annotated[
        Path | None,
        typer.Option(help="Write the README's table, and the page of all figures, from this file."),
    ] = None,
) -> int:
    """How fast it is, against what was promised."""
    from backend.cli.develop import bench as run_benches

    return run_benches(names or [], json, readme)
