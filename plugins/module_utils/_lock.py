# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lock between the tasks of one host. Private to the collection."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError, action

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def lock(*, path, purpose, seconds=60):
    """Hold the lock at `path`, which only one process has at a time, and which ends with the process.

    Others have it for some seconds, so after `seconds` it is a PublishingError, which says what their `purpose` is.
    """
    descriptor = _open(path=path)
    try:
        deadline = time.monotonic() + seconds
        while not _take(path=path, descriptor=descriptor):
            if time.monotonic() >= deadline:
                raise PublishingError(
                    f"Another task on this host has been at work to {purpose} for more than {seconds} seconds",
                    remedy=f"Let it end, and try again. If it hangs, end the process that `fuser -v {path}` shows: "
                    "the lock ends with it. Leave the file where it is.",
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


@action("open the lock {path}")
def _open(*, path):
    # The engines leave processes behind that outlive the task; the lock must not live on in them.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@action("take the lock {path}")
def _take(*, path, descriptor):  # pylint: disable=unused-argument
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True
