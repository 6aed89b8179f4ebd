# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server enter``: a command for which the repository can be written to, and for nothing else.

It runs in namespaces of its own, so that no rights are needed but those on ``/dev/fuse``. What it writes is dropped
when it ends, unless it was published from there.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import PublisherError
from ..mount import system
from .environment import Environment, writing_to
from .transaction import abort, find_session, open_transaction
from .union import Union, union_dir


def enter(
    environment: Environment,
    name: str,
    command: Sequence[str],
    *,
    user: tuple[int, int] | None = None,
    transaction: bool = False,
) -> int:
    """Run a command with the repository mounted for writing; return its exit code.

    This process leaves the mount namespace that it is in for good.

    :param user: the user and the group that the command runs as, in a user namespace that knows no others
    :param transaction: open a transaction, so that the command can publish; it is aborted if it is still open then
    :raises PublisherError: when the repository cannot be mounted
    """
    is_alone = _knows_one_user()
    try:
        system.unshare(system.CLONE_NEWNS)
        system.mount("none", Path("/"), None, system.MS_REC | system.MS_PRIVATE)
    except OSError as error:
        raise PublisherError(
            f"Cannot make a namespace to enter {name} in: {error.strerror}",
            remedy="Allow users to make user namespaces, or do it as root",
        ) from error
    if transaction:
        open_transaction(environment, name, interactive=True, claimed=is_alone)
        try:
            return _run(command, user)
        finally:
            session = find_session(environment, environment.settings(name))
            if session is not None:
                abort(environment, name, transaction_id=session.id, force=True)
    settings = environment.settings(name)
    with environment.open(name, settings) as repository:
        spool = environment.spool_dir(settings)
        with writing_to(spool):
            directory = Path(tempfile.mkdtemp(dir=spool, prefix="enter-"))
        union = Union(environment, settings, directory, union_dir(settings))
        try:
            union.create(repository, repository.manifest.root_hash, claimed=is_alone)
            return _run(command, user)
        finally:
            union.close(force=True)


def _run(command: Sequence[str], user: tuple[int, int] | None) -> int:
    outer = [] if user is None else ["unshare", "--user", f"--map-user={user[0]}", f"--map-group={user[1]}", "--"]
    if shutil.which(command[0]) is None:
        raise PublisherError(f"There is no program {command[0]}", remedy="Name one that is on PATH")
    return subprocess.run([*outer, *command], check=False).returncode


def _knows_one_user() -> bool:
    """Say whether no other user than this process's has a meaning in its user namespace."""
    return int(Path("/proc/self/uid_map").read_text().split()[2]) == 1
