"""The grammar: for every rule a playbook that is refused, and one that passes right beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import PlaybookRefused
from backend.playbooks import CheckedPlaybook, Reference, check, told
from backend.playbooks._modules import MODULES

SHA = "a" * 64
OPENSSL = "{argv: [openssl, version], creates: /srv/x}"


def task(module: str, args: str, /, **keys: str) -> str:
    """One task; further keys as YAML text."""
    lines = [f"    - name: {keys.pop('name', 'A task')}", f"      {module}: {args}"]
    return "\n".join([*lines, *(f"      {key}: {value}" for key, value in keys.items())]) + "\n"


def builtin(module: str, args: str, /, **keys: str) -> str:
    return task(f"ansible.builtin.{module}", args, **keys)


GOOD = builtin("file", "{path: /srv/x, state: directory}")


def play(*tasks: str, head: str = "", handlers: str = "", **keys: str) -> bytes:
    """A play; ``keys`` replace or add play keys, ``None`` is not possible on purpose."""
    values = {"name": "Test", "hosts": "all", "gather_facts": "true", **keys}
    text = f"{head}---\n- " + "\n  ".join(f"{key}: {value}" for key, value in values.items())
    text += "\n  tasks:\n" + "".join(tasks or (GOOD,))
    if handlers:
        text += "  handlers:\n" + handlers
    return text.encode()


def accepted(text: bytes, **more: Any) -> CheckedPlaybook:
    return check(text, {SHA}, **more)


def refused(text: bytes, rule: str, **more: Any) -> PlaybookRefused:
    """The refusal of ``text``, which must come from ``rule``."""
    with pytest.raises(PlaybookRefused) as caught:
        check(text, {SHA}, **more)
    assert caught.value.details["rule"] == rule, caught.value.message
    return caught.value


def test_a_plain_playbook_passes_and_tells_what_it_does() -> None:
    copy = builtin(
        "copy", f"{{src: files/{SHA}, dest: /srv/a, mode: '0644'}}", notify="Reload it", name="Copy it"
    )
    reload = builtin("systemd_service", "{name: nginx.service, state: reloaded}", name="Reload it")
    found = accepted(play(GOOD, copy, handlers=reload, vars="{place: /srv/b}", become="true"))
    assert [(one.name, one.module, one.index) for one in (*found.tasks, *found.handlers)] == [
        ("A task", "ansible.builtin.file", 0),
        ("Copy it", "ansible.builtin.copy", 1),
        ("Reload it", "ansible.builtin.systemd_service", 2),
    ]
    assert found.tasks[1].args["dest"] == "/srv/a"
    assert found.tasks[1].notify == ("Reload it",)
    assert found.variables == {"place": "/srv/b"}


def test_a_refusal_names_the_task_the_value_and_the_rule() -> None:
    error = refused(play(builtin("file", "{path: relative, state: directory}", name="Make it")), "P5")
    assert error.details["task"] == "Make it"
    assert "'relative'" in error.message
    assert "Make it" in error.message


@pytest.mark.parametrize(
    "folder", ["/proc/self/root/var/lib/dpkg/info", "/sys/x", "/dev/shm", "/run/x", "/proc", "/var/run"]
)
def test_p5_nothing_is_written_where_a_path_is_another_name_or_of_no_disk(folder: str) -> None:
    """/proc/self/root/x is /x, and a rule that looks at names would not see it."""
    refused(play(builtin("copy", f"{{src: files/{SHA}, dest: {folder}/a}}")), "P5")
    refused(play(builtin("file", f"{{path: {folder}, state: directory}}")), "P5")
    refused(play(builtin("lineinfile", "{path: '{{ item }}', line: x}", loop=f"[/srv/x, {folder}/a]")), "P5")
    refused(play(builtin("known_hosts", f"{{name: x, path: {folder}/a}}")), "P5")
    refused(play(builtin("pip", f"{{name: x, virtualenv: {folder}/a}}")), "P5")
    accepted(play(builtin("file", f"{{path: /srv{folder}, state: directory}}")))
    accepted(play(builtin("file", "{path: /processes, state: directory}")))


def test_p5_a_mask_and_a_home_where_nothing_is_kept_may_name_them() -> None:
    accepted(play(builtin("file", "{path: /etc/systemd/system/x.service, src: /dev/null, state: link}")))
    accepted(play(builtin("user", "{name: x, home: /dev/null}"), builtin("user", "{name: y, home: /run/y}")))
    refused(play(builtin("user", "{name: x, home: /proc/self/root/srv}")), "P5")


# --- P1: one document of plain data -----------------------------------------------------------------------


def test_p1_two_tasks_do_not_begin_on_one_line() -> None:
    """Ansible tells a task by its line."""
    flow = "{name: %s, ansible.builtin.file: {path: /srv/x, state: directory}}"
    for rest in (", %s]", "],\n  handlers: [%s]", "], handlers: [%s]"):
        first, second = flow % "One", flow % "Two"
        text = f"- {{name: Test, hosts: all, tasks: [{first}{rest % second}}}\n".encode()
        if "\n" in rest:
            assert len(accepted(text).handlers) == 1
        else:
            assert "'Two'" in refused(text, "P1").message


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"- [",
        b"{",
        play() + b"---\n- name: second\n",
        b"%YAML 1.1\n" + play(),
        b"%TAG !x! tag:x,2000:\n" + play(),
        play(name="&a Test"),
        play(vars="{a: &x 1, b: *x}"),
        play(vars="{a: !!python/name:os.system x}"),
        play(vars="{a: !vault x}"),
        play(vars="{a: ! x}"),
        play(vars="!!omap {a: 1}"),
        play(vars="!unsafe {a: x}"),
        play(vars="{a: 1, a: 2}"),
        play(vars="{? [x] : 1}"),
        play(vars="{1: x}"),
        play(vars="{!unsafe x: y}"),
        play(vars="{a: 0644}"),
        play(vars="{a: 1.5}"),
        play(vars="{a: 1:30}"),
        play(vars="{a: 2024-01-01}"),
        play(vars="{a: yes}"),
        play(vars="{a: ~}"),
        play(vars="{a: !unsafe 'true'}"),
        play(vars="{a: !unsafe '0644'}"),
        play(vars="{<<: {a: 1}}"),
        play(vars="{a: " + "[" * 10 + "]" * 10 + "}"),
        b"[" * 100_000,
        play() + b"#" * (1024**2 + 1 - len(play())),
    ],
)
def test_p1_refuses_what_two_readers_could_read_differently(text: bytes) -> None:
    refused(text, "P1")


def test_p1_counts_tasks_and_handlers() -> None:
    assert len(accepted(play(*[GOOD] * 500)).tasks) == 500
    refused(play(*[GOOD] * 500, handlers=GOOD), "P1")


def test_p1_allows_depth_and_size_up_to_the_limit() -> None:
    refused(play(vars="{a: " + "[" * 9 + "]" * 9 + "}"), "P7")  # read, and refused for being a list
    accepted(play() + b"#" * (1024**2 - len(play())))


# --- P2: the play ------------------------------------------------------------------------------------------

FOREIGN_PLAY_KEYS = [
    "connection", "environment", "roles", "collections", "vars_files", "vars_prompt", "module_defaults",
    "strategy", "serial", "pre_tasks", "post_tasks", "remote_user", "port", "any_errors_fatal", "tags",
    "gather_subset", "force_handlers", "become_user", "become_method", "become_flags", "check_mode",
    "diff", "ignore_errors", "no_log", "order", "debugger", "max_fail_percentage", "import_playbook",
]  # fmt: skip


@pytest.mark.parametrize("key", FOREIGN_PLAY_KEYS)
def test_p2_refuses_other_keys_of_a_play(key: str) -> None:
    refused(play(**{key: "x"}), "P2")


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"text",
        b"[]",
        b"- text",
        play() + play().removeprefix(b"---\n"),
        play(hosts="web"),
        play(hosts="[all]"),
        play(gather_facts="'true'"),
        play(become="'true'"),
        play(become="[true]"),
        play(vars="[a]"),
        b"- {name: T, hosts: all}",
        b"- {name: T, hosts: all, tasks: {}}",
    ],
)
def test_p2_refuses_other_shapes(text: bytes) -> None:
    refused(text, "P2")


# --- P3: the task ------------------------------------------------------------------------------------------

FOREIGN_TASK_KEYS = [
    "check_mode", "diff", "delegate_to", "delegate_facts", "local_action", "action", "args", "vars",
    "environment", "async", "poll", "ignore_errors", "ignore_unreachable", "failed_when",
    "changed_when", "until", "retries", "delay", "run_once", "block", "rescue", "always",
    "include_tasks", "import_tasks", "import_role", "include_role", "with_items", "with_fileglob",
    "become_method", "become_exe", "become_flags", "connection", "remote_user", "port", "tags",
    "throttle", "timeout", "loop_control", "listen", "any_errors_fatal", "module_defaults",
    "collections", "debugger",
]  # fmt: skip


@pytest.mark.parametrize("key", FOREIGN_TASK_KEYS)
def test_p3_refuses_other_keys_of_a_task(key: str) -> None:
    refused(play(builtin("file", "{path: /srv/x, state: directory}", **{key: "x"})), "P3")
    refused(play(handlers=builtin("file", "{path: /srv/x, state: directory}", **{key: "x"})), "P3")


@pytest.mark.parametrize(
    "text",
    [
        "    - text\n",
        "    - name: No module\n",
        "    - ansible.builtin.file: {path: /srv/x, state: directory}\n",
        builtin("file", "{path: /srv/x}", name="''"),
        builtin("file", "{path: /srv/x}", name='"a\\nb"'),
        builtin("file", "{path: /srv/x}", name='"\\u202e"'),
        builtin("file", "{path: /srv/x}", name="x" * 251),
        GOOD + "      ansible.builtin.command: " + OPENSSL + "\n",
        builtin("file", "{path: /srv/x}", loop="text"),
        builtin("file", "{path: /srv/x}", loop="[]"),
        builtin("file", "{path: /srv/x}", loop="[[a]]"),
        builtin("file", "{path: /srv/x}", loop="'{{ query(\"x\") }}'"),
        builtin("file", "{path: /srv/x}", loop="[{src: a}]"),
        builtin("file", "{path: /srv/x}", loop="[{src: a, dest: b, mode: c}]"),
        builtin("file", "{path: /srv/x}", loop="[{src: a, items: b}]"),
        builtin("file", "{path: /srv/x}", notify="Nobody"),
        builtin("file", "{path: /srv/x}", become="'true'"),
        builtin("file", "{path: /srv/x}", become_user="'a b'"),
        builtin("file", "{path: /srv/x}", no_log="true"),
        builtin("meta", "flush_handlers", when="x"),
    ],
)
def test_p3_refuses_other_shapes_of_a_task(text: str) -> None:
    refused(play(text), "P3")


def test_p3_handlers_have_names_of_their_own() -> None:
    refused(play(handlers=GOOD + GOOD), "P3")


def test_p3_accepts_the_keys_that_are_left() -> None:
    one = builtin(
        "file",
        "{path: '{{ item }}', state: directory}",
        loop="[/a/b, /a/c]",
        become="true",
        become_user="www-data",
        notify="[One, Two]",
        name="x" * 250,
    )
    handlers = "".join(
        builtin("systemd_service", "{daemon_reload: true}", name=name) for name in ("One", "Two")
    )
    (found,) = accepted(play(one, handlers=handlers)).tasks
    assert (found.loop, found.notify) == (("/a/b", "/a/c"), ("One", "Two"))
    assert isinstance(found.args["path"], Reference)
    assert accepted(play(builtin("command", "{argv: [id, '{{ item }}'], creates: /x}", loop="[item]")))


# --- P4: modules -------------------------------------------------------------------------------------------

FOREIGN_MODULES = [
    "shell", "raw", "script", "template", "fetch", "slurp", "uri", "get_url", "git", "unarchive",
    "set_fact", "include_vars", "add_host", "group_by", "expect", "wait_for", "assemble", "debug",
    "fail", "pause", "assert", "async_status", "iptables", "service", "setup", "stat", "tempfile",
    "subversion", "import_playbook", "include_tasks", "systemd", "ping", "gather_facts",
    "validate_argument_spec",
]  # fmt: skip


@pytest.mark.parametrize("module", FOREIGN_MODULES)
def test_p4_refuses_other_modules_of_builtin(module: str) -> None:
    refused(play(builtin(module, "{}")), "P4")


@pytest.mark.parametrize(
    "module",
    ["ansible.posix.mount", "community.general.ufw", "ansible.legacy.copy", "evil.builtin.copy", "a.b"],
)
def test_p4_refuses_other_collections(module: str) -> None:
    refused(play(task(module, "{}")), "P4")


@pytest.mark.parametrize("module", ["copy", "shell", "file"])
def test_a_module_needs_its_full_name(module: str) -> None:
    refused(play(task(module, "{}")), "P3")


@pytest.mark.parametrize("word", ["end_host", "clear_facts", "reset_connection", "noop"])
def test_p4_allows_one_meta_only(word: str) -> None:
    assert accepted(play(builtin("meta", "flush_handlers"), GOOD)).tasks[0].module == "ansible.builtin.meta"
    refused(play(builtin("meta", word)), "P4")


def test_p4_a_command_is_guarded_and_opaque() -> None:
    (found,) = accepted(play(builtin("command", OPENSSL))).tasks
    assert found.opaque
    assert accepted(play(builtin("command", "{argv: [rm, /srv/x], removes: /srv/x}"))).tasks[0].opaque
    refused(play(builtin("command", "{argv: [openssl, version]}")), "P4")


def test_p4_a_command_behind_a_probe_is_guarded_too() -> None:
    probe = builtin("command", "{argv: [getcap, /usr/bin/x]}", register="caps")
    behind = builtin("command", "{argv: [setcap, cap_net_raw=ep, /usr/bin/x]}", when="caps.stdout == ''")
    first, second = accepted(play(probe, behind)).tasks
    assert (first.probe, first.opaque, second.opaque) == (True, False, True)
    refused(play(behind), "P6")
    refused(play(builtin("command", "{argv: [getcap, /usr/bin/x]}")), "P4")
    refused(play(builtin("command", "{argv: [cat, /usr/bin/x]}", register="caps"), behind), "P4")
    refused(play(builtin("command", "{argv: [getcap, -r, /srv]}", register="caps"), behind), "P4")
    refused(play(builtin("command", "{argv: [getcap, -r]}", register="caps"), behind), "P4")
    refused(play(builtin("command", "{argv: [getcap, /x], chdir: /srv}", register="caps"), behind), "P4")
    refused(play(builtin("file", "{path: /srv/x}", register="caps"), behind), "P6")
    refused(play(probe, behind.replace("==", "!=")), "P6")
    for part in ("stdout_lines", "stderr", "rc"):
        refused(play(probe, behind.replace("stdout", part)), "P6")
    assert accepted(play(probe, behind, gather_facts="false"))
    family = "\"ansible_facts['os_family'] == 'Debian'\""
    refused(play(builtin("command", "{argv: [id]}", when=family)), "P4")


# --- P5: arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("file", "path=/srv/x state=directory"),
        ("file", "[a]"),
        ("file", "{path: /srv/x, unsafe_writes: true}"),
        ("file", "{path: /srv/x, attributes: +i}"),
        ("file", "{state: directory}"),
        ("file", "{path: srv, state: directory}"),
        ("file", "{path: /srv/../etc, state: directory}"),
        ("file", "{path: /srv/, state: directory}"),
        ("file", "{path: //srv, state: directory}"),
        ("file", "{path: /, state: absent}"),
        ("file", "{path: /srv/$HOME, state: directory}"),
        ("file", "{path: ~/x, state: directory}"),
        ("file", '{path: "/srv/a\\nb", state: directory}'),
        ("file", '{path: "/srv/a\\eb", state: directory}'),
        ("file", f"{{path: /{'x' * 4095}, state: directory}}"),
        ("file", "{path: 5, state: directory}"),
        ("file", "{path: [/srv/a], state: directory}"),
        ("file", "{path: /srv/x, state: hard, src: /etc/shadow}"),
        ("file", "{path: /srv/x, state: touch}"),
        ("file", "{path: /srv/x, state: touch, access_time: preserve}"),
        ("file", "{path: /srv/x, state: touch, access_time: now, modification_time: now}"),
        ("file", "{path: /srv/x, state: file, src: /etc/shadow}"),
        ("file", "{path: /srv/x, state: link}"),
        ("file", "{path: /srv/x, state: link, src: '$HOME'}"),
        ("file", "{path: /srv/x, state: link, src: '~x'}"),
        ("file", "{path: /srv/x, state: link, src: ''}"),
        ("file", '{path: /srv/x, state: link, src: "a\\nb"}'),
        ("file", "{path: /srv/x, mode: 644}"),
        ("file", "{path: /srv/x, mode: u=rwx}"),
        ("file", "{path: /srv/x, mode: '999'}"),
        ("file", "{path: /srv/x, owner: 'a b'}"),
        ("file", "{path: /srv/x, owner: 0}"),
        ("file", "{path: /srv/x, recurse: 'yes'}"),
        ("copy", "{src: /etc/shadow, dest: /srv/x}"),
        ("copy", "{src: files/x, dest: /srv/x}"),
        ("copy", f"{{src: files/{'b' * 64}, dest: /srv/x}}"),
        ("copy", f"{{src: files/../files/{SHA}, dest: /srv/x}}"),
        ("copy", f"{{src: files/{SHA}/../x, dest: /srv/x}}"),
        ("copy", "{src: 5, dest: /srv/x}"),
        ("copy", f"{{src: files/{SHA}}}"),
        ("copy", "{content: text, dest: /srv/x}"),
        ("copy", "{dest: /srv/x}"),
        ("copy", f"{{src: files/{SHA}, dest: /srv/x, remote_src: true}}"),
        ("copy", f"{{src: files/{SHA}, dest: /srv/x, validate: 'sh -c %s'}}"),
        ("copy", f"{{src: files/{SHA}, dest: /srv/x, decrypt: true}}"),
        ("copy", f"{{src: files/{SHA}, dest: /srv/}}"),
        ("apt", "{name: ./x.deb}"),
        ("apt", "{name: https://x/y.deb}"),
        ("apt", "{name: 'nginx*'}"),
        ("apt", "{name: -o}"),
        ("apt", "{name: []}"),
        ("apt", "{deb: https://x/y.deb}"),
        ("apt", "{name: x, force: true}"),
        ("apt", "{name: x, allow_unauthenticated: true}"),
        ("apt", "{name: x, dpkg_options: x}"),
        ("apt", "{name: x, state: latest}"),
        ("apt", "{name: x, state: latest, only_upgrade: false}"),
        ("apt", "{name: x, upgrade: safe}"),
        ("apt", "{upgrade: full}"),
        ("dnf", "{name: x, state: latest}"),
        ("dnf", "{name: '*', state: present}"),
        ("dnf", "{name: [x, '*']}"),
        ("apt", "{name: x, cache_valid_time: -1}"),
        ("apt", "{name: x, cache_valid_time: '5'}"),
        ("apt", "{name: x, cache_valid_time: true}"),
        ("apt", "{name: x, cache_valid_time: 2592001}"),
        ("apt_repository", "{repo: 'ppa:x/y'}"),
        ("apt_repository", "{repo: 'deb [trusted=yes] http://x y z'}"),
        ("apt_repository", "{repo: 'deb [allow-insecure=yes] http://x y z'}"),
        ("apt_repository", "{repo: 'deb [tr%75sted=yes] http://x y z'}"),
        ("apt_repository", """{repo: 'deb [trus"te"d=yes] http://x y z'}"""),
        ("apt_repository", '{repo: "deb http://x y z\\ndeb http://x z"}'),
        ("deb822_repository", "{name: x, trusted: true}"),
        ("deb822_repository", "{name: x, signed_by: 'https://x'}"),
        ("yum_repository", "{name: x, gpgcheck: false}"),
        ("rpm_key", "{key: 'https://x'}"),
        ("dnf", "{name: /srv/x.rpm}"),
        ("dnf", "{name: x, disable_gpg_check: true}"),
        ("package", "{name: x, state: present, use: shell}"),
        ("pip", "{name: x}"),
        ("pip", "{virtualenv: /srv/v}"),
        ("pip", "{name: x, requirements: /srv/r.txt, virtualenv: /srv/v}"),
        ("pip", "{requirements: /srv/r.txt, virtualenv: /srv/v}"),  # may name files and URLs
        ("pip", "{name: x, virtualenv: /srv/v, extra_args: -i}"),
        ("pip", "{name: 'git+https://x', virtualenv: /srv/v}"),
        ("pip", "{name: x, virtualenv: /srv/v, virtualenv_command: sh}"),
        ("pip", "{name: x/y, virtualenv: /srv/v}"),
        ("pip", "{name: x-1.0.TAR.gz, virtualenv: /srv/v}"),
        ("pip", "{name: [x, x-1.0-py3-none-any.whl], virtualenv: /srv/v}"),
        ("pip", "{name: x, version: 1/../../tmp/y, virtualenv: /srv/v}"),
        ("pip", "{name: x, version: 1.0.zip, virtualenv: /srv/v}"),
        ("dnf", "{name: x.rpm}"),
        ("dnf", "{name: [y, x-1.0.noarch.rpm]}"),
        ("package", "{name: x.rpm, state: present}"),
        ("user", "{name: x, password: abc}"),
        ("user", "{name: x, generate_ssh_key: true}"),
        ("user", "{name: x, uid: -1}"),
        ("user", "{name: x, uid: true}"),
        ("user", "{name: x, uid: 4294967295}"),
        ("user", "{name: 'x:0:0'}"),
        ("group", "{name: x, gid: '5'}"),
        ("systemd_service", "{state: started}"),
        ("systemd_service", "{name: '../x', state: started}"),
        ("systemd_service", "{name: '-Hroot@192.0.2.1', state: started}"),
        ("systemd_service", "{name: x, scope: user}"),
        ("systemd_service", "{name: x, state: killed}"),
        ("cron", "{job: 'x'}"),
        ("cron", "{name: x, job: 'x', cron_file: ../x}"),
        ("cron", '{name: x, job: "a\\nb"}'),
        ("cron", "{name: x, job: 'x', minute: '* * * root'}"),
        ("reboot", "{msg: 'x\"; id; \"'}"),
        ("reboot", "{reboot_command: sh}"),
        ("reboot", "{test_command: sh}"),
        ("getent", "{database: shadow}"),
        ("hostname", "{name: 'a b'}"),
        ("known_hosts", "{name: x, path: relative, key: y}"),
        ("lineinfile", "{path: /srv/x, line: x, validate: 'cp %s /tmp'}"),
        ("lineinfile", '{path: /srv/x, line: "a\\u001b[0m"}'),
        ("lineinfile", "{path: /srv/x, line: 5}"),
        ("lineinfile", f"{{path: /srv/x, line: {'x' * 16385}}}"),
        ("replace", "{path: /srv/x}"),
        ("replace", "{path: /srv/x, regexp: x, replace: true}"),
        ("blockinfile", "{path: /srv/x, block: [a]}"),
        ("command", "{cmd: ls, creates: /srv/x}"),
        ("command", "{argv: ls, creates: /srv/x}"),
        ("command", "{argv: [], creates: /srv/x}"),
        ("command", "{argv: [[ls]], creates: /srv/x}"),
        ("command", "{argv: ['ls; id'], creates: /srv/x}"),
        ("command", '{argv: [ls, "a\\0b"], creates: /srv/x}'),
        ("command", "{argv: [ls], creates: '/srv/*'}"),
        ("command", "{argv: [ls], creates: relative}"),
        ("command", "{argv: [ls], creates: /srv/x, stdin: y}"),
        ("command", "{argv: [ls], creates: /srv/x, expand_argument_vars: true}"),
        ("command", "{argv: [ls], creates: /srv/x, _uses_shell: true}"),
    ],
)
def test_p5_refuses_other_arguments(module: str, args: str) -> None:
    refused(play(builtin(module, args)), "P5")


ACCEPTED = [
    (
        "apt",
        "{name: [nginx, 'libc6:i386', 'x=1.0-1~bpo'], state: present, cache_valid_time: 60}",
    ),
    (
        "apt_repository",
        "{repo: 'deb [signed-by=/usr/share/keyrings/x.gpg] http://x y z', state: present}",
    ),
    (
        "copy",
        f"{{src: files/{SHA}, dest: /etc/sudoers.d/x, mode: '0440', validate: /usr/sbin/visudo -cf %s}}",
    ),
    ("file", "{path: /srv/x, state: link, src: ../y}"),
    (
        "file",
        "{path: /srv/k, state: touch, access_time: preserve, modification_time: preserve, mode: '0600'}",
    ),
    ("file", '{path: !unsafe "/srv/{{ x }} ü", state: directory}'),
    ("user", "{name: deploy, uid: 999, password: '!', groups: [a, b], append: true}"),
    ("systemd_service", "{daemon_reload: true}"),
    ("systemd_service", "{name: 'getty@tty1.service', enabled: false}"),
    ("cron", "{name: x, job: 'true', special_time: daily, user: root}"),
    ("lineinfile", "{path: /etc/hosts, line: '10.0.0.1 x', state: present}"),
    ("lineinfile", f"{{path: /{'x' * 4094}, line: {'x' * 16384}}}"),
    ("replace", "{path: /srv/x, regexp: 5, replace: 6}"),
    ("pip", "{name: x, version: '1.0', virtualenv: /srv/v}"),
    ("pip", "{name: [zope.interface, ruamel.yaml], version: 1.0rc1+local.2, virtualenv: /srv/v}"),
    ("getent", "{database: passwd, key: root}"),
    ("reboot", "{reboot_timeout: 600}"),
    ("hostname", "{name: web-01}"),
]


@pytest.mark.parametrize(("module", "args"), ACCEPTED)
def test_p5_accepts_what_the_table_holds(module: str, args: str) -> None:
    assert accepted(play(builtin(module, args))).tasks[0].module == f"ansible.builtin.{module}"


ARGUMENTS = [(module, name) for module, spec in MODULES.items() for name in spec.args]
LISTS = {
    *(
        "apt.name",
        "dnf.name",
        "package.name",
        "pip.name",
        "user.groups",
        "command.argv",
        "rpm_key.fingerprint",
    ),
    *(f"deb822_repository.{name}" for name in ("types", "uris", "suites", "components", "architectures")),
    *("yum_repository.baseurl", "yum_repository.gpgkey"),
}
FREE = {
    *(
        "deb822_repository.uris",
        "yum_repository.description",
        "yum_repository.baseurl",
        "yum_repository.gpgkey",
    ),
    *("rpm_key.fingerprint", "debconf.value", "user.comment", "cron.name", "cron.job"),
    *("known_hosts.name", "known_hosts.key", "getent.split"),
    *(f"blockinfile.{name}" for name in ("block", "marker", "marker_begin", "marker_end")),
    *(f"blockinfile.{name}" for name in ("insertafter", "insertbefore")),
    *(f"lineinfile.{name}" for name in ("line", "regexp", "search_string", "insertafter", "insertbefore")),
    *(f"replace.{name}" for name in ("regexp", "replace", "after", "before")),
}
"""What may be any line of text: there, and in a host's name, a fact may stand."""
LINES = {"blockinfile.block", *(f"replace.{name}" for name in ("regexp", "replace", "after", "before"))}
"""What may be several lines of it."""
PATHS = {
    *("deb822_repository.signed_by", "rpm_key.key", "user.home", "user.shell", "file.path", "copy.dest"),
    *("blockinfile.path", "lineinfile.path", "replace.path", "known_hosts.path"),
    *("pip.virtualenv", "command.creates", "command.removes", "command.chdir"),
}
SECRETS = {"copy.content", "debconf.value", "lineinfile.line", "user.password"}
FACT = "\"{{ ansible_facts['hostname'] }}\""


