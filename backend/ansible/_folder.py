"""The folder of one run: what Ansible may read is ours and read-only, what it writes is the runner's.

``playbook/`` holds ``playbook.yml`` and ``files/`` and nothing else, because a ``library/`` beside a playbook
would run. ``etc/`` is the inventory, ``ansible.cfg`` and the supervisor. The rest is written by the run:
``out/`` is what is told of it, and ``private/`` lies in memory, since Ansible writes secrets and diffs there.
"""

from __future__ import annotations

import configparser
import io
import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path

from backend.ansible.spec import RunSpec, TargetHost

SUPERVISED = Path(__file__).parent / "supervised"
# A tmpfs: nothing there outlives the machine. A socket's path may have 107 bytes.
MEMORY = "/dev/shm"  # noqa: S108 - mkdtemp makes the folder the run's alone
_BACKEND = SUPERVISED.parents[1]
# What finds secrets imports nothing of ours: it goes along, so that none leaves the runner in a diff.
SCRIPTS = (
    SUPERVISED / "supervisor.py",
    SUPERVISED / "reports.py",
    _BACKEND / "disks" / "passwords.py",
    _BACKEND / "secret_marks.py",
)
_PLUGINS = (
    "action", "become", "cache", "callback", "cliconf", "connection", "doc_fragment", "filter", "httpapi",
    "inventory", "lookup", "netconf", "strategy", "terminal", "test", "vars",
)  # fmt: skip


def prepare(folder: Path, spec: RunSpec, *, python: str, owner: tuple[int, int] | None) -> None:
    """Make the folder of ``spec``, which must not exist. ``owner`` is the uid and gid of the runner: but for
    us only that group enters it, since what production has is told in there.

    Raises:
        FileExistsError: a run of that id was started before.
    """
    folder.mkdir(mode=0o700)
    files = folder / "playbook" / "files"
    files.mkdir(parents=True)
    _write(folder / "playbook" / "playbook.yml", spec.playbook.encode())
    for name, content in spec.files.items():
        _write(files / name, content)
    etc = folder / "etc"
    (etc / "bin").mkdir(parents=True)
    (etc / "empty").mkdir()
    _write(etc / "hosts.json", json.dumps(_inventory(spec.hosts)).encode())
    _write(etc / "ansible.cfg", _settings(etc).encode())
    _write(etc / "spec.json", json.dumps(_for_supervisor(spec)).encode())
    for script in SCRIPTS:
        shutil.copyfile(script, etc / script.name)
        (etc / script.name).chmod(0o444)
    # Ansible itself must not outlive a supervisor that was killed: nobody would know what it did.
    program = shlex.join(["setpriv", "--pdeathsig", "KILL", "--", python, "-I", "-m", "ansible.cli.playbook"])
    wrapper = f'#!/bin/sh\nexec {program} "$@"\n'
    _write(etc / "bin" / "ansible-playbook", wrapper.encode(), 0o555)
    _write(etc / "bin" / "secrets", b'#!/bin/sh\nexec cat "$FLUID_SECRETS"\n', 0o555)
    short = Path(tempfile.mkdtemp(prefix="fluid-", dir=MEMORY))
    _write(etc / "short", str(short).encode())
    private = short / "private"
    private.mkdir(mode=0o700)
    (folder / "private").symlink_to(private)
    (folder / "out").mkdir(mode=0o755)
    if owner:
        for made in (short, private, folder / "out"):
            os.chown(made, *owner)
        os.chown(folder, -1, owner[1])
        folder.chmod(0o710)


def remove(folder: Path) -> None:
    """Take away all that :func:`prepare` made."""
    remove_private(folder)
    shutil.rmtree(folder)


def remove_private(folder: Path) -> None:
    """Take away what lies in memory, if it is there: a run that was killed could not."""
    if (known := folder / "etc" / "short").exists():
        shutil.rmtree(known.read_text(), ignore_errors=True)


def environment(folder: Path, python: str) -> dict[str, str]:
    """The whole environment of the supervisor: nothing of the backend's own."""
    path = [str(folder / "etc" / "bin"), str(Path(python).parent), "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    return {
        "PATH": ":".join(path),
        "HOME": str(folder / "private"),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _write(path: Path, content: bytes, mode: int = 0o444) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def _inventory(hosts: list[TargetHost]) -> dict[str, object]:
    return {"all": {"hosts": {host.name: _host(host) for host in hosts}}}


def _host(host: TargetHost) -> dict[str, object]:
    values: dict[str, object] = {
        "ansible_host": host.address,
        "ansible_port": host.port,
        "ansible_user": host.user,
        "ansible_python_interpreter": "/usr/bin/python3",
        # Root needs no sudo, which a small machine may not have; su is everywhere.
        "ansible_become_method": "su" if host.user == "root" else "sudo",
    }
    if host.become or host.user != "root":
        # Wins over the word of a play or a task: who logs in without root becomes it where the group says so.
        values["ansible_become"] = host.become
    return values


def _settings(etc: Path) -> str:
    """``ansible.cfg``: every place that a plugin could come from is an empty folder of ours."""
    empty = str(etc / "empty")
    config = configparser.ConfigParser(interpolation=None)
    config["defaults"] = {
        **{f"{kind}_plugins": empty for kind in _PLUGINS},
        "library": empty,
        "module_utils": empty,
        "roles_path": empty,
        "collections_path": empty,
        "collections_scan_sys_path": "False",
        "inject_facts_as_vars": "False",
        "fact_caching": "memory",
        "host_key_checking": "True",
        "retry_files_enabled": "False",
        "nocows": "True",
        "deprecation_warnings": "False",
        "localhost_warning": "False",
        "interpreter_python": "/usr/bin/python3",
        "timeout": "30",
        "display_failed_stderr": "True",
    }
    config["inventory"] = {"enable_plugins": "script, yaml"}
    config["connection"] = {"pipelining": "True"}
    config["ssh_connection"] = {"pipelining": "True", "retries": "0"}
    config["diff"] = {"always": "True"}
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def _for_supervisor(spec: RunSpec) -> dict[str, object]:
    return {
        "id": spec.id,
        "kind": spec.kind.value,
        "check": spec.check,
        "strategy": spec.strategy,
        "timeout_s": spec.timeout_s,
        "hosts": [host.name for host in spec.hosts],
        "first_alone": spec.first_alone and len(spec.hosts) > 1,
        "known_hosts": [host.known_hosts_line() for host in spec.hosts],
    }
