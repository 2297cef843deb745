"""A whole diff, from image layers to nouns: owners, secrets, noise, commands."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backend.approvals.risks import risks
from backend.changes import BlobStore, Differ, NoiseProfile, differ, residual
from backend.disks import DiskReader
from backend.errors import PlaybookRefused
from backend.models import Changes, Command
from backend.playbooks import generate

TIMEOUT_S = 60
FOLDERS = (
    "etc/alternatives", "etc/cron.d", "etc/nginx/sites-enabled", "etc/sysctl.d",
    "etc/ssh", "etc/systemd/system/cron.service.d", "etc/systemd/system/multi-user.target.wants",
    "etc/systemd/system/timers.target.wants", "usr/lib/systemd/system", "usr/sbin", "var/lib/dpkg/info",
    "var/lib/apt", "var/lib/nginx", "var/log", "srv", "root",
)  # fmt: skip
STANZA = """Package: nginx
Status: install ok installed
Architecture: amd64
Version: 1.22
Conffiles:
 /etc/nginx/nginx.conf {conf}
 /etc/nginx/mime.types {mime}

"""


SETUID = "-as-root"


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def installed() -> dict[str, str]:
    """What installing a server and working with it leaves: path → content."""
    binary, unit, mime = "#!nginx", "[Service]\nExecStart=nginx\n", "types {}\n"
    owned = [
        "/.", "/etc", "/etc/nginx", "/etc/nginx/nginx.conf", "/etc/nginx/mime.types",
        "/etc/nginx/sites-enabled", "/usr/sbin/nginx", "/lib/systemd/system/nginx.service",
        "/var/lib/nginx", "/usr/sbin/forged",
    ]  # fmt: skip
    return {
        "etc/nginx/nginx.conf": "edited by the agent\n",
        "etc/nginx/mime.types": mime,
        "usr/sbin/nginx": binary,
        "usr/sbin/forged": "not what the package ships",
        "usr/lib/systemd/system/nginx.service": unit,
        "etc/systemd/system/x.timer": "[Timer]\n",
        "var/lib/nginx/body": "state",
        "var/log/nginx.log": "GET /\n",
        "var/lib/dpkg/info/nginx.list": "\n".join(owned) + "\n",
        "var/lib/dpkg/info/nginx.md5sums": f"{md5(binary)}  usr/sbin/nginx\n"
        f"{md5(unit)}  lib/systemd/system/nginx.service\n"
        f"{md5('original')}  usr/sbin/forged\n",
        "var/lib/dpkg/info/nginx.postinst": "adduser --system nginx\n",
        "var/lib/dpkg/status": STANZA.format(conf=md5("as shipped"), mime=md5(mime)),
        "etc/passwd": "root:x:0:0::/root:/bin/sh\nnginx:x:101:101::/:/bin/false\n"
        "deploy:x:999:999::/srv:/bin/sh\n",
        "etc/group": "root:x:0:\nnginx:x:101:\ndeploy:x:999:\n",
        "etc/shadow": "root:*:1\nnginx:!:1\ndeploy:$y$hash:1\n",
        "srv/page {{ x }} ü.html": "<h1>{{ hello }}</h1>\n",
        "srv/.netrc": "machine x password geheim\n",
    }


class Work:
    """Two points of a sandbox as raw images, and their diff."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = BlobStore(folder / "blobs")

    def image(
        self, name: str, files: dict[str, str | bytes], links: dict[str, str], names: Sequence[str] = ()
    ) -> Path:
        """``names``: further ones of the first of ``files``."""
        root, image = self.folder / f"{name}.tree", self.folder / f"{name}.raw"
        for inner in FOLDERS:
            (root / inner).mkdir(parents=True)
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
            if path.endswith(SETUID):
                (root / path).chmod(0o4755)
        for path, target in links.items():
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).symlink_to(target)
        for other in names:
            (root / other).hardlink_to(root / next(iter(files)))
        (root / "lib").symlink_to("usr/lib")
        with image.open("wb") as file:
            file.truncate(32 << 20)
        # The same identity and layout, so that the two images can be one disk at two points.
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-U", "11111111-2222-3333-4444-555555555555", "-d", root, image],
            check=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        return image

    def layers(self, before: Path, after: Path) -> tuple[list[Path], list[Path]]:
        base = self.folder / "base.raw"
        base.write_bytes(bytes(before.stat().st_size))
        tops = []
        for raw in (before, after):
            top = raw.with_suffix(".qcow2")
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top],
                check=True,
                timeout=TIMEOUT_S,
            )
            subprocess.run(
                ["qemu-io", "-f", "qcow2", "-c", f"write -q -s {raw} 0 {raw.stat().st_size}", top],
                check=True, capture_output=True, timeout=TIMEOUT_S,
            )  # fmt: skip
            tops.append([base, top])
        return tops[0], tops[1]

    async def diff(
        self,
        before: Sequence[Path],
        after: Sequence[Path],
        commands: Sequence[Command] = (),
        *,
        typed: Sequence[tuple[float, float]] = (),
        made_before: bool = False,
        named: Collection[bytes] = (),
    ) -> Changes:
        differ = Differ(DiskReader(), self.blobs, b"k" * 32, NoiseProfile.default())
        return await differ.diff(
            "SBX-1", "pre", "post", before, after,
            quiesced=True, commands=commands, typed=typed, made_before=made_before,
            named=named,
        )  # fmt: skip


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path)


@pytest.fixture
def points(work, installed):
    before = work.image(
        "before",
        {"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/shadow": "root:*:1\n"},
        {},
    )
    after = work.image(
        "after",
        {**installed, "srv/logo.png": b"\x89PNG\xff\0"},
        {
            "etc/systemd/system/multi-user.target.wants/nginx.service": "/lib/systemd/system/nginx.service",
            "etc/systemd/system/timers.target.wants/x.timer": "/etc/systemd/system/x.timer",
        },
    )
    return work.layers(before, after)