@pytest.mark.parametrize(("module", "name"), ARGUMENTS)
def test_p5_an_argument_takes_what_is_of_its_kind(module: str, name: str) -> None:
    argument = f"{module}.{name}"
    wrong = ['"\\e[0m"', "{a: b}", "[[x]]"]
    wrong += [] if argument in FREE else ["'a b; $(id)'"]
    wrong += [] if argument in LINES else ['"a\\nb"', "-1", "10000000000"]
    wrong += ["'0644x'"] if name.endswith("mode") else []
    wrong += ["x", "../x", "/srv/../x", "/srv/$x"] if argument in PATHS else []
    wrong += [] if argument in FREE | {"hostname.name"} else [FACT]
    wrong += [] if argument in SECRETS else ["'{{ token }}'"]
    wrong += [] if argument in LISTS else ["[x]"]
    for value in wrong:
        error = refused(play(builtin(module, f"{{{name}: {value}}}")), "P5", secrets=["token"])
        assert f"{argument} must be" in error.message, value
        assert not (value == "[x]" and ", not 'x'" in error.message), "what it holds does not matter"


NEEDED = {
    "dnf": "name", "package": "name state", "apt_repository": "repo", "deb822_repository": "name",
    "yum_repository": "name", "rpm_key": "key", "dpkg_selections": "name selection", "debconf": "name",
    "user": "name", "group": "name", "file": "path", "copy": "dest", "blockinfile": "path",
    "lineinfile": "path", "replace": "path regexp", "cron": "name", "hostname": "name",
    "known_hosts": "name path", "pip": "name virtualenv", "getent": "database", "command": "argv",
}  # fmt: skip
GIVEN = {
    "name": "x",
    "state": "present",
    "selection": "hold",
    "path": "/srv/x",
    "regexp": "x",
    "virtualenv": "/srv/v",
}


