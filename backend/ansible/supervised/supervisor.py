"""Supervises one Ansible run, detached from the backend, as a uid that can read nothing but this run.

Started as ``python -I supervisor.py RUN_FOLDER LOCK_FD`` with one JSON message on standard input: the private
key, its certificate, the secrets. The key goes to an ssh-agent of its own, the secrets to a memory file, and
what Ansible makes of them to a folder in memory; none of them ever to a disk. The held locks of the folder
say that the run is alive (flock(2), which goes along with a fork) and who supervises it (lockf(3), which does
not); ``out/end.json`` says that it ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parent))

import ansible_runner
import yaml
from reports import Reports  # type: ignore[import-not-found]

PR_SET_PDEATHSIG = 1
GRACE_S = 15  # for Ansible to stop by itself after SIGTERM
AGENT_START_S = 10
KEY_SLACK_S = 60
CONNECT_S = 15
MAX_SAID = 200
REACHED = "reached"  # a line for each login: address and port


class Stop:
    """Why the run has to end before its time, and how Ansible is told."""

    def __init__(self) -> None:
        self.why = ""
        self.spared: set[int] = set()  # children that are not Ansible
        self._overdue = threading.Event()

    def ask(self, why: str) -> None:
        """Ask Ansible to end; once its grace is over, :meth:`overdue` says so. One that is only being begun
        hears nothing, and has none."""
        if self.why:
            return
        self.why = why
        children = [child for child in _children() if child not in self.spared]
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        if not children:
            self._overdue.set()
        timer = threading.Timer(GRACE_S, self._overdue.set)
        timer.daemon = True
        timer.start()

    def overdue(self) -> bool:
        return self._overdue.is_set()


def _children() -> list[int]:
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(word) for word in (thread / "children").read_text().split()]
    return found


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Supervisor:
    """One run: its folder, its agent, its Ansible."""

    def __init__(self, folder: Path, message: dict[str, Any], stop: Stop, events: TextIO) -> None:
        self.folder = folder
        self.stop = stop
        self.events = events
        self.out = folder / "out"
        self.spec = json.loads((folder / "etc" / "spec.json").read_text())
        self.message = message
        self.short = Path((folder / "etc" / "short").read_text())
        self.private = self.short / "private"
        self.agent: subprocess.Popen[str] | None = None
        self.secrets_fd = -1

    def run(self) -> None:
        """The whole run. Always writes ``end.json`` unless it is killed."""
        supervisor = os.getpid()
        end: dict[str, Any] = {"state": "failed", "results": {}, "reason": ""}
        try:
            self._start_agent()
            end = self._ansible()
        except Exception as error:
            end["state"] = self.stop.why or "failed"  # who is canceled may see its helpers end first
            end["reason"] = f"{type(error).__name__}: {error}"[:4096]
        finally:
            if os.getpid() != supervisor:  # a fork that did not become Ansible: its terminal went with us
                os._exit(1)
            self._clean()
            self._write_end(end)

    def _start_agent(self) -> None:
        """An ssh-agent that dies with us and forgets the key when the run's time is over."""
        socket = self.short / "agent"
        self.agent = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(socket)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_die_with_parent,
        )
        if not self.agent.stdout or not self.agent.stdout.readline().startswith("SSH_AUTH_SOCK"):
            raise RuntimeError("ssh-agent did not start")
        self.stop.spared.add(self.agent.pid)
        os.environ["SSH_AUTH_SOCK"] = str(socket)
        lifetime = str(int(self.spec["timeout_s"]) + GRACE_S + KEY_SLACK_S)
        added = subprocess.run(
            ["ssh-add", "-q", "-t", lifetime, "-"],
            input=self.message.pop("key"),
            capture_output=True,
            text=True,
            timeout=AGENT_START_S,
            check=False,
        )
        if added.returncode:
            raise RuntimeError(f"ssh-add refused the key: {added.stderr.strip()}")

    def _ansible(self) -> dict[str, Any]:
        check = bool(self.spec["check"])
        project, lines = self._project(check)
        # After an apply nothing is yet to be made: what check mode cannot find then is missing.
        reports = Reports(lines, self._reached, preview=check and self.spec["kind"] != "verify")
        inventory = self._inventory()
        environment = self._environment()
        alarm = threading.Timer(float(self.spec["timeout_s"]), self.stop.ask, ["timeout"])
        alarm.daemon = True
        alarm.start()

        def handle(event: dict[str, Any]) -> bool:
            if (report := reports.take(event)) is not None:
                self.events.write(json.dumps(report, ensure_ascii=True) + "\n")
                self.events.flush()
            return False  # nothing of it goes into the artifacts

        if self.stop.why:
            return self._judged("canceled", reports)
        outcome = ansible_runner.run(
            private_data_dir=str(self._runner_folder()),
            project_dir=str(project),
            playbook="playbook.yml",
            inventory=inventory,
            envvars=environment,
            cmdline="--check --diff" if check else "--diff",
            quiet=True,
            fact_cache_type="memory",
            suppress_env_files=True,
            event_handler=handle,
            cancel_callback=self.stop.overdue,
            ident="run",
        )
        alarm.cancel()
        return self._judged(outcome.status, reports)

    def _judged(self, status: str, reports: Any) -> dict[str, Any]:
        why = self.stop.why
        failed = any(count["failed"] or count["unreachable"] for count in reports.results.values())
        state = why or ("successful" if status == "successful" and not failed else "failed")
        reason = reports.first_failure
        if why:
            reason = {"canceled": "canceled", "timeout": f"over its {self.spec['timeout_s']} s"}[why]
        elif state == "failed" and not reason:
            reason = f"Ansible ended with {status}: {self._last_words()}"
        if reports.cut_off and not self.spec["check"] and not why:
            host, (task, message) = next(iter(reports.cut_off.items()))
            state = "lost"
            said = message.strip().partition("\n")[0][:MAX_SAID]
            reason = f"{host}: the connection was lost in {task!r} ({said}): what that did there is not known"
        if state in ("canceled", "timeout", "lost"):
            done = [f"{host} up to {task!r}" for host, task in reports.last_done.items()]
            reason += f"; done: {', '.join(done) or 'nothing'}"
        untouched = [name for name in self.spec["hosts"] if name not in reports.results]
        if state != "successful" and reports.results and untouched:
            reason += f"; not touched: {', '.join(untouched)}"
        return {
            "state": state,
            "results": reports.results,
            "reason": reason,
            "strategy": self._strategy()[0],
        }

    def _last_words(self) -> str:
        output = self.private / "runner" / "artifacts" / "run" / "stdout"
        if not output.exists():
            return ""
        return output.read_text(encoding="utf-8", errors="replace").strip()[-2000:]

    def _runner_folder(self) -> Path:
        folder = self.private / "runner"
        (folder / "env").mkdir(parents=True)
        (folder / "env" / "settings").write_text(json.dumps({"pexpect_timeout": 1, "pexpect_use_poll": True}))
        return folder

    def _project(self, check: bool) -> tuple[Path, list[int]]:
        """The folder to run, and the lines of its tasks.

        The approved text itself, unless it is a preview or goes from host to host: then its tasks are the
        same, and one key is added.
        """
        approved = self.folder / "playbook"
        text = (approved / "playbook.yml").read_text(encoding="utf-8")
        if not check and not self.spec["first_alone"]:
            return approved, _task_lines(text)
        project = self.private / "project"
        project.mkdir()
        (project / "files").symlink_to(approved / "files")
        text = _going_on(text) if check else _first_alone(text)
        (project / "playbook.yml").write_text(text, encoding="utf-8")
        return project, _task_lines(text)

    def _inventory(self) -> list[str]:
        """The hosts, and an inventory script that prints the secrets from a file in memory.

        Ansible resolves the name of an extra-variables file, so that one in memory has none; a script may be.
        """
        etc = self.folder / "etc"
        secrets = self.message.pop("secrets", None)
        if not secrets:
            return [str(etc / "hosts.json")]
        values = {name: {"__ansible_unsafe": value} for name, value in secrets.items()}
        self.secrets_fd = os.memfd_create("secrets")
        os.write(self.secrets_fd, json.dumps({"all": {"vars": values}, "_meta": {"hostvars": {}}}).encode())
        return [str(etc / "hosts.json"), str(etc / "bin" / "secrets")]

    def _environment(self) -> dict[str, str]:
        strategy, plugins = self._strategy()
        known = self.short / "known_hosts"
        known.write_text("".join(line + "\n" for line in self.spec["known_hosts"]))
        ssh = {
            "ControlMaster": "auto",
            "ControlPersist": "60s",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(known),
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
            "IdentityFile": "none",
            "PreferredAuthentications": "publickey",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "ForwardAgent": "no",
            "ConnectTimeout": str(CONNECT_S),
            "PermitLocalCommand": "yes",
            "LocalCommand": f"echo %n %p >> {self.short}/{REACHED}",
            "ServerAliveInterval": "15",
        }
        if certificate := self.message.pop("certificate", None):
            path = self.short / "key-cert.pub"
            path.write_text(certificate)
            ssh["CertificateFile"] = str(path)
        options = [word for key, value in ssh.items() for word in ("-o", f"{key}={value}")]
        environment = {
            "ANSIBLE_CONFIG": str(self.folder / "etc" / "ansible.cfg"),
            "ANSIBLE_HOST_KEY_CHECKING": "True",
            "ANSIBLE_SSH_ARGS": shlex.join(["-F", "none", *options]),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.short),
            "ANSIBLE_SSH_CONTROL_PATH": "%(directory)s/%%C",
            "ANSIBLE_STRATEGY": strategy,
            "ANSIBLE_HOME": str(self.private / "ansible"),
            "ANSIBLE_LOCAL_TEMP": str(self.private / "tmp"),
            "SSH_AUTH_SOCK": os.environ["SSH_AUTH_SOCK"],
            "TMPDIR": str(self.short),
        }
        if self.secrets_fd >= 0:
            environment["FLUID_SECRETS"] = f"/proc/{os.getpid()}/fd/{self.secrets_fd}"
        if plugins:
            environment["ANSIBLE_STRATEGY_PLUGINS"] = plugins
        return environment

    def _reached(self, host: str) -> bool:
        """Whether a login on it has worked: LocalCommand (ssh_config(5)) runs before any task is sent."""
        hosts = json.loads((self.folder / "etc" / "hosts.json").read_text())["all"]["hosts"]
        file = self.short / REACHED
        if host not in hosts or not file.exists():
            return False
        where = "{ansible_host} {ansible_port}".format_map(hosts[host])
        return where in file.read_text().splitlines()

    def _strategy(self) -> tuple[str, str]:
        """The strategy and the folder of its plugin; linear where mitogen is not installed."""
        if self.spec["strategy"] == "mitogen_linear":
            found = importlib.util.find_spec("ansible_mitogen")
            for place in (found.submodule_search_locations or []) if found else []:
                return "mitogen_linear", str(Path(place) / "plugins" / "strategy")
        return "linear", ""

    def _clean(self) -> None:
        if self.secrets_fd >= 0:
            os.close(self.secrets_fd)
        if self.agent is not None:
            self.agent.terminate()
            self.agent.wait()
        shutil.rmtree(self.short, ignore_errors=True)

    def _write_end(self, end: dict[str, Any]) -> None:
        draft = self.out / "end.json.new"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(end, file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.out / "end.json")


