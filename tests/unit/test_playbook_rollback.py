"""The way back: a change turned round becomes a playbook that restores what was there."""

from __future__ import annotations

from backend.models import ChangeVerb, GroupChange, PackageChange, UserChange
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