@pytest.mark.parametrize("module", NEEDED)
def test_p5_a_module_needs_what_says_what_it_is_about(module: str) -> None:
    needed = NEEDED[module].split()
    for missing in needed:
        others = ", ".join(f"{name}: {GIVEN[name]}" for name in needed if name != missing)
        error = refused(play(builtin(module, f"{{{others}}}")), "P5")
        assert f"{module} needs {missing!r}" in error.message


def test_p5_a_value_that_a_variable_or_a_loop_brings_is_checked_too() -> None:
    file = builtin("file", "{path: '{{ place }}', state: absent}")
    assert accepted(play(file, vars="{place: /srv/x}"))
    refused(play(file, vars="{place: ../x}"), "P5")
    looped = "{path: '{{ item }}', state: directory}"
    refused(play(builtin("file", looped, loop="[/srv/x, /srv/../etc]")), "P5")
    refused(play(builtin("file", looped, loop="['{{ place }}']"), vars="{place: x}"), "P5")
    refused(play(builtin("command", "{argv: ['{{ item }}', x], creates: /x}", loop="[id]")), "P5")
    refused(play(builtin("file", "{path: \"{{ ansible_facts['hostname'] }}\", state: absent}")), "P5")


PAIRED = "{src: '{{ item.src }}', dest: '{{ item.dest }}', mode: '0644'}"


