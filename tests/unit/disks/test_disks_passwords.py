"""Passwords in ordinary configuration are taken out, and what only looks like one stays: a corpus of both."""

from __future__ import annotations

import re
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from backend.disks.contents import CREDENTIALS, PRIVATE_KEY, secret_kind, without_passwords
from backend.disks.passwords import MASK, MAX_HINTED_BYTES, Unsearched, masked
from backend.secret_marks import PASSWORD_HASH

SECRET = "Hx7pq9Zt4"
TOKEN = "f3Kd91mQz8Lw27RtYb56"
INI, YAML, SH = "/etc/app/app.ini", "/srv/app/config.yaml", "/usr/local/bin/backup.sh"

HOLD = [
    (INI, "user = shop\npassword = Hx7pq9Zt4\n"),
    (INI, "password=Hx7pq9Zt4 ; changed in May\n"),
    (INI, "[db]\nDB_PASS: Hx7pq9Zt4\n"),
    (INI, "passphrase = four words Hx7pq9Zt4\n"),
    (INI, 'smtp.password = "Hx7pq9Zt4"\n'),
    (INI, "dsn = postgres://shop:Hx7pq9Zt4@db:5432/shop\n"),
    ("/etc/redis/redis.conf", "requirepass Hx7pq9Zt4\n"),
    ("/etc/ldap.conf", "bindpw Hx7pq9Zt4\r\n"),
    ("/etc/keepalived/keepalived.conf", "authentication {\n  auth_type PASS\n  auth_pass Hx7pq9Zt4\n}\n"),
    ("/etc/haproxy/haproxy.cfg", "userlist u\n  user admin insecure-password Hx7pq9Zt4\n"),
    ("/etc/NetworkManager/system-connections/w.nmconnection", "[wifi-security]\npsk=Hx7pq9Zt4\n"),
    ("/etc/wireguard/wg0.conf", f"[Interface]\nPrivateKey = {TOKEN}AAAAAAAAAAAAAAAAAAAAAAA=\n"),
    ("/etc/bind/named.conf.local", f'key "k" {{\n  secret "{TOKEN}==";\n}};\n'),
    ("/etc/freeradius/clients.conf", "client x {\n  secret = testing123\n}\n"),
    ("/etc/grafana/grafana.ini", f"secret_key = {TOKEN}\n;admin_password = admin\n"),
    ("/etc/systemd/system/a.service", '[Service]\nEnvironment="DB_PASSWORD=Hx7pq9Zt4" LANG=C\n'),
    ("/etc/systemd/system/a.service", "[Service]\nExecStart=/bin/a --password Hx7pq9Zt4 --user x\n"),
    ("/etc/systemd/system/a.service", f"[Service]\nExecStart=/bin/a --token={TOKEN}\n"),
    ("/etc/cron.d/dump", "0 1 * * * root PGPASSWORD=Hx7pq9Zt4 pg_dump shop\n"),
    ("/var/spool/cron/crontabs/root", "@daily curl -u admin:Hx7pq9Zt4 https://x/\n"),
    ("/etc/mysql/conf.d/c.cnf", "[client]\nuser=root\npassword='Hx7pq9Zt4'\n"),
    (YAML, "database:\n  password: Hx7pq9Zt4\n"),
    (YAML, "database: {user: x, password: 'Hx7pq9Zt4'}\n"),
    (YAML, "env:\n  - name: DB_PASSWORD\n    value: Hx7pq9Zt4\n"),
    (YAML, f"apiToken: {TOKEN}\nclientSecret: {TOKEN}\n"),
    ("/srv/app/settings.json", '{"user": "x", "password": "Hx7pq9Zt4"}'),
    ("/srv/app/settings.json", f'{{"apiKey":"{TOKEN}","n":1}}'),
    ("/opt/tomcat/conf/tomcat-users.xml", '<user username="x" password="Hx7pq9Zt4" roles="m"/>\n'),
    ("/opt/m2/settings.xml", "<server><password>Hx7pq9Zt4</password></server>\n"),
    ("/var/www/html/wp-config.php", "define( 'DB_PASSWORD', 'Hx7pq9Zt4' );\n"),
    ("/srv/site/settings.py", "DATABASES = {'PASSWORD': 'Hx7pq9Zt4'}\n"),
    ("/opt/app/app.properties", "spring.datasource.password=Hx7pq9Zt4\n"),
    (SH, "#!/bin/sh\nexport RESTIC_PASSWORD='Hx7pq9Zt4'\n"),
    (SH, "#!/bin/sh\nmysqldump --user=x --password=Hx7pq9Zt4 shop\n"),
    (SH, f'#!/bin/sh\ncurl -H "Authorization: Bearer {TOKEN}" https://x/\n'),
    ("/usr/local/sbin/notify", f"#!/bin/sh\nTOKEN={TOKEN}\n"),
    (SH, "#!/bin/sh\ncat >/etc/x.ini <<EOF\npassword = Hx7pq9Zt4\nEOF\n"),
    ("/root/.bashrc", "export AWS_SECRET_ACCESS_KEY=Hx7pq9Zt4Hx7pq9Zt4\n"),
    ("/root/setup.sql", "CREATE USER shop WITH PASSWORD 'Hx7pq9Zt4';\n"),
    ("/root/setup.sql", "CREATE USER 'x'@'%' IDENTIFIED BY 'Hx7pq9Zt4';\n"),
    ("/etc/apt/auth.conf.d/x.conf", "machine x login y\npassword Hx7pq9Zt4\n"),
    ("/etc/apt/auth.conf.d/x.conf", "machine x login y password Hx7pq9Zt4\n"),
    ("/etc/fstab", "//nas/share /mnt cifs username=x,password=Hx7pq9Zt4,uid=1000 0 0\n"),
    ("/root/.npmrc", f"//registry.npmjs.org/:_authToken={TOKEN}\n"),
    ("/etc/cron.d/dump", "*/5 * * * * root mysqldump --password=Hx7pq9Zt4 shop\n"),
    ("/var/spool/cron/crontabs/root", "* * * * * curl -u admin:Hx7pq9Zt4 https://x/\n"),
    ("/etc/haproxy/haproxy.cfg", "listen s\n  stats auth admin:Hx7pq9Zt4\n"),
    ("/etc/snmp/snmpd.conf", 'createUser x SHA "Hx7pq9Zt4" AES "Hx7pq9Zt4"\nrocommunity Hx7pq9Zt4\n'),
    ("/etc/dovecot/users", "x:{PLAIN}Hx7pq9Zt4:1000:1000::/home/x\n"),
    ("/root/.docker/config.json", f'{{"auths": {{"https://x/": {{"auth": "{TOKEN}=="}}}}}}\n'),
    ("/root/.kube/config", f"users:\n- name: a\n  user:\n    client-key-data: {TOKEN}\n"),
    ("/var/lib/cloud/seed/user-data", "#cloud-config\npassword: Hx7pq9Zt4\n"),
    ("/etc/netplan/wifi.yaml", 'wlan0:\n  access-points:\n    home:\n      password: "Hx7pq9Zt4 x"\n'),
    ("/srv/c.yaml", "jwt: eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJIeDdwcTlaNCJ9.Hx7pq9Zt4Hx7pq9Zt4\n"),
]
HOLD_NOT = [
    (INI, "# password = Hx7pq9Zt4\n; password = Hx7pq9Zt4\n"),
    (INI, "password =\npassword = \"\"\npassword=''\n"),
    (INI, "password = ${DB_PASSWORD}\npassword = $DB_PASSWORD\npassword = {{ vault }}\npassword = %(pw)s\n"),
    (INI, "password = changeme\npassword = CHANGE_ME\npassword = your_password_here\npassword = ********\n"),
    (INI, "password = <your password>\ntoken = __TOKEN__\nsecret = @SECRET@\n"),
    (INI, "password_file = /run/secrets/db\npassword = /run/secrets/db\nsecret = file:/etc/x\n"),
    (INI, "password_min_length = 12\nmax_password_age = 90d\npassword_hash = bcrypt\n"),
    (INI, "use_password = yes\nrequire_token = true\npassword_auth = off\nsecret = no\n"),
    (INI, "token = bearer\ntoken_type = jwt\naccess_token_url = https://x.example/token\n"),
    (INI, "token_ttl = 3600\nmax_tokens = 4096\napi_key_header = X-Api-Key\nsecret_name = shop-db\n"),
    (INI, "url = https://user@x.example/a:b@c\nproxy = http://10.0.0.1:3128/@\n"),
    (INI, "* password = Hx7pq9Zt4\n// password = Hx7pq9Zt4\n"),
    ("/etc/snmp/snmpd.conf", "rocommunity  public default -V systemonly\n"),
    ("/etc/init.d/x", "#!/bin/sh\ncreateuser -s app_owner shop\n"),
    ("/etc/ssh/sshd_config.d/a.conf", "PasswordAuthentication yes\nPermitEmptyPasswords no\n"),
    ("/etc/sudoers.d/x", 'd ALL=(ALL) NOPASSWD: /bin/systemctl\nDefaults passwd_tries=3, passprompt="pw:"\n'),
    ("/etc/pam.d/common-password", "password\t[success=1 default=ignore]\tpam_unix.so obscure yescrypt\n"),
    ("/etc/nsswitch.conf", "passwd: files systemd\nshadow: files\n"),
    ("/etc/login.defs", "PASS_MAX_DAYS 99999\nPASS_MIN_LEN 12\n"),
    ("/etc/security/pwquality.conf", "minlen = 14\nusercheck = 1\n"),
    ("/etc/postgresql/15/main/postgresql.conf", "password_encryption = scram-sha-256\n"),
    (
        "/etc/postgresql/15/main/pg_hba.conf",
        "host all all 10.0.0.0/8 scram-sha-256\nlocal all all password\n",
    ),
    (
        "/etc/samba/smb.conf",
        "unix password sync = yes\npasswd program = /usr/bin/passwd %u\nencrypt passwords = true\n",
    ),
    (
        "/etc/dovecot/dovecot-sql.conf",
        "pass_attrs = uid=user, userPassword=password\ndefault_pass_scheme = PLAIN\n",
    ),
    (
        "/etc/nginx/sites-enabled/x",
        'location / {\n  proxy_pass http://127.0.0.1:8080;\n  auth_basic "Password";\n}\n',
    ),
    ("/etc/nginx/nginx.conf", "ssl_certificate_key /etc/ssl/private/x.key;\nssl_password_file /etc/x;\n"),
    ("/etc/fail2ban/filter.d/x.conf", "failregex = ^Failed password for .* from <HOST>$\n"),
    ("/etc/logrotate.d/x", "/var/log/x {\n  rotate 4\n  su root root\n}\n"),
    (
        "/etc/debconf.conf",
        "Accept-Type: password\nFilename: /var/cache/debconf/passwords.dat\nName: passwords\n",
    ),
    (
        "/etc/systemd/system/a.service",
        "[Service]\nEnvironmentFile=/etc/a.env\nExecStart=/bin/a --password-file /x\n",
    ),
    (
        "/etc/systemd/system/a.service",
        "[Service]\nLoadCredential=password:/etc/a.pw\nEnvironment=TOKEN=%d/token\n",
    ),
    ("/etc/wireguard/wg0.conf", f"[Peer]\nPublicKey = {TOKEN}AAAAAAAAAAAAAAAAAAAAAAA=\n"),
    (YAML, "password:\n  type: string\n  format: password\ntoken: null\n"),
    (YAML, "password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n"),
    (YAML, "help: the password of the user\npassword: the one that you chose at the start\n"),
    (YAML, "env:\n  - name: DB_PASSWORD\n    valueFrom:\n      secretKeyRef: {name: db, key: password}\n"),
    ("/srv/app/schema.json", '{"properties": {"password": {"type": "string"}, "token": {"type": "string"}}}'),
    (SH, '#!/bin/sh\nread -rsp "Password: " PW; mysql -p"$PW"\nPASS=$1\nTOKEN="$(cat /run/token)"\n'),
    (SH, '#!/bin/sh\npassword=`pwgen 12 1`\npasswd -l root\nsecret="${SECRET:-}"\nOLDPWD=/srv\n'),
    ("/srv/site/settings.py", "PASSWORD = os.environ['DB_PASSWORD']\nAUTH_PASSWORD_VALIDATORS = []\n"),
    ("/srv/app/venv/lib/python3.11/site-packages/x/conf.ini", "password = Hx7pq9Zt4\n"),
    ("/srv/app/node_modules/x/config.json", '{"password": "Hx7pq9Zt4"}'),
    ("/usr/share/x/x.conf", "password = Hx7pq9Zt4\n"),
    ("/etc/ssl/openssl.cnf", "challengePassword\t\t= A challenge password\nchallengePassword_min\t\t= 4\n"),
    (SH, "#!/bin/sh\ngrep -q '^password = ......' /etc/shop/shop.ini || exit 1\n"),
    ("/usr/local/bin/lint", "#!/bin/sh\ncargo dev new_lint --pass=late\n"),
    ("/srv/app/main.c", 'char *password = "Hx7pq9Zt4";\n'),
    ("/srv/app/README.md", "password = Hx7pq9Zt4\n"),
]


