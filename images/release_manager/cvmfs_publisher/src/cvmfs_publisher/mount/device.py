# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounting and unmounting: by mount(2) with CAP_SYS_ADMIN in the user namespace, by ``fusermount3`` without."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
from pathlib import Path

from ..errors import MountError

_DEVICE = "/dev/fuse"
_HELPER = "fusermount3"
_HELPER_SOCKET = "_FUSE_COMMFD"
_SUBTYPE = "cvmfs"

# linux/mount.h
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, mountpoint: Path) -> int:
    """Mount a read-only FUSE file system, and return the open device through which its requests come.

    :param source: what the list of mounts shows
    :raises MountError: when that is not possible here
    """
    try:
        if not mountpoint.is_dir():
            raise MountError(f"{mountpoint} is not a directory", remedy="Make it, or name another mount point")
        descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(
            f"Cannot mount at {mountpoint}: {error.filename}: {error.strerror}",
            remedy=f"Give the container the device {_DEVICE} (--device {_DEVICE}), readable and writable for its user",
        ) from error
    options = (
        f"fd={descriptor},rootmode={stat.S_IFDIR:o},user_id={os.geteuid()},group_id={os.getegid()}"
        ",default_permissions,allow_other"
    )
    try:
        _mount(source, mountpoint, f"fuse.{_SUBTYPE}", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, options)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EPERM:
            raise MountError(
                f"Cannot mount at {mountpoint}: {error.strerror}", remedy="Name another mount point"
            ) from error
        return _mount_by_helper(source, mountpoint)
    return descriptor


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount what is mounted at a directory, if anything is, whether or not its server still lives.

    :param lazy: even if it is in use: it disappears now, and ends when the last user is gone
    :raises MountError: when it is in use, or may not be unmounted
    """
    while is_mounted(mountpoint):
        try:
            _unmount(mountpoint, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise MountError(
                    f"{mountpoint} is in use",
                    remedy="Leave the directory and close its files in all shells and programs",
                ) from error
            if error.errno != errno.EPERM or shutil.which(_HELPER) is None:
                raise MountError(
                    f"Cannot unmount {mountpoint}: {error.strerror}", remedy="Unmount it as who mounted it"
                ) from error
            _unmount_by_helper(mountpoint, lazy=lazy)


def is_mounted(mountpoint: Path) -> bool:
    """Say whether a file system is mounted at this directory, without asking that file system."""
    wanted = os.path.join(os.path.realpath(mountpoint.parent), mountpoint.name).encode()
    with open("/proc/self/mountinfo", "rb") as mounts:
        return any(_unescape(line.split()[4]) == wanted for line in mounts)


def _mount(source: str, mountpoint: Path, kind: str, flags: int, options: str) -> None:
    arguments = (source.encode(), bytes(mountpoint), kind.encode(), ctypes.c_ulong(flags), options.encode())
    if _libc.mount(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _unmount(mountpoint: Path, flags: int) -> None:
    if _libc.umount2(bytes(mountpoint), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount_by_helper(source: str, mountpoint: Path) -> int:
    """Have libfuse's set-uid helper mount; it sends the opened device over a socket."""
    if shutil.which(_HELPER) is None:
        raise MountError(
            f"This process may not mount at {mountpoint}, and there is no {_HELPER}",
            remedy="Start the container with --device /dev/fuse --cap-add SYS_ADMIN, or install the package fuse3",
        )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [
                _HELPER,
                "-o",
                f"ro,nosuid,nodev,default_permissions,fsname={source},subtype={_SUBTYPE}",
                "--",
                str(mountpoint),
            ],
            env={**os.environ, _HELPER_SOCKET: str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode == 0:
            _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptor: int = array.array("i", data)[0]
                    os.set_inheritable(descriptor, False)
                    return descriptor
    reason = done.stderr.decode(errors="replace").strip()
    raise MountError(
        f"{_HELPER} cannot mount at {mountpoint}: {reason}",
        remedy="Start the container with --device /dev/fuse --cap-add SYS_ADMIN",
    )


def _unmount_by_helper(mountpoint: Path, *, lazy: bool) -> None:
    command = [_HELPER, "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise MountError(
            f"Cannot unmount {mountpoint}: {done.stderr.decode(errors='replace').strip()}",
            remedy="Leave the directory and close its files in all shells and programs",
        )


def _unescape(field: bytes) -> bytes:
    """Undo how the kernel writes blanks in the list of mounts (proc(5))."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
