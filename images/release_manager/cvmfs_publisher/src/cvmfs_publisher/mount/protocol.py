# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages of the kernel's FUSE protocol, version 7, as far as a read-only file system needs them.

Numbers and layouts are the kernel's interface as ``linux/fuse.h`` documents it; it only ever grows.
"""

from __future__ import annotations

import stat
from enum import IntEnum, IntFlag
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .view import Attributes, Listed

MAJOR = 7
MINOR = 31
"""The version whose messages are sent; a newer kernel understands them."""

OLDEST_MINOR = 28
"""Linux 4.20; it brought cached directories."""

BUFFER_SIZE = 16 << 10
"""Bytes of the largest request that comes; the kernel wants 8 KiB at least, and names are short."""

_MAX_WRITE = 4096
_MAX_PAGES = 256
_MAX_BACKGROUND = 64

FOREVER = 10 * 365 * 86400
"""Seconds for which the kernel may keep what it was told: a revision never changes."""

HEADER = Struct("<IIQQIIII")
"""Of a request: length, operation, its number, the node, then user, group and process of who asks."""

_ANSWER = Struct("<IiQ")
_ATTRIBUTES = "6Q10I"
_ENTRY = Struct("<4Q2I" + _ATTRIBUTES)
_ATTR_OUT = Struct("<QII" + _ATTRIBUTES)
_DIRENT = Struct("<QQII")
_DIRENT_PLUS = Struct("<4Q2I" + _ATTRIBUTES + "QQII")
_INIT_IN = Struct("<IIII")
_INIT_OUT = Struct("<IIIIHHIIHHI28x")
_STATFS = Struct("<5Q4I24x")

READ_IN = Struct("<QQI")
"""File handle, offset, size: the beginning of a request to read a file or directory."""

GETXATTR_IN = Struct("<II")
"""Size of the asker's buffer, then padding."""

INTERRUPT_IN = Struct("<Q")
"""The number of the request that nobody waits for any more."""

OPEN_OUT = Struct("<QII")
"""File handle, flags, padding."""

KEEP_CACHE = 1 << 1
CACHE_DIRECTORY = 1 << 3
"""Flags of an opened file or directory."""


class Operation(IntEnum):
    """What a request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    READLINK = 5
    OPEN = 14
    READ = 15
    STATFS = 17
    GETXATTR = 22
    LISTXATTR = 23
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    READDIRPLUS = 44


class Feature(IntFlag):
    """What kernel and server agree on in the beginning."""

    ASYNC_READ = 1 << 0
    EXPORT_SUPPORT = 1 << 4
    DO_READDIRPLUS = 1 << 13
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24


WANTED = (
    Feature.ASYNC_READ
    | Feature.EXPORT_SUPPORT
    | Feature.DO_READDIRPLUS
    | Feature.NO_OPEN_SUPPORT
    | Feature.PARALLEL_DIROPS
    | Feature.POSIX_ACL
    | Feature.MAX_PAGES
    | Feature.CACHE_SYMLINKS
    | Feature.NO_OPENDIR_SUPPORT
)


def answer_header(unique: int, length: int, error: int = 0) -> bytes:
    """Return what precedes an answer.

    :param unique: the number of the request
    :param length: bytes of the answer that follows
    :param error: an errno; then nothing follows
    """
    return _ANSWER.pack(_ANSWER.size + length, -error, unique)


def parse_init(body: bytes) -> tuple[int, int, int, Feature]:
    """Return major and minor version, the largest read-ahead in bytes, and the features that the kernel offers."""
    major, minor, read_ahead, flags = _INIT_IN.unpack_from(body)
    return major, minor, read_ahead, Feature(flags & int(WANTED))


def init(read_ahead: int, features: Feature) -> bytes:
    """Return the answer to the first request.

    :param read_ahead: bytes
    """
    return _INIT_OUT.pack(
        MAJOR,
        MINOR,
        read_ahead,
        int(features),
        _MAX_BACKGROUND,
        _MAX_BACKGROUND * 3 // 4,
        _MAX_WRITE,
        1,
        _MAX_PAGES,
        0,
        0,
    )


def init_other_major() -> bytes:
    """Return the answer to a kernel that speaks a newer major version first: it then asks again in ours."""
    return _INIT_OUT.pack(MAJOR, MINOR, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def entry(attributes: Attributes, generation: int) -> bytes:
    """Return a name's node and its attributes."""
    return _ENTRY.pack(attributes.node, generation, FOREVER, FOREVER, 0, 0, *_attributes(attributes))


def no_entry() -> bytes:
    """Return that there is no such name, which the kernel may remember."""
    return _ENTRY.pack(0, 0, FOREVER, *(0,) * (3 + 16))


def attributes_only(attributes: Attributes) -> bytes:
    """Return a node's attributes."""
    return _ATTR_OUT.pack(FOREVER, 0, 0, *_attributes(attributes))


def directory_entry(listed: Listed) -> bytes:
    """Return one line of a directory."""
    name, offset, attributes = listed
    return _padded(_DIRENT.pack(attributes.ino, offset, len(name), attributes.mode >> 12) + name)


def directory_entry_plus(listed: Listed, generation: int) -> bytes:
    """Return one line of a directory, with what a lookup of it would answer."""
    name, offset, attributes = listed
    return _padded(
        _DIRENT_PLUS.pack(
            attributes.node,
            generation,
            FOREVER,
            FOREVER,
            0,
            0,
            *_attributes(attributes),
            attributes.ino,
            offset,
            len(name),
            attributes.mode >> 12,
        )
        + name
    )


def statfs(files: int, total: int) -> bytes:
    """Return how large the file system is, and that it is full.

    :param total: bytes in all files
    """
    return _STATFS.pack(-(-total // 4096), 0, 0, files, 0, 4096, 255, 4096, 0)


def _padded(record: bytes) -> bytes:
    return record + bytes(-len(record) % 8)


def _attributes(attributes: Attributes) -> tuple[int, ...]:
    _, ino, mode, nlink, uid, gid, rdev, size, mtime, mtime_ns = attributes
    blocks = (size + 511) // 512 if stat.S_ISREG(mode) else 0
    seconds = mtime & 0xFFFF_FFFF_FFFF_FFFF
    return (
        ino, size, blocks, seconds, seconds, seconds,
        mtime_ns, mtime_ns, mtime_ns, mode, nlink, uid, gid, rdev, 0, 0,
    )  # fmt: skip