def test_a_loop_of_contents_and_places_is_checked_turn_by_turn() -> None:
    good = f"{{src: files/{SHA}, dest: !unsafe '/srv/{{{{ x }}}}'}}"
    copy = builtin("copy", PAIRED, loop=f"[{good}, {{src: files/{SHA}, dest: /srv/b}}]")
    playbook = accepted(play(copy))
    assert playbook.tasks[0].loop[1] == {"src": f"files/{SHA}", "dest": "/srv/b"}
    assert told(playbook)[0].paths == ["/srv/{{ x }}", "/srv/b"]
    for bad in (f"{{src: files/{'b' * 64}, dest: /srv/x}}", f"{{src: files/{SHA}, dest: /srv/../x}}"):
        refused(play(builtin("copy", PAIRED, loop=f"[{good}, {bad}]")), "P5")
    for loop in ("[/srv/x]", f"[{good}, /srv/x]", "[{src: a, dest: '{{ word }}'}]", "[{src: a, dest: 1}]"):
        refused(play(builtin("copy", PAIRED, loop=loop), vars="{word: /srv/x}"), "P6")
    refused(play(builtin("copy", PAIRED)), "P6")
    refused(play(builtin("copy", PAIRED.replace("item.dest", "item.items"), loop=f"[{good}]")), "P6")
    refused(play(builtin("copy", PAIRED.replace("item.dest", "item"), loop=f"[{good}]")), "P6")