async def test_each_change_is_told_with_its_owner(work, points):
    changes = await work.diff(*points)
    owners = {change.path: change.package for change in changes.shown()}
    assert owners == {
        "/etc/nginx/mime.types": "nginx",
        "/etc/nginx/nginx.conf": "",
        "/etc/systemd/system/multi-user.target.wants/nginx.service": "nginx",
        "/etc/systemd/system/timers.target.wants/x.timer": "",
        "/etc/systemd/system/x.timer": "",
        "/srv/.netrc": "",
        "/srv/logo.png": "",
        "/srv/page {{ x }} ü.html": "",
        "/usr/lib/systemd/system/nginx.service": "nginx",
        "/usr/sbin/forged": "",
        "/usr/sbin/nginx": "nginx",
    }
    assert changes.hidden["service state"] == 1
    assert changes.hidden["logs"] == 1
    assert any("/usr/sbin/forged: a file of nginx" in note for note in changes.notes)
    assert any("/etc/nginx/nginx.conf: a configuration file of nginx" in note for note in changes.notes)


async def test_what_a_playbook_writes_is_neither_noise_nor_a_package_s_own(work, installed):
    files = installed | {
        "var/lib/dpkg/info/nginx.prerm": "#!/bin/sh\n: as root\n",
        "srv/plain": "x",
        "var/lib/nginx/page.pyc": "bytes",
    }
    links = {"srv/here": "../var/lib/nginx"}
    before = {"etc/passwd": "root:x:0:0::/root:/bin/sh\n"}
    points = work.layers(work.image("before", before, {}), work.image("after", files, links))
    hidden = {change.path for change in (await work.diff(*points)).files if change.hidden}
    named = [
        b"/var/lib/dpkg/info/nginx.prerm", b"/srv/here/body", b"/srv/here/page.pyc", b"/usr/sbin/nginx",
        b"/etc/passwd",
    ]  # fmt: skip
    changes = await work.diff(*points, named=named)
    shown = {change.path: change.package for change in changes.shown()}
    written = {"/var/lib/dpkg/info/nginx.prerm", "/var/lib/nginx/body", "/var/lib/nginx/page.pyc"}
    assert written <= hidden, "without a playbook that names them they are noise"
    assert {path: shown.get(path) for path in (*written, "/usr/sbin/nginx")} == dict.fromkeys(
        (*written, "/usr/sbin/nginx"), ""
    )
    assert "/etc/passwd" not in shown, "its users tell all that it holds"
    assert "as root" in next(one.after.text for one in changes.files if one.path.endswith("nginx.prerm"))


async def test_what_a_playbook_writes_by_another_name_is_found_where_the_whole_tree_leads(work, installed):
    """Links of the image are no changes: /lib is one of usr/lib, and stands on both sides."""
    links = {"srv/data": "/var/lib/dpkg", "srv/aside/x": "../data/info/nginx.prerm", "srv/loop": "loop"}
    files = {"usr/lib/x.pyc": "bytes", "var/lib/dpkg/info/nginx.prerm": ":\n", "var/log/nginx.log": "x"}
    points = work.layers(work.image("before", {}, links), work.image("after", files, links))
    for named, shown in (
        (b"/lib/x.pyc", "/usr/lib/x.pyc"),
        (b"/srv/data/info/nginx.prerm", "/var/lib/dpkg/info/nginx.prerm"),
        (b"/srv/aside/x/", "/var/lib/dpkg/info/nginx.prerm"),
        (b"/srv/aside/x", ""),
        (b"/srv/loop/x/", ""),
    ):
        changes = await work.diff(*points, named=[named])
        assert [one.path for one in changes.shown()] == [shown] * bool(shown), named