@pytest.mark.parametrize(("path", "text"), HOLD)
def test_a_password_is_taken_out_and_all_around_it_stays(path: str, text: str) -> None:
    found = masked(path.encode(), text.encode())
    assert found is not None, "not found"
    left = found.decode()
    for word in ("Hx7pq9", "f3Kd91", "testing123"):
        assert word not in re.sub(r"(?m)^\s*[#;].*$", "", left)
    kept = [re.escape(part) for part in left.split(MASK.decode())]
    assert re.fullmatch(".+".join(kept), text, re.DOTALL)
    assert left.count("\n") == text.count("\n")


DNSSEC = "Private-key-format: v1.3\nAlgorithm: 8 (RSASHA256)\nPrivateExponent: UuRoNqe7YHnKmQzE6iDW=\n"


@pytest.mark.parametrize(
    ("path", "data", "kind"),
    [
        ("/root/a.asc", b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOY\n", CREDENTIALS),
        ("/root/a.asc", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nlQOY\n", ""),
        ("/root/age.txt", b"AGE-SECRET-KEY-1QQPQZRFR7ZZ2QQPQZRFR7ZZ2QQPQZRFR7ZZ2QQ\n", CREDENTIALS),
        ("/etc/openvpn/a.conf", b"<tls-auth>\n-----BEGIN OpenVPN Static key V1-----\n6acef0\n", CREDENTIALS),
        ("/var/lib/bind/Kx.+008+1.private", DNSSEC.encode(), CREDENTIALS),
        ("/var/lib/tor/x/hs_ed25519_secret_key", b"== ed25519v1-secret: type0 ==\0\0\0x", CREDENTIALS),
        ("/etc/wireguard/privatekey", b"yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n", CREDENTIALS),
        ("/etc/pgbouncer/userlist.txt", b'"x" "Hx7pq9Zt4"\n', CREDENTIALS),
        ("/etc/exim4/passwd.client", b"mail.example:x:Hx7pq9Zt4\n", CREDENTIALS),
        ("/etc/postfix/sasl_passwd.db", b"\0\x06\x15aHx7pq9Zt4\0", CREDENTIALS),
        ("/etc/nginx/htpasswd", b"x:$apr1$\n", CREDENTIALS),
        ("/etc/x.conf", "-----BEGIN PRIVATE KEY-----\n".encode("utf-16"), PRIVATE_KEY),
    ],
)
def test_keys_in_forms_of_their_own_are_withheld_whole(path: str, data: bytes, kind: str) -> None:
    assert secret_kind(path.encode(), data) == kind


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize(
    "make", [lambda: rsa.generate_private_key(65537, 2048), lambda: generate(SECP256R1())], ids=["rsa", "ec"]
)
def test_a_key_as_bytes_is_withheld_and_a_public_one_is_not(make, form: PrivateFormat) -> None:
    key = make()
    secret = key.private_bytes(Encoding.DER, form, NoEncryption())
    assert secret_kind(b"/srv/x.der", secret) == CREDENTIALS
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert secret_kind(b"/srv/x.der", public) == ""


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_password_in_another_form_of_unicode_is_taken_out_too(encoding: str) -> None:
    shown, why = without_passwords(INI.encode(), "password = Hx7pq9Zt4\n".encode(encoding))
    assert why == CREDENTIALS and shown is not None and b"password = " + MASK in shown
    plain = "color = red\n".encode(encoding)
    assert without_passwords(INI.encode(), plain) == (plain, "")


@pytest.mark.parametrize(
    "text",
    [
        "x:{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ123=",
        "x grub.pbkdf2.sha512.10000.9CA4611006FE96BC",
    ],
)
def test_a_hash_of_ldap_or_of_grub_is_one(text: str) -> None:
    assert PASSWORD_HASH.search(text.encode())


@pytest.mark.parametrize(("path", "text"), HOLD_NOT)
def test_what_only_looks_like_a_password_stays(path: str, text: str) -> None:
    found = masked(path.encode(), text.encode())
    assert found is None, found.decode()


def test_every_value_of_a_file_is_taken_out_once() -> None:
    text = b"password = Hx7pq9Zt4\nurl = mysql://x:Hx7pq9Zt4@y/\npassword = changeme\n"
    assert masked(b"/etc/x.ini", text) == (
        b"password = " + MASK + b"\nurl = mysql://x:" + MASK + b"@y/\npassword = changeme\n"
    )


def test_binary_files_are_not_looked_into() -> None:
    assert masked(b"/etc/x.ini", b"password = Hx7pq9Zt4\0") is None


def test_a_long_file_is_looked_into_to_its_end_or_not_at_all() -> None:
    quiet = b"port = 80\n" * (2 * MAX_HINTED_BYTES // 10)
    assert masked(b"/etc/x.ini", quiet + b"password = Hx7pq9Zt4\n") == quiet + b"password = " + MASK + b"\n"
    assert masked(b"/etc/x.ini", quiet + b"password =\n") is None
    with pytest.raises(Unsearched):
        masked(b"/etc/x.ini", b"password\n" * (MAX_HINTED_BYTES // 9 + 1))


def minified(size: int, *, secret: str = "") -> bytes:
    """One line of JSON, with a password in its middle."""
    half = b'{"key":{"n":1,"url":"http://x.example/","words":["a b",{"token":null}]}},' * (size // 140)
    return b"[" + half + secret.encode() + half[:-1] + b"]"


@pytest.mark.parametrize("path", [b"/srv/app/settings.json", b"/etc/app/app.ini", b"/srv/app/config.js"])
def test_a_line_of_a_megabyte_is_searched_to_its_end_within_a_second(path: bytes) -> None:
    held, quiet = (minified(1_000_000, secret=one) for one in ('{"password":"Hx7pq9Zt4"},', ""))
    assert b"\n" not in held and len(held) > 990_000
    started = time.process_time()
    found = masked(path, held)
    assert time.process_time() - started < 1
    assert found == held.replace(b"Hx7pq9Zt4", MASK)
    assert masked(path, quiet) is None


def test_what_two_patterns_find_is_taken_out_to_the_end_of_both() -> None:
    found = masked(b"/etc/x.ini", b"url = x://u:secret=Hx7pq9Zt4,more@host/\n")
    assert found is not None
    assert b"Hx7pq9Zt4" not in found and b"more" not in found


@given(st.binary(max_size=300))
def test_whatever_stands_there_nothing_but_values_changes(data: bytes) -> None:
    text = b"password = " + data + b"\npassword: Hx7pq9Zt4\n"
    found = masked(b"/etc/x.ini", text)
    if b"\0" not in data:
        assert found is not None and b"Hx7pq9Zt4" not in found.rpartition(b"password")[2]


@pytest.mark.parametrize(
    "unit",
    [b"password", b"password=", b'password="', b"a-", b"password-", b"://a:", b"curl -u ", b"<a>", b"name: "],
)
def test_a_line_made_to_cost_much_costs_little(unit: bytes) -> None:
    started = time.perf_counter()
    for end in (b"", b"\n"):
        masked(b"/etc/x.ini", ((unit * 4000)[:4000] + end) * 60)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "line",
    [
        b"a = b " * 40_000,
        b"a: b, " * 40_000,
        b"password = ( " * 20_000,
        b"eyJaaaaaaaaaa-" * 20_000,
        b"password x" + b" " * 100_000 + b"y",
        b"authorization" + b" " * 100_000,
        b'password="' + b"\\'" * 100_000,
    ],
    ids=lambda line: line[:12].decode(),
)
def test_a_long_line_costs_what_its_length_is(line: bytes) -> None:
    started = time.process_time()
    masked(b"/etc/x.ini", line)
    assert time.process_time() - started < 2