# --- P6: templates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        '\'{{ lookup("pipe", "id") }}\'',
        "'{{ word | upper }}'",
        "'a {{ word }}'",
        "'{{ word }} '",
        "'{{word}}'",
        "'{{ unknown }}'",
        "'{{ item }}'",
        "'{{ hostvars }}'",
        "'{{ ansible_facts }}'",
        "\"{{ ansible_facts['env'] }}\"",
        "'{% if true %}x{% endif %}'",
        "'{# x #}'",
        "'{{ word'",
        "\"#jinja2:variable_start_string:'[%'\\n[% 1 %]\"",
    ],
)
def test_p6_refuses_every_other_template(value: str) -> None:
    refused(play(builtin("lineinfile", f"{{path: /srv/x, line: {value}}}"), vars="{word: x}"), "P6")


@pytest.mark.parametrize(
    "text",
    [
        play(name="'{{ word }}'", vars="{word: x}"),
        play(builtin("file", "{path: /srv/x}", name="'{{ word }}'"), vars="{word: x}"),
        play(builtin("file", "{path: /srv/x}", notify="'{{ word }}'"), vars="{word: x}"),
        play(builtin("file", "{path: /srv/x}", become_user="'{{ word }}'"), vars="{word: x}"),
        play(builtin("file", "{path: /srv/x}", register="'{{ word }}'"), vars="{word: x}"),
        play(builtin("meta", "'{{ word }}'"), vars="{word: flush_handlers}"),
        play(vars="{word: x, other: '{{ word }}'}"),
        play(vars="{word: '{{ item }}'}"),
        play(builtin("file", "{path: '{{ item }}', state: file}", loop="['{{ item }}']")),
        play(builtin("file", "{path: /srv/x, state: file}", loop="['{{ item }}']")),
        play(builtin("copy", "{src: 'files/{{ sha }}', dest: /srv/x}"), vars=f"{{sha: {SHA}}}"),
        play(builtin("hostname", "{name: \"{{ ansible_facts['hostname'] }}\"}"), gather_facts="false"),
    ],
)
def test_p6_refuses_templates_where_none_belongs(text: bytes) -> None:
    refused(text, "P6")