async def test_an_owner_below_a_folder_that_a_playbook_gives_away_is_no_noise(work, installed):
    files = {"var/log/nginx.log": "x", "var/log/nginx-as-root": "y"}
    before, after = work.image("before", files, {}), work.image("after", files, {})
    subprocess.run(
        ["debugfs", "-w", "-R", "set_inode_field /var/log/nginx.log uid 33", after],
        check=True, capture_output=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    points = work.layers(before, after)
    assert not [one for one in (await work.diff(*points)).shown() if one.path == "/var/log/nginx.log"]
    for named in (b"/var/log/**", b"/var/**"):
        shown = {one.path for one in (await work.diff(*points, named=[named])).shown()}
        assert "/var/log/nginx.log" in shown


async def test_a_folder_that_somebody_made_for_logs_is_told_and_what_is_in_it_is_not(work, installed):
    """The service that writes there fails where it is not."""
    lists = "var/lib/dpkg/info/nginx.list"
    folders = (
        "var/log/app",
        "var/log/app/day",
        "var/backups/nightly",
        "var/cache/app",
        "var/log/nginx",
        "var/log/own",
    )
    files = installed | {f"{folder}/x": "line" for folder in folders}
    files[lists] += "/var/log/nginx\n"
    files["var/lib/dpkg/info/nginx.postinst"] += "mkdir /var/log/own\n"
    points = work.layers(work.image("before", {}, {}), work.image("after", files, {}))
    lines = (
        "install -d -o app /var/log/app /var/cache/app", "install -d -m 0700 /var/backups/nightly",
        "chown app /var/log/nginx /var/log/own",
    )  # fmt: skip
    now = datetime.now(UTC) - timedelta(days=1)
    ran = [
        Command(id=f"CMD-{at}", sandbox_id="SBX-1", command=line, started_at=now, ended_at=now)
        for at, line in enumerate(lines)
    ]

    def told(changes: Changes) -> set[str]:
        return {
            one.path for one in changes.shown() if one.path.startswith(tuple(f"/{one}" for one in folders))
        }

    assert told(await work.diff(*points)) == set()
    changes = await work.diff(*points, commands=ran)
    assert told(changes) == {"/var/log/app", "/var/backups/nightly", "/var/cache/app"}
    playbook = generate(changes, ran, work.blobs, name="x").yaml
    assert all(path in playbook for path in told(changes))


async def test_a_state_folder_hides_what_a_service_keeps_whenever_it_was_made_and_no_rights(work, installed):
    """Inside and outside the time in which the package's scripts ran: the twin's clock is another one."""
    minute_ago = datetime.now(UTC) - timedelta(minutes=1)
    soon = datetime.now(UTC) + timedelta(seconds=1)
    lines = (
        f"{minute_ago:%F %T} install nginx:amd64 <none> 1.22",
        f"{soon:%F %T} status installed nginx:amd64 1.22",
    )
    installed |= {f"var/lib/nginx/shell{SETUID}": "#!/bin/sh", "var/log/dpkg.log": "\n".join(lines)}
    points = work.layers(work.image("before", {}, {}), work.image("after", installed, {}))
    changes = {change.path: change for change in (await work.diff(*points)).files}
    assert changes["/var/lib/nginx/body"].hidden == "service state"
    assert changes[f"/var/lib/nginx/shell{SETUID}"].hidden == ""


@pytest.mark.parametrize(
    ("script", "hidden"),
    [
        ("Setup_dir /var/lib/nginx 750\n", "service state"),
        ("rm -rf /var/lib/nginx-old /srv/var/lib/nginx\n", ""),
    ],
)
async def test_a_state_folder_may_be_made_by_a_script_and_in_no_list(
    work, installed, script: str, hidden: str
):
    lists = "var/lib/dpkg/info/nginx.list"
    installed |= {"var/lib/dpkg/info/nginx.postinst": script}
    installed[lists] = installed[lists].replace("/var/lib/nginx\n", "")
    points = work.layers(work.image("before", {}, {}), work.image("after", installed, {}))
    changes = {change.path: change for change in (await work.diff(*points)).files}
    assert changes["/var/lib/nginx/body"].hidden == hidden


@pytest.mark.parametrize("east", [0, 2, -5])
async def test_a_path_that_a_script_names_is_its_packages_whoever_else_was_at_work_in_that_second(
    work, installed, east: int
):
    """Wherever the guest is: dpkg's log has its local time."""
    minute_ago = datetime.now(UTC) + timedelta(hours=east) - timedelta(minutes=1)
    soon = datetime.now(UTC) + timedelta(hours=east, seconds=1)
    lines = (
        f"{minute_ago:%F %T} configure libx:amd64 1 <none>",
        f"{soon:%F %T} status installed libx:amd64 1",
        f"{minute_ago:%F %T} configure nginx:amd64 1.22 <none>",
        f"{soon:%F %T} status installed nginx:amd64 1.22",
        f"{soon:%F %T} status unpacked last:amd64 1",
    )
    script = "#!/bin/sh\ncp /usr/share/nginx/index.html /srv/index.html\n"
    installed |= {"srv/index.html": "<h1>It works</h1>", "var/log/dpkg.log": "\n".join(lines)}
    installed |= {"var/lib/dpkg/info/nginx.postinst": script}
    points = work.layers(work.image("before", {}, {}), work.image("after", installed, {}))
    changes = await work.diff(*points)
    owners = {change.path: change.package for change in changes.files}
    assert owners["/srv/index.html"] == "nginx"
    assert owners["/srv/page {{ x }} ü.html"] == ""
    assert not [note for note in changes.notes if "dpkg's log" in note]


async def test_a_link_that_goes_with_its_package_is_the_packages(work, installed):
    links = {
        "etc/systemd/system/multi-user.target.wants/nginx.service": "/lib/systemd/system/nginx.service",
        "etc/systemd/system/multi-user.target.wants/x.service": "/etc/systemd/system/x.service",
    }
    points = work.layers(work.image("before", installed, links), work.image("after", {}, {}))
    owners = {change.path: change.package for change in (await work.diff(*points)).files}
    assert [owners[f"/{link}"] for link in links] == ["nginx", ""]


@pytest.mark.parametrize(("minutes_ago", "owner"), [(0, "nginx"), (5, "")])
async def test_an_alternative_that_was_chosen_after_its_package_came_is_somebodys(
    work, installed, minutes_ago: int, owner: str
):
    end = datetime.now(UTC) - timedelta(minutes=minutes_ago) + timedelta(seconds=1)
    begin = end - timedelta(minutes=1)
    lines = (
        f"{begin:%F %T} configure nginx:amd64 1.22 <none>",
        f"{end:%F %T} status installed nginx:amd64 1.22",
        f"{end:%F %T} status unpacked last:amd64 1",
    )
    installed |= {"var/log/dpkg.log": "\n".join(lines)}
    links = {"etc/alternatives/httpd": "/usr/sbin/nginx"}
    points = work.layers(work.image("before", {}, {}), work.image("after", installed, links))
    owners = {change.path: change.package for change in (await work.diff(*points)).files}
    assert owners["/etc/alternatives/httpd"] == owner


@pytest.mark.parametrize(
    ("command", "hours_ago", "shown"),
    [
        ("echo x > /var/lib/nginx/body", 0, True),
        ("file.write /var/lib/nginx/body", 0, True),
        ("cd /tmp; cp ./body /var/lib/nginx/", 0, True),
        ("cp -r everybody /var/lib/nginx/", 0, True),  # its name is in the folder that was copied
        ("tar -C /var/lib/nginx -xf x.tar", 0, True),
        ("cd /var/lib && unzip ~/x.zip", 0, True),
        ("ls /var/lib/nginx; touch body.html", 0, False),
        ("systemctl restart nginx", 0, False),
        ("cp x /var/lib/nginx-old/", 0, False),
        ("echo x > /var/lib/nginx/body", 3, False),  # the service wrote it since
    ],
)
async def test_a_state_folder_shows_what_a_command_put_there_by_name(
    work, points, command: str, hours_ago: int, shown: bool
):
    at = datetime.now(UTC) - timedelta(hours=hours_ago)
    ran = Command(
        id="CMD-1", sandbox_id="SBX-1", command=command, started_at=at - timedelta(hours=1), ended_at=at
    )
    body = next(
        change
        for change in (await work.diff(*points, commands=[ran])).files
        if change.path == "/var/lib/nginx/body"
    )
    assert (body.hidden == "", body.commands == ["CMD-1"]) == (shown, shown)
    assert not shown or (body.package, body.after.text is not None) == ("", True)


@pytest.mark.parametrize(("command", "doubt"), [("", 0), ("systemctl restart nginx", 1)])
async def test_what_is_left_out_as_a_services_state_is_said_and_listed(
    work, points, command: str, doubt: int
):
    ran = Command(id="CMD-1", sandbox_id="SBX-1", command=command, started_at=datetime.fromtimestamp(0, UTC))
    changes = await work.diff(*points, commands=[ran] if command else [])
    left_out = "service state of nginx is left out: 1 files in /var/lib/nginx"
    meanwhile = ", 1 of them changed while commands ran that do not name them" if doubt else ""
    assert changes.notes[-1] == left_out + meanwhile
    assert [one.path for one in changes.files if one.hidden == "service state"] == ["/var/lib/nginx/body"]
    assert left_out + meanwhile in generate(changes, [ran], work.blobs, name="Test").notes


@pytest.mark.parametrize(("seconds_ago", "doubt"), [(30, True), (3600, False)])
async def test_what_changed_when_somebody_had_typed_into_a_terminal_is_in_doubt(
    work, points, seconds_ago: int, doubt: bool
):
    at = datetime.now(UTC).timestamp() - seconds_ago
    changes = await work.diff(*points, typed=[(at - 5, at)])
    said = ", 1 of them changed when somebody had typed into a terminal" if doubt else ""
    assert changes.notes[-1] == f"service state of nginx is left out: 1 files in /var/lib/nginx{said}"


@pytest.mark.parametrize("ran", [True, False])
async def test_host_keys_that_a_command_made_anew_are_said(work, ran: bool):
    key = "etc/ssh/ssh_host_rsa_key"
    before, after = (
        work.image(name, {key: name, "etc/ssh/fluid_ca.pub": name, "srv/x": name}, {})
        for name in ("before", "after")
    )
    command = Command(
        id="CMD-1", sandbox_id="SBX-1", command="ssh-keygen -A", started_at=datetime.fromtimestamp(0, UTC)
    )
    changes = await work.diff(*work.layers(before, after), commands=[command] if ran else [])
    said = [f"host keys: /{key} was made anew while CMD-1 ran"] if ran else []
    assert [note for note in changes.notes if "ssh" in note] == said
    assert [one.path for one in changes.shown()] == ["/srv/x"], "no playbook brings another machine's keys"
    assert [note for note in generate(changes, [], work.blobs, name="Test").notes if "ssh" in note] == said


@pytest.mark.parametrize(
    ("ends_in_s", "command", "hidden"),
    [
        (60, "cd / && apt-get install -y nginx", "service state"),
        (60, "tar -C / -xf x.tar", ""),  # beside the scripts
        (-2, "cd / && apt-get install -y nginx", ""),  # after them
    ],
)
async def test_what_scripts_made_while_their_packages_were_installed_is_no_work_of_the_command_that_did_it(
    work, installed, ends_in_s: int, command: str, hidden: str
):
    """A cluster that the script of a database made, and a command that happens to stand in ``/``."""
    now = datetime.now(UTC)
    begin, end = now - timedelta(minutes=1), now + timedelta(seconds=ends_in_s)
    lines = (
        f"{begin:%F %T} configure nginx:amd64 1.22 <none>",
        f"{end:%F %T} status installed nginx:amd64 1.22",
        f"{end:%F %T} configure last:amd64 1 <none>",
        f"{end:%F %T} status installed last:amd64 1",
    )
    points = work.layers(
        work.image("before", {}, {}),
        work.image("after", installed | {"var/log/dpkg.log": "\n".join(lines)}, {}),
    )
    ran = Command(id="CMD-1", sandbox_id="SBX-1", command=command, started_at=now - timedelta(hours=1))
    changes = {change.path: change for change in (await work.diff(*points, commands=[ran])).files}
    assert changes["/var/lib/nginx/body"].hidden == hidden


async def test_packages_units_and_accounts_are_told(work, points):
    changes = await work.diff(*points)
    assert [(one.name, one.after_version, one.wanted) for one in changes.packages] == [
        ("nginx", "1.22", True)
    ]
    assert {unit.name: (unit.package, unit.after.enabled) for unit in changes.units} == {
        "nginx.service": ("nginx", True),
        "x.timer": ("", True),
    }
    assert {user.name: (user.package, user.after["password"]) for user in changes.users} == {
        "deploy": ("", "set"),
        "nginx": ("nginx", "locked"),
    }
    assert "$y$" not in changes.model_dump_json()


@pytest.mark.parametrize("name", ["cron.service.d/limits.conf", "cron.service"])
async def test_a_unit_that_gets_a_drop_in_or_a_file_in_the_place_of_its_own_is_changed(work, name):
    stock = {"usr/lib/systemd/system/cron.service": "[Service]\nExecStart=cron\n"}
    links = {
        "etc/systemd/system/multi-user.target.wants/cron.service": "/lib/systemd/system/cron.service",
        "etc/systemd/system/idle.service": "/dev/null",
    }
    drop_in = {f"etc/systemd/system/{name}": "[Service]\nNice=5\n"}
    points = work.layers(work.image("before", stock, links), work.image("after", stock | drop_in, links))
    changes = await work.diff(*points)
    assert [(one.name, one.verb, one.before == one.after) for one in changes.units] == [
        ("cron.service", "modified", True)
    ]
    assert changes.masked == ["idle.service"]


async def test_another_name_of_a_packages_unit_that_its_script_makes_is_the_packages(work, installed):
    links = {"etc/systemd/system/www.service": "/lib/systemd/system/nginx.service"}
    points = work.layers(work.image("before", {}, {}), work.image("after", installed, links))
    units = {unit.name: unit.package for unit in (await work.diff(*points)).units}
    assert (units["www.service"], units["nginx.service"], units["x.timer"]) == ("nginx", "nginx", "")


@pytest.mark.parametrize(("more", "owner"), [({}, "nginx"), ({"x.timer": "/etc/systemd/system/x.timer"}, "")])
async def test_a_new_folder_of_wanted_units_is_the_packages_where_all_of_them_are(work, more, owner):
    folder = "etc/systemd/system/sockets.target.wants"
    listed = "/lib/systemd/system/nginx.service\n"
    files = {
        "usr/lib/systemd/system/nginx.service": "x",
        "var/lib/dpkg/info/nginx.list": listed,
        "var/lib/dpkg/info/nginx.md5sums": f"{md5('x')}  lib/systemd/system/nginx.service\n",
        "var/lib/dpkg/status": STANZA.format(conf="", mime=""),
    }
    links = {"nginx.service": listed.strip(), **more}
    after = work.image("after", files, {f"{folder}/{name}": to for name, to in links.items()})
    changes = await work.diff(*work.layers(work.image("before", {}, {}), after))
    assert {change.path: change.package for change in changes.files}[f"/{folder}"] == owner


async def test_what_a_service_made_of_a_file_that_its_package_brought_is_its_state(work, installed):
    """An empty table of mounts, which the service fills; a configuration file there counts."""
    lists, status = "var/lib/dpkg/info/nginx.list", "var/lib/dpkg/status"
    installed |= {"var/lib/nginx/site.conf": "edited\n"}
    installed[lists] += "/var/lib/nginx/body\n/var/lib/nginx/site.conf\n"
    conffile = f"Conffiles:\n /var/lib/nginx/site.conf {md5('shipped')}\n"
    installed[status] = installed[status].replace("Conffiles:\n", conffile)
    points = work.layers(work.image("before", {}, {}), work.image("after", installed, {}))
    changes = await work.diff(*points)
    hidden = {change.path: change.hidden for change in changes.files}
    assert (hidden["/var/lib/nginx/body"], hidden["/var/lib/nginx/site.conf"]) == ("service state", "")
    assert not [note for note in changes.notes if "/var/lib/nginx/body" in note]
    assert [note for note in changes.notes if "/var/lib/nginx/site.conf" in note]


async def test_text_is_kept_as_text_the_rest_as_blobs_and_secrets_not_at_all(work, points):
    changes = await work.diff(*points)
    found = {change.path: change.after for change in changes.files}
    assert found["/srv/page {{ x }} ü.html"].text == "<h1>{{ hello }}</h1>\n"
    logo = found["/srv/logo.png"]
    assert (logo.text, logo.blob, work.blobs.get(logo.sha256)) == (None, True, b"\x89PNG\xff\0")
    netrc = found["/srv/.netrc"]
    assert (netrc.secret, netrc.text, netrc.blob) == ("credentials", None, False)
    assert netrc.sha256 != hashlib.sha256(b"machine x password geheim\n").hexdigest()
    assert "geheim" not in changes.model_dump_json()


async def test_a_change_names_the_commands_that_were_running(work, points):
    whole = await work.diff(*points)
    made = next(change for change in whole.files if change.path == "/srv/logo.png").after.mtime
    now = datetime.now(UTC)
    commands = [
        Command(
            id="CMD-1",
            sandbox_id="SBX-1",
            command="install",
            started_at=now - timedelta(hours=1),
            ended_at=now,
        ),
        Command(id="CMD-2", sandbox_id="SBX-1", command="later", started_at=now + timedelta(hours=1)),
    ]
    changes = await work.diff(*points, commands=commands)
    assert made
    told = [*changes.shown(), *changes.packages, *changes.units, *changes.users, *changes.groups]
    assert {tuple(change.commands) for change in [*told, *changes.settings]} == {("CMD-1",)}


@pytest.fixture
def machine(work):
    """A machine before and after somebody worked on what its files state."""
    hosts = "127.0.0.1 localhost\n127.0.1.1 {}\n"
    before = {
        "etc/hostname": "old\n",
        "etc/hosts": hosts.format("old"),
        "etc/sysctl.d/10-a.conf": "vm.swappiness=60\n",
        "etc/cron.d/job": "0 1 * * * root /bin/job\n",
    }
    after = before | {
        "etc/hostname": "new\n",
        "etc/hosts": hosts.format("new") + "10.0.0.5 db\n",
        "etc/sysctl.d/90-b.conf": "vm.swappiness=10\n",
        "etc/cron.d/job": "0 2 * * * root /bin/job\n",
        "var/lib/nginx/body": "x",
    }
    return work.layers(work.image("before", before, {}), work.image("after", after, {}))


@pytest.mark.parametrize("named", [True, False])
async def test_what_files_state_is_told_and_a_machine_s_own_name_only_if_it_was_given(
    work, machine, named: bool
):
    now = datetime.now(UTC)
    ran = Command(
        id="CMD-1",
        sandbox_id="SBX-1",
        command="hostnamectl set-hostname new" if named else "sleep 60",
        started_at=now - timedelta(hours=1),
        ended_at=now,
    )
    changes = await work.diff(*machine, commands=[ran])
    assert [(one.kind.value, one.name, one.before, one.after, one.hidden) for one in changes.settings] == [
        ("cron job", "/bin/job", {"schedule": "0 1 * * *", "user": "root"},
         {"schedule": "0 2 * * *", "user": "root"}, ""),
        ("kernel parameter", "vm.swappiness", {"value": "60"}, {"value": "10"}, ""),
        ("host name", "host name", {"value": "old"}, {"value": "new"}, "" if named else "identity"),
        ("hosts entry", "10.0.0.5", {}, {"names": "db"}, ""),
        ("hosts entry", "127.0.1.1", {} if named else {"names": "old"}, {"names": "new"},
         "" if named else "identity"),
    ]  # fmt: skip
    assert {tuple(one.commands) for one in changes.settings} == {("CMD-1",)}
    assert [one.name for one in changes.stated()] == ["host name"] * named + ["10.0.0.5"] + [
        "127.0.1.1"
    ] * named
    assert changes.settings[1].paths == ["/etc/sysctl.d/10-a.conf", "/etc/sysctl.d/90-b.conf"]


HOSTS = "127.0.0.1 localhost\n127.0.1.1 {}\n"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("127.0.0.1 localhost\n127.0.1.1 mine\n", []),
        ("127.0.0.1 localhost\n127.0.1.1 mine shop.lan\n", [("127.0.1.1", {}, {"names": "shop.lan"})]),
        (HOSTS.format("mine") + "10.0.0.5 mine\n", [("10.0.0.5", {}, {"names": "mine"})]),
        (HOSTS.format("mine") + "10.0.0.5 localhost\n", [("10.0.0.5", {}, {"names": "localhost"})]),
        ("127.0.0.1 localhost api\n127.0.1.1 mine\n",
         [("127.0.0.1", {"names": "localhost"}, {"names": "localhost api"})]),
    ],
    ids=["its own name", "beside its own name", "its name elsewhere", "localhost elsewhere", "localhost"],
)  # fmt: skip
async def test_of_a_hosts_file_all_counts_but_the_machine_s_own_name_at_its_own_address(
    work, lines: str, told: list
):
    before = {"etc/hostname": "base\n", "etc/hosts": HOSTS.format("base"), "etc/resolv.conf": "# none\n"}
    after = {"etc/hostname": "mine\n", "etc/hosts": lines, "etc/resolv.conf": "nameserver 9.9.9.9\n"}
    now = datetime.now(UTC)
    ran = Command(
        id="CMD-1", sandbox_id="SBX-1", command="x", started_at=now - timedelta(hours=1), ended_at=now
    )
    points = work.layers(work.image("before", before, {}), work.image("after", after, {}))
    changes = await work.diff(*points, commands=[ran])
    shown = [(one.name, one.before, one.after) for one in changes.stated()]
    assert shown == told
    # Nothing in it is a machine's own: it is shown, and copied, as a whole.
    (resolver,) = [one for one in changes.shown() if one.path == "/etc/resolv.conf"]
    assert resolver.after.text == "nameserver 9.9.9.9\n"
    assert [one.path for one in (await work.diff(*points)).shown()] == []


