"""``fluid config …``."""

from __future__ import annotations

from backend import config as settings
from backend.cli.common import show_json
from backend.cli.options import AsJson, examples, noun_app
from backend.paths import Paths
from backend.text import visible

app = noun_app("The settings.")


@app.command(epilog=examples("fluid config show", "fluid config show --json"))
def show(as_json: AsJson = False) -> None:
    """What is in effect, secrets masked."""
    paths = Paths.default()
    data = settings.masked(settings.load(paths))
    if as_json:
        return show_json(data)
    import yaml

    print(visible(f"# {paths.config_file}{'' if paths.config_file.exists() else ' (absent: defaults)'}"))
    print(visible(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip(), keep_newlines=True))
    return None


@app.command(epilog=examples("fluid config schema > config.schema.json"))
def schema(as_json: AsJson = False) -> None:
    """Every key, as JSON Schema."""
    show_json(settings.schema())
