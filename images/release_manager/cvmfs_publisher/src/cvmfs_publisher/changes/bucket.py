# SPDX-License-Identifier: GPL-3.0-or-later
"""Content from an S3 bucket: objects become files, and the slashes in their names directories.

An object has a size and a time, and nothing else that a file has: files are 0644, directories 0755, and all belong to
the repository's owner. Objects whose name ends in a slash, as consoles make them for directories, are directories.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from ..catalog.schema import sqlite_errors
from ..errors import ObjectNotFound, PreconditionFailed, SourceChanged, SourceError
from ..paths import ROOT, display, join
from ..paths import name as name_of
from ..paths import parent as parent_of
from ..storage import ObjectInfo, ObjectStore
from .change_set import Owner
from .dirtab import DIRTAB, MAX_SIZE
from .entry import Listing, SourceEntry, implied_directory

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE file (
  directory BLOB, name BLOB, size INTEGER, modified INTEGER, PRIMARY KEY (directory, name)
) WITHOUT ROWID;
CREATE TABLE directory (parent BLOB, name BLOB, PRIMARY KEY (parent, name)) WITHOUT ROWID;
BEGIN;
"""
_PART = 8 << 20
"""Bytes of an object that are asked for at once."""
_MAX_NAME = 255


class BucketSource:
    """The objects of a bucket below a prefix.

    :param store: what has them, their names being relative to the prefix; closed with the source
    :param label: names it in messages
    :param scratch_dir: where a database of the names is kept until `close`
    :param owner: whom everything is given to
    :param timestamp: the directories' modification time, in seconds since the epoch
    :raises SourceError: when names cannot be those of files
    :raises StorageError: when the bucket cannot be listed
    """

    warnings: list[str] = []  # noqa: RUF012  (there is nothing that would be left out)

    def __init__(self, store: ObjectStore, label: str, scratch_dir: Path, *, owner: Owner, timestamp: int) -> None:
        self._store = store
        self._label = label
        self._directory = implied_directory(owner, timestamp)
        self._file = scratch_dir / "bucket.sqlite"
        self._file.unlink(missing_ok=True)
        self._database = sqlite3.connect(self._file, isolation_level=None)
        try:
            with self._errors():
                self._database.executescript(_SCHEMA)
            self._fingerprint = self._look(keep=True)
        except BaseException:
            self.close()
            raise

    def root(self) -> SourceEntry:
        """Return the root's own attributes, which are made up."""
        return self._directory

    def listings(self) -> Iterator[Listing]:
        """Yield all directories, the root first, each before those below it, in the order of their bytes."""
        pending = [ROOT]
        while pending:
            path = pending.pop()
            with self._errors():
                files = self._database.execute(
                    "SELECT name, size, modified FROM file WHERE directory = ? ORDER BY name", (path,)
                ).fetchall()
                below = self._database.execute("SELECT name FROM directory WHERE parent = ?", (path,)).fetchall()
            entries = [self._entry(join(path, name), size, modified) for name, size, modified in files]
            entries += [replace(self._directory, name=name) for (name,) in below]
            entries.sort(key=lambda entry: entry.name)
            yield Listing(path, entries)
            pending.extend(join(path, entry.name) for entry in reversed(entries) if entry.is_directory)

    def dirtab(self) -> bytes:
        """Return the content of the ``.cvmfsdirtab`` in the root."""
        data = b""
        for part in self._store.get_in_parts(DIRTAB.decode(), MAX_SIZE + 1):
            data += part
            if len(data) > MAX_SIZE:
                raise SourceError(
                    f"{display(DIRTAB)} in {self._label} is too large for a list of rules",
                    remedy="Shorten it to a few kilobytes",
                )
        return data

    def verify(self) -> None:
        """List the bucket again.

        :raises SourceChanged: when anything was added, replaced or removed
        """
        if self._look(keep=False) != self._fingerprint:
            raise _changed(self._label)

    def close(self) -> None:
        """Remove the database."""
        self._database.close()
        self._file.unlink(missing_ok=True)
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _look(self, *, keep: bool) -> bytes:
        """Return what stands for all that the bucket has, and note it."""
        fingerprint = hashlib.sha256()
        for info in self._store.list(""):
            if not info.key and not info.size:
                continue  # as consoles make it for a directory: the prefix itself
            fingerprint.update(f"{info.key}\0{info.size}\0{info.last_modified.isoformat()}\0".encode())
            if keep:
                self._note(info)
        return fingerprint.digest()

    def _note(self, info: ObjectInfo) -> None:
        path = info.key.encode()
        is_directory = path.endswith(b"/") and not info.size
        if is_directory:
            path = path[:-1]
        components = path.split(b"/")
        is_root = is_directory and not path
        if not is_root and (not all(components) or {b".", b".."} & set(components) or b"\0" in path):
            raise self._error(info.key, "whose name cannot be that of a file")
        if any(len(component) > _MAX_NAME for component in components):
            raise self._error(info.key, f"with a component of more than {_MAX_NAME} bytes in its name")
        with self._errors():
            if is_directory:
                self._note_directory(info.key, path)
                return
            self._note_directory(info.key, parent_of(path))
            if self._has("directory", "parent", path):
                raise self._error(info.key, "and others below it, as if it were a directory")
            modified = round(info.last_modified.timestamp() * 1000)
            self._database.execute(
                "INSERT INTO file VALUES (?, ?, ?, ?)", (parent_of(path), name_of(path), info.size, modified)
            )

    def _note_directory(self, key: str, path: bytes) -> None:
        while path and not self._has("directory", "parent", path):
            if self._has("file", "directory", path):
                raise self._error(key, f"and the object {display(path)!r}, which cannot be file and directory at once")
            self._database.execute("INSERT INTO directory VALUES (?, ?)", (parent_of(path), name_of(path)))
            path = parent_of(path)

    def _has(self, table: str, column: str, path: bytes) -> bool:
        query = f"SELECT 1 FROM {table} WHERE {column} = ? AND name = ?"  # noqa: S608  (constants)
        return self._database.execute(query, (parent_of(path), name_of(path))).fetchone() is not None

    def _entry(self, path: bytes, size: int, modified: int) -> SourceEntry:
        """Return the entry of an object.

        :param modified: milliseconds since the epoch
        """
        seconds, milliseconds = divmod(modified, 1000)
        return SourceEntry(
            name=name_of(path),
            mode=stat.S_IFREG | 0o644,
            uid=self._directory.uid,
            gid=self._directory.gid,
            size=size,
            mtime=seconds,
            mtime_ns=milliseconds * 1_000_000,
            content=_ObjectSource(self._store, path.decode(), size, f"{display(path)} in {self._label}"),
        )

    def _error(self, key: str, problem: str) -> SourceError:
        return SourceError(
            f"{self._label} has the object {key!r}, {problem}", remedy="Rename it, or choose another prefix"
        )

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return sqlite_errors(self._file, f"The list of objects of {self._label}")


class _ObjectSource:
    """The content of an object."""

    held = 0

    def __init__(self, store: ObjectStore, key: str, size: int, label: str) -> None:
        self.size = size
        self._store = store
        self._key = key
        self._label = label

    def open(self) -> _ObjectReader:
        return _ObjectReader(self._store.get_in_parts(self._key, _PART), self.size, self._label)

    def describe(self) -> str:
        return self._label


class _ObjectReader:
    """Reads an object piece by piece, and refuses one that has another size than the listing said."""

    def __init__(self, parts: Iterator[bytes], size: int, label: str) -> None:
        self._parts = parts
        self._part = memoryview(b"")
        self._left = size
        self._label = label

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            while not self._part:
                part = next(self._parts, None)
                if part is None:
                    break
                self._part = memoryview(part)
        except (ObjectNotFound, PreconditionFailed):
            raise _changed(self._label) from None
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        self._left -= count
        if self._left < 0 or (not count and self._left):
            raise _changed(self._label)
        return count

    def close(self) -> None:
        self._part = memoryview(b"")


def _changed(label: str) -> SourceChanged:
    return SourceChanged(
        f"{label} changed while it was being read", remedy="Wait until nothing writes to it, and publish again"
    )
