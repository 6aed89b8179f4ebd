# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a repository on local disk: verified, decompressed, and no more of them than there is room for."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..content import Compression, ContentHash, fetch_large_object, fetch_object
from ..errors import CorruptObject, MountError, PublisherError

if TYPE_CHECKING:
    from ..storage import ObjectStore

_LARGE = 4 << 20  # bytes; larger objects are not fetched in one piece
_BLOCK = 4096  # bytes; a file takes whole blocks
_PREFETCHERS = 8
_PATIENCE = 10.0  # seconds to wait for a server that is ending to release the directory


class NotAtHand(Exception):
    """The answer needs the object store, and the caller would not wait."""


class ObjectCache:
    """Objects that were fetched, as files in a directory.

    They stay when the cache is closed. The next to use the directory, for whatever revision, finds them.

    :param store: the repository
    :param directory: made if needed; one cache at a time can use it
    :param limit: bytes of disk to use. A single object that is larger is kept while nothing else is asked for
    :raises MountError: when the directory is in use, or cannot be used
    """

    def __init__(self, store: ObjectStore, directory: Path, limit: int) -> None:
        self._store = store
        self._directory = directory
        self._root = str(directory)
        self._limit = limit
        self._lock = threading.Lock()
        self._used = 0
        self._sizes: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._pinned: Counter[str] = Counter()
        self._coming: dict[str, Future[None]] = {}
        self._numbers = itertools.count()
        self._prefetchers = ThreadPoolExecutor(_PREFETCHERS, thread_name_prefix="prefetch")
        try:
            for number in range(256):
                (directory / f"{number:02x}").mkdir(parents=True, exist_ok=True)
            self._guard = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise MountError(
                f"Cannot use the cache directory {directory}: {error.strerror}", remedy="Give it a writable volume"
            ) from error
        try:
            self._take_directory()
            self._find_files()
        except BaseException:
            os.close(self._guard)
            raise

    def read(
        self, content_hash: ContentHash, compression: Compression, size: int, offset: int, length: int, *, wait: bool
    ) -> bytes:
        """Return a part of an object's decompressed content.

        :param size: bytes of the whole content, as the catalog says
        :param wait: fetch the object if it is not there
        :raises NotAtHand: instead of fetching it
        :raises PublisherError: when it cannot be had, or is not what it should be
        """
        name = _name(content_hash, compression)
        while True:
            try:
                descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                if not wait:
                    raise NotAtHand from None
                self._fetch(name, content_hash, compression, size)
                continue
            try:
                if os.fstat(descriptor).st_size == size:
                    self._touch(name)
                    return os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)
            self._drop(name)  # left behind by a machine that crashed

    def pin(self, content_hash: ContentHash, *, wait: bool) -> Path:
        """Return the file with the content of a catalog, which stays until `unpin` is called.

        :param wait: fetch the object if it is not there
        :raises NotAtHand: instead of fetching it
        :raises PublisherError: when it cannot be had
        """
        name = _name(content_hash, Compression.ZLIB)
        with self._lock:
            self._pinned[name] += 1
        try:
            while not self._has(name):
                if not wait:
                    raise NotAtHand
                self._fetch(name, content_hash, Compression.ZLIB, None)
        except BaseException:
            self._unpin(name)
            raise
        self._touch(name)
        return Path(self._path(name))

    def unpin(self, content_hash: ContentHash) -> None:
        """Allow a catalog's file to be removed, once for each `pin`."""
        self._unpin(_name(content_hash, Compression.ZLIB))

    def prefetch(self, content_hash: ContentHash, compression: Compression, size: int) -> None:
        """Fetch an object in the background, unless it is there. If that fails, who reads it will hear of it."""
        name = _name(content_hash, compression)
        with self._lock:
            if name in self._sizes or name in self._coming:
                return

        def run() -> None:
            with contextlib.suppress(PublisherError):
                self._fetch(name, content_hash, compression, size)

        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._prefetchers.submit(run)

    @property
    def used(self) -> int:
        """Bytes of disk that are in use."""
        return self._used

    def close(self) -> None:
        """Let go of the directory."""
        self._prefetchers.shutdown(cancel_futures=True)
        os.close(self._guard)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Internals

    def _take_directory(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MountError(
                        f"The cache directory {self._directory} belongs to a file system that is still mounted",
                        remedy="Unmount that one first",
                    ) from None
            time.sleep(0.05)

    def _find_files(self) -> None:
        """Take over what an earlier user of the directory left, the oldest first."""
        found = []
        for folder in os.scandir(self._directory):
            for entry in os.scandir(folder.path):
                if "." in entry.name:  # was never completed
                    os.unlink(entry.path)
                else:
                    status = entry.stat()
                    found.append((status.st_mtime_ns, folder.name + entry.name, _on_disk(status.st_size)))
        for _, name, size in sorted(found):
            self._sizes[name] = size
            self._used += size
        with self._lock:
            self._make_room(0)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name[2:]}"

    def _has(self, name: str) -> bool:
        with self._lock:
            return name in self._sizes

    def _touch(self, name: str) -> None:
        with self._lock:
            if name in self._sizes:
                self._sizes.move_to_end(name)

    def _drop(self, name: str) -> None:
        with self._lock:
            self._used -= self._sizes.pop(name, 0)
            _remove(self._path(name))

    def _unpin(self, name: str) -> None:
        with self._lock:
            self._pinned[name] -= 1
            if not self._pinned[name]:
                del self._pinned[name]

    def _fetch(self, name: str, content_hash: ContentHash, compression: Compression, size: int | None) -> None:
        """Bring an object into the cache, or wait for another thread that does."""
        with self._lock:
            if name in self._sizes:
                return
            coming = self._coming.get(name)
            if coming is None:
                mine = self._coming[name] = Future()
        if coming is not None:
            coming.result()
            return
        try:
            self._bring(name, content_hash, compression, size)
        except BaseException as error:
            self._end(name)
            mine.set_exception(error)
            raise
        self._end(name)
        mine.set_result(None)

    def _end(self, name: str) -> None:
        with self._lock:
            del self._coming[name]

    def _bring(self, name: str, content_hash: ContentHash, compression: Compression, size: int | None) -> None:
        temporary = self._path(f"{name}.{next(self._numbers)}")
        reserved = _on_disk(size or 0)
        with self._lock:
            self._make_room(reserved)
            self._used += reserved
        try:
            try:
                actual = self._write(temporary, content_hash, compression, size)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # Others fill the disk, too. What is here can be fetched again.
                _remove(temporary)
                with self._lock:
                    self._make_room(self._limit)
                actual = self._write(temporary, content_hash, compression, size)
            if size is not None and actual != size:
                raise CorruptObject(
                    f"Object {content_hash.key()} has {actual} bytes of content, its catalog says {size}",
                    remedy="Check the repository with 'cvmfs_server check'",
                )
            os.rename(temporary, self._path(name))
            with self._lock:
                self._sizes[name] = _on_disk(actual)
                self._used += _on_disk(actual) - reserved
                reserved = 0
                self._make_room(0, keep=name)
        except BaseException as error:
            _remove(temporary)
            if not isinstance(error, OSError):
                raise
            raise PublisherError(
                f"Cannot keep object {content_hash.key()} in the cache directory {self._directory}: {error.strerror}",
                remedy="Free space there, or use a larger volume",
            ) from error
        finally:
            if reserved:
                with self._lock:
                    self._used -= reserved

    def _write(self, target: str, content_hash: ContentHash, compression: Compression, size: int | None) -> int:
        """Write an object's content to a new file, and return its size in bytes."""
        if size is None or size <= _LARGE:
            data = fetch_object(self._store, content_hash, compression)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                written = os.write(descriptor, data)
            finally:
                os.close(descriptor)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(data)
        fetch_large_object(self._store, content_hash, compression, Path(target))
        return os.stat(target).st_size

    def _make_room(self, size: int, keep: str = "") -> None:
        """Remove the least recently used files until there is room for `size` bytes. The lock is held."""
        if self._used + size <= self._limit:
            return
        for name in list(self._sizes):
            if name not in self._pinned and name != keep:
                self._used -= self._sizes.pop(name)
                _remove(self._path(name))
                if self._used + size <= self._limit:
                    return


def _name(content_hash: ContentHash, compression: Compression) -> str:
    """Return the name of the file with an object's content, which depends on how the object is to be unpacked."""
    return f"{content_hash}-{compression.value}"


def _remove(file: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file)


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
