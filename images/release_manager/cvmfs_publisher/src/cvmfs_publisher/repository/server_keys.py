# SPDX-License-Identifier: GPL-3.0-or-later
"""Every key that CernVM-FS knows in ``server.conf``, and what this publisher does with it.

The keys are those of the CernVM-FS documentation, "Server parameters", those that the scripts of 2.12 look for besides,
and one of this publisher's own. ``docs/server-conf.md`` is printed from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..errors import ConfigurationError
from .settings import ServerConfig


class Treatment(Enum):
    """What becomes of a key; the value is the heading in the documentation."""

    HONOURED = "Honoured"
    NOT_NEEDED = "Not needed"
    WITHOUT_EFFECT = "Without effect"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of ``server.conf``.

    :param name: with ``CVMFS_``, but for those that have it not
    :param text: what it is for; why it is not needed or has no effect; or, when it is refused, what to do instead
    :param harmless: values of a key that is refused or without effect that ask for nothing, in lower case
    """

    name: str
    treatment: Treatment
    text: str
    harmless: tuple[str, ...] = ()


def _honoured(name: str, text: str) -> Key:
    return Key(name, Treatment.HONOURED, text)


def _not_needed(name: str, text: str) -> Key:
    return Key(name, Treatment.NOT_NEEDED, text)


def _without_effect(name: str, text: str, *harmless: str) -> Key:
    return Key(name, Treatment.WITHOUT_EFFECT, text, harmless)


def _refused(name: str, text: str, *harmless: str) -> Key:
    return Key(name, Treatment.REFUSED, text, harmless)


_OFF = ("", "false", "no", "off", "0")
_STRATUM_1 = "for Stratum 1 servers"
_MOUNT = "there is no such mount to look after"
_GEO = "the Geo-API is a Stratum 1's"

