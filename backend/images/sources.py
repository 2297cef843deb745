"""Which package sources a guest image is built from: the host's own, of the distribution and of no one else.

Nothing here touches the network. Formats: sources.list(5), both the one-line and the deb822 form.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from backend.errors import InvalidValue, Unavailable

APT_FOLDER = Path("/etc/apt")
KEYRINGS = Path("/usr/share/keyrings")
MAIN_POCKETS = ("", "-updates", "-security")
COMPONENTS = {
    "debian": {"main", "contrib", "non-free", "non-free-firmware"},
    "ubuntu": {"main", "restricted", "universe", "multiverse"},
}
REACHABLE = ("http://", "https://")
RELEASES = {
    "debian": {"12": "bookworm", "13": "trixie"},
    "ubuntu": {"24.04": "noble"},
}
"""What can be built, besides the host's own: older ones have another file system layout."""


@dataclass(frozen=True)
class Release:
    """The host's release as os-release(5) names it."""

    id: str
    version: str
    codename: str

    @property
    def image_name(self) -> str:
        """``debian-12``, ``ubuntu-24-04``: a name in the sense of ``backend.models.base.NAME``."""
        return f"{self.id}-{self.version}".replace(".", "-").lower()


@dataclass(frozen=True)
class Entry:
    """One archive, one suite. ``origin`` is the file that it was read from."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False
    origin: str = ""

    def deb822(self) -> str:
        """The stanza that a guest's apt and mmdebstrap read."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {self.suite}"]
        lines.append(f"Components: {' '.join(self.components)}")
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Selection:
    """What is used and what is left out, each of the latter with the reason."""

    used: tuple[Entry, ...]
    left_out: tuple[tuple[Entry, str], ...]

    def deb822(self) -> str:
        return "\n".join(entry.deb822() for entry in self.used)


def read_release(path: Path = Path("/etc/os-release")) -> Release:
    """The host's release; :class:`InvalidValue` for one that we cannot build."""
    fields: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            fields[key.strip()] = "".join(shlex.split(value))
    release = Release(fields.get("ID", ""), fields.get("VERSION_ID", ""), fields.get("VERSION_CODENAME", ""))
    if release.id not in COMPONENTS or not release.version or not release.codename:
        raise InvalidValue(
            f"no guest image can be built of {release.id or 'an unknown system'} {release.version}".rstrip(),
            remedy="run this on Debian 12 or 13 or Ubuntu 24.04, or import an image made elsewhere",
        )
    return release


def release_named(name: str, host: Release) -> Release:
    """The release that an image's name means, of the host's own distribution: its sources serve no other.

    Raises:
        InvalidValue: with the names that can be built here.
    """
    offered = [
        host,
        *(Release(host.id, version, code) for version, code in RELEASES.get(host.id, {}).items()),
    ]
    for release in offered:
        if release.image_name == name:
            return release
    names = sorted({release.image_name for release in offered})
    raise InvalidValue(
        f"image {name!r} cannot be built on this host", remedy=f"fluid images build {'|'.join(names)}"
    )


def moved(entries: list[Entry], host: Release, wanted: Release) -> list[Entry]:
    """The host's entries with its own release's suites made the wanted one's. What the host lists of that
    release itself comes first."""
    if wanted == host:
        return entries
    theirs = [entry for entry in entries if entry.suite.partition("-")[0] == wanted.codename]
    return theirs + [
        replace(
            entry,
            suite=wanted.codename + entry.suite.removeprefix(host.codename),
            signed_by=entry.signed_by if _is_whole_keyring(entry.signed_by, wanted) else "",
        )
        for entry in entries
        if not _foreign(entry, host)
    ]


def _is_whole_keyring(signed_by: str, release: Release) -> bool:
    """Whether it holds more than one release's keys."""
    return Path(signed_by).stem == f"{release.id}-archive-keyring"


def read_sources(folder: Path = APT_FOLDER) -> list[Entry]:
    """All enabled binary entries of the host, in apt's own order of files."""
    files = [folder / "sources.list"]
    parts = folder / "sources.list.d"
    if parts.is_dir():
        files += sorted(path for path in parts.iterdir() if path.suffix in (".list", ".sources"))
    entries: list[Entry] = []
    for path in files:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        parse = parse_deb822 if path.suffix == ".sources" else parse_one_line
        entries += parse(text, str(path))
    return entries


