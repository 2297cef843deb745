"""When evidence suffices, and what a reader must be warned of. Pure functions over the nouns."""

from __future__ import annotations

from backend.models import (
    FROM_GUEST,
    Approval,
    Changes,
    ChangeVerb,
    Evidence,
    FileKind,
    FileState,
    by_whom,
    how_read,
)

_RISKS: tuple[tuple[str, str], ...] = (
    ("/etc/ssh/", "touches the SSH daemon's configuration"),
    ("/etc/sudoers", "touches sudoers"),
    ("/etc/pam.d/", "touches authentication (PAM)"),
    ("/etc/nftables", "touches the firewall"),
    ("/etc/iptables", "touches the firewall"),
    ("/etc/ufw", "touches the firewall"),
    ("/etc/fstab", "touches mounts"),
    ("/etc/crypttab", "touches encrypted disks"),
    ("/etc/sysctl", "changes kernel settings"),
    ("/etc/apt/sources", "changes where packages come from"),
    ("/etc/network", "touches the network configuration"),
    ("/etc/systemd/network", "touches the network configuration"),
    ("/boot/", "touches the boot files"),
    ("/etc/cron", "schedules commands"),
    ("/var/spool/cron", "schedules commands"),
    ("/etc/ld.so.preload", "loads code into every program"),
    ("/etc/profile", "runs code at every login"),
)
_KEYS_FILE = "/.ssh/authorized_keys"
_SET_ID = 0o6000
_CAPABILITY = "security.capability"
_ADMINS = frozenset({"sudo", "wheel", "docker", "libvirt", "lxd", "disk", "shadow"})


def blockers(evidence: Evidence, targets: list[str], *, allow_unrehearsed: bool = False) -> list[str]:
    """What still stands between this evidence and an approval, a sentence each. Empty: it may be approved."""
    found: list[str] = []
    if evidence.failure:
        found.append(evidence.failure)
    if evidence.rehearsal is None or evidence.again_changed is None:
        found.append("the rehearsal is not finished")
    elif evidence.again_changed:
        where = by_whom(evidence.read_from)
        found.append(f"not idempotent: the second run changed {evidence.again_changed} things {where}")
    if rows := evidence.rows("missing") + evidence.rows("extra"):
        found.append(f"the residual is not empty: {len(rows)} differences between sandbox and rehearsal")
    if evidence.unrehearsed and not allow_unrehearsed:
        found.append(f"{len(evidence.unrehearsed)} tasks were skipped in the rehearsal")
    for target in targets:
        seen = evidence.dry_run.get(target)
        if seen is None or seen.at is None:
            found.append(f"the dry run on {target} is not finished")
        elif seen.error:
            found.append(f"the dry run on {target} failed: {seen.error}")
    return found


def counts(changes: Changes) -> dict[str, int]:
    """The figures of the checklist."""
    shown = [change for change in changes.shown() if not change.package]
    by_verb = {verb: sum(change.verb is verb for change in shown) for verb in ChangeVerb}
    return {
        "files": len(shown),
        "files_added": by_verb[ChangeVerb.ADDED],
        "files_modified": by_verb[ChangeVerb.MODIFIED] + by_verb[ChangeVerb.METADATA],
        "files_removed": by_verb[ChangeVerb.REMOVED],
        "packages": len(changes.packages),
        "units": len(changes.units),
        "users": len(changes.users),
        "groups": len(changes.groups),
        "hidden": sum(changes.hidden.values()),
    }


def risks(changes: Changes) -> list[str]:
    """What a careful reader looks at first, in words, each once."""
    found = [f"the change was {how_read(changes.read_from)}"] if changes.read_from == FROM_GUEST else []
    for change in changes.shown():
        if not change.package:
            found += [words for prefix, words in _RISKS if change.path.startswith(prefix)]
        if change.verb is ChangeVerb.REMOVED and not change.package:
            found.append("removes files")
        if _KEYS_FILE in change.path:
            found.append("changes which keys may log in")
        if not change.package and _gives_rights(change.after):
            found.append("a program gets more rights than its caller (setuid, capabilities)")
    for user in changes.users:
        if user.after.get("uid") == "0" or _ADMINS.intersection(user.after.get("groups", "").split(",")):
            found.append("makes an administrator")
    if changes.units:
        found.append("enables or disables services")
    if any(package.verb is ChangeVerb.REMOVED for package in changes.packages):
        found.append("removes packages")
    return list(dict.fromkeys(found))


def _gives_rights(state: FileState | None) -> bool:
    return (
        state is not None
        and state.kind is FileKind.FILE
        and bool(state.mode & _SET_ID or _CAPABILITY in state.xattrs)
    )


def for_agent(approval: Approval) -> Approval:
    """The approval as its requester may see it: per target only counts, never text, address or fact."""
    shown = approval.model_copy(deep=True)
    for seen in shown.evidence.dry_run.values():
        seen.differs, seen.run_id, seen.fingerprint, seen.not_previewed = [], "", "", []
        seen.error = "failed" if seen.error else ""
    shown.digest = ""
    shown.apply_run = shown.verify_run = ""
    return shown
