"""From a disk diff to tasks, one noun a file. Each builder claims the paths that it explains."""

from backend.playbooks.builders.accounts import groups, users
from backend.playbooks.builders.certificates import certificates, made_by
from backend.playbooks.builders.files import files
from backend.playbooks.builders.identity import identity
from backend.playbooks.builders.packages import packages
from backend.playbooks.builders.units import units

__all__ = ["certificates", "files", "groups", "identity", "made_by", "packages", "units", "users"]
