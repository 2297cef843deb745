"""From a disk diff to tasks, one noun a file. Each builder claims the paths that it explains."""

from backend.playbooks.builders.accounts import groups, is_account_database, users
from backend.playbooks.builders.answers import answers
from backend.playbooks.builders.certificates import certificates, made_by
from backend.playbooks.builders.data import DATA, data, not_redone
from backend.playbooks.builders.derived import derived, results
from backend.playbooks.builders.files import files
from backend.playbooks.builders.identity import identity
from backend.playbooks.builders.own import OWN, own
from backend.playbooks.builders.packages import packages
from backend.playbooks.builders.swap import formatted, swap_files, swap_off
from backend.playbooks.builders.units import units
from backend.playbooks.builders.venvs import venvs

__all__ = [
    "DATA",
    "OWN",
    "answers",
    "certificates",
    "data",
    "derived",
    "files",
    "formatted",
    "groups",
    "identity",
    "is_account_database",
    "made_by",
    "not_redone",
    "own",
    "packages",
    "results",
    "swap_files",
    "swap_off",
    "units",
    "users",
    "venvs",
]
