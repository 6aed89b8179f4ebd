# SPDX-License-Identifier: GPL-3.0-or-later
"""One catalog: the entries of a directory tree, down to the nested catalogs below it.

A catalog is an SQLite database; its schema is that of CernVM-FS's ``catalog_sql.cc``. Inside it, paths have a leading
slash, and entries are looked up by the MD5 of their path.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .. import paths
from ..content import Chunk, ContentHash, HashAlgorithm, HashSuffix
from ..errors import CorruptObject
from . import schema
from .entry import (
    DirectoryEntry,
    Flag,
    algorithm_of,
    compression_of,
    pack_xattrs,
    unpack_xattrs,
)
from .statistics import Counters, Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# A row of the catalog table, in the order of schema.COLUMNS
Row = tuple[Any, ...]
_HARDLINKS = schema.COLUMNS.index("hardlinks")
_FLAGS = schema.COLUMNS.index("flags")
_NAME = schema.COLUMNS.index("name")

_GROUP_SHIFT = 32
_LINKCOUNT_MASK = 0xFFFF_FFFF

# Upgraded catalogs have their columns in another order
_INTO = (
    f"INTO catalog ({', '.join(schema.COLUMNS)})"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)"
)
_INSERT = "INSERT " + _INTO
_INSERT_IF_NEW = "INSERT OR IGNORE " + _INTO
_SELF_COUNTERS = """
SELECT count(*) FILTER (WHERE kind = 8),
       count(*) FILTER (WHERE kind = 10),
       count(*) FILTER (WHERE kind NOT IN (4, 8, 10)),
       count(*) FILTER (WHERE kind = 4),
       (SELECT count(*) FROM nested_catalogs),
       count(*) FILTER (WHERE kind = 8 AND flags & 64),
       (SELECT count(*) FROM chunks),
       coalesce(sum(size) FILTER (WHERE kind = 8), 0),
       coalesce(sum(size) FILTER (WHERE kind = 8 AND flags & 64), 0),
       count(*) FILTER (WHERE has_xattr),
       count(*) FILTER (WHERE kind = 8 AND flags & 128),
       coalesce(sum(size) FILTER (WHERE kind = 8 AND flags & 128), 0)
