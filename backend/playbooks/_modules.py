"""Rules P4 and P5: the modules of ``ansible.builtin`` that a playbook may call, and every argument of each.

What is not in this table is refused. Arguments that fetch, run or trust something else are left out on
purpose: ``deb``, ``force``, ``dpkg_options``, ``remote_src``, ``unsafe_writes``, ``executable`` … So is
``msg`` of reboot, which its action puts into a line for a shell as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.playbooks._validate import VALIDATORS
from backend.playbooks._values import (
    APT_LINE,
    CRON_FIELD,
    FILE_NAME,
    FLAG,
    GROUPS,
    GUARD,
    HOME,
    ID,
    LINE,
    LINK_TARGET,
    LOCKED,
    MODE,
    OWNER,
    PACKAGE,
    PACKAGE_OR_ALL,
    PATH,
    PYTHON_PACKAGE,
    PYTHON_VERSION,
    SECRET,
    SECRET_LINE,
    TEXT,
    UNIT,
    WORD,
    WRITTEN,
    Kind,
    choice,
    only,
    several,
    whole,
)

PREFIX = "ansible.builtin."
DAY_S = 86_400
MAX_AGE_DAYS = 99_999

SOURCE = Kind("files/<sha256> of this playbook", lambda value: False)  # the grammar knows the files
ARGV = Kind("a list of arguments", lambda value: False)  # the grammar reads the list itself

_OWNED = {"owner": OWNER, "group": OWNER, "mode": MODE}
_VALIDATE = {"validate": choice(*VALIDATORS)}
_PRESENT = choice("present", "absent")
_UPGRADED = choice("present", "absent", "latest")


@dataclass(frozen=True)
class Module:
    """One module: its arguments, and those it cannot be without."""

    args: dict[str, Kind]
    required: frozenset[str] = field(default_factory=frozenset)


def _module(*required: str, **args: Kind) -> Module:
    return Module(args, frozenset(required))


_EDIT = {**_OWNED, **_VALIDATE, "path": WRITTEN}
_INSERT = {"insertafter": LINE, "insertbefore": LINE, "create": FLAG, "state": _PRESENT}

MODULES: dict[str, Module] = {
    "apt": _module(
        name=several(PACKAGE),
        state=_UPGRADED,
        only_upgrade=FLAG,
        upgrade=choice("safe", "dist"),
        allow_downgrade=FLAG,
        update_cache=FLAG,
        cache_valid_time=whole(0, 30 * DAY_S),
        install_recommends=FLAG,
        purge=FLAG,
        autoremove=FLAG,
        default_release=WORD,
        lock_timeout=whole(0, 600),
    ),
    "dnf": _module(
        "name",
        name=several(PACKAGE_OR_ALL),
        state=_UPGRADED,
        update_only=FLAG,
        allow_downgrade=FLAG,
        update_cache=FLAG,
        install_weak_deps=FLAG,
        autoremove=FLAG,
    ),
    "package": _module("name", "state", name=several(PACKAGE), state=_PRESENT),
    "apt_repository": _module(
        "repo", repo=APT_LINE, state=_PRESENT, filename=FILE_NAME, mode=MODE, update_cache=FLAG
    ),
    "deb822_repository": _module(
        "name",
        name=FILE_NAME,
        types=several(choice("deb", "deb-src")),
        uris=several(LINE),
        suites=several(WORD),
        components=several(WORD),
        architectures=several(WORD),
        signed_by=PATH,
        enabled=FLAG,
        state=_PRESENT,
        mode=MODE,
    ),
    "yum_repository": _module(
        "name",
        name=FILE_NAME,
        description=LINE,
        baseurl=several(LINE),
        gpgkey=several(LINE),
        gpgcheck=only(True),
        repo_gpgcheck=FLAG,
        enabled=FLAG,
        file=FILE_NAME,
        state=_PRESENT,
        **_OWNED,
    ),
    "rpm_key": _module("key", key=PATH, fingerprint=several(LINE), state=_PRESENT),
    "dpkg_selections": _module(
        "name", "selection", name=PACKAGE, selection=choice("install", "hold", "deinstall", "purge")
    ),
    "debconf": _module(
        "name",
        name=PACKAGE,
        question=WORD,
        vtype=choice("boolean", "error", "multiselect", "note", "password", "seen", "select", "string"),
        value=SECRET_LINE,
        unseen=FLAG,
    ),
    "user": _module(
        "name",
        name=OWNER,
        uid=ID,
        group=OWNER,
        groups=several(GROUPS),
        append=FLAG,
        home=HOME,
        shell=PATH,
        comment=LINE,
        system=FLAG,
        create_home=FLAG,
        move_home=FLAG,
        remove=FLAG,
        state=_PRESENT,
        password=LOCKED,
        password_lock=FLAG,
        update_password=choice("always", "on_create"),
        password_expire_min=whole(0, MAX_AGE_DAYS),
        password_expire_max=whole(0, MAX_AGE_DAYS),
        password_expire_warn=whole(0, MAX_AGE_DAYS),
    ),
    "group": _module("name", name=OWNER, gid=ID, system=FLAG, state=_PRESENT),
    "file": _module(
        "path",
        path=WRITTEN,
        src=LINK_TARGET,
        state=choice("file", "directory", "link", "absent", "touch"),
        force=FLAG,
        follow=FLAG,
        recurse=FLAG,
        modification_time=choice("preserve"),
        access_time=choice("preserve"),
        **_OWNED,
    ),
    "copy": _module(
        "dest",
        dest=WRITTEN,
        src=SOURCE,
        content=SECRET,
        force=FLAG,
        follow=FLAG,
        backup=FLAG,
        decrypt=only(False),
        directory_mode=MODE,
        **_OWNED,
        **_VALIDATE,
    ),
    "blockinfile": _module(
        "path",
        block=TEXT,
        marker=LINE,
        marker_begin=LINE,
        marker_end=LINE,
        append_newline=FLAG,
        prepend_newline=FLAG,
        **_INSERT,
        **_EDIT,
    ),
    "lineinfile": _module(
        "path",
        line=SECRET_LINE,
        regexp=LINE,
        search_string=LINE,
        firstmatch=FLAG,
        backrefs=FLAG,
        **_INSERT,
        **_EDIT,
    ),
    "replace": _module("path", "regexp", regexp=TEXT, replace=TEXT, after=TEXT, before=TEXT, **_EDIT),
    "cron": _module(
        "name",
        name=LINE,
        job=LINE,
        user=OWNER,
        cron_file=FILE_NAME,
        state=_PRESENT,
        disabled=FLAG,
        special_time=choice("annually", "daily", "hourly", "monthly", "reboot", "weekly", "yearly"),
        minute=CRON_FIELD,
        hour=CRON_FIELD,
        day=CRON_FIELD,
        month=CRON_FIELD,
        weekday=CRON_FIELD,
    ),
    "systemd_service": _module(
        name=UNIT,
        state=choice("started", "stopped", "restarted", "reloaded"),
        enabled=FLAG,
        masked=FLAG,
        daemon_reload=FLAG,
    ),
    "hostname": _module("name", name=Kind("a host name", WORD.holds, fact=True)),
    "known_hosts": _module("name", "path", name=LINE, path=WRITTEN, key=LINE, state=_PRESENT, hash_host=FLAG),
    "pip": _module(
        "name",
        "virtualenv",
        name=several(PYTHON_PACKAGE),
        version=PYTHON_VERSION,
        virtualenv=WRITTEN,
        virtualenv_site_packages=FLAG,
        state=_PRESENT,
    ),
    "reboot": _module(
        reboot_timeout=whole(10, 3600),
        connect_timeout=whole(1, 600),
        pre_reboot_delay=whole(0, 600),
        post_reboot_delay=whole(0, 600),
    ),
    "getent": _module(
        "database",
        database=choice("passwd", "group", "hosts", "services", "protocols", "networks"),
        key=WORD,
        fail_key=FLAG,
        split=LINE,
    ),
    "command": _module(
        "argv",
        argv=ARGV,
        creates=GUARD,
        removes=GUARD,
        chdir=PATH,
        expand_argument_vars=only(False),
    ),
}

# Programs that only look, and print one thing about one path: a task behind such a probe is guarded by it.
PROBES: tuple[tuple[str, ...], ...] = (
    ("getcap", "PATH"),
    ("getfacl", "-cps", "PATH"),
    ("readlink", "-f", "PATH"),
)
