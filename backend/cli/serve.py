"""``fluid serve``: the one command that holds the backend instead of calling it."""

from __future__ import annotations

from backend.cli.options import examples, verb_app

app = verb_app()


@app.command(epilog=examples("fluid serve", "FLUID_HOME=~/fluid fluid serve"))
def serve() -> int:
    """Run the backend in the foreground until it is told to stop."""
    from backend import config
    from backend.daemon import serve as run_backend
    from backend.paths import Paths

    paths = Paths.default()
    return run_backend(config.load(paths), paths)
