"""What gives a secret away: the marks by which contents of files and recorded terminals are withheld."""

from __future__ import annotations

import re

KEY_HEADER = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----|PuTTY-User-Key-File-|openssh-key-v1\0")
KEY_MARKS = (
    b"PRIVATE KEY-----",
    b"PuTTY-User-Key-File-",
    b"openssh-key-v1",
)  # looked for before the pattern
TOKEN = re.compile(
    rb"(?:gh[pousr]_[A-Za-z0-9]{36}|AKIA[0-9A-Z]{16}|xox[abpr]-[0-9A-Za-z-]{20}|glpat-[\w-]{20}"
    rb"|github_pat_\w{22}|npm_[A-Za-z0-9]{36}"
    # Keys in forms of their own: OpenPGP, age, OpenVPN, DNSSEC, Tor.
    rb"|-----BEGIN PGP PRIVATE KEY BLOCK-----|AGE-SECRET-KEY-1[0-9A-Z]{20}|-----BEGIN OpenVPN Static key V"
    rb"|Private-key-format: v|== ed25519v1-secret)"
)
# crypt(5) of at least the length that its method gives, and what databases, LDAP and GRUB keep of a password.
PASSWORD_HASH = re.compile(
    rb"\$(?:1|apr1)\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}|\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}"
    rb"|\$5\$[^$\s]{1,40}\$(?:[^$\s]{1,16}\$)?[./A-Za-z0-9]{43}|\$6\$[^$\s]{1,40}\$(?:[^$\s]{1,16}\$)?[./A-Za-z0-9]{86}"
    rb"|\$(?:7|y|gy)\$[./A-Za-z0-9]{1,20}\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}"
    rb"|\$argon2i?d?\$v=\d{1,4}\$[a-z0-9=,]{1,60}\$[+/A-Za-z0-9]{11,}|SCRAM-SHA-256\$\d{1,9}:[+/=A-Za-z0-9]{8,}\$"
    rb"|\{S?(?:SHA(?:256|512)?|MD5)\}[+/A-Za-z0-9]{20,}|grub\.pbkdf2\.sha512\.\d{1,9}\.[0-9A-F]{16,}"
)