FROM (SELECT mode >> 12 AS kind, flags, size, xattr IS NOT NULL AS has_xattr FROM catalog)
"""
_CHUNKED_IN_DIRECTORY = (
    "(md5path_1, md5path_2) IN"
    " (SELECT md5path_1, md5path_2 FROM catalog WHERE parent_1 = ? AND parent_2 = ? AND flags & 64)"
)
_DIRECTORIES_BELOW = """
WITH RECURSIVE below (md5_1, md5_2) AS (
  VALUES (?, ?)
  UNION ALL
  SELECT md5path_1, md5path_2 FROM catalog JOIN below ON parent_1 = md5_1 AND parent_2 = md5_2 WHERE flags & 1
)
SELECT md5_1, md5_2 FROM below
"""


class Brief(NamedTuple):
    """What the listing of a directory tells about an entry, and where to find the rest.

    :param number: of the row; the same for as long as the catalog is the same object
    :param key: MD5 of the path, as a catalog keeps it
    :param parent: MD5 of the directory's path
    :param hardlinks: the hard link group in the upper, the link count in the lower 32 bits
    :param size: as `DirectoryEntry.size`
    """

    number: int
    key_1: int
    key_2: int
    parent_1: int
    parent_2: int
    hardlinks: int
    size: int
    mode: int
    mtime: int
    mtime_ns: int | None
    flags: int
    uid: int
    gid: int
    name: bytes

    @property
    def key(self) -> tuple[int, int]:
        return self.key_1, self.key_2

    @property
    def hardlink_group(self) -> int:
        return self.hardlinks >> _GROUP_SHIFT

    @property
    def linkcount(self) -> int:
        return self.hardlinks & _LINKCOUNT_MASK


# CernVM-FS's own ingest writes 0 as the size of a symbolic link, and clients do not look
_BRIEF = (
    "SELECT rowid, md5path_1, md5path_2, parent_1, parent_2, hardlinks,"
    " CASE WHEN flags & 8 THEN length(CAST(symlink AS BLOB)) ELSE size END,"
    " mode, mtime, {mtime_ns}, flags, uid, gid, name FROM catalog"
)


@dataclass(frozen=True, slots=True)
class NestedReference:
    """How a catalog refers to one nested in it.

    :param path: the directory whose content is in the nested catalog
    :param hash: the nested catalog's object
    :param size: bytes of the nested catalog's database, uncompressed; 0 when a very old catalog does not say
    """

    path: bytes
    hash: ContentHash
    size: int


@dataclass(frozen=True, slots=True)
class DirectoryRow:
    """A directory as its catalog has it.

    :param key: what its path is looked up by
    :param parent: the key of the directory that it is in
    :param is_mountpoint: its content is not in this catalog
    """

    key: tuple[int, int]
    parent: tuple[int, int]
    name: bytes
    is_mountpoint: bool


class Catalog:
    """A catalog's database file, opened for reading.

    :param file: the uncompressed database
    :raises CorruptObject: when it is no catalog
    """

    _writable = False

    def __init__(self, file: Path) -> None:
        self.file = file
        self._label = "A catalog"
        self._open: sqlite3.Connection | None = None
        with self._errors():
            schema.check_schema(self._connection)
        self._select = self._column_list()
        mtime_ns = "NULL" if "NULL AS mtimens" in self._select else "mtimens"
        self._brief = _BRIEF.format(mtime_ns=mtime_ns)
        prefix = self._property("root_prefix") or ""
        self.path = prefix.encode("utf-8", "surrogateescape").removeprefix(b"/")
        self._label = f"The catalog of /{paths.display(self.path)}"

    # Reading

    def entry(self, path: bytes) -> DirectoryEntry | None:
        """Return the entry of `path`, or None when this catalog has none."""
        with self._errors():
            key = paths.md5path(path)
            row = self._connection.execute(
                f"SELECT {self._select} FROM catalog WHERE md5path_1 = ? AND md5path_2 = ?",  # noqa: S608
                key,
            ).fetchone()
            return self._with_chunks(row) if row else None

    def listing(self, path: bytes) -> Iterator[DirectoryEntry]:
        """Return the entries of the directory `path`, ordered by name; none for a mountpoint.

        The answer is complete at the time of the call; later changes do not disturb it.
        """
        key = paths.md5path(path)
        with self._errors():
            rows = self._connection.execute(
                f"SELECT {self._select} FROM catalog WHERE parent_1 = ? AND parent_2 = ? ORDER BY name",  # noqa: S608
                key,
            ).fetchall()
            chunks: dict[tuple[int, int], list[Row]] = {}
            if any(row[_FLAGS] & Flag.CHUNKED for row in rows):
                for row in self._connection.execute(
                    f"SELECT * FROM chunks WHERE {_CHUNKED_IN_DIRECTORY} ORDER BY offset",  # noqa: S608
                    key,
                ):
                    chunks.setdefault(row[:2], []).append(row)
        return (_from_row(row, chunks.get(row[:2], ())) for row in rows)

    # Reading by the numbers of rows, for the file system view: they make inodes without any table of them

    def brief(self, key: tuple[int, int]) -> Brief | None:
        """Return the entry of the path with this MD5, or None when this catalog has none."""
        with self._errors():
            row = self._connection.execute(f"{self._brief} WHERE md5path_1 = ? AND md5path_2 = ?", key).fetchone()
        return Brief._make(row) if row else None

    def numbered_brief(self, number: int) -> Brief | None:
        """Return the entry in the row `number`, or None when there is none."""
        with self._errors():
            row = self._connection.execute(f"{self._brief} WHERE rowid = ?", (number,)).fetchone()
        return Brief._make(row) if row else None

    def briefs_in(self, key: tuple[int, int], after: int, limit: int) -> list[Brief]:
        """Return entries of the directory whose path has this MD5, ordered by number.

        :param after: only entries with higher numbers
        :param limit: at most so many
        """
        with self._errors():
            rows = self._connection.execute(
                f"{self._brief} WHERE parent_1 = ? AND parent_2 = ? AND rowid > ? ORDER BY rowid LIMIT ?",
                (*key, after, limit),
            ).fetchall()
        return list(map(Brief._make, rows))

    def numbered_entry(self, number: int) -> DirectoryEntry | None:
        """Return all about the entry in the row `number`, or None when there is none."""
        with self._errors():
            row = self._connection.execute(
                f"SELECT {self._select} FROM catalog WHERE rowid = ?",  # noqa: S608
                (number,),
            ).fetchone()
            return self._with_chunks(row) if row else None

    def nested(self) -> list[NestedReference]:
        """Return the catalogs nested directly in this one, ordered by path."""
        return self._references("nested_catalogs")

    def bind_mountpoints(self) -> list[NestedReference]:
        """Return the directories that show the root of another revision."""
        with self._errors():
            if not self._connection.execute("PRAGMA table_info(bind_mountpoints)").fetchall():
                return []
        return self._references("bind_mountpoints")

    def statistics(self) -> Statistics:
        """Return the counters that the catalog carries."""
        with self._errors():
            rows = self._connection.execute("SELECT counter, value FROM statistics").fetchall()
        return Statistics.from_dict({name.decode(): int(value) for name, value in rows})

    def count_own(self) -> Counters:
        """Return the catalog's own counters as its entries have them, whatever the statistics table says."""
        with self._errors():
            return Counters(*self._connection.execute(_SELF_COUNTERS).fetchone())

    def count_entries(self) -> int:
        """Return how many entries there are, reachable or not."""
        with self._errors():
            return int(self._connection.execute("SELECT count(*) FROM catalog").fetchone()[0])

    def directories(self) -> list[DirectoryRow]:
        """Return all directories, those of one directory by name."""
        elsewhere = Flag.NESTED_MOUNTPOINT | Flag.BIND_MOUNTPOINT
        with self._errors():
            rows = self._connection.execute(
                "SELECT md5path_1, md5path_2, parent_1, parent_2, name, flags FROM catalog"
                " WHERE flags & ? ORDER BY parent_1, parent_2, name",
                (Flag.DIRECTORY,),
            ).fetchall()
        return [DirectoryRow(row[:2], row[2:4], row[4], bool(row[5] & elsewhere)) for row in rows]

    def files_by_directory(self) -> dict[tuple[int, int], int]:
        """Return how many entries that are no directories each directory has, by its key."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT parent_1, parent_2, count(*) FROM catalog WHERE NOT flags & ? GROUP BY parent_1, parent_2",
                (Flag.DIRECTORY,),
            ).fetchall()
        return {row[:2]: row[2] for row in rows}

    def objects(self) -> dict[tuple[HashAlgorithm, HashSuffix], bytes]:
        """Return the digests of all objects that files are stored in, one after the other, by their kind.

        The same digest may come several times.
        """
        queries = (
            (HashSuffix.NONE, "SELECT flags, hash FROM catalog WHERE length(hash) > 0 AND flags & ? = 0"),
            (
                HashSuffix.PARTIAL,
                "SELECT catalog.flags, chunks.hash FROM chunks JOIN catalog USING (md5path_1, md5path_2)"
                " WHERE catalog.flags & ? = 0",
            ),
        )
        found: dict[tuple[HashAlgorithm, HashSuffix], bytearray] = {}
        with self._errors():
            for suffix, query in queries:
                by_flags: dict[int, bytearray] = {}
                for flags, digest in self._connection.execute(query, (Flag.DIRECTORY | Flag.EXTERNAL,)):
                    by_flags.setdefault(flags, bytearray()).extend(digest)
                for flags, digests in by_flags.items():
                    found.setdefault((algorithm_of(flags), suffix), bytearray()).extend(digests)
        return {kind: bytes(digests) for kind, digests in found.items()}

    def file_digests(self) -> Iterator[bytes]:
        """Yield the digests of the objects that whole files are stored in; the same one may come several times."""
        with self._errors():
            query = "SELECT hash FROM catalog WHERE length(hash) > 0 AND flags & ? = 0 AND flags & ? = 0"
            for (digest,) in self._connection.execute(query, (Flag.DIRECTORY, Flag.EXTERNAL)):
                yield digest

    def chunk_digests(self) -> Iterator[bytes]:
        """Yield the digests of the objects that pieces of files are stored in; the same one may come several times."""
        with self._errors():
            query = (
                "SELECT chunks.hash FROM chunks JOIN catalog USING (md5path_1, md5path_2) WHERE catalog.flags & ? = 0"
            )
            for (digest,) in self._connection.execute(query, (Flag.EXTERNAL,)):
                yield digest

    @property
    def revision(self) -> int:
        """How often this catalog was published; of a root catalog the repository's revision."""
        return int(self._property("revision") or 0)

    @property
    def previous_revision(self) -> ContentHash | None:
        """This catalog's object in the revision before; None in its first."""
        text = self._property("previous_revision")
        if not text:
            return None
        content_hash = ContentHash.parse(text).with_suffix(HashSuffix.CATALOG)
        return content_hash if any(content_hash.digest) else None

    @property
    def last_modified(self) -> int:
        """When this catalog was written, in seconds since 1970."""
        return int(self._property("last_modified") or 0)

    @property
    def ttl(self) -> int | None:
        """Seconds after which clients look for a new revision; None when the catalog does not say."""
        text = self._property("TTL")
        return int(text) if text else None

    def properties(self) -> dict[str, str]:
        """Return everything in the properties table."""
        with self._errors():
            rows = self._connection.execute("SELECT key, CAST(value AS TEXT) FROM properties ORDER BY key").fetchall()
        return {key.decode(): value.decode("utf-8", "surrogateescape") for key, value in rows}

    def suspend(self) -> None:
        """Close the file; it is opened again when needed."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Close the file."""
        self.suspend()

    def discard(self) -> None:
        """Close the file, and remove it."""
        if self._open is not None:
            self._open.close()
            self._open = None
        self.file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Internals

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            self._open = schema.connect(self.file, writable=self._writable)
        return self._open

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return schema.sqlite_errors(self.file, self._label)

    def _with_chunks(self, row: Row) -> DirectoryEntry:
        chunks = []
        if row[_FLAGS] & Flag.CHUNKED:
            chunks = self._connection.execute(
                "SELECT * FROM chunks WHERE md5path_1 = ? AND md5path_2 = ? ORDER BY offset", row[:2]
            ).fetchall()
        return _from_row(row, chunks)

    def _property(self, key: str) -> str | None:
        with self._errors():
            return schema.get_property(self._connection, key)

    def _column_list(self) -> str:
        with self._errors():
            present = {row[1].decode() for row in self._connection.execute("PRAGMA table_info(catalog)")}
        return ", ".join(column if column in present else f"NULL AS {column}" for column in schema.COLUMNS)

    def _references(self, table: str) -> list[NestedReference]:
        with self._errors():
            sized = any(row[1] == b"size" for row in self._connection.execute(f"PRAGMA table_info({table})"))
            rows = self._connection.execute(
                f"SELECT path, sha1, {'size' if sized else '0'} FROM {table} ORDER BY path"  # noqa: S608
            ).fetchall()
        return [
            NestedReference(
                bytes(path).removeprefix(b"/"),
                ContentHash.parse(text.decode()).with_suffix(HashSuffix.CATALOG),
                size or 0,
            )
            for path, text, size in rows
        ]


