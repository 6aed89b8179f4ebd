# SPDX-License-Identifier: GPL-3.0-or-later
"""Small SQLite databases that are objects: tag database and reflog. They are read and written as a whole.

Writing them anew each time makes their bytes a function of their content, which the reflog's recovery needs.
"""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import tempfile
from typing import TYPE_CHECKING

from ..errors import CorruptObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Before 3.36, SQLite offered databases as bytes only where it was built for that, which that of EL 9 is not.
_HAS_SERIALIZE = hasattr(sqlite3.Connection, "serialize")

RESTORE = "Find out who else writes to the storage, and restore it from a replica or a backup"
"""The remedy for objects of a repository that are not what they should be."""


@contextlib.contextmanager
def opened(data: bytes, what: str) -> Iterator[sqlite3.Connection]:
    """Open a database that is in memory.

    :param what: names it in messages
    :raises CorruptObject: when it is none, or lacks what is read within the context
    """
    if not data:
        raise CorruptObject(f"The {what} is empty", remedy=RESTORE)
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            _deserialize(connection, data)
            yield connection
        except sqlite3.Error as error:
            raise CorruptObject(f"The {what} is damaged ({error})", remedy=RESTORE) from error


@contextlib.contextmanager
def created(schema: str, revision: int, properties: Mapping[str, str]) -> Iterator[sqlite3.Connection]:
    """Make a database in memory, with CernVM-FS's table of properties."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))")
        rows = {"schema": schema, "schema_revision": str(revision), **properties}
        connection.executemany("INSERT INTO properties VALUES (?, ?)", rows.items())
        yield connection


def finished(connection: sqlite3.Connection) -> bytes:
    """Return the bytes of a database in memory."""
    connection.execute("COMMIT")
    return _serialize(connection)


def _deserialize(connection: sqlite3.Connection, data: bytes) -> None:
    if _HAS_SERIALIZE:
        connection.deserialize(data)
        return
    with _file() as path:
        path.write_bytes(data)
        with contextlib.closing(sqlite3.connect(path)) as file:
            file.backup(connection)


def _serialize(connection: sqlite3.Connection) -> bytes:
    if _HAS_SERIALIZE:
        return connection.serialize()
    with _file() as path:
        with contextlib.closing(sqlite3.connect(path)) as file:
            connection.backup(file)
        data = bytearray(path.read_bytes())
    # The copy has the same pages, but for what the header tells of files: how often, and by what, they were changed.
    (schema_version,) = connection.execute("PRAGMA schema_version").fetchone()
    data[24:28], data[40:44], data[92:100] = bytes(4), schema_version.to_bytes(4, "big"), bytes(8)
    return bytes(data)


@contextlib.contextmanager
def _file() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="cvmfs-") as directory:
        yield pathlib.Path(directory) / "database"


def read_properties(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the table of properties."""
    return {key: str(value) for key, value in connection.execute("SELECT key, value FROM properties")}


def columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns; none when there is no such table."""
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