@pytest.mark.parametrize(
    "condition",
    [
        "true",
        "'true'",
        "word",
        "word == 'x'",
        "inventory_hostname == 'web-01'",
        "\"ansible_facts['hostname'] == 'web-01'\"",
        "\"ansible_facts['default_ipv4']['address'] == '10.0.0.1'\"",
        "\"ansible_facts['default_ipv4']['interface'] == 'eth0'\"",
        "\"ansible_facts['os_family'] == 'Debian' or true\"",
        "\"ansible_facts['os_family'] == 'Debian\\\" '\"",
        "\"ansible_facts['os_family'] in ['Debian']\"",
        "\"ansible_facts['os_family'] in 'Debian'\"",
        "\"ansible_facts['os_family'] > 'Debian'\"",
        "\"lookup('pipe', 'id') == 'x'\"",
        "result.stdout == 'x'",
        "!unsafe \"ansible_facts['os_family'] == 'Debian'\"",
        "{a: b}",
    ],
)
def test_p6_a_condition_compares_a_listed_fact_and_nothing_else(condition: str) -> None:
    refused(play(builtin("file", "{path: /srv/x}", when=condition), vars="{word: x}"), "P6")


def test_p6_accepts_listed_facts() -> None:
    family = "\"ansible_facts['os_family'] == 'Debian'\""
    one = builtin("hostname", "{name: \"{{ ansible_facts['hostname'] }}\"}", when=f"[{family}]")
    assert accepted(play(one)).tasks[0].when == ("ansible_facts['os_family'] == 'Debian'",)
    refused(play(one, gather_facts="false"), "P6")
    refused(play(builtin("file", "{path: /srv/x}", when=family), gather_facts="false"), "P6")