class WritableCatalog(Catalog):
    """A catalog's database file, opened for changes. The file is private to this object.

    It keeps rows; that they fit together is the business of the catalog tree.
    """

    _writable = True

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        with self._errors():
            self.is_upgraded = schema.upgrade(self._connection)
            """Whether the file was of an older schema, or of an older revision of the latest."""
        self._select = self._column_list()
        self._next_group: int | None = None
        self._in_transaction = False

    @classmethod
    def create(cls, file: Path, path: bytes) -> WritableCatalog:
        """Make an empty catalog for the directory `path`."""
        with schema.sqlite_errors(file, f"A new catalog for /{paths.display(path)}"):
            connection = schema.connect(file, writable=True)
            try:
                schema.create(connection)
                schema.set_property(connection, "revision", "0")
                if path:
                    schema.set_property(connection, "root_prefix", b"/" + path)
            finally:
                connection.close()
        return cls(file)

    def map_owners(self, uids: Callable[[int], int], gids: Callable[[int], int]) -> bool:
        """Give entries that are not hidden to other users and groups; say whether that changes any."""
        is_changed = False
        with self._changes() as connection:
            for column, new in (("uid", uids), ("gid", gids)):
                rows = connection.execute(f"SELECT DISTINCT {column} FROM catalog WHERE NOT flags & ?", (Flag.HIDDEN,))  # noqa: S608
                cases = [(old, new(old)) for (old,) in rows.fetchall() if new(old) != old]
                if cases:  # in one statement, as two may change places
                    choice = f"CASE {column} {'WHEN ? THEN ? ' * len(cases)}ELSE {column} END"
                    values = [number for case in cases for number in case]
                    connection.execute(
                        f"UPDATE catalog SET {column} = {choice} WHERE NOT flags & ?",  # noqa: S608
                        [*values, Flag.HIDDEN],
                    )
                    is_changed = True
        return is_changed

    def break_hard_links(self) -> bool:
        """Make each name of a file with several a file of its own; say whether there are any."""
        with self._changes() as connection:
            cursor = connection.execute(
                "UPDATE catalog SET hardlinks = 1 WHERE flags & ? AND hardlinks != 1", (Flag.FILE,)
            )
        return cursor.rowcount > 0

    def drop_bulk_hashes(self) -> bool:
        """Refer to files in chunks by the chunks only; say whether there are others."""
        with self._changes() as connection:
            cursor = connection.execute(
                "UPDATE catalog SET hash = NULL WHERE flags & ? AND length(hash) > 0", (Flag.CHUNKED,)
            )
        return cursor.rowcount > 0

    def insert(self, path: bytes, entry: DirectoryEntry) -> bool:
        """Add a row for `path`, unless there is one; say whether it was added."""
        row = _to_row(path, entry)
        with self._changes() as connection:
            if connection.execute(_INSERT_IF_NEW, row).rowcount == 0:
                return False
            if entry.chunks:
                connection.executemany(
                    "INSERT INTO chunks VALUES (?, ?, ?, ?, ?)",
                    ((*row[:2], chunk.offset, chunk.size, chunk.hash.digest) for chunk in entry.chunks),
                )
            return True

    def insert_rows(self, rows: Iterable[Row]) -> None:
        """Add rows of another catalog."""
        with self._changes() as connection:
            connection.executemany(_INSERT, rows)

    def insert_chunk_rows(self, rows: Iterable[Row]) -> None:
        """Add rows of another catalog's chunks table."""
        with self._changes() as connection:
            connection.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", rows)

    def delete(self, path: bytes) -> None:
        """Remove the row of `path`, and its chunks."""
        key = paths.md5path(path)
        with self._changes() as connection:
            connection.execute("DELETE FROM catalog WHERE md5path_1 = ? AND md5path_2 = ?", key)
            connection.execute("DELETE FROM chunks WHERE md5path_1 = ? AND md5path_2 = ?", key)

    def delete_below(self, path: bytes) -> None:
        """Remove everything in the directory `path`, at any depth, but not its own row."""
        with self._changes() as connection:
            directories = connection.execute(_DIRECTORIES_BELOW, paths.md5path(path)).fetchall()
            connection.executemany(
                f"DELETE FROM chunks WHERE {_CHUNKED_IN_DIRECTORY}",  # noqa: S608
                directories,
            )
            connection.executemany("DELETE FROM catalog WHERE parent_1 = ? AND parent_2 = ?", directories)

    def rows_below(self, path: bytes) -> Iterator[Row]:
        """Yield the rows of everything in the directory `path`, at any depth. The catalog must not change meanwhile."""
        return self._select_below(path, f"SELECT {self._select} FROM catalog WHERE parent_1 = ? AND parent_2 = ?")  # noqa: S608

    def chunk_rows_below(self, path: bytes) -> Iterator[Row]:
        """Yield the rows of the chunks of everything in the directory `path`, as `rows_below`."""
        return self._select_below(path, f"SELECT * FROM chunks WHERE {_CHUNKED_IN_DIRECTORY}")  # noqa: S608

    def _select_below(self, path: bytes, query: str) -> Iterator[Row]:
        with self._errors():
            for key in self._connection.execute(_DIRECTORIES_BELOW, paths.md5path(path)).fetchall():
                yield from self._connection.execute(query, key)

    def touch(self, path: bytes, entry: DirectoryEntry) -> None:
        """Give the directory `path` the metadata of `entry`; flags and link count stay."""
        with self._changes() as connection:
            connection.execute(
                "UPDATE catalog SET size = ?, mode = ?, mtime = ?, mtimens = ?, uid = ?, gid = ?, xattr = ?"
                " WHERE md5path_1 = ? AND md5path_2 = ?",
                (
                    entry.size,
                    entry.mode,
                    entry.mtime,
                    entry.mtime_ns,
                    entry.uid,
                    entry.gid,
                    pack_xattrs(entry.xattrs),
                    *paths.md5path(path),
                ),
            )

    def add_to_linkcount(self, path: bytes, delta: int) -> None:
        """Change the link count of the directory `path`."""
        with self._changes() as connection:
            connection.execute(
                "UPDATE catalog SET hardlinks = hardlinks + ? WHERE md5path_1 = ? AND md5path_2 = ?",
                (delta, *paths.md5path(path)),
            )

    def set_flag(self, path: bytes, flag: Flag, value: bool) -> None:
        """Set or clear one flag of `path`."""
        change = "flags | ?" if value else "flags & ~?"
        with self._changes() as connection:
            connection.execute(
                f"UPDATE catalog SET flags = {change} WHERE md5path_1 = ? AND md5path_2 = ?",  # noqa: S608
                (int(flag), *paths.md5path(path)),
            )

    # Hard links. The column holds the group's number in its upper and the link count in its lower half, so
    # one value is common to all members, and to nothing else in the catalog.

    def join_group(self, existing: bytes, path: bytes) -> None:
        """Make `path` a hard link to the file `existing` in the same directory; `path` has no row yet."""
        directory = paths.md5path(paths.parent(path))
        with self._changes() as connection:
            row = list(
                connection.execute(
                    f"SELECT {self._select} FROM catalog WHERE md5path_1 = ? AND md5path_2 = ?",  # noqa: S608
                    paths.md5path(existing),
                ).fetchone()
            )
            hardlinks = row[_HARDLINKS]
            if hardlinks >> _GROUP_SHIFT:
                connection.execute(
                    "UPDATE catalog SET hardlinks = ? WHERE parent_1 = ? AND parent_2 = ? AND hardlinks = ?",
                    (hardlinks + 1, *directory, hardlinks),
                )
                row[_HARDLINKS] = hardlinks + 1
            else:
                row[_HARDLINKS] = self._new_group() << _GROUP_SHIFT | 2
                connection.execute(
                    "UPDATE catalog SET hardlinks = ? WHERE md5path_1 = ? AND md5path_2 = ?",
                    (row[_HARDLINKS], *paths.md5path(existing)),
                )
            key = paths.md5path(path)
            row[0:2] = key
            row[_NAME] = paths.name(path)
            connection.execute(_INSERT, row)
            connection.execute(
                "INSERT INTO chunks SELECT ?, ?, offset, size, hash FROM chunks WHERE md5path_1 = ? AND md5path_2 = ?",
                (*key, *paths.md5path(existing)),
            )

    def leave_group(self, path: bytes, entry: DirectoryEntry) -> None:
        """Lower the link count of the other members of the group of `path`, whose row is gone already."""
        old = entry.hardlink_group << _GROUP_SHIFT | entry.linkcount
        # A file that is left alone is no hard link any more
        new = old - 1 if entry.linkcount > 2 else 1
        with self._changes() as connection:
            connection.execute(
                "UPDATE catalog SET hardlinks = ? WHERE parent_1 = ? AND parent_2 = ? AND hardlinks = ?",
                (new, *paths.md5path(paths.parent(path)), old),
            )

    def shift_groups(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Renumber the hard link groups in another catalog's rows, so that they differ from this one's."""
        first = self._new_group() - 1
        highest = first
        for row in rows:
            group = row[_HARDLINKS] >> _GROUP_SHIFT
            if group:
                highest = max(highest, first + group)
                yield (*row[:_HARDLINKS], row[_HARDLINKS] + (first << _GROUP_SHIFT), *row[_HARDLINKS + 1 :])
            else:
                yield row
        self._next_group = highest + 1

    def _new_group(self) -> int:
        if self._next_group is None:
            (highest,) = self._connection.execute("SELECT max(hardlinks) FROM catalog").fetchone()
            self._next_group = ((highest or 0) >> _GROUP_SHIFT) + 1
        self._next_group += 1
        return self._next_group - 1

    # References, properties, and the finished catalog

    def set_reference(self, reference: NestedReference) -> None:
        """Add or change the reference to a nested catalog."""
        with self._changes() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO nested_catalogs VALUES (CAST(? AS TEXT), ?, ?)",
                (b"/" + reference.path, reference.hash.hex, reference.size),
            )

    def remove_reference(self, path: bytes) -> None:
        """Remove the reference to a nested catalog."""
        with self._changes() as connection:
            connection.execute("DELETE FROM nested_catalogs WHERE path = CAST(? AS TEXT)", (b"/" + path,))

    def set_bind_mountpoint(self, reference: NestedReference) -> None:
        """Add or change the reference to the revision that a bind mountpoint shows."""
        with self._changes() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO bind_mountpoints VALUES (CAST(? AS TEXT), ?, ?)",
                (b"/" + reference.path, reference.hash.hex, reference.size),
            )

    def remove_bind_mountpoints_below(self, path: bytes) -> None:
        """Remove the references of bind mountpoints at or below `path`."""
        for reference in self.bind_mountpoints():
            if paths.is_below(reference.path, path):
                with self._changes() as connection:
                    connection.execute(
                        "DELETE FROM bind_mountpoints WHERE path = CAST(? AS TEXT)", (b"/" + reference.path,)
                    )

    def finish(
        self, *, revision: int, timestamp: int, previous: ContentHash | None, subtree: Counters
    ) -> tuple[Path, Statistics]:
        """Return a new file to publish, and the counters in it.

        :param revision: the catalog's new revision
        :param timestamp: seconds since 1970
        :param previous: the catalog's object in the revision before
        :param subtree: the counters of all catalogs below
        """
        statistics = Statistics(self.count_own(), subtree)
        target = self.file.with_suffix(".canonical")
        with self._changes() as connection:
            schema.set_property(connection, "revision", str(revision))
            schema.set_property(connection, "last_modified", str(timestamp))
            if previous is not None:
                schema.set_property(connection, "previous_revision", previous.hex)
            schema.store_statistics(connection, statistics)
        with self._errors():
            self._end_transaction()
            schema.copy_canonical(self._connection, target)
        return target, statistics

    def set_property(self, key: str, value: str | None) -> None:
        """Set a property of the catalog, or remove it."""
        with self._changes() as connection:
            if value is None:
                connection.execute("DELETE FROM properties WHERE key = ?", (key,))
            else:
                schema.set_property(connection, key, value)

    def suspend(self) -> None:
        if self._open is not None:
            with self._errors():
                self._end_transaction()
        super().suspend()

    @contextlib.contextmanager
    def _changes(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            connection = self._connection
            if not self._in_transaction:
                connection.execute("BEGIN")
                self._in_transaction = True
            yield connection

    def _end_transaction(self) -> None:
        if self._in_transaction:
            self._in_transaction = False
            self._connection.execute("COMMIT")


def _from_row(row: Row, chunk_rows: Iterable[Row]) -> DirectoryEntry:
    _, _, _, _, hardlinks, digest, size, mode, mtime, mtime_ns, flags, name, symlink, uid, gid, xattr = row
    algorithm = algorithm_of(flags)
    return DirectoryEntry(
        name=name,
        mode=mode,
        uid=uid,
        gid=gid,
        size=len(symlink) if symlink else size,  # CernVM-FS's own ingest writes 0, and clients do not look
        mtime=mtime,
        mtime_ns=mtime_ns,
        hash=ContentHash(digest, algorithm) if digest else None,
        symlink=symlink,
        xattrs=unpack_xattrs(xattr),
        hardlink_group=hardlinks >> _GROUP_SHIFT,
        linkcount=hardlinks & _LINKCOUNT_MASK,
        chunks=tuple(
            Chunk(offset, length, ContentHash(piece, algorithm, HashSuffix.PARTIAL))
            for _, _, offset, length, piece in chunk_rows
        ),
        compression=compression_of(flags),
        is_external=bool(flags & Flag.EXTERNAL),
        is_hidden=bool(flags & Flag.HIDDEN),
        is_direct_io=bool(flags & Flag.DIRECT_IO),
        is_nested_mountpoint=bool(flags & Flag.NESTED_MOUNTPOINT),
        is_nested_root=bool(flags & Flag.NESTED_ROOT),
        is_bind_mountpoint=bool(flags & Flag.BIND_MOUNTPOINT),
    )


def _to_row(path: bytes, entry: DirectoryEntry) -> Row:
    return (
        *paths.md5path(path),
        *(paths.md5path(paths.parent(path)) if path else (0, 0)),
        entry.hardlink_group << _GROUP_SHIFT | entry.linkcount,
        entry.hash.digest if entry.hash else None,
        entry.size,
        entry.mode,
        entry.mtime,
        entry.mtime_ns,
        entry.flags(),
        paths.name(path),
        entry.symlink,
        entry.uid,
        entry.gid,
        pack_xattrs(entry.xattrs),
    )


def as_nested_root(entry: DirectoryEntry) -> DirectoryEntry:
    """Return the entry that a mountpoint has inside its nested catalog."""
    return replace(entry, is_nested_mountpoint=False, is_nested_root=True)


def corrupt(path: bytes, what: str) -> CorruptObject:
    """Return the error for a catalog that does not fit its neighbours."""
    return CorruptObject(
        f"The catalogs do not fit together at /{paths.display(path)}: {what}",
        remedy="Check the repository with 'cvmfs_server check'",
    )
