# SPDX-License-Identifier: GPL-3.0-or-later
"""Interactive transactions to test with, in a mount namespace of the tests' own."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cvmfs_publisher.catalog import CatalogTree
from cvmfs_publisher.mount import system
from cvmfs_publisher.mount.overlay import UnionKind
from cvmfs_publisher.operations.transaction import current_session
from operations.managers import ReleaseManager

MAY_MOUNT = os.access("/dev/fuse", os.R_OK | os.W_OK) and system.may_mount()
needs_mounting = pytest.mark.skipif(
    not MAY_MOUNT and "CI" not in os.environ, reason="mounting takes /dev/fuse and CAP_SYS_ADMIN"
)


def enter_mount_namespace() -> None:
    """Keep what this process mounts from now on to itself and its children."""
    system.unshare(system.CLONE_NEWNS)
    system.mount("none", Path("/"), None, system.MS_REC | system.MS_PRIVATE)


class Checkout:
    """A repository that is edited in place.

    :param manager: its release manager
    :param kind: which union file system to have
    """

    def __init__(self, manager: ReleaseManager, kind: UnionKind = UnionKind.OVERLAY) -> None:
        self.manager = manager
        self.root = manager.base / "cvmfs"
        self.kind = kind
        manager.configure(
            CVMFS_UNION_FS_TYPE="fuse-overlayfs" if kind is UnionKind.FUSE_OVERLAY else "overlayfs",
            CVMFS_UNION_DIR=str(self.root),
            CVMFS_INCLUDE_XATTRS="true",
        )

    def open(self, *arguments: str) -> None:
        """Open a transaction."""
        self.manager.server("transaction", *arguments).succeeded()
        settings = self.manager.environment.settings(self.manager.name)
        assert current_session(self.manager.environment, settings).union_kind is self.kind

    @property
    def xattrs(self) -> dict[bytes, Mapping[bytes, bytes]]:
        """Extended attributes of all paths."""
        top = os.fsencode(self.root)
        paths = [top, *(os.path.join(at, name) for at, dirs, files in os.walk(top) for name in dirs + files)]
        return {os.path.relpath(path, top) if path != top else b"": xattrs_of(path) for path in paths}

    def published_xattrs(self) -> dict[bytes, Mapping[bytes, bytes]]:
        """Extended attributes of all paths as they are published."""
        root = self.manager.manifest().root_hash
        with self.manager.store() as store, CatalogTree(store, root, self.root.parent) as tree:
            return {path: entry.xattrs for path, entry in tree.walk()}

    @property
    def leftovers(self) -> list[str]:
        """What is in the spool directory besides the statistics."""
        return [file.name for file in self.manager.spool.iterdir() if file.name != "stats.db"]

    def close(self) -> None:
        """Leave nothing mounted."""
        self.manager.server("abort", "-f")


def xattrs_of(path: bytes) -> Mapping[bytes, bytes]:
    """Return the extended attributes of a path; none where there cannot be any."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}


def move(source: bytes, target: bytes) -> None:
    """Rename; where the file system does not rename directories, do as mv(1)."""
    is_directory = stat.S_ISDIR(os.lstat(source).st_mode)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV or not is_directory:
            raise
        if os.path.isdir(target):
            os.rmdir(target)
        subprocess.run(["mv", "-T", source, target], check=True)