KEYS = (
    _honoured("CVMFS_AUTOCATALOGS", "keep catalogs balanced by nested catalogs that the publisher makes and removes"),
    _honoured("CVMFS_AUTOCATALOGS_MAX_WEIGHT", "entries above which a catalog is split, by default 100000"),
    _honoured("CVMFS_AUTOCATALOGS_MIN_WEIGHT", "entries below which such a catalog is removed, by default 1000"),
    _honoured("CVMFS_AUTO_GC", "whether a publish collects garbage, now and then"),
    _honoured("CVMFS_AUTO_GC_LAPSE", "how long ago the last garbage collection must be for that"),
    _honoured("CVMFS_AUTO_GC_TIMESPAN", "how old the revisions are that it may delete"),
    _honoured("CVMFS_AUTO_TAG", "tag every revision"),
    _honoured("CVMFS_AUTO_TAG_TIMESPAN", "age at which such tags are removed, as date(1) takes it"),
    _honoured("CVMFS_AVG_CHUNK_SIZE", "bytes that the chunks of large files have on average; between the other two"),
    _honoured("CVMFS_CATALOG_ALT_PATHS", "keep copies of a revision's first objects outside of data/"),
    _honoured(
        "CVMFS_CHECK_ALL_MIN_DAYS", "days in which check -a spares a repository that it has found whole, by default 30"
    ),
    _honoured("CVMFS_COMPRESSION_ALGORITHM", "of new files: default (zlib) or none"),
    _honoured("CVMFS_ENABLE_MTIME_NS", "publish times with nanoseconds; unlike upstream's, the default is true"),
    _honoured("CVMFS_ENFORCE_LIMITS", "let limits that are exceeded fail a publish"),
    _honoured("CVMFS_EXTENDED_GC_STATS", "count the bytes of what garbage collection deletes, on any storage"),
    _honoured("CVMFS_EXTERNAL_DATA", "publish new files as external, without storing them"),
    _honoured("CVMFS_FILE_MBYTE_LIMIT", "megabytes that a file may have"),
    _honoured("CVMFS_GARBAGE_COLLECTION", "allow garbage collection"),
    _honoured("CVMFS_GC_DELETION_LOG", "file to which garbage collection appends the names of what it deletes"),
    _honoured("CVMFS_GENERATE_LEGACY_BULK_CHUNKS", "store files that are cut into chunks as one object, too"),
    _honoured("CVMFS_GID_MAP", "file that maps groups of published files"),
    _honoured("CVMFS_HASH_ALGORITHM", "of new objects: sha1, rmd160 or shake128; by default it stays what it is"),
    _honoured("CVMFS_IGNORE_SPECIAL_FILES", "leave out fifos, sockets and device nodes"),
    _honoured("CVMFS_INCLUDE_XATTRS", "publish extended attributes, with ACLs and file capabilities"),
    _honoured("CVMFS_MAXIMAL_CONCURRENT_WRITES", "files that are published at a time, at most 64"),
    _honoured("CVMFS_MAX_CHUNK_SIZE", "bytes that a chunk has at most"),
    _honoured("CVMFS_MIN_CHUNK_SIZE", "bytes that a chunk has at least, 32 or more"),
    _honoured("CVMFS_NESTED_KCATALOG_LIMIT", "thousands of entries that a nested catalog may have"),
    _honoured(
        "CVMFS_NUM_UPLOAD_TASKS", "objects that are written at a time, in local storage; by default as many as it takes"
    ),
    _honoured("CVMFS_PRINT_STATISTICS", "print the counters of each publish on standard error"),
    _honoured("CVMFS_PUBLIC_KEY", "public master keys, separated by colons"),
    _honoured("CVMFS_REPOSITORY_NAME", "fully qualified name"),
    _honoured(
        "CVMFS_REPOSITORY_TTL", "seconds that clients may take to see a new revision; by default it stays as it is"
    ),
    _honoured("CVMFS_REPOSITORY_TYPE", "shown by info; only a stratum0 can be published"),
    _honoured("CVMFS_ROOT_KCATALOG_LIMIT", "thousands of entries that the root catalog may have"),
    _honoured("CVMFS_SERVER_PROXY", "written by mkfs and import into client.conf, for the clients on this host"),
    _honoured(
        "CVMFS_SIGNING_SERVICE",
        "socket of the service that signs manifests, in place of the repository key; only this publisher knows it",
    ),
    _honoured("CVMFS_SPOOL_DIR", "directory for the open transaction and temporary files"),
    _honoured("CVMFS_STATISTICS_DB", "file with the statistics, by default stats.db in the spool directory"),
    _honoured("CVMFS_STATS_DB_DAYS_TO_KEEP", "days after which statistics are removed, by default 365; 0 keeps them"),
    _honoured("CVMFS_STRATUM0", "URL of the repository"),
    _honoured("CVMFS_UID_MAP", "file that maps owners of published files"),
    _honoured("CVMFS_UNION_DIR", "where an open transaction shows the repository for changes"),
    _honoured("CVMFS_UNION_FS_TYPE", "how it is made writable there"),
    _honoured("CVMFS_UPLOAD_STATS_DB", "keep the statistics in the storage, as stats/stats.db"),
    _honoured("CVMFS_UPSTREAM_STORAGE", "where the repository is: local or S3; a gateway is refused"),
    _honoured("CVMFS_USER", "owner of archives' content and of what the publisher itself makes"),
    _honoured("CVMFS_USE_FILE_CHUNKING", "cut large files into chunks"),
    _honoured(
        "CVMFS_VIRTUAL_DIR", "show all tags below .cvmfs/snapshots; new ones then may have no slash in their names"
    ),
    _honoured("CVMFS_VOMS_AUTHZ", "membership requirement, for a repository that has none; publish -F changes it"),
    _honoured("X509_CERT_BUNDLE", "certificate authorities for HTTPS"),
    _honoured("X509_CERT_DIR", "the same, as a directory"),
    _not_needed("CVMFS_ASYNC_SCRATCH_CLEANUP", _MOUNT),
    _not_needed("CVMFS_AUFS_WARNING", _MOUNT),
    _not_needed("CVMFS_AUTO_REPAIR_MOUNTPOINT", _MOUNT),
    _not_needed("CVMFS_CATALOG_ENTRY_WARN_THRESHOLD", "replaced by the limits upstream, too"),
    _not_needed("CVMFS_CREATOR_VERSION", "catalogs tell their schema themselves"),
    _not_needed("CVMFS_DONT_CHECK_OVERLAYFS_VERSION", _MOUNT),
    _not_needed("CVMFS_FOLLOW_REDIRECTS", "the publisher reads from the storage itself, not by HTTP"),
    _not_needed("CVMFS_FORCE_REMOUNT_WARNING", _MOUNT),
    _not_needed("CVMFS_GC_DB_BATCH_SIZE", "for ingest --gc-db, which is refused"),
    _not_needed("CVMFS_GEO_ACCOUNT_ID", _GEO),
    _not_needed("CVMFS_GEO_AUTO_UPDATE", _GEO),
    _not_needed("CVMFS_GEO_DB_FILE", _GEO),
    _not_needed("CVMFS_GEO_LICENSE_KEY", _GEO),
    _not_needed("CVMFS_HIDE_MAGIC_XATTRS", "for the client on upstream's release managers"),
    _not_needed("CVMFS_HTTP_RETRIES", _STRATUM_1),
    _not_needed("CVMFS_HTTP_TIMEOUT", _STRATUM_1),
    _not_needed("CVMFS_INGEST_FAST_DELETE", "deletions never walk through nested catalogs"),
    _not_needed("CVMFS_MAX_PARALLEL_SNAPSHOTS", _STRATUM_1),
    _not_needed("CVMFS_NUM_WORKERS", _STRATUM_1),
    _not_needed("CVMFS_PARTIAL_REPLICATION", _STRATUM_1),
    _not_needed("CVMFS_PARTIAL_REPLICATION_SPEC", _STRATUM_1),
    _not_needed("CVMFS_PASSTHROUGH", _STRATUM_1),
    _not_needed("CVMFS_PUBLISH_VERSIONS_IN_META_FILE", "the document about the server does not have them"),
    _not_needed("CVMFS_REPLICA_ACTIVE", _STRATUM_1),
    _not_needed("CVMFS_SERVER_USE_CATALOG_CACHE", "only catalogs that a publish needs are fetched"),
    _not_needed("CVMFS_SNAPSHOT_GROUP", _STRATUM_1),
    _not_needed("CVMFS_STRATUM1", _STRATUM_1),
    _not_needed("CVMFS_SYNCFS_LEVEL", "the storage says when it has an object"),
    _not_needed("CVMFS_UPDATEGEO_DAY", _GEO),
    _not_needed("CVMFS_UPDATEGEO_DB", _GEO),
    _not_needed("CVMFS_UPDATEGEO_DIR", _GEO),
    _not_needed("CVMFS_UPDATEGEO_HOUR", _GEO),
    _not_needed("CVMFS_UPDATEGEO_MAXDAYS", _GEO),
    _not_needed("CVMFS_UPDATEGEO_MINDAYS", _GEO),
    _not_needed("CVMFS_UPDATEGEO_URLBASE", _GEO),
    _without_effect("CVMFS_INFO_HEADER", "requests do not tell what they are for", *_OFF),
    _without_effect("CVMFS_LOG_LEVEL", "messages do not have levels", ""),
    _refused(
        "CVMFS_IGNORE_XDIR_HARDLINKS", "Hard links across directories always become files of their own", "", "true"
    ),
    _refused("CVMFS_UPLOAD_STATS_PLOTS", "Plot the statistics where ROOT is installed", *_OFF),
)
"""All of them, in the order of the alphabet in each group."""

