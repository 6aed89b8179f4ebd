# SPDX-License-Identifier: GPL-3.0-or-later
"""Content from a tar archive.

An archive can have its members in any order, a directory behind what is in it, and a name more than once. So it is
taken in two steps. `ArchiveSource.load` goes through the stream once, hands on the content of the files, and notes all
the rest in a scratch database. Then the archive can be listed directory by directory, as any other source. Nothing is
unpacked.
"""

from __future__ import annotations

import abc
import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, TypedDict, Unpack

from ..catalog.entry import pack_xattrs, unpack_xattrs
from ..catalog.schema import sqlite_errors
from ..content import BytesSource, Chunk, Compression, ContentHash, ContentSource
from ..errors import SourceChanged
from ..paths import ROOT, join
from ..paths import display as shown
from ..paths import name as name_of
from ..paths import parent as parent_of
from .change_set import Owner
from .decompress import InterruptibleStream, open_tar_stream
from .dirtab import DIRTAB, MAX_SIZE
from .entry import (
    DIRECTORY_SIZE,
    NO_XATTRS,
    XATTR_LIMITS,
    FileContent,
    Listing,
    SourceEntry,
    implied_directory,
    storable_xattrs,
)
from .graft import GRAFT_PREFIX, MAX_GRAFT
from .special import REMOVE_SPECIAL, is_device, special_kind
from .tar_format import REPACK, Member, TarReader

IN_MEMORY = 4 << 20
"""Bytes up to which a member's content is read into memory, so that the pipeline can work on several at a time."""

_MAX_NAME = 255
_MAX_INT64 = 2**63 - 1
_MAX_UINT32 = 2**32 - 1

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
CREATE TABLE member (
  directory BLOB, name BLOB, inode INTEGER, mode INTEGER, uid INTEGER, gid INTEGER, size INTEGER,
  mtime INTEGER, mtime_ns INTEGER, symlink BLOB, xattrs BLOB, PRIMARY KEY (directory, name)
) WITHOUT ROWID;
CREATE TABLE content (
  inode INTEGER PRIMARY KEY, hash TEXT, chunks TEXT, compression INTEGER, external INTEGER, direct_io INTEGER, text BLOB
);
BEGIN;
"""
_INSERT = "INSERT OR REPLACE INTO member VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_LOOK_UP = "SELECT * FROM member WHERE directory = ? AND name = ?"
_LIST = """
SELECT member.*, hash, chunks, compression, external, direct_io, text FROM member LEFT JOIN content USING (inode)
WHERE directory = ? ORDER BY name
"""
_IMPLIED = 0
"""The inode of directories that have members but are none themselves."""


class ContentSink(Protocol):
    """Takes the content of an archive's files while the archive is read."""

    def published(self, path: bytes, entry: SourceEntry) -> FileContent | None:
        """Return the content of a file if there is no need to read it, since the published file is the same.

        :param path: relative to the source's root
        """
        ...

    def submit(self, source: ContentSource, done: Callable[[FileContent], None], name: bytes) -> None:
        """Take the content of a file of this name; `done` is called later, at the latest by `drain`."""
        ...

    def wait(self, event: threading.Event) -> None:
        """Return when `event` is set.

        :raises PublisherError: when content could not be read or stored
        """
        ...

    def drain(self) -> None:
        """Return when all content has been taken.

        :raises PublisherError: when content could not be read or stored
        """
        ...


class TarOptions(TypedDict):
    """How members are published: the keyword arguments of `TarSource`."""

    owner: Owner | None
    default_owner: Owner
    timestamp: int
    ignore_special_files: bool
    with_xattrs: bool


