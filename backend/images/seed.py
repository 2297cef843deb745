"""What an imported image is told on its one boot with us: a NoCloud seed of cloud-init, as a disk of its own.

The configuration is JSON, which is YAML: no text is ever formatted into it.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from backend.images import fat
from backend.images.customize import payload_files, payload_place
from backend.images.settings import (
    APT_OPTIONS,
    FILES,
    IMPORTED_FILES,
    IMPORTED_MASKED,
    RESOLV_CONF,
    Text,
)

PAYLOAD = Path(__file__).parent.parent / "guests/payload"
SCRIPT = Path(__file__).with_name("prepare.sh")
LABEL = "cidata"  # by which cloud-init knows the disk
PROOF = "/var/lib/fluid-guestd/prepared"
DAEMON = "/usr/local/sbin/fluid-guestd"
RUN = "run/fluid"


def written() -> list[Text]:
    """The files that cloud-init writes: settings, payload, and what the script works with."""
    payload = [
        Text(place, path.read_text(encoding="utf-8"), mode)
        for path in payload_files(PAYLOAD)
        for place, mode in (payload_place(path.name),)
    ]
    resolv = next(file.text for file in FILES if file.path == RESOLV_CONF)
    return [
        *IMPORTED_FILES,
        Text("etc/apt/apt.conf.d/90fluid", APT_OPTIONS),
        *payload,
        Text(f"{RUN}/prepare", SCRIPT.read_text(encoding="utf-8"), 0o700),
        Text(f"{RUN}/masked", "".join(f"{unit}\n" for unit in IMPORTED_MASKED)),
        Text(f"{RUN}/resolv.conf", resolv),
    ]


def user_data(proof: str) -> bytes:
    """The cloud-config. ``proof`` is what the script leaves in the guest at its very end."""
    files = [
        {
            "path": f"/{file.path}",
            "content": base64.b64encode(file.text.encode()).decode(),
            "encoding": "b64",
            "permissions": f"{file.mode:04o}",
            "owner": "root:root",
        }
        for file in written()
    ]
    config = {
        "users": [],
        "package_update": False,
        "package_upgrade": False,
        "ssh_genkeytypes": ["ed25519"],
        "write_files": files,
        "runcmd": [["sh", f"/{RUN}/prepare", proof]],
    }
    return b"#cloud-config\n" + json.dumps(config).encode()


def seed_image(proof: str) -> bytes:
    """The disk."""
    return fat.image(
        LABEL,
        {
            "user-data": user_data(proof),
            "meta-data": json.dumps({"instance-id": f"fluid-{proof}", "local-hostname": "base"}).encode(),
            "network-config": b'{"config": "disabled"}',
        },
    )