_BY_NAME = {key.name: key for key in KEYS}


def require_supported(settings: ServerConfig, *, for_clients: bool = False) -> None:
    """Refuse a configuration that asks for what this publisher does not do, or has keys that nobody knows.

    :param settings: ``server.conf`` or ``server.local`` alone
    :param for_clients: it is ``client.conf``, which has keys for clients, too
    :raises ConfigurationError: then
    """
    for name, value in settings.items():
        key = _BY_NAME.get(name)
        if key is None and name.startswith("CVMFS_") and not for_clients:
            raise ConfigurationError(
                f"{name} in {settings.origin} is no setting of a release manager",
                remedy="Correct its name, or remove it; docs/server-conf.md lists all",
            )
        if key is not None and key.treatment is Treatment.REFUSED and value.lower() not in key.harmless:
            raise ConfigurationError(
                f"{name}={value} in {settings.origin} is not supported by this engine",
                remedy=f"Remove it. {key.text}",
            )


def without_effect(settings: ServerConfig) -> list[str]:
    """Return warnings about keys that ask for what this publisher does not do, and that can be done without."""
    return [
        f"{key.name} has no effect: {key.text}"
        for key in KEYS
        if key.treatment is Treatment.WITHOUT_EFFECT and settings.get(key.name, "").lower() not in key.harmless
    ]


