"""``fluid serve``: the one command that holds the backend instead of calling it."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from backend.cli.options import examples, verb_app

app = verb_app()


@app.command(
    epilog=examples(
        "fluid serve",
        "FLUID_HOME=~/fluid fluid serve",
        "fluid serve --unit >/etc/systemd/system/fluid.service",
    )
)
def serve(
    unit: Annotated[bool, typer.Option("--unit", help="Print its systemd unit instead.")] = False,
) -> int:
    """Run the backend in the foreground until it is told to stop."""
    if unit:
        from backend.cli import unit as service

        print(service.unit(), end="")
        return 0
    import gc

    from backend import config
    from backend.daemon import serve as run_backend
    from backend.paths import Paths

    gc.freeze()  # what the imports made lives as long as we do: no collection looks through it again
    paths = Paths.default()
    status = run_backend(config.load(paths), paths)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)  # all is over but for threads in calls that a hanging libvirtd never answers
