# SPDX-License-Identifier: GPL-3.0-or-later
"""The union file system of an interactive transaction: a writable directory over a read-only one.

The kernel's overlayfs is used wherever it is allowed, and ``fuse-overlayfs`` elsewhere, as on a container's own root
file system. Renaming directories by reference (``redirect_dir``), copying attributes up without content (``metacopy``)
and the inode index are switched off: with them, what is in the scratch area means less without the lower directory.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import system

_OFF = b"redirect_dir=off,index=off,metacopy=off"
_PROGRAM = "fuse-overlayfs"


class UnionKind(enum.Enum):
    """Which union file system it is; they mark differently what they hide."""

    OVERLAY = "overlayfs"
    """The kernel's; markers are extended attributes ``trusted.overlay.*``, which take root's rights on the host."""

    USER_OVERLAY = "overlayfs with userxattr"
    """The kernel's, in a user namespace; markers are extended attributes ``user.overlay.*``."""

    FUSE_OVERLAY = "fuse-overlayfs"
    """Markers are files whose names begin with ``.wh.``, and extended attributes."""


@dataclass(frozen=True, slots=True)
class Layers:
    """The directories of a union.

    :param lower: what is underneath, read-only
    :param upper: where changes go: the scratch area
    :param work: empty, on the same file system as `upper`
    """

    lower: Path
    upper: Path
    work: Path


def freeze(target: Path) -> None:
    """Make a union read-only, with everything in it written to the scratch area.

    :raises OSError: EBUSY when a file in it is open for writing
    """
    system.mount("none", target, None, system.MS_REMOUNT | system.MS_RDONLY)


def thaw(target: Path) -> None:
    """Make a union writable again."""
    with contextlib.suppress(OSError):
        system.mount("none", target, None, system.MS_REMOUNT)


def is_union(target: Path) -> bool:
    """Say whether a union file system is mounted there."""
    mount = system.mounted_at(target)
    return mount is not None and mount.kind in ("overlay", "fuse." + _PROGRAM)


def mount_union(kind: UnionKind, layers: Layers, target: Path) -> None:
    """Mount a union at the directory `target`.

    :raises OSError: when that kind is not allowed here, or not for these layers
    """
    directories = b",".join(
        name + b"=" + _escape(path)
        for name, path in ((b"lowerdir", layers.lower), (b"upperdir", layers.upper), (b"workdir", layers.work))
    )
    if kind is UnionKind.FUSE_OVERLAY:
        _mount_by_fuse(directories, target)
        return
    namespace = "user" if kind is UnionKind.USER_OVERLAY else "trusted"
    # With another namespace's attributes, some kernels mount, and fail only when a directory is removed.
    probe = f"{namespace}.cvmfs_probe"
    os.setxattr(layers.upper, probe, b"1")
    os.removexattr(layers.upper, probe)
    options = directories + b"," + (b"userxattr" if kind is UnionKind.USER_OVERLAY else _OFF)
    system.mount("overlay", target, "overlay", 0, options)


def _mount_by_fuse(directories: bytes, target: Path) -> None:
    program = shutil.which(_PROGRAM)
    if program is None:
        raise OSError(errno.ENOENT, "not installed")
    done = subprocess.run([program, "-o", directories, target], capture_output=True, check=False)
    if done.returncode != 0 or not is_union(target):
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OSError(errno.EIO, reason[-1] if reason else f"ended with status {done.returncode}")


def _escape(path: Path) -> bytes:
    text = os.fsencode(path)
    for character in (b"\\", b",", b":"):
        text = text.replace(character, b"\\" + character)
    return text
