"""Verify an exported audit anywhere: python3 verifier.py audit.jsonl [audit.head key.pub]

Needs only Python's own library, and openssl for the signature. Exit status 0: nothing was edited or cut.
"""

import base64  # it is to be read at one glance
import hashlib
import json
import subprocess
import sys
import tempfile


def canonical(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def signed_by(key: str, message: bytes, signature: str) -> bool:
    with tempfile.NamedTemporaryFile() as text, tempfile.NamedTemporaryFile() as proof:
        for file, content in ((text, message), (proof, base64.b64decode(signature))):
            file.write(content)
            file.flush()
        check = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", text.name]
        return subprocess.run([*check, "-sigfile", proof.name], capture_output=True).returncode == 0


def main(export: str, head_file: str = "", key: str = "") -> str | None:
    head = json.load(open(head_file)) if head_file else {}  # noqa: PTH123, SIM115
    signature = head.pop("signature", "")
    if head and not signed_by(key, canonical(head), signature):
        return "the head's signature is not of this key"
    last, prev = 0, ""
    for last, row in enumerate(map(json.loads, open(export)), 1):  # noqa: PTH123, SIM115
        if row.pop("hash") != (found := hashlib.sha256(canonical(row)).hexdigest()):
            return f"row {last} was edited"
        if (row["seq"], row["prev"]) != (last, prev) or (head.get("seq") == last and head["hash"] != found):
            return f"row {last} is not the row that was there"
        prev = found
    return f"rows {last + 1} to {head['seq']} are missing" if last < head.get("seq", 0) else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if 2 <= len(sys.argv) <= 4 else __doc__)
