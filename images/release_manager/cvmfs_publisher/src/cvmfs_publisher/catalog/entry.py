# SPDX-License-Identifier: GPL-3.0-or-later
"""Directory entries, and how a catalog stores them.

The format is CernVM-FS's ``SqlDirent`` (flags), ``XattrList`` (extended attributes) and the checks of
``cvmfs_swissknife check``.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from .. import paths
from ..content import Chunk, Compression, ContentHash, HashAlgorithm
from ..errors import CorruptObject, SourceError

MARKER = b".cvmfscatalog"
"""The file that makes its directory the root of a nested catalog."""

AUTO_MARKER = b".cvmfsautocatalog"
"""The file that tells a nested catalog which was made to keep catalogs small from one that was made by hand."""

_HASH_SHIFT = 8
_COMPRESSION_SHIFT = 11
_THREE_BITS = 7

_ALGORITHMS = {algorithm.value: algorithm for algorithm in HashAlgorithm}
_COMPRESSIONS = {compression.value: compression for compression in Compression}

_XATTR_VERSION = 1
_XATTR_MAX = 255

_FILE_TYPES = frozenset(
    (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
)

# What SQLite's signed 64-bit integers and the catalog's 32-bit fields can hold
_MAX_INT64 = 2**63 - 1
_MAX_UINT32 = 2**32 - 1


class Flag(IntEnum):
    """Bits of an entry's flags; bits 8 to 10 are the hash algorithm, 11 to 13 the compression algorithm."""

    DIRECTORY = 1
    NESTED_MOUNTPOINT = 2
    FILE = 4
    LINK = 8
    SPECIAL = 16
    NESTED_ROOT = 32
    CHUNKED = 64
    EXTERNAL = 128
    BIND_MOUNTPOINT = 1 << 14
    HIDDEN = 1 << 15
    DIRECT_IO = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryEntry:
    """One file, directory, symbolic link or special file of a repository.

    :param name: the last component of its path; empty for the repository's root
    :param mode: type and permissions, as in ``st_mode``
    :param size: bytes; of a symbolic link those of its target; of a device its number, as in ``st_rdev``
    :param mtime: seconds since 1970
    :param mtime_ns: the fraction of the second in nanoseconds, or None when only seconds are kept
    :param hash: content of a regular file; None when it is stored in chunks only, and for everything else
    :param symlink: target of a symbolic link
    :param xattrs: extended attributes; at most 255, with names and values of at most 255 bytes
    :param hardlink_group: number that hard links to one file share within a catalog; 0 for none.
        Only the catalog tree gives these numbers out.
    :param linkcount: as ``st_nlink``. Only the catalog tree sets it.
    :param chunks: pieces of a large regular file, in order and without gaps
    :param is_external: the content is not stored in the repository
    :param is_hidden: not shown in listings
    :param is_direct_io: clients bypass the page cache
    :param is_nested_mountpoint: the directory's content is in a nested catalog, and this is its entry outside
    :param is_nested_root: the directory's content is in a nested catalog, and this is its entry inside
    :param is_bind_mountpoint: the directory shows the root of another revision
    """

    name: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    mtime_ns: int | None = None
    hash: ContentHash | None = None
    symlink: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    hardlink_group: int = 0
    linkcount: int = 1
    chunks: tuple[Chunk, ...] = ()
    compression: Compression = Compression.ZLIB
    is_external: bool = False
    is_hidden: bool = False
    is_direct_io: bool = False
    is_nested_mountpoint: bool = False
    is_nested_root: bool = False
    is_bind_mountpoint: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_device(self) -> bool:
        return stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)

    @property
    def hash_algorithm(self) -> HashAlgorithm | None:
        """What made the content's hashes; None when there are none."""
        if self.hash is not None:
            return self.hash.algorithm
        return self.chunks[0].hash.algorithm if self.chunks else None

    def flags(self) -> int:
        """Return the flags column."""
        flags: int = 0
        if self.is_nested_root:
            flags |= Flag.NESTED_ROOT
        elif self.is_nested_mountpoint:
            flags |= Flag.NESTED_MOUNTPOINT
        elif self.is_bind_mountpoint:
            flags |= Flag.BIND_MOUNTPOINT
        if self.is_directory:
            flags |= Flag.DIRECTORY
        elif self.is_symlink:
            flags |= Flag.FILE | Flag.LINK
        elif self.is_regular:
            flags |= Flag.FILE | self.compression.value << _COMPRESSION_SHIFT
            if self.chunks:
                flags |= Flag.CHUNKED
            if self.is_external:
                flags |= Flag.EXTERNAL
            if self.is_direct_io:
                flags |= Flag.DIRECT_IO
        else:
            flags |= Flag.FILE | Flag.SPECIAL
        algorithm = self.hash_algorithm
        if algorithm is not None:
            flags |= algorithm.value - 1 << _HASH_SHIFT
        if self.is_hidden:
            flags |= Flag.HIDDEN
        return flags

    def problem(self) -> str | None:
        """Say what CernVM-FS's own check would not accept in this entry by itself; None if nothing."""
        if self.name in (b".", b"..") or b"/" in self.name or b"\0" in self.name or len(self.name) > 255:
            return "its name is not a file name"
        if stat.S_IFMT(self.mode) not in _FILE_TYPES:
            return f"mode {self.mode:o} is of no known file type"
        if not (0 <= self.size <= _MAX_INT64 and -_MAX_INT64 <= self.mtime <= _MAX_INT64):
            return "its size or modification time is out of range"
        if not (0 <= self.uid <= _MAX_UINT32 and 0 <= self.gid <= _MAX_UINT32):
            return "its owner is out of range"
        if self.mtime_ns is not None and not 0 <= self.mtime_ns < 1_000_000_000:
            return f"{self.mtime_ns} ns is no fraction of a second"
        if self.linkcount < 1:
            return "its link count is 0"
        if self.is_regular:
            return self._file_problem()
        if self.hash is not None or self.chunks or self.is_external or self.is_direct_io:
            return "only regular files have content"
        if self.is_symlink:
            if not self.symlink or b"\0" in self.symlink:
                return "its target is not a path"
            if self.size != len(self.symlink):
                return f"its size is {self.size}, its target has {len(self.symlink)} bytes"
        elif self.symlink:
            return "only symbolic links have a target"
        elif self.is_directory:
            if self.hardlink_group:
                return "it is a hard link to a directory"
        elif self.size and not self.is_device:
            return "special files have no size"
        return None

    def _file_problem(self) -> str | None:
        if self.symlink:
            return "only symbolic links have a target"
        if self.hash is None and not self.chunks:
            return "it has no content hash"
        if self.chunks:
            offset = 0
            for chunk in self.chunks:
                if chunk.offset != offset:
                    return f"there is no chunk at byte {offset}"
                offset += chunk.size
            if offset != self.size:
                return f"its size is {self.size}, its chunks have {offset} bytes"
        return None


