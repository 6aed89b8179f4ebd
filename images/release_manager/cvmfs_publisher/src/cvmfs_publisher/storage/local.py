# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository in a directory that any web server can serve: CernVM-FS's ``local`` upstream storage."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..errors import (
    AccessDenied,
    ConfigurationError,
    ObjectNotFound,
    PreconditionFailed,
    QuotaExceeded,
    StorageError,
)
from .store import Bytes, ObjectInfo, Permit, Traffic, Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO
    from types import TracebackType

    from .cancellation import Cancellation

_TRANSACTIONS = "data/txn"
_TEMPORARY = re.compile(r"tmp[0-9a-f]{16}", re.ASCII)
_ABANDONED = 86400.0  # seconds after which a temporary file is nobody's any more


_LIBC = ctypes.CDLL(None, use_errno=True)


class LocalStore:
    """An object store in a directory, with the semantics of the S3 one.

    Objects appear by being renamed into place. Everything that is not named by its content is written under a
    lock on the directory, so that conditional writes of several processes order themselves.

    :param directory: the repository's root; made by the first write if it does not exist
    :param temporary: where objects are written before they are renamed; on the same file system, and made as well.
        CernVM-FS's own place is ``data/txn`` in the repository.
    """

    def __init__(self, directory: str | Path, temporary: str | Path | None = None) -> None:
        self._root = Path(directory)
        self._temporary = Path(temporary) if temporary is not None else self._root / _TRANSACTIONS
        if _device(self._root) != _device(self._temporary):
            raise ConfigurationError(
                f"{self._temporary} is not on the same file system as {self._root}",
                remedy="Name a directory below the repository's storage in CVMFS_UPSTREAM_STORAGE",
            )
        umask = os.umask(0)
        os.umask(umask)
        self._file_mode = 0o666 & ~umask
        self._is_dirty = False
        self._is_tidy = False

    @property
    def concurrency(self) -> int:
        return (os.cpu_count() or 1) + 2

    @property
    def traffic(self) -> Traffic:
        return Traffic()  # there is no network

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise self._translate(error, "read", key) from error

    def get_in_parts(self, key: str, part_size: int) -> Iterator[bytes]:
        try:
            with self._path(key).open("rb", buffering=0) as stream:
                while part := stream.read(part_size):
                    yield part
        except OSError as error:
            raise self._translate(error, "read", key) from error

    def get_versioned(self, key: str) -> tuple[bytes, Version]:
        data = self.get(key)
        return data, _version(data)

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._translate(error, "look for", key) from error

    def put(
        self,
        key: str,
        data: Bytes,
        *,
        cache_control: str | None = None,
        content_type: str | None = None,
        cancel: Cancellation | None = None,
    ) -> Version:
        del cache_control, content_type, cancel  # the web server's business; nothing here waits
        if key.startswith("data/"):
            return self._write(key, data)
        with self._locked():
            return self._write(key, data)

    def put_if_absent(self, key: str, data: Bytes) -> Version:
        with self._locked():
            if self.exists(key):
                raise PreconditionFailed(f"{self._path(key)} exists already")
            self._sync()
            return self._write(key, data)

    def put_if_match(self, key: str, data: Bytes, version: Version) -> Version:
        with self._locked():
            try:
                current = self.get_versioned(key)[1]
            except ObjectNotFound:
                raise PreconditionFailed(f"{self._path(key)} is gone") from None
            if current != version:
                raise PreconditionFailed(f"{self._path(key)} was replaced by somebody else")
            self._sync()
            return self._write(key, data)

    def delete(self, key: str) -> None:
        if not self.exists(key):
            return
        try:
            with contextlib.nullcontext() if key.startswith("data/") else self._locked():
                self._path(key).unlink(missing_ok=True)
        except NotADirectoryError:
            pass
        except OSError as error:
            raise self._translate(error, "delete", key) from error

    def delete_many(self, keys: Sequence[str], permit: Permit, cancel: Cancellation | None = None) -> bool:
        del cancel  # nothing here waits
        with self._locked():  # nobody can take the lease meanwhile, however long this process may sleep
            try:
                current = self.get_versioned(permit.key)[1]
            except ObjectNotFound:
                raise PreconditionFailed(f"{self._path(permit.key)} is gone") from None
            if current != permit.version:
                raise PreconditionFailed(f"{self._path(permit.key)} was replaced")
            for key in keys:
                try:
                    self._path(key).unlink(missing_ok=True)
                except NotADirectoryError:
                    pass
                except OSError as error:
                    raise self._translate(error, "delete", key) from error
        return True

    def now(self) -> float:
        return time.time()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        pending = [self._path(folder) if folder else self._root]
        while pending:
            try:
                entries = list(os.scandir(pending.pop()))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._translate(error, "list", prefix) from error
            for entry in entries:
                key = os.path.relpath(entry.path, self._root)
                if entry.is_dir(follow_symlinks=False):
                    if f"{key}/".startswith(prefix) and Path(entry.path) != self._temporary:
                        pending.append(Path(entry.path))
                elif key.startswith(prefix):
                    status = entry.stat(follow_symlinks=False)
                    yield ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def describe(self) -> str:
        return f"directory {self._root}"

    def close(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _path(self, key: str) -> Path:
        return self._root / key

    def _sync(self) -> None:
        """Let a power cut spare the objects written so far, before what may refer to them is written."""
        if self._is_dirty:
            self._is_dirty = False
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _syncfs(descriptor)
            except OSError as error:
                self._is_dirty = True
                raise self._translate(error, "synchronise", "") from error
            finally:
                os.close(descriptor)

    def _write(self, key: str, data: Bytes) -> Version:
        target = self._path(key)
        temporary = self._temporary / f"tmp{secrets.token_hex(8)}"
        try:
            with self._create(temporary) as file:
                os.fchmod(file.fileno(), self._file_mode)
                remaining = memoryview(data)
                while remaining:
                    remaining = remaining[file.write(remaining) :]
                if not key.startswith("data/"):
                    os.fsync(file.fileno())  # no power cut may leave an empty manifest
            try:
                os.rename(temporary, target)
            except FileNotFoundError:
                self._make_directories(target)
                os.rename(temporary, target)
        except BaseException as error:  # an interruption, too, must not leave the file behind
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, OSError):
                raise self._translate(error, "write", key) from error
            raise
        if key.startswith("data/"):
            self._is_dirty = True  # only now: another thread may have synchronised meanwhile
        return _version(data)

    def _make_directories(self, target: Path) -> None:
        """Make the directory for an object; for one below ``data/`` those of all others as well.

        CernVM-FS's own ``cvmfs_server import`` refuses storage in which one of them is missing.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.parent == self._root / "data":
            for number in range(256):
                (target.parent.parent / f"{number:02x}").mkdir(exist_ok=True)

    def _create(self, temporary: Path) -> FileIO:
        if not self._is_tidy:
            self._is_tidy = True
            self._tidy()
        try:
            return open(temporary, "xb", buffering=0)
        except FileNotFoundError:
            self._temporary.mkdir(parents=True, exist_ok=True)
            return open(temporary, "xb", buffering=0)

    def _tidy(self) -> None:
        """Remove what publishers that were killed have left."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._temporary):
                if _TEMPORARY.fullmatch(entry.name) and entry.stat().st_mtime < time.time() - _ABANDONED:
                    os.unlink(entry.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the storage's lock, which is on the directory itself: no lock file has to be kept."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._translate(error, "write to", "") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _translate(self, error: OSError, action: str, key: str) -> StorageError:
        text = f"Cannot {action} {self._path(key)}: {error.strerror}"
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR:
                return ObjectNotFound(f"There is no {self._path(key)}")
            case errno.EACCES | errno.EPERM | errno.EROFS:
                return AccessDenied(text, remedy="Run as the user who owns the repository's storage")
            case errno.ENOSPC | errno.EDQUOT:
                return QuotaExceeded(text, remedy="Free space on that file system, then try again")
        return StorageError(text, remedy="See whether that file system is in order")


def _syncfs(descriptor: int) -> None:
    """Write a whole file system to its disk: one call, where fsync would need one for each file and directory."""
    if _LIBC.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _device(path: Path) -> int:
    """Return the file system that a path is on, or will be when it is made."""
    existing = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    return existing.stat().st_dev


def _version(data: Bytes) -> Version:
    return Version(hashlib.sha256(data).hexdigest())
