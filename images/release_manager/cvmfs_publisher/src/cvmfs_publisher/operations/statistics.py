# SPDX-License-Identifier: GPL-3.0-or-later
"""The statistics database: one row for each publish and each garbage collection, as CernVM-FS keeps them.

Schema and file are those of its ``statistics_database.cc``: ``stats.db`` in the spool directory, or what
``CVMFS_STATISTICS_DB`` names. Rows go after ``CVMFS_STATS_DB_DAYS_TO_KEEP`` days (365; 0 keeps them).

A release manager's spool directory does not outlive its container. So with ``CVMFS_UPLOAD_STATS_DB=true`` the copy in
the repository's storage, ``stats/stats.db``, is the one that counts: it is fetched before a row is added, and stored
after, unless somebody else has stored one meanwhile.

A table of this project's own, ``run_statistics``, has a row for each of those in the other two, with what these have no
columns for: the kind of error, and what the storage was asked. CernVM-FS takes no notice of it.

Nothing here ends a publish: what goes wrong becomes a warning.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..errors import (
    ConfigurationError,
    EndpointUnreachable,
    ObjectNotFound,
    PublisherError,
    RepositoryError,
    UsageError,
)
from ..repository import ServerConfig
from ..storage import ObjectStore, Version
from .environment import Environment, writing_to

STATISTICS_KEY = "stats/stats.db"
TABLES = ("publish_statistics", "gc_statistics", "run_statistics")
_SCHEMA = "1.0"
_SCHEMA_REVISION = 4
_DAYS_TO_KEEP = 365
_COLUMNS = {
    "publish_statistics": (
        "publish_id INTEGER PRIMARY KEY",
        "start_time TEXT",
        "finish_time TEXT",
        "revision INTEGER",
        "files_added INTEGER",
        "files_removed INTEGER",
        "files_changed INTEGER",
        "chunks_added INTEGER",
        "chunks_duplicated INTEGER",
        "catalogs_added INTEGER",
        "directories_added INTEGER",
        "directories_removed INTEGER",
        "directories_changed INTEGER",
        "symlinks_added INTEGER",
        "symlinks_removed INTEGER",
        "symlinks_changed INTEGER",
        "sz_bytes_added INTEGER",
        "sz_bytes_removed INTEGER",
        "sz_bytes_uploaded INTEGER",
        "sz_catalog_bytes_uploaded INTEGER",
        "success INTEGER",
    ),
    "gc_statistics": (
        "gc_id INTEGER PRIMARY KEY",
        "start_time TEXT",
        "finish_time TEXT",
        "n_preserved_catalogs INTEGER",
        "n_condemned_catalogs INTEGER",
        "n_condemned_objects INTEGER",
        "sz_condemned_bytes INTEGER",
        "n_duplicate_delete_requests INTEGER",
        "success INTEGER",
    ),
    "run_statistics": (
        "run_id INTEGER PRIMARY KEY",
        "operation TEXT",
        "start_time TEXT",
        "finish_time TEXT",
        "success INTEGER",
        "error TEXT",
        "s3_requests INTEGER",
        "s3_retries INTEGER",
        "s3_seconds REAL",
    ),
}
# What revisions of the schema brought; columns that they renamed are not carried over
_ADDED = {
    "publish_statistics": ("revision", "chunks_added", "chunks_duplicated", "catalogs_added", "symlinks_added",
                           "symlinks_removed", "symlinks_changed", "sz_catalog_bytes_uploaded", "success"),
    "gc_statistics": ("success", "n_duplicate_delete_requests"),
    "run_statistics": (),
}  # fmt: skip
_RENAMED = {
    "publish_statistics": {"finished_time": "finish_time", "duplicated_files": "chunks_duplicated"},
    "gc_statistics": {"finished_time": "finish_time"},
    "run_statistics": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishStatistics:
    """What one publish did; the names are the table's columns.

    :param chunks_added: objects that were uploaded, without catalogs
    :param chunks_duplicated: contents that the storage had already
    :param sz_bytes_uploaded: without catalogs
    """

    revision: int = 0
    files_added: int = 0
    files_removed: int = 0
    files_changed: int = 0
    chunks_added: int = 0
    chunks_duplicated: int = 0
    catalogs_added: int = 0
    directories_added: int = 0
    directories_removed: int = 0
    directories_changed: int = 0
    symlinks_added: int = 0
    symlinks_removed: int = 0
    symlinks_changed: int = 0
    sz_bytes_added: int = 0
    sz_bytes_removed: int = 0
    sz_bytes_uploaded: int = 0
    sz_catalog_bytes_uploaded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GcStatistics:
    """What one garbage collection did; the names are the table's columns.

    :param sz_condemned_bytes: None where nobody counted
    """

    n_preserved_catalogs: int = 0
    n_condemned_catalogs: int = 0
    n_condemned_objects: int = 0
    sz_condemned_bytes: int | None = None
    n_duplicate_delete_requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of statistics: its columns, and its rows from the first to the last."""

    columns: list[str]
    rows: list[list[str]]