def as_document() -> str:
    """Return ``docs/server-conf.md``."""
    parts = [_INTRODUCTION]
    for treatment in Treatment:
        parts.append(f"## {treatment.value}\n\n{_ABOUT[treatment]}\n\n| Key | {_HEADINGS[treatment]} |\n|---|---|\n")
        parts += [
            f"| `{key.name}` | {_describe(key)} |\n" for key in sorted(KEYS, key=_name) if key.treatment is treatment
        ]
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def _name(key: Key) -> str:
    return key.name


def _describe(key: Key) -> str:
    allowed = [f"`{value}`" for value in key.harmless if value]
    return key.text + (f" (allowed: {', '.join(allowed)})" if allowed else "")


_INTRODUCTION = """\
# Settings of a release manager

The native publisher reads the files that CernVM-FS's own tools do, and the same keys mean the same:

1. `/etc/cvmfs/server.local`, if it is there, for all repositories;
2. `/etc/cvmfs/repositories.d/FQRN/server.conf`;
3. `client.conf` beside it, if it is there. It is for clients; the keys below count in it, too, as `CVMFS_PUBLIC_KEY`.

What comes later overrides. `CVMFS_CONFIG_DIR` in the environment names another directory than `/etc/cvmfs`. The files
are read, and not run by a shell: each line is `NAME=value`, quoted as for a shell. Variables, commands and whatever
else needs a shell are refused with the number of their line.

No key is silently ignored: each one that CernVM-FS's documentation (part "Server parameters") or its scripts know is in
one of the lists below. Any other key that begins with `CVMFS_`, except in `client.conf`, fails by name whatever
publishes or deletes; what must always work, as `abort` and `resign`, does not look. Keys of `CVMFS_S3_…` belong into
the S3 configuration file.

This page is printed from `cvmfs_publisher/repository/server_keys.py`; a test keeps both the same.

"""
_ABOUT = {
    Treatment.HONOURED: "As CernVM-FS documents them, but for what is said to be this publisher's.",
    Treatment.NOT_NEEDED: "Allowed, and without effect, as there is nothing that they could change.",
    Treatment.WITHOUT_EFFECT: "Allowed. A publish warns, unless the value asks for nothing.",
    Treatment.REFUSED: "Whatever publishes or deletes fails, unless the value asks for nothing.",
}
_HEADINGS = {
    Treatment.HONOURED: "Meaning",
    Treatment.NOT_NEEDED: "Why not",
    Treatment.WITHOUT_EFFECT: "Why not",
    Treatment.REFUSED: "Instead",
}

if __name__ == "__main__":
    print(as_document(), end="")
