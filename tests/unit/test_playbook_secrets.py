"""Secrets of a playbook: what a value must be, and how paths that hold one are compared."""

from __future__ import annotations

import pytest

from backend.errors import InvalidValue
from backend.models import ChangeVerb, UserChange
from backend.playbooks import CheckedPlaybook, check, generate
from backend.playbooks.builders.context import GuestFacts
from backend.playbooks.secrets import check_values, compare, placeholders, stand_ins
from tests.unit.playbooks_sample import Sample

HASH = "$6$abcdefgh$" + "x" * 86
GOOD = {"content_of_root_pgpass": "h:1:d:u:pw\n", "password_hash_of_u": HASH}


def sandbox(sha256: str = "a" * 64, mode: int = 0o600) -> Sample:
    """An agent gave a user a password and the database's client another."""
    sample = Sample()
    sample.commands = []
    after = {"uid": "1", "gid": "1", "home": "/srv/u", "shell": "/bin/sh", "groups": "", "password": "set"}
    sample.parts["users"] = [UserChange(name="u", verb=ChangeVerb.ADDED, after=after)]
    sample.add("/root/.pgpass", mode=mode, secret="credentials", sha256=sha256, size=len(sha256))
    return sample


def playbook() -> CheckedPlaybook:
    sample = sandbox()
    draft = generate(sample.changes(), [], sample.blobs, name="test", facts=GuestFacts())
    return check(draft.yaml.encode(), draft.files, secrets=draft.secrets)


def test_every_secret_with_a_fit_value_is_taken() -> None:
    check_values(playbook(), GOOD)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"password_hash_of_u": None}, "password_hash_of_u"),
        ({"other": "x"}, "no secret 'other'"),
        ({"content_of_root_pgpass": ""}, "content_of_root_pgpass must be text"),
        ({"content_of_root_pgpass": "a\0b"}, "content_of_root_pgpass must be text"),
        ({"password_hash_of_u": "hunter2"}, "hash as in shadow"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_never_repeated(
    change: dict[str, str | None], word: str
) -> None:
    given = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(InvalidValue) as refused:
        check_values(playbook(), given)
    assert word in refused.value.message
    assert "hunter2" not in f"{refused.value.message} {refused.value.remedy} {refused.value.details}"


def test_placeholders_are_random_text_for_each_name() -> None:
    one, other = placeholders(GOOD), placeholders(GOOD)
    assert set(one) == set(GOOD) and len(set(one.values()) | set(other.values())) == 4


def test_a_content_that_is_a_secret_is_compared_masked_and_told() -> None:
    rows = compare(sandbox("a" * 64).changes(), sandbox("b" * 63).changes(), playbook())
    assert [(row.kind, row.name) for row in rows] == [("regenerated", "/root/.pgpass")]
    assert "content_of_root_pgpass" in rows[0].reason


def test_the_mask_hides_the_content_and_nothing_else() -> None:
    rows = compare(sandbox().changes(), sandbox(mode=0o644).changes(), playbook())
    assert {row.kind for row in rows if row.name == "/root/.pgpass"} == {"missing", "extra", "regenerated"}
    nothing = Sample()
    rows = compare(sandbox().changes(), nothing.changes(), playbook())
    assert ("missing", "/root/.pgpass") in [(row.kind, row.name) for row in rows]
    assert "regenerated" not in {row.kind for row in rows}


def test_the_rehearsal_of_a_configuration_keeps_what_stands_around_its_password() -> None:
    sample = Sample()
    sample.commands = []
    text = "[db]\nuser = shop\npassword = ‹secret›\n"
    sample.add("/etc/shop.ini", secret="credentials", sha256="a" * 64, size=40, text=text)
    draft = generate(sample.changes(), [], sample.blobs, name="test", facts=GuestFacts())
    assert draft.secrets == ["content_of_etc_shop_ini"]
    found = check(draft.yaml.encode(), draft.files, secrets=draft.secrets)
    one, other = (stand_ins(found, sample.changes())["content_of_etc_shop_ini"] for _ in range(2))
    assert one != other
    assert one.startswith("[db]\nuser = shop\npassword = ") and "‹" not in one


def swap(sha256: str, size: int) -> Sample:
    sample = Sample()
    sample.commands = [sample.commands[0].model_copy(update={"command": "mkswap /swap"})]
    sample.add("/swap", mode=0o600, sha256=sha256 * 64, size=size)
    return sample


def test_what_is_formatted_on_each_machine_is_compared_by_its_size() -> None:
    mine = swap("a", 4096)
    draft = generate(mine.changes(), mine.commands, mine.blobs, name="test", facts=GuestFacts())
    playbook = check(draft.yaml.encode(), draft.files)
    rows = compare(mine.changes(), swap("b", 4096).changes(), playbook)
    assert [(row.kind, row.name, row.reason) for row in rows] == [
        ("regenerated", "/swap", "formatted anew on each machine")
    ]
    rows = compare(mine.changes(), swap("b", 8192).changes(), playbook)
    assert {row.kind for row in rows} == {"missing", "extra", "regenerated"}


DRAWN = {
    "/srv/ca.srl": (b"5F3A\n", b"19C2\n"),
    "/srv/dh.pem": tuple(
        b"-----BEGIN DH PARAMETERS-----\n%s\n-----END DH PARAMETERS-----\n" % word
        for word in (b"AAAA", b"BBBB")
    ),
    "/srv/motd": (b"welcome\n", b"go away\n"),
}


def made(side: int) -> Sample:
    sample = Sample()
    commands = ("x509 -req -in /srv/a.csr -CA /srv/ca.crt -CAcreateserial", "dhparam", "req -new")
    sample.commands = [
        sample.commands[0].model_copy(update={"id": f"CMD-{n}", "command": f"openssl {words} -out {out}"})
        for n, (words, out) in enumerate(
            zip(commands, ("/srv/a.crt", "/srv/dh.pem", "/srv/motd"), strict=True)
        )
    ]
    sample.add(
        "/srv/a.crt", mode=0o600, secret="private key", sha256=f"{side}" * 64, certificate={"key": "rsa"}
    )
    for path, contents in DRAWN.items():
        sample.add(path, contents[side])
    return sample


def test_numbers_drawn_by_a_command_of_the_playbook_are_told_and_nothing_else_it_claims_to_make() -> None:
    mine = made(0)
    draft = generate(mine.changes(), mine.commands, mine.blobs, name="test", facts=GuestFacts())
    rows = compare(mine.changes(), made(1).changes(), check(draft.yaml.encode(), draft.files))
    found = {(row.kind, row.name) for row in rows}
    assert {("regenerated", "/srv/ca.srl"), ("regenerated", "/srv/dh.pem")} <= found
    assert {("missing", "/srv/motd"), ("extra", "/srv/motd")} <= found


def test_a_file_that_a_task_writes_is_compared_whatever_a_handler_formats() -> None:
    mine = swap("a", 4096)
    draft = generate(mine.changes(), mine.commands, mine.blobs, name="test", facts=GuestFacts())
    sha256 = "c" * 64
    task = f"""
    - name: Write /swap
      ansible.builtin.copy:
        dest: /swap
        src: files/{sha256}
"""
    text = draft.yaml.replace("\n  handlers:", task + "\n  handlers:")
    rows = compare(mine.changes(), swap("b", 4096).changes(), check(text.encode(), {sha256}))
    assert {row.kind for row in rows} == {"missing", "extra"}
