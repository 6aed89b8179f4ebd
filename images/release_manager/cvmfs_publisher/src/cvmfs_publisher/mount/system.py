# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel is asked for around file systems: mount(2), umount2(2), unshare(2), and what /proc tells."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000

_CAP_SYS_ADMIN = 21
_OCTAL = {rb"\040": b" ", rb"\011": b"\t", rb"\012": b"\n", rb"\134": b"\\"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of ``/proc/self/mountinfo``.

    :param point: where it is
    :param kind: the file system's type, such as ``overlay``
    :param options: those of the file system itself, as the kernel shows them
    """

    point: bytes
    kind: str
    options: str


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has something open.

    :param number: as this process sees it
    :param name: of its program
    :param path: one of the files that it has open
    """

    number: int
    name: str
    path: bytes

    def __str__(self) -> str:
        return f"{self.name} (process {self.number})"


def mount(source: str, target: Path, kind: str | None, flags: int = 0, options: bytes = b"") -> None:
    """Call mount(2).

    :raises OSError: as the system call
    """
    _call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options or None,
    )


def unmount(target: Path, *, lazily: bool = False) -> None:
    """Call umount2(2).

    :param lazily: whoever uses the file system goes on, and it ends with the last of them
    :raises OSError: as the system call
    """
    _call("umount2", os.fsencode(target), MNT_DETACH if lazily else 0)


def unshare(flags: int) -> None:
    """Call unshare(2).

    :raises OSError: as the system call
    """
    _call("unshare", flags)


def syncfs(descriptor: int) -> None:
    """Call syncfs(2).

    :raises OSError: as the system call
    """
    _call("syncfs", descriptor)


def may_mount() -> bool:
    """Say whether this process has CAP_SYS_ADMIN in its user namespace, as mounting takes."""
    for line in Path("/proc/self/status").read_bytes().splitlines():
        if line.startswith(b"CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def mounted_at(target: Path) -> Mount | None:
    """Return what is mounted at exactly that place; None for nothing. The uppermost, if there are several."""
    wanted = os.fsencode(target)
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, rest = line.partition(b" - ")
        point = fields.split(b" ")[4]
        for escaped, plain in _OCTAL.items():
            point = point.replace(escaped, plain)
        if point == wanted:
            kind, _, options = rest.split(b" ", 2)
            found = Mount(point, kind.decode(), options.decode("utf-8", "replace"))
    return found


def users_of(directory: Path, *, writing: bool) -> Iterator[Process]:
    """Yield processes that have a file open, or their working directory, in a directory; each once.

    Those of other users are seen only by who may trace them.

    :param writing: only those that have a file open for writing
    """
    prefix = os.fsencode(directory)
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended, or is none of ours
            path = next(_open_below(process, prefix, writing=writing), None)
            if path is not None:
                yield Process(int(process.name), (process / "comm").read_text().strip(), path)


def _open_below(process: Path, prefix: bytes, *, writing: bool) -> Iterator[bytes]:
    links = [] if writing else [process / "cwd", process / "root"]
    for link in [*links, *(process / "fd").iterdir()]:
        with contextlib.suppress(OSError):
            path = os.readlink(os.fsencode(link))
            if _is_in(path, prefix) and not (writing and _is_read_only(process / "fdinfo" / link.name)):
                yield path
    for line in (process / "maps").read_bytes().splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and _is_in(fields[5], prefix) and not (writing and fields[1][1:4:2] != b"ws"):
            yield fields[5]


def _is_in(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b"/")


def _is_read_only(information: Path) -> bool:
    for line in information.read_bytes().splitlines():
        if line.startswith(b"flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE == os.O_RDONLY
    return True


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
