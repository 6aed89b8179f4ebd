# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server skeleton``: the directories that a repository on local storage is kept in."""

from __future__ import annotations

import os
from pathlib import Path

from ..changes.change_set import find_owner
from ..errors import PublisherError


def skeleton(directory: Path, owner: str) -> None:
    """Make the directories of local storage.

    :param owner: name of the user that they are to belong to
    :raises UsageError: when there is no such user
    :raises PublisherError: when they cannot be made
    """
    user = find_owner(owner)
    data = directory / "data"
    made = [directory, data, *(data / f"{number:02x}" for number in range(256)), data / "txn"]
    try:
        for path in made:
            path.mkdir(parents=True, exist_ok=True)
            if path.stat().st_uid != user.uid:
                os.chown(path, user.uid, user.gid)
    except OSError as error:
        raise PublisherError(
            f"Cannot make the directories of a repository in {directory}: {error.strerror}",
            remedy="Name a directory where the publisher's user may write; only root can give it to another user",
        ) from error
