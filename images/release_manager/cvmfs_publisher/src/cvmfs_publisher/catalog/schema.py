# SPDX-License-Identifier: GPL-3.0-or-later
"""The SQLite schema of catalogs: 2.5, revision 7, as CernVM-FS's ``CatalogDatabase`` makes it."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from ..errors import CorruptObject, PublisherError
from .statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = 2.5
SCHEMA_REVISION = 7
_OLDEST_SCHEMA = 2.4
_EPSILON = 0.0005

COLUMNS = (
    "md5path_1",
    "md5path_2",
    "parent_1",
    "parent_2",
    "hardlinks",
    "hash",
    "size",
    "mode",
    "mtime",
    "mtimens",
    "flags",
    "name",
    "symlink",
    "uid",
    "gid",
    "xattr",
)

_CATALOG = (
    "CREATE TABLE {schema}catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER,"
    " parent_2 INTEGER, hardlinks INTEGER, hash BLOB, size INTEGER, mode INTEGER, mtime INTEGER,"
    " mtimens INTEGER, flags INTEGER, name TEXT, symlink TEXT, uid INTEGER, gid INTEGER, xattr BLOB,"
    " CONSTRAINT pk_catalog PRIMARY KEY (md5path_1, md5path_2))"
)
_PARENT_INDEX = "CREATE INDEX {schema}idx_catalog_parent ON catalog (parent_1, parent_2)"
_CHUNKS = (
    "CREATE TABLE {schema}chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER,"
    " hash BLOB,"
    " CONSTRAINT pk_chunks PRIMARY KEY (md5path_1, md5path_2, offset, size),"
    " FOREIGN KEY (md5path_1, md5path_2) REFERENCES catalog(md5path_1, md5path_2))"
)
_NESTED_CATALOGS = (
    "CREATE TABLE {schema}nested_catalogs (path TEXT, sha1 TEXT, size INTEGER,"
    " CONSTRAINT pk_nested_catalogs PRIMARY KEY (path))"
)
_BIND_MOUNTPOINTS = (
    "CREATE TABLE {schema}bind_mountpoints (path TEXT, sha1 TEXT, size INTEGER,"
    " CONSTRAINT pk_bind_mountpoints PRIMARY KEY (path))"
)
_STATISTICS = (
    "CREATE TABLE {schema}statistics (counter TEXT, value INTEGER, CONSTRAINT pk_statistics PRIMARY KEY (counter))"
)
_PROPERTIES = "CREATE TABLE {schema}properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))"

# Tables, and the order of their rows in a finished catalog. Directories stay together: a listing reads few
# pages, and the repeated keys of a directory compress well.
_TABLES = (
    (_PROPERTIES, "properties", "key"),
    # Clients give the first row of the root catalog the inode of the repository's root, which alone has no parent
    (_CATALOG, "catalog", "parent_1 != 0 OR parent_2 != 0, parent_1, parent_2, name, md5path_1, md5path_2"),
    (_CHUNKS, "chunks", "md5path_1, md5path_2, offset, size"),
    (_NESTED_CATALOGS, "nested_catalogs", "path"),
    (_BIND_MOUNTPOINTS, "bind_mountpoints", "path"),
    (_STATISTICS, "statistics", "counter"),
)

# Scratch databases are private, and worthless after a crash. The cache holds a large catalog's indexes.
_FAST = ("journal_mode=OFF", "synchronous=OFF", "cache_size=-32768")


@contextlib.contextmanager
def sqlite_errors(file: Path, what: str) -> Iterator[None]:
    """Turn SQLite's errors into ours.

    :param file: the database in the scratch directory
    :param what: what it is, for messages
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        # The extended codes keep the primary one in their lowest byte
        if code is not None and code & 0xFF in (
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
        ):
            raise PublisherError(
                f"Cannot write {what[0].lower()}{what[1:]} to the scratch directory {file.parent}: {error}",
                remedy="Free space there, or use a larger scratch volume; nothing was published",
            ) from error
        raise CorruptObject(
            f"{what} is damaged ({error})",
            remedy="Check the repository with 'cvmfs_server check', and restore the object from a replica",
        ) from error