class TarSource(abc.ABC):
    """What tar archives hold.

    :param label: names the source in messages
    :param scratch_dir: where a database of the members is kept until `close`
    :param owner: whom everything is given to, or None to keep the owners that the archive names
    :param default_owner: whom directories are given to that the archive has members in but does not list
    :param timestamp: their modification time, in seconds since the epoch
    :param ignore_special_files: leave out fifos and device nodes
    :param with_xattrs: take extended attributes
    """

    def __init__(
        self,
        label: str,
        scratch_dir: Path,
        *,
        owner: Owner | None,
        default_owner: Owner,
        timestamp: int,
        ignore_special_files: bool,
        with_xattrs: bool,
    ) -> None:
        self._label = label
        self._owner = owner
        self._ignore_special_files = ignore_special_files
        self._with_xattrs = with_xattrs
        self._implied = implied_directory(default_owner, timestamp)
        self._root = self._implied
        self._dirtab: bytes | None = None
        self._directories = {ROOT}
        self._inode = _IMPLIED
        self._skipped = 0
        self._lost_xattrs = 0
        self._split_links = 0
        self._file = scratch_dir / "archive.sqlite"
        self._file.unlink(missing_ok=True)
        with self._errors():
            self._database = sqlite3.connect(self._file, isolation_level=None)
            self._database.executescript(_SCHEMA)

    def load(self, sink: ContentSink | None) -> None:
        """Read what there is.

        :param sink: takes the content of files; None to leave content alone
        :raises UnsafeArchive: when an archive is damaged, cut short, or has a member that cannot be published
        :raises UnreadableSource: when the system cannot read it
        """
        self._load(sink)
        if sink is not None:
            sink.drain()

    @abc.abstractmethod
    def _load(self, sink: ContentSink | None) -> None:
        """Give all members to `_take`."""

    @abc.abstractmethod
    def verify(self) -> None:
        """Look whether what was read has changed meanwhile.

        :raises SourceChanged: if so
        """

    def root(self) -> SourceEntry:
        """Return the root's own attributes; they are implied where the archive does not list it."""
        return self._root

    def listings(self) -> Iterator[Listing]:
        """Yield all directories, the root first, each before those below it, in the order of their bytes."""
        pending = [ROOT]
        while pending:
            path = pending.pop()
            with self._errors():
                rows = self._database.execute(_LIST, (path,)).fetchall()
            entries = [_from_row(row) for row in rows]
            _drop_single_links(entries)
            yield Listing(path, entries)
            pending.extend(join(path, entry.name) for entry in reversed(entries) if entry.is_directory)

    def dirtab(self) -> bytes | None:
        """Return the content of the ``.cvmfsdirtab`` in the root; None when it is a hard link to another member."""
        return self._dirtab

    @property
    def warnings(self) -> list[str]:
        """What was left out or is published in another form, for people."""
        warnings = []
        if self._skipped:
            warnings.append(f"{self._skipped} fifos and device nodes were left out")
        if self._lost_xattrs:
            warnings.append(f"{self._lost_xattrs} extended attributes were left out; {XATTR_LIMITS}")
        if self._split_links:
            warnings.append(
                f"{self._split_links} hard links to files in other directories are published as separate files"
            )
        return warnings

    def close(self) -> None:
        """Remove the database."""
        self._database.close()
        self._file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Members

    def _take(self, reader: TarReader, path: bytes, member: Member, sink: ContentSink | None) -> None:
        """Take the member that the reader is at."""
        if self._ignore_special_files and special_kind(member.mode):
            self._skipped += 1
            return
        self._check(reader, member)
        self._make_room(reader, path, is_directory=stat.S_ISDIR(member.mode))
        if member.is_hard_link:
            self._link(reader, path, member_path(reader, member.link))
        else:
            self._add(reader, path, member, sink)

    def _check(self, reader: TarReader, member: Member) -> None:
        """Refuse what catalogs cannot hold, or should not."""
        if is_device(member.mode):
            raise reader.error(f"is {special_kind(member.mode)}", remedy=REMOVE_SPECIAL)
        if stat.S_ISLNK(member.mode) and (not member.link or b"\0" in member.link):
            raise reader.error("is a symlink without a valid target", remedy=REPACK)
        if not (
            max(member.uid, member.gid) <= _MAX_UINT32
            and min(member.uid, member.gid) >= 0
            and member.size <= _MAX_INT64
            and abs(member.mtime) <= _MAX_INT64
        ):
            raise reader.error("has an owner, size or time that no catalog can hold", remedy=REPACK)

    def _make_room(self, reader: TarReader, path: bytes, *, is_directory: bool) -> None:
        """See that `path` lies in a directory, and that it can be given to the current member."""
        if path not in self._directories:
            self._make_directory(reader, parent_of(path))
        elif not is_directory:
            if path == ROOT:
                raise reader.error("has the name of the archive's root, and is not a directory", remedy=REPACK)
            with self._errors():
                if self._database.execute("SELECT 1 FROM member WHERE directory = ?", (path,)).fetchone():
                    raise reader.error("replaces a directory that other members are in", remedy=REPACK)
            self._directories.remove(path)

    def _make_directory(self, reader: TarReader, path: bytes) -> None:
        if path in self._directories:
            return
        self._make_directory(reader, parent_of(path))
        found = self._look_up(path)
        if found is not None:
            what = "a symlink" if found.is_symlink else "not a directory"
            raise reader.error(f"lies below {shown(path)!r}, which is {what} in the same archive", remedy=REPACK)
        self._insert(path, self._implied, _IMPLIED)
        self._directories.add(path)

    def _add(self, reader: TarReader, path: bytes, member: Member, sink: ContentSink | None) -> None:
        xattrs = storable_xattrs(member.xattrs) if self._with_xattrs else NO_XATTRS
        if self._with_xattrs:
            self._lost_xattrs += len(member.xattrs) - len(xattrs)
        entry = SourceEntry(
            name=name_of(path),
            mode=member.mode,
            uid=self._owner.uid if self._owner else member.uid,
            gid=self._owner.gid if self._owner else member.gid,
            size=member.size,
            mtime=member.mtime,
            mtime_ns=member.mtime_ns,
            xattrs=xattrs,
        )
        if entry.is_directory:
            entry.size = DIRECTORY_SIZE
            self._directories.add(path)
        elif entry.is_symlink:
            entry.symlink = member.link
            entry.size = len(member.link)
        if path == ROOT:
            self._root = entry
            return
        self._inode += 1
        self._insert(path, entry, self._inode)
        if not entry.is_regular:
            return
        if path == DIRTAB:
            if entry.size > MAX_SIZE:
                raise reader.error("is too large for a list of rules", remedy="Shorten it to a few kilobytes")
            self._dirtab = _read_whole(reader)
        if entry.name.startswith(GRAFT_PREFIX):
            if entry.size > MAX_GRAFT:
                raise reader.error("is too large to describe a grafted file", remedy="Rename it if it is none")
            text = _read_whole(reader)
            with self._errors():
                self._database.execute("INSERT INTO content (inode, text) VALUES (?, ?)", (self._inode, text))
        elif sink is not None:
            self._take_content(reader, path, entry, sink)

    def _link(self, reader: TarReader, path: bytes, target: bytes) -> None:
        """Give `path` the attributes and the content that the target of a hard link has now."""
        found = self._look_up(target)
        if found is None or found.is_directory:
            raise reader.error(
                f"is a hard link to {shown(target)!r}, which is no file in front of it in the archive",
                remedy="Pack the archive again, with all of the names that the file has",
            )
        if parent_of(target) != parent_of(path):
            self._split_links += 1
        self._insert(path, found, found.link_group)
        if path == DIRTAB:
            self._dirtab = None

    def _take_content(self, reader: TarReader, path: bytes, entry: SourceEntry, sink: ContentSink) -> None:
        inode = self._inode

        def done(content: FileContent) -> None:
            chunks = " ".join(f"{chunk.offset},{chunk.size},{chunk.hash}" for chunk in content.chunks)
            with self._errors():
                self._database.execute(
                    "INSERT INTO content VALUES (?, ?, ?, ?, ?, ?, NULL)",
                    (
                        inode,
                        str(content.hash or ""),
                        chunks,
                        content.compression.value,
                        content.is_external,
                        content.is_direct_io,
                    ),
                )

        content = sink.published(path, entry)
        if content is not None:
            done(content)
        elif entry.size <= IN_MEMORY:
            data = self._dirtab if path == DIRTAB and self._dirtab is not None else _read_whole(reader)
            sink.submit(BytesSource(data, f"{shown(path)} in {self._label}"), done, entry.name)
        else:
            source = _MemberSource(reader, entry.size, f"{shown(path)} in {self._label}")
            sink.submit(source, done, entry.name)
            sink.wait(source.consumed)

    # Database

    def _insert(self, path: bytes, entry: SourceEntry, inode: object) -> None:
        with self._errors():
            self._database.execute(
                _INSERT,
                (
                    parent_of(path),
                    name_of(path),
                    inode,
                    entry.mode,
                    entry.uid,
                    entry.gid,
                    entry.size,
                    entry.mtime,
                    entry.mtime_ns,
                    entry.symlink,
                    pack_xattrs(entry.xattrs),
                ),
            )

    def _look_up(self, path: bytes) -> SourceEntry | None:
        with self._errors():
            row = self._database.execute(_LOOK_UP, (parent_of(path), name_of(path))).fetchone()
        return _from_row((*row, *[None] * 6)) if row else None

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return sqlite_errors(self._file, f"The list of members of {self._label}")


