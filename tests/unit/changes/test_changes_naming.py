"""Where in services' state folders a command may have worked, by its words."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from backend.changes.naming import Naming, folders_named
from backend.models import Command

START = datetime(2026, 1, 1, tzinfo=UTC)
PLUGIN = "/var/lib/grafana/plugins/clock/plugin.json"


def ran(command: str, **metadata: object) -> Command:
    end = START + timedelta(seconds=10)
    return Command(
        id="CMD-1", sandbox_id="SBX-1", command=command, started_at=START, ended_at=end, metadata=metadata
    )


def at_work(command: Command, path: str = PLUGIN, second: float | None = 5, *, by_scripts: bool = False):
    at_ns = None if second is None else int((START.timestamp() + second) * 1e9)
    return Naming([command]).at_work(path, at_ns, by_scripts=by_scripts)


@pytest.mark.parametrize(
    "command",
    [
        "tar -C /var/lib/grafana/plugins -xf clock.tar",
        "cp -r clock /var/lib/grafana/plugins/",
        "rsync -a --delete clock admin@localhost:/var/lib/grafana/plugins",
        "git clone https://x/clock '/var/lib/grafana/plugins/clock'",
        'unzip -d "/var/lib/grafana/plugins" clock.zip',
        "D=/var/lib/grafana; cp -r clock $D/plugins",
        "cd /var/lib/grafana && tar xf ~/clock.tar",
        "cd /var/lib/; cp -r clock grafana/plugins",
        "cp -r clock /var/lib/graf*/plugins",
        "tar -xf clock.tar -C /var/lib/{grafana,other}/plugins",
        "tar -xf clock.tar -C /",
        "cp -r lib /var",
        "cd /var/lib/other && cp -r clock ../grafana/plugins",
        "cp -r clock ~grafana/plugins",
        "cp -r clock '/var/lib/grafana/plugins/my clocks'/..",
        "python3 - <<< 'shutil.copytree(clock, \"/var/lib/grafana/plugins/clock\")'",
        "ls /var/lib/grafana/plugins | xargs -I{} cp x {}",
        "echo {} > /var/lib/grafana/plugins/clock/plugin.json",
        "find /var/lib/grafana -name '*.json' -exec sed -i s/a/b/ {} +",
        "mkdir -p x && \\\n tar -C /var/lib/grafana/plugins \\\n -xf clock.tar",
    ],
)
def test_a_command_that_names_a_folder_around_a_file_may_have_put_it_there(command: str):
    assert at_work(ran(command))
    assert not at_work(ran(command), second=60), "the service wrote it since"
    assert at_work(ran(command), second=None), "a file that went at an unknown time"


@pytest.mark.parametrize(
    "command",
    [
        "systemctl restart grafana",
        "grafana-cli plugins list",
        "ls -l /var/lib/grafana/plugins 2>/dev/null; systemctl restart grafana",
        "cd /var/lib/grafana && du -sh plugins | tail -1",
        "cat /var/lib/grafana/plugins/clock/plugin.json",
        "tar -C /var/lib/grafana-old -xf clock.tar",
        "cp -r clock /srv/grafana/plugins",
        "cp grafana.ini /var/lib/grafana/conf/",
        "sed -i s/a/b/ /etc/grafana.ini",
        "curl -o x https://grafana.com/",
    ],
)
def test_one_that_names_none_or_only_reads_did_not(command: str):
    assert not at_work(ran(command))
    assert not at_work(ran(command), second=None)


@pytest.mark.parametrize(
    ("command", "folders"),
    [
        ("install -d -o app /var/log/app", {"/var/log/app"}),
        ("mkdir -p /var/log/app/{in,out} && ls", {"/var/log/app", "/var/log/app/in", "/var/log/app/out"}),
        ("install -d -m 0700 /var/backups/nightly /srv/backup", {"/var/backups/nightly"}),
        ("chown app: '/home/app/.cache/x'", {"/home/app/.cache/x", "/home/app/.cache", "/home/app", "/home"}),
        ("rm -f /var/log/app/*.log", {"/var/log/app"}),
        ("mkdir /var/cache/app-$X", set()),
        ("cd /var/log && mkdir -m 0750 app", {"/var/log/app", "/var/log/mkdir", "/var/log/0750"}),
        (
            "(cd '/var/log/'; cd app && chown app .)",
            {"/var/log/app", "/var/log/app/chown", "/var/log/app/app"},
        ),
        ("cd /srv; mkdir app", set()),
        ("cd /var/log; cd /srv && mkdir app", set()),
        ("cd /var/log/app && tail x", set()),
        ("cat /var/log/app/x | grep y", set()),
        ("mkdir /srv/var/log/app", set()),
        ("systemctl restart app", set()),
    ],
)
def test_a_folder_of_logs_is_named_by_what_does_more_than_read(command: str, folders: set[str]):
    assert folders_named([ran(command)]) - {"/var/log", "/var/cache", "/var/backups"} == folders


def test_a_folder_of_logs_is_named_by_the_door_for_files_and_at_little_cost():
    assert "/var/log/app" in folders_named([ran("file.write /var/log/app/x", kind="file")])
    assert "/var/log/app" in folders_named([ran("mkdir app", work_dir="/var/log")])
    started = time.process_time()
    for word in (
        "cd /var/log; ",
        "x && cd a; ",
        "/var/log/a",
        "{a,",
        "/var/log/{",
        "a" * 1000 + "{a,b}",
        "/home/a/.cache",
    ):
        folders_named([ran("cp x " + word * (100_000 // len(word)))])
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "word",
    ["/var/lib/a", "/a", ":/var/lib/a", ", ", "'/var/lib/a b", " /var/lib/a", "../", "{", "| ls ", "&& "],
)
def test_a_command_that_names_very_much_costs_little_and_may_have_worked_anywhere(word: str):
    many = [ran("cp x /var/lib/grafana" + word * (100_000 // len(word))) for _ in range(5)]
    started = time.process_time()
    assert Naming(many).at_work("/var/lib/grafana", None, by_scripts=False)
    assert time.process_time() - started < 2


def test_a_command_that_names_one_place_often_worked_there_alone():
    often = ran("cp x /var/lib/other; " * 1000 + "cp x /var/lib/grafana")
    assert at_work(often) and not at_work(often, "/var/lib/third")


def test_a_path_that_is_very_deep_is_known_by_a_folder_around_it():
    deep = "/var/lib/grafana" + "/a" * 100
    assert at_work(ran(f"touch {deep}"), deep)


def test_each_place_of_a_list_is_named():
    both = ran("mount -o lowerdir=/var/lib/other:/var/lib/grafana,upperdir=/srv overlay /mnt")
    assert at_work(both) and at_work(both, "/var/lib/other/x")


def test_the_folder_that_a_command_ran_in_is_named_too():
    assert at_work(ran("tar xf /root/clock.tar", work_dir="/var/lib/grafana"))
    assert not at_work(ran("tar xf /root/clock.tar", work_dir="/root"))
    assert not at_work(ran("ls -l", work_dir="/var/lib/grafana"))


def test_a_file_that_was_written_by_the_door_for_files_is_its_whole_name():
    written = ran("file.write /var/lib/grafana/my plugin's.json", kind="file")
    assert at_work(written, "/var/lib/grafana/my plugin's.json")
    assert not at_work(written, PLUGIN)


def test_a_folder_is_made_on_the_way_to_what_is_named():
    made = ran("mkdir -p /var/lib/grafana/plugins/clock")
    assert at_work(made, "/var/lib/grafana/plugins")
    assert not at_work(made, "/var/lib/grafana/png")


@pytest.mark.parametrize(
    "command",
    ["nohup cp -r clock /var/lib/grafana/plugins", "cp -r clock /var/lib/grafana/plugins & echo started"],
)
def test_what_a_command_leaves_running_works_on_after_it(command: str):
    assert at_work(ran(command), second=60)


def test_packages_scripts_are_not_the_work_of_the_command_that_installs():
    both = ran("apt-get install -y grafana && tar -C /var/lib/grafana -xf clock.tar")
    assert not at_work(both, by_scripts=True)
    assert at_work(both)
    assert at_work(ran("tar -C /var/lib/grafana -xf clock.tar"), by_scripts=True)