# --- P7: names ---------------------------------------------------------------------------------------------

BAD_NAMES = [
    "ansible_connection", "ansible_become_exe", "mitogen_via", "mitogen_kind", "mitogen_docker_path",
    "hostvars", "groups", "group", "group_names", "inventory_hostname", "playbook_dir", "play_hosts",
    "role_path", "item", "omit", "vars", "environment", "lookup", "query", "q", "now", "undef", "range",
    "dict", "namespace", "self", "loop", "true", "false", "none", "not", "and", "or", "in", "is", "if",
    "else", "port", "remote_user", "become_exe", "delegated_vars", "connection", "hosts", "name", "tasks",
    "handlers", "no_log", "register", "when", "notify", "Upper", "a-b", "_x", "9x", "x" * 65,
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_p7_refuses_names_that_mean_something_to_ansible(name: str) -> None:
    refused(play(vars=f"{{'{name}': x}}"), "P7")
    refused(play(builtin("file", "{path: /srv/x}", register=f"'{name}'")), "P7")
    refused(play(), "P7", secrets=[name])


def test_p7_accepts_every_other_name_with_a_value_or_a_fact() -> None:
    names = ["portal", "is_on", "items", "queue", "x" * 64]
    line = builtin("lineinfile", "{path: /srv/x, line: '{{ portal }}'}")
    text = play(line, vars="{" + ", ".join(f"{name}: x" for name in names) + "}", gather_facts="false")
    assert list(accepted(text).variables) == names
    assert accepted(play(vars=f"{{a: {FACT}}}")).variables == {"a": "ansible_facts['hostname']"}


def test_p7_a_variable_is_one_value() -> None:
    refused(play(vars="{a: [x]}"), "P7")
    refused(play(vars="{a: {b: x}}"), "P7")


def test_p7_a_target_cannot_overwrite_a_variable() -> None:
    one = builtin("file", "{path: '{{ place }}', state: directory}", register="place")
    refused(play(one, vars="{place: /srv/x}"), "P7")
    refused(play(one, vars="{place: /srv/x}", name="T"), "P7")
    refused(play(builtin("file", "{path: /srv/x}", register="word")), "P7", secrets=["word"])
    refused(play(*[builtin("file", "{path: /srv/x}", register="r")] * 2), "P7")


# --- secrets -----------------------------------------------------------------------------------------------

SECRET_COPY = "{content: '{{ token }}', dest: /srv/token, mode: '0600'}"


def test_a_secret_stands_only_where_it_is_hidden() -> None:
    found = accepted(play(builtin("copy", SECRET_COPY, no_log="true")), secrets=["token", "unused"])
    assert (found.secrets, found.tasks[0].secrets) == (["token"], ("token",))
    refused(play(builtin("copy", SECRET_COPY)), "P3", secrets=["token"])
    refused(play(builtin("copy", SECRET_COPY, no_log="false")), "P3", secrets=["token"])
    refused(play(builtin("copy", SECRET_COPY, no_log="true")), "P6")
    refused(play(vars="{token: x}"), "P7", secrets=["token"])
    refused(play(vars="{other: '{{ token }}'}"), "P6", secrets=["token"])
    literal = builtin("lineinfile", "{path: /srv/x, line: token}")
    assert accepted(play(literal), secrets=["token"]).secrets == []


@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("file", "{path: '{{ token }}', state: directory}"),
        ("command", "{argv: [echo, '{{ token }}'], creates: /srv/x}"),
        ("user", "{name: x, comment: '{{ token }}'}"),
    ],
)
def test_a_secret_never_reaches_a_command_line_or_a_name(module: str, args: str) -> None:
    refused(play(builtin(module, args, no_log="true")), "P5", secrets=["token"])