async def test_of_a_machine_that_was_made_before_every_name_was_meant(work):
    before = {"etc/hostname": "twin\n", "etc/hosts": HOSTS.format("twin")}
    after = {"etc/hostname": "web\n", "etc/hosts": HOSTS.format("twin") + "127.0.1.1 web.lan web\n"}
    points = work.layers(work.image("before", before, {}), work.image("after", after, {}))
    changes = await work.diff(*points, made_before=True)
    assert [(one.name, one.after) for one in changes.stated()] == [
        ("host name", {"value": "web"}),
        ("127.0.1.1", {"names": "web.lan web"}),
    ]


async def test_a_content_too_large_to_be_hashed_may_have_changed_and_is_never_reproduced(work, monkeypatch):
    monkeypatch.setattr(differ, "LIMITS", replace(differ.LIMITS, hash_bytes=999))
    files = {"srv/disk.img": "a" * 1000, "etc/job": "b" * 1000, "srv/same.img": "s" * 1000}
    before = work.image("before", files, {})
    data = before.read_bytes().replace(b"a" * 1000, b"c" * 1000).replace(b"b" * 1000, b"d" * 1000)
    after = before.with_name("after.raw")
    after.write_bytes(data)
    changes = await work.diff(*work.layers(before, after))
    assert {change.path: (change.verb.value, change.after.sha256) for change in changes.shown()} == {
        "/etc/job": ("modified", None),
        "/srv/disk.img": ("modified", None),
    }
    assert "/srv/disk.img: its content may have changed, too large to hash (over 999 bytes)" in changes.notes
    rows = [(one.kind, one.name) for one in residual(changes, changes)]
    assert {("missing", "/srv/disk.img"), ("missing", "/etc/job")} <= set(rows)
    with pytest.raises(PlaybookRefused):  # nothing of it can be done
        generate(changes, [], work.blobs, name="large")


