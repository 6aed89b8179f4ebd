# SPDX-License-Identifier: GPL-3.0-or-later
"""The reflog, ``.cvmfsreflog``: every root catalog, certificate, tag database and meta information ever published.

Garbage collection starts from it. It is stored uncompressed (CernVM-FS's ``reflog_sql.cc``).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from ..content import ContentHash, HashSuffix
from ..errors import CorruptObject
from . import document
from .document import RESTORE

if TYPE_CHECKING:
    from .manifest import Manifest

REFLOG_KEY = ".cvmfsreflog"
_SCHEMA = "1.0"
_SCHEMA_REVISION = 0


class ReferenceType(IntEnum):
    """What a reference refers to; the value is the one in the database."""

    CATALOG = 0
    CERTIFICATE = 1
    HISTORY = 2
    METAINFO = 3


_SUFFIX = {
    ReferenceType.CATALOG: HashSuffix.CATALOG,
    ReferenceType.CERTIFICATE: HashSuffix.CERTIFICATE,
    ReferenceType.HISTORY: HashSuffix.HISTORY,
    ReferenceType.METAINFO: HashSuffix.METAINFO,
}
_TYPE = {suffix: kind for kind, suffix in _SUFFIX.items()}


class Reflog:
    """A repository's reflog.

    :param repository: fully qualified name
    """

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self._references: dict[ContentHash, int] = {}

    @classmethod
    def parse(cls, data: bytes) -> Reflog:
        """Read a reflog.

        :raises CorruptObject: when it is none
        """
        with document.opened(data, "reflog") as connection:
            reflog = cls(document.read_properties(connection).get("fqrn", ""))
            rows = connection.execute("SELECT hash, type, timestamp FROM refs").fetchall()
        for text, kind, timestamp in rows:
            try:
                suffix = _SUFFIX[ReferenceType(kind)]
            except ValueError:
                raise CorruptObject(f"The reflog has a reference of unknown type {kind}", remedy=RESTORE) from None
            reflog._references[ContentHash.parse(text).with_suffix(suffix)] = timestamp
        return reflog

    def serialise(self) -> bytes:
        """Return the database; its bytes are a function of its content."""
        with document.created(_SCHEMA, _SCHEMA_REVISION, {"fqrn": self.repository}) as connection:
            connection.execute(
                "CREATE TABLE refs (hash TEXT, type INTEGER, timestamp INTEGER, CONSTRAINT pk_refs PRIMARY KEY (hash))"
            )
            connection.executemany(
                "INSERT INTO refs VALUES (?, ?, ?)",
                (
                    (text, kind, timestamp)
                    for timestamp, kind, text in sorted(
                        (timestamp, int(_TYPE[HashSuffix(content_hash.suffix)]), content_hash.hex)
                        for content_hash, timestamp in self._references.items()
                    )
                ),
            )
            return document.finished(connection)

    def add(self, content_hash: ContentHash, timestamp: int) -> None:
        """Add a reference, or renew its time."""
        self._references[content_hash] = timestamp

    def remove(self, content_hash: ContentHash) -> None:
        """Remove a reference."""
        del self._references[content_hash]

    def timestamp(self, content_hash: ContentHash) -> int | None:
        """Return when an object was added, in seconds since 1970; None for one that is not there."""
        return self._references.get(content_hash)

    def add_manifest(self, manifest: Manifest) -> None:
        """Add all objects that a manifest refers to, as of its time; a root catalog keeps that of its first."""
        for content_hash in (manifest.root_hash, manifest.certificate, manifest.history, manifest.meta_info):
            if content_hash is not None and not (content_hash is manifest.root_hash and self.contains(content_hash)):
                self.add(content_hash, manifest.timestamp)

    def contains(self, content_hash: ContentHash) -> bool:
        """Say whether there is such a reference."""
        return content_hash in self._references

    def references(self, kind: ReferenceType) -> list[tuple[ContentHash, int]]:
        """Return the references of one type with their times, newest first."""
        suffix = _SUFFIX[kind]
        found = [item for item in self._references.items() if item[0].suffix == suffix]
        return sorted(found, key=lambda item: (item[1], item[0].digest), reverse=True)
