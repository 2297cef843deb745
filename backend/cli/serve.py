"""``fluid serve``: the one command that holds the backend instead of calling it."""

from __future__ import annotations

from backend.cli.options import examples, verb_app

app = verb_app()


@app.command(epilog=examples("fluid serve", "FLUID_HOME=~/fluid fluid serve"))
def serve() -> int:
    """Run the backend in the foreground until it is told to stop."""
    import gc

    from backend import config
    from backend.daemon import serve as run_backend
    from backend.paths import Paths

    gc.freeze()  # what the imports made lives as long as we do: no collection looks through it again
    paths = Paths.default()
    return run_backend(config.load(paths), paths)