def partitioned(root: Path, *others: tuple[int, bytes]) -> bytes:
    """A disk with an MBR: the root, and partitions by kind and content."""
    head = bytearray(1 << 20)
    head[510:512], head[440:444] = b"\x55\xaa", bytes.fromhex("efbeadde")
    body, at = bytearray(root.read_bytes()), 1 << 20
    rows = [(0x83, len(body)), *((kind, len(content)) for kind, content in others)]
    for slot, (kind, length) in enumerate(rows):
        head[446 + 16 * slot : 462 + 16 * slot] = struct.pack("<4xB3xII", kind, at // 512, length // 512)
        at += length
    return bytes(head) + bytes(body) + b"".join(content for _, content in others)


async def test_what_was_removed_names_who_ran_when_its_folder_last_changed_or_who_names_it(work):
    """Of two files that went from one folder no time is known."""
    before = {"etc/cron.d/alone": "x", "srv/gone": "x", "root/one": "x", "root/two": "x"}
    points = work.layers(work.image("before", before, {}), work.image("after", {}, {}))
    now = datetime.now(UTC)
    hour = timedelta(hours=1)

    def command(id: str, words: str, start: datetime, end: datetime) -> Command:
        return Command(id=id, sandbox_id="SBX-1", command=words, started_at=start, ended_at=end)

    ran = [
        command("CMD-1", "rm -r /root/one /root/twofold", now - 3 * hour, now - 2 * hour),
        command("CMD-2", "cleanup", now - hour, now),
    ]
    changes = await work.diff(*points, commands=ran)
    assert {change.path: change.commands for change in changes.shown()} == {
        "/etc/cron.d/alone": ["CMD-2"],
        "/root/one": ["CMD-1"],
        "/root/two": [],
        "/srv/gone": ["CMD-2"],
    }
    assert "1 removed files: when is not known, the commands are those that name them" in changes.notes


async def test_a_package_that_was_purged_names_who_ran_by_dpkg_s_log(work, installed):
    log = "{0:%F %T} purge nginx:amd64 1.22 <none>\n{0:%F %T} status not-installed nginx:amd64 <none>\n"
    now = datetime.now(UTC)
    after = {"var/log/dpkg.log": log.format(now)}
    points = work.layers(work.image("before", installed, {}), work.image("after", after, {}))
    hour = timedelta(hours=1)
    ran = [
        Command(id=id, sandbox_id="SBX-1", command="x", started_at=at - hour, ended_at=at)
        for id, at in (("CMD-1", now - hour), ("CMD-2", now + timedelta(minutes=1)))
    ]
    (package,) = (await work.diff(*points, commands=ran)).packages
    assert (package.verb.value, package.commands) == ("removed", ["CMD-2"])


LONG = "INSERT INTO posts VALUES (1, 'words');\n" * 30_000  # more than 1 MB


@pytest.mark.parametrize(
    ("path", "line", "secret"),
    [
        ("srv/dump.sql", "INSERT INTO users VALUES ('ann', '{}');\n", "$2b$12$" + "a" * 53),
        ("srv/dump", "{}\n", "$2b$12$" + "a" * 53),
        ("srv/notes", "{}\n", "ghp_" + "a" * 36),
        ("srv/dump.sql", "CREATE USER shop IDENTIFIED BY '{}';\n", "Hx7pq9Zt4"),
    ],
)
async def test_a_secret_far_into_a_file_is_kept_nowhere(work, path: str, line: str, secret: str):
    after = {path: LONG + line.format(secret), "srv/plain.sql": LONG}
    changes = await work.diff(*work.layers(work.image("before", {}, {}), work.image("after", after, {})))
    (file,) = [change.after for change in changes.shown() if change.path == f"/{path}"]
    assert (bool(file.secret), file.blob, file.text) == (True, False, None)
    assert secret not in changes.model_dump_json()
    blobs = [blob.name for blob in (work.folder / "blobs").rglob("*") if blob.is_file()]
    assert blobs == [hashlib.sha256(LONG.encode()).hexdigest()]


async def test_what_lies_on_another_partition_is_named_in_each_diff(work):
    fstab = (
        "UUID=11111111-2222-3333-4444-555555555555 / ext4 defaults 0 1\n"
        "PARTUUID=deadbeef-02 /var ext4 defaults 0 2\n/dev/vda3 none swap sw 0 0\n"
        "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n"
    )
    others = [(0x83, bytes(1 << 20)), (0x83, bytes(1 << 20)), (0xEF, bytes(1 << 20))]
    disks = []
    for name, files in (("before", {}), ("after", {"srv/x": "x"})):
        root = work.image(name, {"etc/fstab": fstab} | files, {})
        root.write_bytes(partitioned(root, *others))
        disks.append(root)
    before, after = work.layers(*disks)
    note = "other partitions are not looked into, changes there are not told: /var (partition 2, 0.0 GiB)"
    assert (await work.diff(before, after)).notes == [note]
    assert (await work.diff(before, before)).notes == [note]
    survey = await DiskReader().survey(after, [])
    assert [(one.number, one.role, one.points) for one in survey.elsewhere] == [
        (2, "data", (b"/var",)), (3, "swap", ()), (4, "boot", ()),
    ]  # fmt: skip


INI = "[db]\nuser = shop\npassword = {}\n"


async def test_a_password_in_a_configuration_is_never_handed_over_but_its_change_is(work):
    one, other = {"etc/shop.ini": INI.format("Hx7pq9Zt4")}, {"etc/shop.ini": INI.format("Kw2mm8Lp0")}
    points = work.layers(work.image("before", one, {}), work.image("after", other, {}))
    changes = await work.diff(*points)
    (file,) = changes.files
    assert (file.before.secret, file.after.secret) == ("credentials", "credentials")
    assert file.before.text == file.after.text == INI.format("‹secret›")
    assert file.before.sha256 != file.after.sha256
    assert not file.after.blob
    for word in ("Hx7pq9Zt4", "Kw2mm8Lp0"):
        assert word not in changes.model_dump_json()


ROOT = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
    "etc/group": "root:x:0:\nsudo:x:27:\n",
    "etc/shadow": "root:*:1:0:99999:7:::\nann:!:1:0:99999:7:::\n",
}