def pack_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes | None:
    """Return the blob in which a catalog keeps extended attributes; None for none.

    :raises SourceError: when there are more or larger ones than a catalog can hold
    """
    if not xattrs:
        return None
    if len(xattrs) > _XATTR_MAX:
        raise SourceError(
            f"{len(xattrs)} extended attributes on one file; a catalog holds {_XATTR_MAX}", remedy="Remove some"
        )
    packed = bytearray((_XATTR_VERSION, len(xattrs)))
    for name, value in sorted(xattrs.items()):
        if not name or b"\0" in name or len(name) > _XATTR_MAX or len(value) > _XATTR_MAX:
            raise SourceError(
                f"Extended attribute {paths.display(name)!r} cannot be kept in a catalog",
                remedy=f"Remove it; names and values have at most {_XATTR_MAX} bytes",
            )
        packed += bytes((len(name), len(value))) + name + value
    return bytes(packed)


def unpack_xattrs(blob: bytes | None) -> dict[bytes, bytes]:
    """Return the extended attributes in a catalog's blob.

    :raises CorruptObject: when the blob is damaged
    """
    if blob is None:
        return {}
    damaged = CorruptObject("A catalog has a damaged list of extended attributes")
    if len(blob) < 2 or blob[0] != _XATTR_VERSION:
        raise damaged
    xattrs = {}
    position = 2
    for _ in range(blob[1]):
        if position + 2 > len(blob):
            raise damaged
        name_end = position + 2 + blob[position]
        value_end = name_end + blob[position + 1]
        if value_end > len(blob) or name_end == position + 2:
            raise damaged
        xattrs[blob[position + 2 : name_end]] = blob[name_end:value_end]
        position = value_end
    return xattrs


def algorithm_of(flags: int) -> HashAlgorithm:
    """Return the hash algorithm in an entry's flags.

    :raises CorruptObject: for an unknown one
    """
    number = (flags >> _HASH_SHIFT & _THREE_BITS) + 1
    algorithm = _ALGORITHMS.get(number)
    if algorithm is None:
        raise CorruptObject(f"A catalog names hash algorithm {number}, which is not known")
    return algorithm


def compression_of(flags: int) -> Compression:
    """Return the compression algorithm in an entry's flags.

    :raises CorruptObject: for an unknown one
    """
    number = flags >> _COMPRESSION_SHIFT & _THREE_BITS
    compression = _COMPRESSIONS.get(number)
    if compression is None:
        raise CorruptObject(f"A catalog names compression algorithm {number}, which is not known")
    return compression