def record(
    environment: Environment,
    settings: ServerConfig,
    store: ObjectStore,
    statistics: PublishStatistics | GcStatistics,
    *,
    started: float,
    failure: BaseException | None = None,
) -> list[str]:
    """Add a row; return a warning if that fails.

    :param store: the repository's
    :param started: seconds since 1970
    :param failure: what was raised, if it failed
    """
    operation = "publish" if isinstance(statistics, PublishStatistics) else "gc"
    traffic = store.traffic
    version: Version | None = None
    try:
        file = statistics_file(environment, settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        uploads = settings.flag("CVMFS_UPLOAD_STATS_DB", default=False)
        if uploads:
            with contextlib.suppress(ObjectNotFound):
                data, version = store.get_versioned(STATISTICS_KEY)
                _write(file, data)
        with _opened(file) as database:
            _prepare(database, settings.repository)
            _prune(database, settings.number("CVMFS_STATS_DB_DAYS_TO_KEEP", _DAYS_TO_KEEP))
            run = {
                "start_time": _text(started),
                "finish_time": _text(time.time()),
                "success": int(failure is None),
            }
            _insert(database, f"{operation}_statistics", {**run, **asdict(statistics)})
            details = {
                "operation": operation,
                "error": type(failure).__name__ if failure is not None else None,
                "s3_requests": traffic.requests,
                "s3_retries": traffic.retries,
                "s3_seconds": round(traffic.seconds, 3),
            }
            _insert(database, "run_statistics", {**run, **details})
        if uploads and version is None:
            store.put_if_absent(STATISTICS_KEY, file.read_bytes())
        elif uploads and version is not None:
            store.put_if_match(STATISTICS_KEY, file.read_bytes(), version)
    except (PublisherError, OSError, sqlite3.Error) as error:
        return [f"The statistics were not kept: {error}"]
    return []


@contextlib.contextmanager
def failure_recorded(
    environment: Environment,
    settings: ServerConfig,
    store: ObjectStore,
    statistics: PublishStatistics | GcStatistics,
    *,
    started: float,
) -> Iterator[None]:
    """Add a row if the block fails, as `record` does.

    None if the storage does not answer, which would have to be waited for again.
    """
    try:
        yield
    except EndpointUnreachable:
        raise
    except Exception as error:
        record(environment, settings, store, statistics, started=started, failure=error)
        raise


def statistics_file(environment: Environment, settings: ServerConfig) -> Path:
    """Return the file of the database."""
    return Path(settings.get("CVMFS_STATISTICS_DB") or environment.spool_dir(settings) / "stats.db")


def read_statistics(environment: Environment, name: str, table: str) -> Table | None:
    """Return a table of statistics; None when there are none. The storage's copy counts where it is kept there.

    :raises UsageError: for an unknown table
    :raises RepositoryError: when the database is damaged
    """
    settings = environment.settings(name)
    readable = (*TABLES, "properties")
    if table not in readable:
        raise UsageError(f"There is no table {table!r} of statistics", remedy=f"Use one of: {', '.join(readable)}")
    file = statistics_file(environment, settings)
    with contextlib.ExitStack() as stack:
        if settings.flag("CVMFS_UPLOAD_STATS_DB", default=False):
            store = stack.enter_context(contextlib.closing(environment.store(settings)))
            scratch = stack.enter_context(environment.scratch(settings))
            with contextlib.suppress(ObjectNotFound):
                data = store.get(STATISTICS_KEY)
                file = scratch / "stats.db"
                with writing_to(scratch):
                    file.write_bytes(data)
        if not file.exists():
            return None
        try:
            with _opened(file) as database:
                if table in TABLES and table not in _tables(database):
                    return Table(columns=[], rows=[])
                cursor = database.execute(f"SELECT * FROM {table}")  # noqa: S608 - one of those
                columns = [column[0] for column in cursor.description]
                return Table(columns=columns, rows=[[_cell(value) for value in row] for row in cursor])
        except sqlite3.Error as error:
            raise RepositoryError(
                f"The statistics database {file} cannot be read ({error})", remedy="Remove it, or restore it"
            ) from error


def merge_statistics(first: Path, second: Path, output: Path) -> None:
    """Write a database with the rows of two, those of the first one before those of the second.

    :raises RepositoryError: when they are of different repositories or schemas, or are none
    :raises UsageError: when one of them is the output
    """
    if output.exists() and any(output.samefile(file) for file in (first, second) if file.exists()):
        raise UsageError(f"{output} would be overwritten while it is read", remedy="Write to another file (-o)")
    properties = [_properties(file) for file in (first, second)]
    for key in ("repo_name", "schema", "schema_revision"):
        values = [found.get(key) for found in properties]
        if values[0] != values[1]:
            raise RepositoryError(
                f"The databases have a different {key}: {values[0]} and {values[1]}",
                remedy="Merge databases of one repository; the next publish brings an old one to the newest schema",
            )
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with _opened(temporary) as database:
            _prepare(database, properties[0].get("repo_name", ""))
            for file in (first, second):
                _copy_rows(database, file)
        os.replace(temporary, output)
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"Cannot write {output}: {error}", remedy="Choose another file (-o)") from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy_rows(database: sqlite3.Connection, file: Path) -> None:
    with _opened(file) as source:
        for table in _tables(source):
            cursor = source.execute(f"SELECT * FROM {table}")  # noqa: S608 - one of TABLES
            columns = [column[0] for column in cursor.description]
            for row in cursor:
                _insert(database, table, dict(zip(columns[1:], row[1:], strict=True)))  # all but its number