@pytest.mark.parametrize(
    "row",
    [
        *(f"ops:x:0:0:Ops{mark}x:/root:/bin/bash" for mark in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r"),
        "ops:x:0:0",
        "  ops:x:+00: 0::/:/bin/sh",
        "ops:x:-0:0::/:/bin/sh",
    ],
)
async def test_an_account_with_uid_0_is_told_in_whatever_way_it_is_written(work, row: str):
    after = ROOT | {"etc/passwd": ROOT["etc/passwd"] + row + "\n"}
    points = work.layers(work.image("before", ROOT, {}), work.image("after", after, {}))
    changes = await work.diff(*points)
    assert [(user.name, user.after["uid"]) for user in changes.users] == [("ops", "0")]
    assert "makes ops an administrator (uid 0)" in risks(changes)
    nothing = await work.diff(points[0], points[0])
    assert [(one.kind, one.noun, one.name) for one in residual(changes, nothing)] == [
        ("missing", "user", "ops")
    ]


async def test_who_rules_a_group_and_who_may_be_others_is_told_though_noise_hides_the_files(work):
    before = ROOT | {"etc/gshadow": "root:*::\nsudo:*::\n", "etc/subuid": "ann:100000:65536\n"}
    after = before | {
        "etc/gshadow": "root:*::\nsudo:$y$j9T$hash:ann:\n",
        "etc/subuid": "ann:100000:65536\nann:0:65536\n",
    }
    points = work.layers(work.image("before", before, {}), work.image("after", after, {}))
    changes = await work.diff(*points)
    ((group,), shown) = changes.groups, {change.path for change in changes.shown()}
    assert (group.name, group.after["administrators"], group.after["password"]) == ("sudo", "ann", "set")
    assert shown == {"/etc/subuid"} and "/etc/subuid: ann:0:65536" in changes.notes
    assert "lets an account be others: gives it ids beside its own" in risks(changes)
    assert "j9T" not in changes.model_dump_json()
    nothing = await work.diff(points[0], points[0])
    assert [(one.kind, one.noun, one.name) for one in residual(changes, nothing)] == [
        ("missing", "group", "sudo"), ("missing", "file", "/etc/subuid"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "row", "words"),
    [
        ("passwd", "ann:x:0:0::/root:/bin/sh", "'ann' is a second one of its name (0)"),
        ("passwd", "ops:x:zero:0::/root:/bin/sh", "'ops' cannot be read"),
        ("passwd", "ops:x:²:0::/root:/bin/sh", "'ops' cannot be read"),
        ("passwd", "+nis::::::", "'+nis' takes in accounts"),
        ("group", "sudo:x:0:ann", "'sudo' is a second one of its name (0)"),
        ("shadow", "ann:$y$other:1:0:99999:7:::", "'ann' is a second one of its name"),
        ("shadow", "$y$hash", "'?' cannot be read"),
    ],
)
async def test_a_row_that_no_account_tells_is_told_and_its_file_compared(
    work, file: str, row: str, words: str
):
    after = ROOT | {f"etc/{file}": ROOT[f"etc/{file}"] + row + "\n"}
    points = work.layers(work.image("before", ROOT, {}), work.image("after", after, {}))
    changes = await work.diff(*points)
    assert [change.path for change in changes.shown()] == [f"/etc/{file}"]
    assert any(words in note for note in changes.notes)
    assert "touches the accounts in a way that no list of accounts tells" in risks(changes)
    nothing = await work.diff(points[0], points[0])
    missing = [one for one in residual(changes, nothing) if one.noun == "file"]
    assert [(one.kind, one.name) for one in missing] == [("missing", f"/etc/{file}")]
    assert "y$" not in changes.model_dump_json()
    back = await work.diff(points[1], points[0])
    assert any(words in note and "no longer" in note for note in back.notes)


async def test_a_row_that_was_strange_before_hides_as_ever(work):
    before = ROOT | {"etc/passwd": ROOT["etc/passwd"] + "ann:x:0:0::/root:/bin/sh\n"}
    after = before | {"etc/passwd": before["etc/passwd"] + "bob:x:1001:1001::/:/bin/sh\n"}
    changes = await work.diff(*work.layers(work.image("before", before, {}), work.image("after", after, {})))
    assert ([user.name for user in changes.users], changes.shown(), changes.notes) == (["bob"], [], [])


SCRIPT: dict[str, str | bytes] = {"srv/perl": "#!x\n"}
APART: dict[str, str | bytes] = {**SCRIPT, "srv/perl5": "#!x\n"}
POINTS = {
    "one": (SCRIPT, ()),
    "linked": (SCRIPT, ("srv/perl5",)),
    "apart": (APART, ()),
    "linked to a third": (SCRIPT, ("srv/perl6",)),
}
"""Of a program: files, and further names of the first."""


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("linked", "apart", {"perl": ("metadata", ["perl5"], []), "perl5": ("metadata", ["perl"], [])}),
        ("apart", "linked", {"perl": ("metadata", [], ["perl5"]), "perl5": ("metadata", [], ["perl"])}),
        ("one", "linked", {"perl": ("metadata", [], ["perl5"]), "perl5": ("added", None, ["perl"])}),
        ("linked", "one", {"perl": ("metadata", ["perl5"], []), "perl5": ("removed", ["perl"], None)}),
        (
            "linked",
            "linked to a third",
            {
                "perl": ("metadata", ["perl5"], ["perl6"]),
                "perl5": ("removed", ["perl"], None),
                "perl6": ("added", None, ["perl"]),
            },
        ),
        ("linked", "linked", {}),
    ],
)
async def test_which_names_are_one_file_is_told_before_and_after(work, before, after, told):
    images = []
    for side, point in (("before", before), ("after", after)):
        files, names = POINTS[point]
        images.append(work.image(side, {**files, "etc/passwd": "", "srv/time": side}, {}, names))
        # As a kernel does: the file's own time tells that its names changed.
        run = ["debugfs", "-w", "-R", f"set_inode_field /srv/perl ctime @{len(images)}", images[-1]]
        subprocess.run(run, check=True, capture_output=True, timeout=TIMEOUT_S)
    changes = await work.diff(*work.layers(*images))
    found = {
        one.path.removeprefix("/srv/"): (
            one.verb.value,
            *(
                state and [name.removeprefix("/srv/") for name in state.same_file]
                for state in (one.before, one.after)
            ),
        )
        for one in changes.shown()
    }
    assert found.pop("time")[0] == "modified"
    assert found == told


