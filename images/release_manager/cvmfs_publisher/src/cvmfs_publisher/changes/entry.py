# SPDX-License-Identifier: GPL-3.0-or-later
"""What sources of content have in common: entries, and the directories that list them."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..catalog import CatalogTree
from ..content import Chunk, Compression, ContentHash, ContentSource
from .change_set import Owner

NO_XATTRS: Mapping[bytes, bytes] = {}

DIRECTORY_SIZE = 4096
"""What catalogs say is the size of a directory; that in the source's file system means nothing elsewhere."""

UNION_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.")
"""How the names of extended attributes begin that union file systems keep for themselves."""

_MAX_XATTRS = 255
_MAX_XATTR_BYTES = 255
XATTR_LIMITS = "a catalog holds 255 of a file, with names and values of at most 255 bytes"


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a catalog says about the content of a regular file.

    :param hash: its object; None when it is stored in chunks only
    :param chunks: the objects that it is stored in; empty when it is not cut
    :param compression: how all of them are stored
    :param is_external: clients get it by the file's path from a server of its own, not from the repository
    :param is_direct_io: clients bypass the page cache
    """

    hash: ContentHash | None
    chunks: tuple[Chunk, ...]
    compression: Compression
    is_external: bool = False
    is_direct_io: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """A directory of another revision."""

    tree: CatalogTree
    path: bytes


@dataclass(slots=True)
class SourceEntry:
    """One name in a source directory.

    :param name: last component of the path; empty for the source's root
    :param mode: type and permission bits, as in ``st_mode``
    :param size: bytes of a regular file; length of a symlink's target; the device number of a device node
    :param mtime: seconds since the epoch, and `mtime_ns` the nanoseconds of that second
    :param symlink: target of a symlink
    :param link_group: names in one directory with the same group are hard links of one another; None: no others
    :param content: of a regular file: where to read it, or what it is if it has been read already; None in a dry
        run that has not read it
    :param origin: what a directory begins with, before the source's own listing of it applies; None for what is there
    :param implied: a directory that an archive does not list but has members in; its attributes are made up
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_ns: int
    symlink: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: NO_XATTRS)
    link_group: object = None
    content: ContentSource | FileContent | None = None
    origin: Origin | None = None
    implied: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)


def implied_directory(owner: Owner, timestamp: int) -> SourceEntry:
    """Return the entry of a directory that a source has something in, without saying anything about it.

    :param timestamp: its modification time, in seconds since the epoch
    """
    return SourceEntry(
        name=b"",
        mode=stat.S_IFDIR | 0o755,
        uid=owner.uid,
        gid=owner.gid,
        size=DIRECTORY_SIZE,
        mtime=timestamp,
        mtime_ns=0,
        implied=True,
    )


@dataclass(slots=True)
class Listing:
    """A directory of a source.

    :param path: relative to the source's root, which is ``b""``
    :param entries: what it holds, sorted by name
    :param is_whole: whether that is all; else it is what was changed
    :param removed: names that are gone from the rest
    """

    path: bytes
    entries: list[SourceEntry]
    is_whole: bool = True
    removed: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """What there is in a source: regular files, and the bytes in them."""

    files: int
    bytes: int


class Source(Protocol):
    """Where content comes from."""

    def root(self) -> SourceEntry:
        """Return the root's own attributes."""
        ...

    def listings(self) -> Iterator[Listing]:
        """Yield all directories, the root first, each before those below it, in an order that is always the same."""
        ...

    def dirtab(self) -> bytes | None:
        """Return the content of the ``.cvmfsdirtab`` in the root, a regular file; None when only its entry has it."""
        ...

    def verify(self) -> None:
        """Look whether the source is still what was listed; called when all of its content has been read.

        :raises SourceChanged: if not
        """
        ...

    @property
    def warnings(self) -> list[str]:
        """What was left out or is published in another form, for people."""
        ...


def storable_xattrs(xattrs: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Return the extended attributes that a catalog can hold: as upstream's, the others are left out.

    A catalog counts attributes, and bytes of their names and values, in one byte each. Those of union file systems,
    which mean something only where they are, are left out too.
    """
    fitting = sorted(
        (key, value)
        for key, value in xattrs.items()
        if 0 < len(key) <= _MAX_XATTR_BYTES and len(value) <= _MAX_XATTR_BYTES and not key.startswith(UNION_XATTRS)
    )
    return dict(fitting[:_MAX_XATTRS]) if fitting else NO_XATTRS