def _tables(database: sqlite3.Connection) -> list[str]:
    """Return those of TABLES that there are."""
    found = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [table for table in TABLES if table in found]


def _properties(file: Path) -> dict[str, str]:
    if not file.exists():
        raise RepositoryError(f"There is no {file}", remedy="Name two statistics databases")
    try:
        with _opened(file) as database:
            return {key: str(value) for key, value in database.execute("SELECT key, value FROM properties")}
    except sqlite3.Error as error:
        raise RepositoryError(
            f"{file} is no statistics database ({error})", remedy="Name two statistics databases"
        ) from error


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        yield database


def _prepare(database: sqlite3.Connection, repository: str) -> None:
    """Make the tables, or bring those of earlier schemas to the newest."""
    database.execute(
        "CREATE TABLE IF NOT EXISTS properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))"
    )
    found = {key: str(value) for key, value in database.execute("SELECT key, value FROM properties")}
    if found.get("repo_name", repository) != repository:
        raise ConfigurationError(
            f"The statistics database is that of {found['repo_name']}, not of {repository}",
            remedy="Correct CVMFS_STATISTICS_DB",
        )
    for table in TABLES:
        database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(_COLUMNS[table])})")
        present = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        for old, new in _RENAMED[table].items():
            if old in present:
                database.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
                present.add(new)
        for column in _ADDED[table]:
            if column not in present:
                database.execute(f"ALTER TABLE {table} ADD {column} INTEGER")
    properties = {"schema": _SCHEMA, "schema_revision": str(_SCHEMA_REVISION), "repo_name": repository}
    database.executemany("INSERT OR REPLACE INTO properties VALUES (?, ?)", properties.items())


def _prune(database: sqlite3.Connection, days: int) -> None:
    for table in TABLES if days else ():
        database.execute(
            f"DELETE FROM {table} WHERE julianday('now', 'start of day') - julianday(start_time) > ?",  # noqa: S608
            (days,),
        )


def _insert(database: sqlite3.Connection, table: str, row: Mapping[str, object]) -> None:
    marks = ", ".join("?" * len(row))
    database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))  # noqa: S608


def _write(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, file)


def _text(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def print_list(statistics: PublishStatistics) -> str:
    """Return the counters as ``CVMFS_PRINT_STATISTICS`` shows them: name, value and meaning of each."""
    lines = [
        f"publish.{_PRINTED[field.name][0]}|{getattr(statistics, field.name)}|{_PRINTED[field.name][1]}"
        for field in fields(statistics)
    ]
    return "\n".join(["Name|Value|Description", *sorted(lines)])


_PRINTED = {
    "revision": ("revision", "Published revision number"),
    "files_added": ("n_files_added", "Number of files added"),
    "files_removed": ("n_files_removed", "Number of files removed"),
    "files_changed": ("n_files_changed", "Number of files changed"),
    "chunks_added": ("n_chunks_added", "Number of objects uploaded"),
    "chunks_duplicated": ("n_chunks_duplicated", "Number of objects that were there already"),
    "catalogs_added": ("n_catalogs_added", "Number of new catalogs"),
    "directories_added": ("n_directories_added", "Number of directories added"),
    "directories_removed": ("n_directories_removed", "Number of directories removed"),
    "directories_changed": ("n_directories_changed", "Number of directories changed"),
    "symlinks_added": ("n_symlinks_added", "Number of symlinks added"),
    "symlinks_removed": ("n_symlinks_removed", "Number of symlinks removed"),
    "symlinks_changed": ("n_symlinks_changed", "Number of symlinks changed"),
    "sz_bytes_added": ("sz_added_bytes", "Number of bytes added"),
    "sz_bytes_removed": ("sz_removed_bytes", "Number of bytes removed"),
    "sz_bytes_uploaded": ("sz_uploaded_bytes", "Number of uploaded bytes"),
    "sz_catalog_bytes_uploaded": ("sz_uploaded_catalog_bytes", "Number of uploaded bytes for catalogs"),
}