async def test_names_that_a_playbook_makes_files_of_their_own_are_said_and_missing(work):
    before = work.image("before", {"etc/passwd": ""}, {})
    sandbox = await work.diff(*work.layers(before, work.image("after", SCRIPT, {}, ("srv/perl5",))))
    draft = generate(sandbox, [], work.blobs, name="x")
    assert "/srv/perl, /srv/perl5: one file under 2 names, which a playbook makes a file each" in draft.notes
    (work.folder / "base.raw").unlink()
    twin = await work.diff(*work.layers(before, work.image("twin", APART, {})))
    rows = {(row.kind, row.name): row for row in residual(sandbox, twin)}
    assert {("missing", "/srv/perl"), ("missing", "/srv/perl5")} <= rows.keys()
    assert "one file with /srv/perl5" in rows["missing", "/srv/perl"].sandbox


async def test_names_that_are_parted_are_said_and_no_task_is_made_of_them(work):
    before = work.image("before", {**SCRIPT, "etc/passwd": ""}, {}, ("srv/perl5",))
    changes = await work.diff(*work.layers(before, work.image("after", {**APART, "srv/new": "1"}, {})))
    draft = generate(changes, [], work.blobs, name="x")
    assert [task.paths for task in draft.tasks] == [["/srv/new"]]
    assert "/srv/perl, /srv/perl5: were one file, which a playbook does not part" in draft.notes


async def test_a_diff_with_itself_is_empty_and_its_residual_too(work, points):
    before, after = points
    same = await work.diff(after, after)
    assert (same.files, same.packages, same.hidden) == ([], [], {})
    whole = await work.diff(before, after)
    assert residual(whole, whole) == []
