# SPDX-License-Identifier: GPL-3.0-or-later
"""Users and groups as they can appear in the user namespace of this process."""

from __future__ import annotations

import struct
from pathlib import Path

_ACL_HEADER = 4  # bytes
_ACL_ENTRY = struct.Struct("<HHI")  # tag, permissions, user or group (acl(5); linux/posix_acl_xattr.h)


class Owners:
    """Shows ids that have no meaning here as the kernel's overflow ids, 65534, by which it shows them elsewhere.

    Had the file system the ids themselves, the kernel would refuse to copy such files up in an overlay (``EOVERFLOW``).
    """

    def __init__(self) -> None:
        self._users = _Map("uid")
        self._groups = _Map("gid")

    def user(self, uid: int) -> int:
        """Return the user to show for `uid`."""
        return self._users.shown(uid)

    def group(self, gid: int) -> int:
        """Return the group to show for `gid`."""
        return self._groups.shown(gid)

    def acl(self, value: bytes) -> bytes:
        """Return an access control list with the users and groups to show in it."""
        if len(value) < _ACL_HEADER or (len(value) - _ACL_HEADER) % _ACL_ENTRY.size:
            return value  # the kernel will say that it is damaged
        shown = bytearray(value[:_ACL_HEADER])
        for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER:]):
            match tag:
                case 0x02:  # a named user
                    number = self.user(number)
                case 0x08:  # a named group
                    number = self.group(number)
            shown += _ACL_ENTRY.pack(tag, permissions, number)
        return bytes(shown)


class _Map:
    def __init__(self, kind: str) -> None:
        lines = Path(f"/proc/self/{kind}_map").read_text().splitlines()
        self._ranges = [
            range(int(first), int(first) + int(count)) for first, _, count in (line.split() for line in lines)
        ]
        self._overflow = int(Path(f"/proc/sys/kernel/overflow{kind}").read_text())
        self._shown: dict[int, int] = {}

    def shown(self, number: int) -> int:
        found = self._shown.get(number)
        if found is None:
            mapped = any(number in ids for ids in self._ranges)
            found = self._shown[number] = number if mapped else self._overflow
        return found
