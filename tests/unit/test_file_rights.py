"""Extended attributes are shown before and after, as a sysadmin knows them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.cli.snapshots import _aspects
from backend.file_rights import MAX_CHARS, words

ACL = "0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000400ffffffff"
RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0).hex()
ADMIN = struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 1 << 7, 0).hex()
PLAIN = {"kind": "file", "mode": 0o755, "uid": 0, "gid": 0, "owner": "root", "group": "root", "target": None}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {"security.capability": RAW}, "none → cap_net_raw=ep"),
        ({"security.capability": RAW}, {"security.capability": ADMIN},
         "cap_net_raw=ep → cap_sys_admin=ep,cap_bpf=ep"),
        ({"system.posix_acl_access": ACL}, {},
         "user::rw-,user:1000:r--,group::r--,mask::r--,other::r-- → none"),
        ({"user.a": "61"}, {"user.a": "62"}, "61 → 62"),
        ({}, {"chattr": b"iA".hex()}, "none → immutable, no access times"),
    ],
)  # fmt: skip
def test_a_changed_attribute_is_told_before_and_after(before, after, told: str):
    row = {"before": {**PLAIN, "xattrs": before}, "after": {**PLAIN, "xattrs": after}}
    (name,) = {*before, *after}
    assert _aspects(row) == f"  {name} {told}"


def test_of_a_new_file_each_attribute_is_told():
    row = {"before": None, "after": {**PLAIN, "xattrs": {"security.capability": RAW}}}
    assert _aspects(row).endswith("  security.capability cap_net_raw=ep")


@given(
    st.sampled_from(["system.posix_acl_access", "chattr", "security.capability", "user.x"]),
    st.binary(max_size=300),
)
def test_whatever_a_guest_wrote_there_is_shown(name: str, value: bytes):
    assert len(words(name, value.hex())) < 40 * MAX_CHARS
