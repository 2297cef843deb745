"""The way back: a change turned round becomes a playbook that restores what was there."""

from __future__ import annotations

from backend.models import ChangeVerb, FileKind, GroupChange, PackageChange, UserChange
from backend.playbooks import CheckedTask, Draft, check
from backend.playbooks.rollback import roll_back
from tests.unit.playbooks_sample import Sample, turned_round, web_server


def taken_back(sample: Sample) -> Draft:
    return roll_back(turned_round(sample.changes()), sample.blobs, name="Take back web")


def tasks(draft: Draft) -> list[CheckedTask]:
    return check(draft.yaml.encode(), draft.files, secrets=draft.secrets).tasks


def test_a_web_server_is_taken_back_in_the_order_that_works() -> None:
    draft = taken_back(web_server())
    assert [task.name for task in tasks(draft)] == [
        "Stop and disable rotate.timer",
        "Remove /etc/nginx/sites-available/site",
        "Remove /etc/nginx/sites-enabled/site",
        "Remove /etc/ssl/site",
        "Remove /etc/sysctl.d/60-site.conf",
        "Remove /etc/systemd/system/rotate.service",
        "Remove /etc/systemd/system/rotate.timer",
        "Remove /srv/deploy",
        "Remove /srv/site",
        "Remove libssl3, nginx-light and openssl",
        "Remove the user deploy",
        "Remove the group deploy",
    ]
    stop, *_ = tasks(draft)
    assert stop.args == {
        "argv": ["systemctl", "disable", "--now", "rotate.timer"],
        "removes": "/etc/systemd/system/rotate.timer",
    }
    (packages,) = [task for task in tasks(draft) if task.module == "ansible.builtin.apt"]
    assert packages.args["purge"] is True
    assert "the kernel keeps the values" in draft.notes[-1]


def test_a_service_that_goes_with_its_package_is_not_woken_by_the_removal_of_its_files() -> None:
    draft = taken_back(web_server())
    assert "nginx" not in " ".join(
        handler.name for handler in check(draft.yaml.encode(), draft.files).handlers
    )


def test_what_was_changed_or_removed_is_as_it_was() -> None:
    sample = Sample()
    sample.commands = []
    sample.add("/etc/motd", b"new\n", verb=ChangeVerb.MODIFIED)
    sample.add("/etc/issue", b"gone\n", verb=ChangeVerb.REMOVED)
    for change, text in zip(sample.files, (b"old\n", b"gone\n"), strict=True):
        assert change.before is not None
        change.before.text, change.before.blob = text.decode(), False
    sample.parts["packages"] = [
        PackageChange(name="nano", verb=ChangeVerb.REMOVED, before_version="7", wanted=True)
    ]
    sample.parts["users"] = [UserChange(name="joe", verb=ChangeVerb.ADDED, after={"uid": "1001"})]
    sample.parts["groups"] = [GroupChange(name="joe", verb=ChangeVerb.ADDED, after={"gid": "1001"})]
    draft = taken_back(sample)
    assert [task.name for task in tasks(draft)] == [
        "Install nano",
        "Remove the user joe",
        "Remove the group joe",
        "Write /etc/issue",
        "Write /etc/motd",
    ]
    assert sorted(draft.files.values()) == [b"gone\n", b"old\n"]


def test_a_content_that_was_not_kept_is_said() -> None:
    sample = Sample()
    sample.add("/srv/a", b"x")
    sample.add("/srv/huge", verb=ChangeVerb.REMOVED)
    assert "/srv/huge: its content was not kept" in taken_back(sample).notes[0]


def test_a_secret_that_was_there_comes_back_as_a_variable() -> None:
    sample = Sample()
    sample.commands = []
    for path, kind in (("/etc/own.key", "private key"), ("/etc/app.conf", "credentials")):
        sample.add(path, b"new\n", verb=ChangeVerb.MODIFIED)
        assert sample.files[-1].before is not None
        sample.files[-1].before.secret, sample.files[-1].before.blob = kind, False
    draft = taken_back(sample)
    assert sorted(draft.secrets) == ["content_of_etc_app_conf", "content_of_etc_own_key"]
    assert draft.files == {} and draft.notes == []


def test_a_user_who_was_in_no_group_is_taken_out_of_all() -> None:
    sample = Sample()
    sample.commands = []
    sides = {"uid": "1001", "groups": ""}, {"uid": "1001", "groups": "games,docker"}
    sample.parts["users"] = [
        UserChange(name="joe", verb=ChangeVerb.MODIFIED, before=sides[0], after=sides[1])
    ]
    (task,) = tasks(taken_back(sample))
    assert task.args == {"name": "joe", "groups": "", "append": False}


def test_an_authority_that_goes_is_taken_out_of_the_collection_by_its_own_program() -> None:
    """The collection of another machine would bring that one's authorities along."""
    sample = Sample()
    sample.commands = []
    sample.add("/usr/local/share/ca-certificates/own.crt", b"own\n")
    sample.add("/etc/ssl/certs/ca-certificates.crt", b"all, own\n", verb=ChangeVerb.MODIFIED)
    sample.add("/etc/ssl/certs/own.pem", kind=FileKind.LINK, target="/usr/local/share/x/own.crt")
    draft = taken_back(sample)
    assert [(task.name, task.notify) for task in tasks(draft)] == [
        ("Remove /usr/local/share/ca-certificates/own.crt", ("Collect the trusted certificates",))
    ]


def test_what_a_program_made_goes_with_the_settings_of_that_program() -> None:
    sample = Sample()
    sample.commands = []
    for path in ("/etc/aliases", "/etc/aliases.db"):
        sample.add(path, b"x\n")
    assert [task.name for task in tasks(taken_back(sample))] == [
        "Remove /etc/aliases",
        "Remove /etc/aliases.db",
    ]


def test_a_swap_file_in_use_is_let_go_of_before_it_is_removed() -> None:
    sample = Sample()
    sample.commands = []
    sample.add("/swapfile", mode=0o600, size=1 << 20)
    back = turned_round(sample.changes())
    for swaps, first in (({"/swapfile"}, "Stop using /swapfile as swap"), (set(), "Remove /swapfile")):
        found = tasks(roll_back(back, sample.blobs, name="back", swaps=swaps))
        assert found[0].name == first and found[-1].name == "Remove /swapfile"