def parse_one_line(text: str, origin: str = "") -> list[Entry]:
    """Entries of a ``sources.list``: ``deb [option=value …] uri suite component …``."""
    entries = []
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        kind, _, rest = line.partition(" ")
        if kind != "deb":
            continue
        options: dict[str, str] = {}
        rest = rest.strip()
        if rest.startswith("["):
            inside, _, rest = rest[1:].partition("]")
            options = dict(word.split("=", 1) for word in inside.split() if "=" in word)
        words = rest.split()
        if len(words) < 2:
            continue
        entries.append(
            Entry(
                words[0],
                words[1],
                tuple(words[2:]),
                options.get("signed-by", ""),
                options.get("trusted", "").lower() == "yes",
                origin,
            )
        )
    return entries


def parse_deb822(text: str, origin: str = "") -> list[Entry]:
    """Entries of a ``*.sources`` file, one for each URI and suite of an enabled stanza."""
    entries = []
    for stanza in _stanzas(text):
        if stanza.get("enabled", "yes").lower() in ("no", "false", "0", "off"):
            continue
        if "deb" not in stanza.get("types", "").split():
            continue
        components = tuple(stanza.get("components", "").split())
        signed_by = stanza.get("signed-by", "").strip()
        trusted = stanza.get("trusted", "").lower() == "yes"
        entries += [
            Entry(uri, suite, components, signed_by, trusted, origin)
            for uri in stanza.get("uris", "").split()
            for suite in stanza.get("suites", "").split()
        ]
    return entries


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Stanzas with lower-case field names; a comment may stand inside one."""
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line.strip()
        else:
            last, _, value = line.partition(":")
            last = last.strip().lower()
            fields[last] = value.strip()
    if fields:
        yield fields


def select(entries: list[Entry], release: Release, keyrings: Path = KEYRINGS) -> Selection:
    """The entries that carry ``release`` itself, its updates and its security fixes.

    An entry counts as the distribution's when its suite is the release's, its components are the
    distribution's and no keyring but the distribution's own signs it.
    """
    used: list[Entry] = []
    left_out: list[tuple[Entry, str]] = []
    default_keyring = distribution_keyring(release, keyrings)
    for entry in entries:
        if reason := _foreign(entry, release):
            left_out.append((entry, reason))
            continue
        uri = first_mirror(entry.uri)
        if not uri.startswith(REACHABLE):
            left_out.append((entry, "a guest cannot reach it"))
            continue
        kept = Entry(
            uri.rstrip("/"),
            entry.suite,
            entry.components,
            entry.signed_by or default_keyring,
            origin=entry.origin,
        )
        if all((known.uri, known.suite) != (kept.uri, kept.suite) for known in used):
            used.append(kept)
    if not any(entry.suite == release.codename for entry in used):
        raise Unavailable(
            f"no configured package source offers {release.codename}",
            remedy=f"add the {release.id} archive of {release.codename} to /etc/apt/sources.list.d",
        )
    return Selection(tuple(used), tuple(left_out))


def _foreign(entry: Entry, release: Release) -> str:
    """Why ``entry`` is not the distribution's, or nothing."""
    if entry.suite not in {release.codename + pocket for pocket in MAIN_POCKETS}:
        return f"suite {entry.suite} is not {release.codename}, its updates or its security fixes"
    if not entry.components or not set(entry.components) <= COMPONENTS[release.id]:
        return f"components {' '.join(entry.components) or '(none)'} are not {release.id}'s"
    if entry.signed_by and not _is_distribution_key(entry.signed_by, release):
        return "signed by a key that is not the distribution's"
    if entry.trusted:
        return "its signature is not checked"
    return ""


def _is_distribution_key(signed_by: str, release: Release) -> bool:
    """Whether every key file named is one that the distribution's keyring package ships."""
    return all(
        Path(name).name.startswith(f"{release.id}-archive-") and name.startswith("/")
        for name in signed_by.replace(",", " ").split()
    )


def distribution_keyring(release: Release, keyrings: Path = KEYRINGS) -> str:
    """The distribution's own keyring on this host, empty when apt's trusted.gpg.d must do."""
    for suffix in (".pgp", ".gpg"):
        path = keyrings / f"{release.id}-archive-keyring{suffix}"
        if path.is_file():
            return str(path)
    return ""


def first_mirror(uri: str) -> str:
    """The first URI of a ``mirror+file:`` list (cloud images use one), any other URI unchanged."""
    if not uri.startswith("mirror+file:"):
        return uri
    listing = Path("/" + uri.removeprefix("mirror+file:").lstrip("/"))
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split("#", 1)[0].split()
            if words:
                return words[0]
    return uri
