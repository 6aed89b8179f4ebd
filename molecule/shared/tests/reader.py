# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""Reads a repository over anonymous HTTP, as its documentation has it, with Python's standard library alone."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import os
import sqlite3
import stat
import tempfile
import typing as t
import urllib.parse
import zlib
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file, directory or symbolic link. `digest` is that of the content: SHA-256, and None for what has none."""

    mode: int
    target: str
    digest: str | None


class PublishedTree:
    """The newest revision of the repository at `url`."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        self._path = parts.path
        head = self.get(".cvmfspublished").split(b"--\n")[0].decode()
        self.manifest = {line[0]: line[1:] for line in head.splitlines()}

    @property
    def revision(self) -> int:
        return int(self.manifest["S"])

    def request(self, method: str, key: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Send a request that bears no name; return status and body of the answer."""
        self._connection.request(method, f"{self._path}/{key}", body)
        response = self._connection.getresponse()
        return response.status, response.read()

    def get(self, key: str) -> bytes:
        """Return an object."""
        status, body = self.request("GET", key)
        assert status == 200, f"{key}: {status} {body[:200]!r}"
        return body

    def object(self, digest: str, suffix: str = "") -> bytes:
        """Return what an object holds; its name must be the hash of its bytes."""
        data = self.get(f"data/{digest[:2]}/{digest[2:]}{suffix}")
        assert hashlib.sha1(data).hexdigest() == digest  # noqa: S324 (the format's hash)
        return zlib.decompress(data)

    def tags(self) -> dict[str, tuple[int, str]]:
        """Return revision and root hash of each tag, by its name."""
        with self._database(self.manifest["H"], "H") as database:
            rows = database.execute("SELECT name, revision, hash FROM tags").fetchall()
        return {name: (revision, root_hash) for name, revision, root_hash in rows}

    def tree(self, root_hash: str | None = None) -> dict[str, Entry]:
        """Read everything, of the revision with that root hash or of the newest.

        Return the entries by path, the root being the empty one.
        """
        entries = self._catalog(root_hash or self.manifest["C"], "")
        assert "" in entries
        return entries

    @contextlib.contextmanager
    def _database(self, digest: str, suffix: str) -> Iterator[sqlite3.Connection]:
        with tempfile.NamedTemporaryFile(suffix=".db") as file:
            file.write(self.object(digest, suffix))
            file.flush()
            with contextlib.closing(sqlite3.connect(f"file:{file.name}?mode=ro", uri=True)) as database:
                yield database

    def _catalog(self, digest: str, root: str) -> dict[str, Entry]:
        with self._database(digest, "C") as database:
            rows = database.execute(
                "SELECT md5path_1, md5path_2, parent_1, parent_2, name, mode, symlink, hash FROM catalog"
            ).fetchall()
            nested = database.execute("SELECT path, sha1 FROM nested_catalogs").fetchall()
            chunks = database.execute(
                "SELECT md5path_1, md5path_2, hash FROM chunks ORDER BY md5path_1, md5path_2, offset"
            ).fetchall()
        pieces: dict[tuple[int, int], list[str]] = {}
        for one, two, piece in chunks:
            pieces.setdefault((one, two), []).append(piece.hex())
        children: dict[tuple[int, int], list[t.Any]] = {}
        for row in rows:
            children.setdefault((row[2], row[3]), []).append(row)
        (top,) = [row for row in rows if row[:2] == _md5path(root)]
        entries: dict[str, Entry] = {}
        pending = [(root, top)]
        while pending:
            path, row = pending.pop()
            identity, mode, target, content = row[:2], *row[5:]
            objects = pieces.get(identity) or ([content.hex()] if content and stat.S_ISREG(mode) else [])
            data = b"".join(self.object(piece, "P" if identity in pieces else "") for piece in objects)
            file_digest = hashlib.sha256(data).hexdigest() if stat.S_ISREG(mode) else None
            entries[path] = Entry(mode, target or "", file_digest)
            pending += [(os.path.join(path, child[4]), child) for child in children.get(identity, [])]
        for path, nested_digest in nested:
            entries.update(self._catalog(nested_digest, path.strip("/")))
        return entries


def _md5path(path: str) -> tuple[int, int]:
    digest = hashlib.md5(f"/{path}".encode() if path else b"").digest()  # noqa: S324 (the format's hash)
    halves = (digest[:8], digest[8:])
    one, two = (int.from_bytes(half, "little", signed=True) for half in halves)
    return one, two