class ArchiveSource(TarSource):
    """A tar archive.

    :param stream: plain, or compressed with gzip, bzip2, xz or zstd; it is read once, forward
    :param label: as for `TarSource`, and so are the rest
    """

    def __init__(self, stream: BinaryIO, label: str, scratch_dir: Path, **options: Unpack[TarOptions]) -> None:
        super().__init__(label, scratch_dir, **options)
        self._stream = stream
        self._reading = InterruptibleStream(stream)
        self._seen = _status(stream)

    def verify(self) -> None:
        """Look whether the archive's file, if it is one, has changed since it was opened.

        :raises SourceChanged: if so
        """
        if _status(self._stream) != self._seen:
            raise SourceChanged(
                f"{self._label} changed while it was being read",
                remedy="Wait until nothing writes to it, and publish again",
            )

    def close(self) -> None:
        """Remove the database, and end the reading of the archive, which another thread may still be at."""
        self._reading.stop()
        super().close()

    def _load(self, sink: ContentSink | None) -> None:
        reader = TarReader(open_tar_stream(self._reading, self._label), self._label)
        for member in reader:
            self._take(reader, member_path(reader, member.name), member, sink)


class _MemberSource:
    """The content of the member that the reader is at; it is read in another thread while the reader's own waits."""

    held = 0

    def __init__(self, reader: TarReader, size: int, label: str) -> None:
        self.size = size
        self.consumed = threading.Event()
        self._reader = reader
        self._label = label

    def open(self) -> _MemberSource:
        return self

    def readinto(self, buffer: memoryview, /) -> int:
        data = self._reader.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.consumed.set()

    def describe(self) -> str:
        return self._label


