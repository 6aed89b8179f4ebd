# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of fifos, sockets and device nodes in a source.

As upstream, fifos and sockets are published (catalogs have them since schema revision 5), and with
``CVMFS_IGNORE_SPECIAL_FILES=true`` all special files are left out. Otherwise device nodes are refused, unlike
upstream: clients do not let anybody open them, so they are in a source by mistake.
"""

from __future__ import annotations

import stat

REMOVE_SPECIAL = "Remove it, or set CVMFS_IGNORE_SPECIAL_FILES=true to leave out special files"

_KINDS = {
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def special_kind(mode: int) -> str | None:
    """Return what kind of special file has this ``st_mode``, for messages; None for other files."""
    return _KINDS.get(stat.S_IFMT(mode))


def is_device(mode: int) -> bool:
    """Say whether this is the ``st_mode`` of a device node."""
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
