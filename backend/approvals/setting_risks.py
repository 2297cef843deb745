"""What a setting means to who must answer for it: a sentence, or none where nobody would ask.

The words stand for what is so after the change; of what is gone, that it is. Values are a guest's: they have
no passwords any more, and whoever draws them makes them harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from backend.changes.grants import grants, people
from backend.changes.settings.system import HARDWARE_CLOCK
from backend.models import SettingChange, SettingKind

Told = tuple[int, str]
"""How grave, and the sentence: the smaller comes first."""
GRAVE, USUAL, PLAIN = range(3)
_LETS_ROOT = {
    "yes": "sshd lets root log in, with a password too",
    "no": "sshd lets root log in no more",
}
_SSHD_SWITCHES = {
    "passwordauthentication": "passwords",
    "kbdinteractiveauthentication": "typed answers, such as passwords",
    "challengeresponseauthentication": "typed answers, such as passwords",
    "permitemptypasswords": "empty passwords",
    "pubkeyauthentication": "keys",
    "hostbasedauthentication": "other hosts' word",
}
_SSHD_DOORS = {
    "allowusers": "sshd lets only these users in",
    "allowgroups": "sshd lets only these groups in",
    "denyusers": "sshd keeps these users out",
    "denygroups": "sshd keeps these groups out",
    "port": "sshd listens on port",
    "listenaddress": "sshd listens at",
    "authorizedkeysfile": "sshd takes login keys from",
    "authorizedkeyscommand": "sshd asks a program for login keys",
    "trustedusercakeys": "sshd believes certificates signed by",
    "forcecommand": "sshd runs this whatever was asked for",
    "include": "sshd reads more words, which nobody looked at, from",
}
_OPENS = re.compile(r"(?i)(?<![\w-])(?:accept|allow)(?![\w-])|\bdnat\b|\bredirect\b|^limit\b")
_SHUTS = re.compile(r"(?i)(?<![\w-])(?:drop|reject|deny)(?![\w-])")
_TRUSTED_CERTIFICATES = (
    "/usr/local/share/ca-certificates/",
    "/etc/ssl/certs/",
    "/etc/pki/ca-trust/source/",
    "/usr/share/pki/",
)
_NO = ("0", "no", "false", "off", "none")
_APT_NO = ("0", "no", "false", "without", "off", "disable")  # all else may mean yes to apt (StringToBool)
_APT_UNSIGNED = ("trusted", "allow-insecure", "allow-downgrade-to-insecure")  # sources.list(5)
_APT = (
    (re.compile(r"(?i).*(?:allowunauthenticated|allowinsecure|allowweak|allow-insecure).*"), True,
     "apt takes packages that nobody signed"),
    (re.compile(r"(?i).*::verify-(?:peer|host)"), False, "apt believes any server's certificate"),
    (re.compile(r"(?i)apt::periodic::unattended-upgrade"), True, "upgrades packages by itself"),
)  # fmt: skip
_APT_RUNS = re.compile(r"(?i)(?:dpkg|apt::update)::(?:pre|post)-(?:install-pkgs|invoke).*")
_ANY_NETWORK = re.compile(r"net\.ipv[46]\.(?:ip_forward|conf\.(?:all|default)\.forwarding)")


def of_setting(change: SettingChange) -> Iterator[Told]:
    """The sentences of one setting."""
    if tells := _TELLS.get(change.kind):
        yield from tells(change)


def _gone(change: SettingChange) -> bool:
    return not change.after


def _value(change: SettingChange, name: str = "value") -> str:
    """What counts from now on; of what is gone, what counted."""
    return (change.after or change.before).get(name, "")


# --- who may what -------------------------------------------------------------------------------------------


def _sudo(change: SettingChange) -> Iterator[Told]:
    values = change.after or change.before
    if "ignored" in values:
        return
    if change.name.startswith("Defaults") and "sets" in values:
        setting = values["sets"]
        if _gone(change):
            yield USUAL, f"sudo: {change.name} {setting} is gone"
        elif setting.replace(" ", "") == "!authenticate":
            yield GRAVE, f"sudo asks nobody for a password ({change.name} !authenticate)"
        else:
            yield PLAIN, f"sudo: {change.name} {setting}"
    elif "means" in values:
        yield USUAL, f"sudo: {change.name} means {values['means'] if change.after else 'nothing any more'}"
    elif "path" in values:
        yield (
            USUAL,
            f"sudo reads {values['path']}" if change.after else f"sudo reads {values['path']} no more",
        )
    elif "may" in values:
        yield from _rule(change, values["may"])


def _rule(change: SettingChange, may: str) -> Iterator[Told]:
    who = people(change.name)
    if _gone(change):
        yield USUAL, f"{who} may no longer: {may}"
        return
    parts = grants(may)
    if not parts or " : " in may:
        yield USUAL, f"{who} may by sudo: {may}"
        return
    for one in parts:
        how = "without a password" if one.free else "with their password"
        if one.everything:
            yield GRAVE if one.free else USUAL, f"{who} may become root {how} ({may})"
        else:
            user = "root" if one.as_root else one.user
            yield USUAL, f"{who} may run as {user}, {how}: {', '.join(one.commands)}"


def _login_key(change: SettingChange) -> Iterator[Told]:
    who, _, print_ = change.name.partition(" ")
    if who.endswith(":"):
        return  # not a key
    values = change.after or change.before
    comment = f", {values['comment']}" if values.get("comment") else ""
    options = f", restricted to {values['options']}" if values.get("options") else ""
    words = "may no longer" if _gone(change) else "may"
    yield (
        GRAVE if who == "root" and change.after else USUAL,
        f"a key {words} log in as {who}: {print_}{comment}{options}",
    )


def _sshd(change: SettingChange) -> Iterator[Told]:
    scope, _, word = change.name.rpartition(": ")
    where = f", {scope}" if scope else ""
    value = _value(change)
    told = f"({word} {value}{where})"
    if _gone(change):
        yield USUAL, f"sshd: {word} {value}{where} is gone"
        return
    name = word.lower()
    if name == "permitrootlogin":
        yield GRAVE, f"{_LETS_ROOT.get(value.lower(), 'sshd lets root log in with a key')} {told}"
    elif name in _SSHD_SWITCHES:
        more = " no more" if value.lower() in _NO else ""
        yield GRAVE, f"sshd accepts {_SSHD_SWITCHES[name]}{more} {told}"
    elif name in _SSHD_DOORS:
        yield USUAL, f"{_SSHD_DOORS[name]}: {value}{where}"
    else:
        yield PLAIN, f"sshd: {word} {value}{where}"


# --- the network --------------------------------------------------------------------------------------------


def _firewall(change: SettingChange) -> Iterator[Told]:
    name, values = change.name, change.after or change.before
    if "order" in values:
        yield USUAL, f"firewall rules of {name} stand in another order"
        return
    for what, value in values.items():
        if change.before.get(what) == value and change.after:
            continue
        if _gone(change):
            yield USUAL, f"firewall, no longer in {name}: {what} {value}"
        elif what == "hook" or value == "-":
            continue  # where a chain hooks in, or that it has no policy, says nothing without its rules
        elif name == "ufw ENABLED":
            yield GRAVE, f"switches the firewall {'on' if value.lower() == 'yes' else 'off'} ({name} {value})"
        elif what in ("policy", "target") or name.lower().endswith("policy"):
            verb = "drops" if _SHUTS.search(value) else "lets in"
            yield GRAVE, f"firewall {verb} what no rule names ({name} {value})"
        elif _SHUTS.search(value):
            yield USUAL, f"firewall drops, {name}: {value}"
        elif _OPENS.search(value) or name.startswith("zone "):
            yield USUAL, f"firewall lets in, {name}: {'' if what == 'rule' else what + ' '}{value}"
        else:
            yield PLAIN, f"firewall, {name}: {value}"


def _hosts(change: SettingChange) -> Iterator[Told]:
    if _gone(change):
        yield USUAL, f"{change.name} has no names in /etc/hosts any more"
    else:
        yield USUAL, f"/etc/hosts: {change.name} is {change.after.get('names', '')}"


def _resolver(change: SettingChange) -> Iterator[Told]:
    told = ", ".join((change.after or {"": "gone"}).values())
    yield USUAL, f"names are looked up otherwise: {change.name} {told}"


# --- where programs come from -------------------------------------------------------------------------------


def _source(change: SettingChange) -> Iterator[Told]:
    values = change.after or change.before
    if change.name.startswith("pin of "):
        told = f"{values.get('pin', '')} {values.get('priority', '')}".strip()
        yield USUAL, f"apt: {change.name} is {told if change.after else 'gone'}"
        return
    where = values.get("baseurl") or values.get("mirrorlist") or values.get("metalink") or change.name
    if _gone(change):
        yield USUAL, f"takes no more packages from {where}"
        return
    signer = values.get("signed-by") or values.get("gpgkey")
    unsigned = values.get("gpgcheck", "1").lower() in _NO or any(
        values.get(name, "no").lower() not in _APT_NO for name in _APT_UNSIGNED
    )
    off = values.get("enabled", "").lower() in _NO and "enabled" in values
    how = (
        "WITHOUT a signature" if unsigned else f"signed by {signer}" if signer else "signed by any known key"
    )
    yield (
        GRAVE if unsigned else USUAL,
        f"takes packages from {where}, {how}" + (" (switched off)" if off else ""),
    )


def _source_key(change: SettingChange) -> Iterator[Told]:
    owner = (change.after or change.before).get("owner", "")
    who = f"{change.name} ({owner})" if owner else change.name
    yield USUAL, f"believes packages signed by {who}" if change.after else f"the package key {who} is gone"


def _apt(change: SettingChange) -> Iterator[Told]:
    value = _value(change)
    if _gone(change):
        return
    if _APT_RUNS.fullmatch(change.name):
        yield USUAL, f"apt runs as root each time: {value}"
    for pattern, on, words in _APT:
        if pattern.fullmatch(change.name) and (value.lower() not in _NO) is on:
            yield USUAL, f"{words} ({change.name} {value})"


def _certificate(change: SettingChange) -> Iterator[Told]:
    values = change.after or change.before
    if _gone(change):
        yield USUAL, f"the certificate {change.name} is gone ({values.get('subject', '')})"
    elif change.name.startswith(_TRUSTED_CERTIFICATES):
        yield USUAL, f"trusts the authority {values.get('subject', '')} until {values.get('until', '')}"


def _private_key(change: SettingChange) -> Iterator[Told]:
    if _gone(change):
        yield USUAL, f"the private key {change.name} is gone"
        return
    bare = "" if change.after.get("passphrase") == "yes" else ", no passphrase"
    yield (
        USUAL,
        f"a private key lies at {change.name} ({change.after.get('key', '') or 'of unknown kind'}{bare})",
    )


# --- what runs ----------------------------------------------------------------------------------------------


def _cron(change: SettingChange) -> Iterator[Told]:
    values = change.after or change.before
    when = values.get("schedule") or values.get("runs", "")
    user = values.get("user") or "root"
    if _gone(change):
        yield USUAL, f"cron no longer runs as {user}: {change.name}"
    elif not when.startswith("never"):
        yield USUAL, f"cron runs as {user} ({when}): {change.name}"


def _unit(change: SettingChange) -> Iterator[Told]:
    user = change.after.get("Service.User", "root")
    for word, program in change.after.items():
        if word.startswith("Service.Exec") and program and program != change.before.get(word):
            when = "" if word == "Service.ExecStart" else f" ({word.partition('.')[2]})"
            yield USUAL, f"{change.name} runs as {user}{when}: {program}"


def _drop_in(change: SettingChange) -> Iterator[Told]:
    told = [
        f"{name.partition('.')[2]} {value or 'empty'}"
        for name, value in change.after.items()
        if change.before.get(name) != value
    ]
    yield USUAL, f"{change.name}: {', '.join(told)}" if told else f"{change.name} is gone"


def _timer(change: SettingChange) -> Iterator[Told]:
    when = [
        f"{name.partition('.')[2]} {value}"
        for name, value in change.after.items()
        if name.startswith("Timer.On")
    ]
    if when:
        yield USUAL, f"{change.name} starts by itself: {', '.join(when)}"


# --- the machine --------------------------------------------------------------------------------------------


def _mount(change: SettingChange) -> Iterator[Told]:
    values = change.after or change.before
    kind, options = values.get("type", ""), values.get("options", "")
    verb = "no longer mounts" if _gone(change) else "mounts"
    if kind == "swap":
        verb = "no longer swaps to" if _gone(change) else "swaps to"
        yield USUAL, f"{verb} {change.name}"
    else:
        yield USUAL, f"{verb} {values.get('device', '')} at {change.name} ({kind}, {options})"


def _module(change: SettingChange) -> Iterator[Told]:
    word, _, module = change.name.partition(" ")
    if _gone(change):
        yield USUAL, f"no longer for the kernel: {change.name}"
    elif "loaded" in change.after:
        yield USUAL, f"loads the kernel module {change.name} at boot"
    elif word == "blacklist":
        yield USUAL, f"keeps the kernel module {module} out"
    elif word == "install":
        yield USUAL, f"runs {_value(change)} in the place of loading {module}"
    else:
        yield USUAL, f"kernel module {module}: {word} {_value(change)}"


def _sysctl(change: SettingChange) -> Iterator[Told]:
    value = _value(change)
    if _gone(change):
        yield USUAL, f"the kernel parameter {change.name} is set no more"
    elif change.name == "kernel.core_pattern" and value.startswith("|"):
        yield GRAVE, f"the kernel runs as root at each crash: {value[1:]}"
    elif _ANY_NETWORK.fullmatch(change.name) and value not in _NO:
        yield USUAL, f"passes packets on between networks ({change.name} {value})"
    else:
        yield PLAIN, f"kernel parameter {change.name} {value}"


def _host_name(change: SettingChange) -> Iterator[Told]:
    yield USUAL, f"names the machine {_value(change)}" if change.after else "the machine has no name any more"


def _time_zone(change: SettingChange) -> Iterator[Told]:
    if change.name == HARDWARE_CLOCK:
        yield USUAL, f"lets the hardware clock keep {'local time' if change.after else 'UTC'}"
    elif change.after:
        yield USUAL, f"sets the time zone to {_value(change, 'zone')}"


_TELLS: dict[SettingKind, Callable[[SettingChange], Iterator[Told]]] = {
    SettingKind.SUDO: _sudo,
    SettingKind.LOGIN_KEY: _login_key,
    SettingKind.SSHD: _sshd,
    SettingKind.FIREWALL: _firewall,
    SettingKind.HOSTS: _hosts,
    SettingKind.RESOLVER: _resolver,
    SettingKind.SOURCE: _source,
    SettingKind.SOURCE_KEY: _source_key,
    SettingKind.APT: _apt,
    SettingKind.CERTIFICATE: _certificate,
    SettingKind.PRIVATE_KEY: _private_key,
    SettingKind.CRON: _cron,
    SettingKind.UNIT: _unit,
    SettingKind.DROP_IN: _drop_in,
    SettingKind.TIMER: _timer,
    SettingKind.MOUNT: _mount,
    SettingKind.MODULE: _module,
    SettingKind.SYSCTL: _sysctl,
    SettingKind.HOSTNAME: _host_name,
    SettingKind.TIME_ZONE: _time_zone,
}
