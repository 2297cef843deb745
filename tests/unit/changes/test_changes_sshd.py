"""What counts of the SSH daemon's files is what the daemon itself says (``sshd -T``)."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from backend.changes.settings import access
from backend.changes.settings.fact import Place
from backend.changes.settings.layered import LAYERED

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin") or "sshd"
TIMEOUT_S = 10
WORDS = {
    "PermitRootLogin": ("yes", "no"), "PasswordAuthentication": ("yes", "no"), "X11Forwarding": ("yes", "no"),
    "MaxAuthTries": ("3", "5"), "AllowUsers": ("ann", "bob"), "Port": ("22", "2222"),
}  # fmt: skip
BEGINS = ("{} ", "{}=", "{}\t", '"{}" ')
VALUES = ("{}", '"{}"', "'{}'")
ENDS = ("", "", " # no")
(EFFECTIVE,) = (one.effective for one in LAYERED if one.main == access.SSHD_MAIN)


@pytest.fixture(scope="module")
def host_key(tmp_path_factory) -> Path:
    key = tmp_path_factory.mktemp("sshd") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=TIMEOUT_S)
    return key


def said(config: Path, host_key: Path) -> dict[str, set[str]]:
    who = "user=x,host=h,addr=192.0.2.1"
    told = subprocess.run(
        [SSHD, "-T", "-f", config, "-h", host_key, "-C", who],
        check=True, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    found: dict[str, set[str]] = {}
    for line in told.stdout.splitlines():
        word, _, value = line.partition(" ")
        found.setdefault(word, set()).add(value)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_words_that_count_are_those_of_the_daemon(tmp_path, host_key, seed: int):
    dice = random.Random(seed)

    def lines(count: int, *left_out: str) -> str:
        known = sorted(WORDS.keys() - set(left_out))
        chosen = [(word, dice.choice(WORDS[word])) for word in dice.choices(known, k=count)]
        spelled = [(word if dice.random() < 0.5 else word.lower(), value) for word, value in chosen]
        return "".join(
            f"{dice.choice(BEGINS).format(word)}{dice.choice(VALUES).format(value)}{dice.choice(ENDS)}\n"
            for word, value in spelled
        )

    main = f"{lines(2)}Include {tmp_path}/drop/*.conf\n{lines(4)}"
    if seed % 2:
        main += f"Match User git\n  PasswordAuthentication no\nMatch all\n{lines(3, 'Port')}"
    files = {tmp_path / "config": main}
    files |= {tmp_path / "drop" / f"{name}.conf": lines(2) for name in ("20-b", "10-a")}
    (tmp_path / "drop").mkdir()
    for path, text in files.items():
        path.write_text(text)
    places = [
        Place(access.SSHD_MAIN if path.name == "config" else str(path).encode(), data=text.encode())
        for path, text in files.items()
    ]
    counted: dict[str, set[str]] = {}
    for fact in EFFECTIVE({place.path: place for place in places}):
        if not fact.name.startswith(("match ", "include")):
            counted.setdefault(fact.name, set()).add(fact.values["value"])
    daemon = said(tmp_path / "config", host_key)
    assert counted == {word: daemon[word] for word in counted}