def _plays(text: str) -> yaml.Node:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        raise ValueError("the playbook is empty")
    return root


def _lists(root: yaml.Node) -> list[yaml.SequenceNode]:
    """Tasks, then handlers, as the grammar counts them."""
    lists = {key.value: value for key, value in root.value[0].value}
    return [lists[name] for name in ("tasks", "handlers") if name in lists]


def _tasks(root: yaml.Node) -> list[yaml.MappingNode]:
    return [task for tasks in _lists(root) for task in tasks.value]


def _task_lines(text: str) -> list[int]:
    return [task.start_mark.line + 1 for task in _tasks(_plays(text))]


def _going_on(text: str) -> str:
    """The playbook for check mode: the same tasks, and one that cannot be tried yet does not end it."""
    root = _plays(text)
    for task in _tasks(root):
        if not any(key.value == "ansible.builtin.meta" for key, _ in task.value):
            key = yaml.ScalarNode("tag:yaml.org,2002:str", "ignore_errors")
            task.value.append((key, yaml.ScalarNode("tag:yaml.org,2002:bool", "true")))
    return _written(root)


def _first_alone(text: str) -> str:
    """The playbook with one play key more: a first batch of one host, whose failure ends the run."""
    root = _plays(text)
    batches = [
        yaml.ScalarNode("tag:yaml.org,2002:int", "1"),
        yaml.ScalarNode("tag:yaml.org,2002:str", "100%", style='"'),
    ]
    key = yaml.ScalarNode("tag:yaml.org,2002:str", "serial")
    root.value[0].value.append((key, yaml.SequenceNode("tag:yaml.org,2002:seq", batches)))
    return _written(root)


def _written(root: yaml.Node) -> str:
    """The text of a playbook. Ansible tells a task by its line: each begins one, in whatever style it was."""
    for node in (root, root.value[0], *_lists(root), *_tasks(root)):
        node.flow_style = False
    return yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=1_000_000)


def main() -> None:
    """Read the message, leave the backend's process tree, supervise."""
    folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(lock, False)
    stop = Stop()
    signal.signal(signal.SIGTERM, lambda *_: stop.ask("canceled"))
    text = sys.stdin.read()
    heard, ready = os.pipe()
    if os.fork():
        os.close(ready)
        os._exit(0 if os.read(heard, 1) else 1)  # nothing: it ended before it had begun
    os.close(heard)
    os.setsid()
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no fork has it: the kernel names us as its holder
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if not text:
        raise SystemExit("the backend ended before it sent the key")
    with (folder / "out" / "events.jsonl").open("a", encoding="utf-8", errors="replace") as events:
        os.write(ready, b".")  # a parent that is gone would say that nothing was started: so nothing is
        os.close(ready)
        Supervisor(folder, json.loads(text), stop, events).run()


if __name__ == "__main__":
    main()
