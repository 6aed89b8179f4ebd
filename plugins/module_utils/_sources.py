# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of a host that people who come by sudo show to the containers in which they work. Private to the collection.

The engine mounts them with its user's rights, and who is root in the container has these rights. So what belongs to the
engine itself must not be among them: it has the secrets of all containers. Nor may sockets, which a mount that is
read-only keeps nobody from connecting to.
"""

from __future__ import annotations

import contextlib
import os

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError

# What engines tell instead of a name that is not UTF-8
UNTOLD = "\ufffd"
_SYSTEM = ("/dev", "/proc", "/run", "/sys")


def require_harmless(paths, *, closed):
    """Raise PublishingError if one of `paths`, which are absolute, has a directory `closed` in it, or is in one."""
    places = list(map(os.path.realpath, (*_SYSTEM, *closed)))
    for path in paths:
        _require_outside(path, places)


def _require_outside(path, places):
    if UNTOLD in path or path != path.encode("utf-8", "replace").decode("utf-8"):
        raise PublishingError(f"The name of the source {path!r} is not UTF-8", remedy="Rename it.")
    for place in places:
        if os.path.commonpath([path, place]) in (path, place):
            where = "has in it" if place.startswith(path) else "is in"
            raise PublishingError(
                f"No container may see the source {path}, which {where} {place}",
                remedy="Have what you need in a directory of its own, and show that.",
            )


def identity(path):
    """Return what tells the file that is at `path` from all others, as `stat -c %d:%i` prints it; "" if there is none.

    None that a symbolic link leads to, either: `path` had none when it was looked at.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return ""
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        return f"{status.st_dev}:{status.st_ino}" if os.readlink(f"/proc/self/fd/{descriptor}") == path else ""