def connect(file: Path, *, writable: bool) -> sqlite3.Connection:
    """Open a catalog's database, or make an empty file. Text comes as bytes: names can be any bytes."""
    if writable:
        connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        for pragma in (*_FAST, "locking_mode=EXCLUSIVE", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
    else:
        uri = file.absolute().as_uri() + "?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.text_factory = bytes
    return connection


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty catalog."""
    for statement, _, _ in _TABLES:
        connection.execute(statement.format(schema=""))
    connection.execute(_PARENT_INDEX.format(schema=""))
    set_property(connection, "schema", str(SCHEMA))
    set_property(connection, "schema_revision", str(SCHEMA_REVISION))
    store_statistics(connection, Statistics())


def upgrade(connection: sqlite3.Connection) -> bool:
    """Bring a catalog of an earlier revision, or of schema 2.4, to the latest one; say whether it was of such.

    :raises CorruptObject: for a schema that CernVM-FS does not write to either
    """
    check_schema(connection)
    before = get_property(connection, "schema"), get_property(connection, "schema_revision")
    columns = {row[1].decode() for row in connection.execute("PRAGMA table_info(catalog)")}
    for column, kind in (("xattr", "BLOB"), ("mtimens", "INTEGER")):
        if column not in columns:
            connection.execute(f"ALTER TABLE catalog ADD {column} {kind}")
    if not any(row[1] == b"size" for row in connection.execute("PRAGMA table_info(nested_catalogs)")):
        connection.execute("ALTER TABLE nested_catalogs ADD size INTEGER")
    if not list(connection.execute("PRAGMA table_info(bind_mountpoints)")):
        connection.execute(_BIND_MOUNTPOINTS.format(schema=""))
    latest = str(SCHEMA), str(SCHEMA_REVISION)
    set_property(connection, "schema", latest[0])
    set_property(connection, "schema_revision", latest[1])
    return before != latest


def check_schema(connection: sqlite3.Connection) -> None:
    """Refuse what is not a catalog of the CernVM-FS 2.1 era or later.

    :raises CorruptObject: then
    """
    schema = float(get_property(connection, "schema") or "1.0")
    if not _OLDEST_SCHEMA - _EPSILON < schema < SCHEMA + _EPSILON:
        raise CorruptObject(
            f"A catalog has schema {schema:g}; only {_OLDEST_SCHEMA} to {SCHEMA} are supported",
            remedy="Migrate the repository with CernVM-FS's own 'cvmfs_server import -l'"
            if schema < _OLDEST_SCHEMA
            else "Use a later version of this publisher",
        )


def get_property(connection: sqlite3.Connection, key: str) -> str | None:
    """Return a property's text, or None."""
    row = connection.execute("SELECT CAST(value AS TEXT) FROM properties WHERE key = ?", (key,)).fetchone()
    return row[0].decode("utf-8", "surrogateescape") if row else None


def set_property(connection: sqlite3.Connection, key: str, value: str | bytes) -> None:
    """Set a property. A path can be any bytes."""
    raw = value.encode() if isinstance(value, str) else value
    connection.execute("INSERT OR REPLACE INTO properties VALUES (?, CAST(? AS TEXT))", (key, raw))


def store_statistics(connection: sqlite3.Connection, statistics: Statistics) -> None:
    """Write the counters."""
    connection.executemany("INSERT OR REPLACE INTO statistics VALUES (?, ?)", statistics.as_dict().items())


def copy_canonical(connection: sqlite3.Connection, target: Path) -> None:
    """Write a catalog's content to a new database file, whose bytes depend on that content alone.

    Rows are in a fixed order without gaps in their numbers, from which clients make inodes. Pages are full.

    :param connection: the catalog; not within a transaction
    """
    connection.execute("ATTACH ? AS canonical", (str(target),))
    for pragma in (*_FAST, "page_size=4096"):
        connection.execute(f"PRAGMA canonical.{pragma}")
    connection.execute("BEGIN")
    for statement, table, order in _TABLES:
        connection.execute(statement.format(schema="canonical."))
        columns = ", ".join(COLUMNS) if table == "catalog" else "*"
        # Table and column names are this module's constants
        connection.execute(
            f"INSERT INTO canonical.{table} SELECT {columns} FROM main.{table} ORDER BY {order}"  # noqa: S608
        )
    connection.execute(_PARENT_INDEX.format(schema="canonical."))
    connection.execute("COMMIT")
    connection.execute("VACUUM canonical")
    connection.execute("DETACH canonical")