def _read_whole(reader: TarReader) -> bytes:
    """Return the content of the current member, which is a small one."""
    return b"".join(iter(lambda: reader.read(IN_MEMORY), b""))


def _status(stream: BinaryIO) -> tuple[int, int, int] | None:
    """Return what changes when a file is written to; None for pipes and the like."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if stat.S_ISREG(status.st_mode) else None


def member_path(reader: TarReader, written: bytes) -> bytes:
    """Return the path, relative to the archive's root, that a member's name or hard link means."""
    remedy = "Pack it from within the directory that it is to hold: 'tar -C DIRECTORY -cf ARCHIVE .'"
    if written.startswith(b"/"):
        raise reader.error(f"has the absolute name {shown(written)!r}", remedy=remedy)
    components = [component for component in written.split(b"/") if component not in (b"", b".")]
    if b".." in components:
        raise reader.error(f"has '..' in the name {shown(written)!r}", remedy=remedy)
    if not written or b"\0" in written:
        raise reader.error("has no valid name", remedy=REPACK)
    if any(len(component) > _MAX_NAME for component in components):
        raise reader.error(f"has a file name of more than {_MAX_NAME} bytes", remedy="Give it a shorter name")
    return b"/".join(components)


def _from_row(row: Any) -> SourceEntry:
    (_, name, inode, mode, uid, gid, size, mtime, mtime_ns, symlink, xattrs) = row[:11]
    digest, chunks, compression, external, direct_io, text = row[11:]
    content: FileContent | ContentSource | None = None
    if text is not None:
        content = BytesSource(text, shown(name))
    elif compression is not None:
        content = FileContent(
            hash=ContentHash.parse(digest) if digest else None,
            chunks=tuple(_chunk(text) for text in chunks.split()),
            compression=Compression(compression),
            is_external=bool(external),
            is_direct_io=bool(direct_io),
        )
    return SourceEntry(
        name=name,
        mode=mode,
        uid=uid,
        gid=gid,
        size=size,
        mtime=mtime,
        mtime_ns=mtime_ns,
        symlink=symlink,
        xattrs=unpack_xattrs(xattrs) if xattrs else NO_XATTRS,
        link_group=inode,
        content=content,
        implied=inode == _IMPLIED,
    )


def _chunk(text: str) -> Chunk:
    offset, size, content_hash = text.split(",")
    return Chunk(int(offset), int(size), ContentHash.parse(content_hash))


def _drop_single_links(entries: list[SourceEntry]) -> None:
    """Leave only those entries in a group of hard links that are not alone in it."""
    count: dict[object, int] = {}
    for entry in entries:
        count[entry.link_group] = count.get(entry.link_group, 0) + 1
    for entry in entries:
        if count[entry.link_group] == 1 or entry.is_directory:
            entry.link_group = None