def test_a_user_takes_a_secret_for_a_password() -> None:
    one = builtin("user", "{name: x, password: '{{ token }}'}", no_log="true")
    assert accepted(play(one), secrets=["token"]).tasks[0].secrets == ("token",)


# --- against Ansible itself --------------------------------------------------------------------------------


def ansible(*argv: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", *argv]
    return subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)


def test_every_argument_of_the_table_is_one_that_ansible_knows() -> None:
    done = ansible("ansible.cli.doc", "-j", *(f"ansible.builtin.{name}" for name in MODULES))
    assert done.returncode == 0, done.stderr
    for name, module in MODULES.items():
        options = json.loads(done.stdout)[f"ansible.builtin.{name}"]["doc"]["options"]
        assert set(module.args) <= set(options), name


def test_ansible_reads_what_the_grammar_accepts(tmp_path: Path) -> None:
    text = play(*(builtin(module, args, name=f"Task {n}") for n, (module, args) in enumerate(ACCEPTED)))
    accepted(text)
    (tmp_path / "playbook.yml").write_bytes(text)
    done = ansible(
        "ansible.cli.playbook", "--syntax-check", "-i", "localhost,", str(tmp_path / "playbook.yml")
    )
    assert done.returncode == 0, done.stderr


# --- anything at all ---------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        "name", "hosts", "all", "tasks", "handlers", "vars", "ansible.builtin.file",
        "ansible.builtin.command", "path",
        "argv", "creates", "/srv/x", "{{ x }}", "{{ item }}", "loop", "when", "notify", "register",
        "no_log", "become", "true", "false", "0", "!unsafe x", "&a", "*a", "? ", "- ", ": ", "\n", "\n  ",
        "\n    - ", "[", "]", "{", "}",
        "'", '"', "|", ">", "%", "---\n", "...\n", "#", ",", "\t", "\u2028", "\x00", "ü",
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300), st.lists(WORDS, max_size=40).map(lambda words: " ".join(words).encode())
    )
)
def test_any_bytes_are_accepted_or_refused(text: bytes) -> None:
    _only_refused(text)
    _only_refused(play() + text)
    _only_refused(play(GOOD.rstrip("\n") + " " + text.decode("utf-8", "replace")))


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just("{{ item }}")
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
MODULE_NAMES = ["file", "copy", "command", "apt", "user", "systemd_service", "meta", "cron", "getent", "pip"]
ARGUMENTS = [
    "path",
    "dest",
    "src",
    "argv",
    "name",
    "state",
    "mode",
    "creates",
    "content",
    "uid",
    "key",
    "job",
]


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [f"ansible.builtin.{name}" for name in MODULE_NAMES] + ["when", "loop", "notify", "register"]
        ),
        st.one_of(VALUES, st.dictionaries(st.sampled_from(ARGUMENTS), VALUES, max_size=5)),
        max_size=4,
    )
)
def test_any_task_is_accepted_or_refused(values: dict[str, Any]) -> None:
    plays = [{"name": "T", "hosts": "all", "vars": {"x": "y"}, "tasks": [{"name": "Any", **values}]}]
    _only_refused(yaml.safe_dump(plays, allow_unicode=True).encode("utf-8", "surrogatepass"))


def _only_refused(text: bytes) -> None:
    try:
        assert check(text, {SHA}).tasks
    except PlaybookRefused as error:
        assert error.details["rule"] in {"P1", "P2", "P3", "P4", "P5", "P6", "P7"}
