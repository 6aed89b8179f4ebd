# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the content of a file comes from."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Protocol

from .. import paths
from ..errors import SourceChanged, UnreadableSource
from .chunker import Reader

if TYPE_CHECKING:
    from ..storage import Bytes


class ClosableReader(Reader, Protocol):
    """A reader that has to be closed."""

    def close(self) -> None:
        """Release it."""
        ...


class ContentSource(Protocol):
    """The content of one file, read once from beginning to end, in some worker thread."""

    @property
    def size(self) -> int:
        """The bytes that reading is expected to give; only a hint, used for planning and progress."""
        ...

    @property
    def held(self) -> int:
        """The bytes of memory that the source occupies until it has been read."""
        ...

    def open(self) -> ClosableReader:
        """Return what the content is read from.

        :raises SourceError: here, and from the reader's ``readinto``, when the content cannot be taken
        """
        ...

    def describe(self) -> str:
        """Return the name for messages."""
        ...


class BytesSource:
    """Content in memory."""

    __slots__ = ("_data", "_name")

    def __init__(self, data: Bytes, name: str = "data in memory") -> None:
        self._data = data
        self._name = name

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def held(self) -> int:
        return len(self._data)

    def open(self) -> ClosableReader:
        return io.BytesIO(self._data)

    def describe(self) -> str:
        return self._name


class FileSource:
    """A regular file.

    It must hold still: when inode, size, mtime or ctime are not the same before and after reading, or not those that
    the caller saw, `SourceChanged` is raised.

    :param path: where the file is; symbolic links are not followed
    :param seen: the status that the caller's decisions were based on, if any
    :param dir_fd: what a relative `path` is relative to, as in `os.open`
    """

    __slots__ = ("_dir_fd", "_path", "_seen")

    def __init__(self, path: bytes | str, seen: os.stat_result | None = None, dir_fd: int | None = None) -> None:
        self._path = path
        self._seen = seen
        self._dir_fd = dir_fd

    @property
    def size(self) -> int:
        return self._seen.st_size if self._seen is not None else 0

    @property
    def held(self) -> int:
        return 0

    def open(self) -> ClosableReader:
        try:
            descriptor = os.open(
                self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._dir_fd
            )
        except OSError as error:
            raise self.unreadable(error) from error
        try:
            before = os.fstat(descriptor)
            if self._seen is not None and _fingerprint(before) != _fingerprint(self._seen):
                raise self.changed()
        except BaseException:
            os.close(descriptor)
            raise
        return _FileReader(self, descriptor, before)

    def describe(self) -> str:
        return paths.display(os.fsencode(self._path))

    def changed(self) -> SourceChanged:
        """Return the error that says so."""
        return SourceChanged(
            f"{self.describe()} changed while it was being read",
            remedy="Wait until nothing writes to the source any more, then publish again",
        )

    def unreadable(self, error: OSError) -> SourceChanged | UnreadableSource:
        """Return the error to raise for `error`."""
        if isinstance(error, FileNotFoundError) and self._seen is not None:
            return self.changed()
        return UnreadableSource(
            f"Cannot read {self.describe()}: {error.strerror}",
            remedy="Make it readable for the release manager, or leave it out of the source",
        )


class _FileReader:
    """Reads a file, and compares its status when the end is reached."""

    __slots__ = ("_before", "_count", "_descriptor", "_source")

    def __init__(self, source: FileSource, descriptor: int, before: os.stat_result) -> None:
        self._source = source
        self._descriptor = descriptor
        self._before = before
        self._count = 0

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            count = os.readv(self._descriptor, (buffer,))
            if count:
                self._count += count
                return count
            after = os.fstat(self._descriptor)
        except OSError as error:
            raise self._source.unreadable(error) from error
        if self._count != self._before.st_size or _fingerprint(after) != _fingerprint(self._before):
            raise self._source.changed()
        return 0

    def close(self) -> None:
        os.close(self._descriptor)


def _fingerprint(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
