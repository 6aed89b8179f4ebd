# SPDX-License-Identifier: GPL-3.0-or-later
"""Every key of ``server.conf`` is honoured, not needed, or refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cvmfs_publisher
from cvmfs_publisher.errors import ConfigurationError
from cvmfs_publisher.repository import ServerConfig
from cvmfs_publisher.repository.server_keys import KEYS, Key, Treatment, as_document, require_supported, without_effect

DOCUMENT = Path(__file__).parents[5] / "docs" / "server-conf.md"
SOURCES = Path(cvmfs_publisher.__file__).parent

MADE_BY_UPSTREAM = """\
CVMFS_CREATOR_VERSION CVMFS_REPOSITORY_NAME CVMFS_REPOSITORY_TYPE CVMFS_USER CVMFS_UNION_DIR CVMFS_SPOOL_DIR
CVMFS_STRATUM0 CVMFS_UPSTREAM_STORAGE CVMFS_USE_FILE_CHUNKING CVMFS_MIN_CHUNK_SIZE CVMFS_AVG_CHUNK_SIZE
CVMFS_MAX_CHUNK_SIZE CVMFS_UNION_FS_TYPE CVMFS_HASH_ALGORITHM CVMFS_COMPRESSION_ALGORITHM CVMFS_EXTERNAL_DATA
CVMFS_AUTO_TAG CVMFS_AUTO_TAG_TIMESPAN CVMFS_GARBAGE_COLLECTION CVMFS_AUTO_REPAIR_MOUNTPOINT CVMFS_AUTOCATALOGS
CVMFS_ASYNC_SCRATCH_CLEANUP CVMFS_PRINT_STATISTICS CVMFS_UPLOAD_STATS_DB CVMFS_UPLOAD_STATS_PLOTS
CVMFS_IGNORE_XDIR_HARDLINKS CVMFS_VOMS_AUTHZ CVMFS_CATALOG_ALT_PATHS CVMFS_AUTO_GC CVMFS_SERVER_PROXY
"""
"""What ``cvmfs_server mkfs`` of CernVM-FS 2.12 writes into ``server.conf``."""

DOCUMENTED_BY_UPSTREAM = """\
CVMFS_AUFS_WARNING CVMFS_AUTO_GC CVMFS_AUTO_GC_TIMESPAN CVMFS_AUTO_GC_LAPSE CVMFS_AUTO_REPAIR_MOUNTPOINT CVMFS_AUTO_TAG
CVMFS_AUTO_TAG_TIMESPAN CVMFS_AUTOCATALOGS CVMFS_AUTOCATALOGS_MAX_WEIGHT CVMFS_AUTOCATALOGS_MIN_WEIGHT
CVMFS_AVG_CHUNK_SIZE CVMFS_CATALOG_ALT_PATHS CVMFS_CHECK_ALL_MIN_DAYS CVMFS_COMPRESSION_ALGORITHM CVMFS_CREATOR_VERSION
CVMFS_DONT_CHECK_OVERLAYFS_VERSION CVMFS_ENFORCE_LIMITS CVMFS_EXTENDED_GC_STATS CVMFS_EXTERNAL_DATA
CVMFS_FILE_MBYTE_LIMIT CVMFS_FORCE_REMOUNT_WARNING CVMFS_GARBAGE_COLLECTION CVMFS_GC_DELETION_LOG CVMFS_GEO_DB_FILE
CVMFS_GEO_LICENSE_KEY CVMFS_GID_MAP CVMFS_HASH_ALGORITHM CVMFS_IGNORE_SPECIAL_FILES CVMFS_INCLUDE_XATTRS
CVMFS_MAX_CHUNK_SIZE CVMFS_MAXIMAL_CONCURRENT_WRITES CVMFS_MIN_CHUNK_SIZE CVMFS_NESTED_KCATALOG_LIMIT
CVMFS_NUM_UPLOAD_TASKS CVMFS_NUM_WORKERS CVMFS_PUBLIC_KEY CVMFS_PRINT_STATISTICS CVMFS_REPLICA_ACTIVE
CVMFS_REPOSITORY_NAME CVMFS_REPOSITORY_TYPE CVMFS_REPOSITORY_TTL CVMFS_ROOT_KCATALOG_LIMIT CVMFS_SNAPSHOT_GROUP
CVMFS_SPOOL_DIR CVMFS_STATISTICS_DB CVMFS_STATS_DB_DAYS_TO_KEEP CVMFS_STRATUM0 CVMFS_STRATUM1 CVMFS_SYNCFS_LEVEL
CVMFS_UID_MAP CVMFS_UNION_DIR CVMFS_UNION_FS_TYPE CVMFS_UPLOAD_STATS_DB CVMFS_UPLOAD_STATS_PLOTS CVMFS_UPSTREAM_STORAGE
CVMFS_USE_FILE_CHUNKING CVMFS_USER CVMFS_VIRTUAL_DIR CVMFS_VOMS_AUTHZ X509_CERT_BUNDLE X509_CERT_DIR
CVMFS_GENERATE_LEGACY_BULK_CHUNKS CVMFS_IGNORE_XDIR_HARDLINKS
"""
"""The CernVM-FS documentation's "Server parameters", with the deprecated ones."""

LOOKED_FOR_BY_UPSTREAM = """\
CVMFS_CATALOG_ENTRY_WARN_THRESHOLD CVMFS_ENABLE_MTIME_NS CVMFS_FOLLOW_REDIRECTS CVMFS_HIDE_MAGIC_XATTRS
CVMFS_HTTP_RETRIES CVMFS_HTTP_TIMEOUT CVMFS_LOG_LEVEL CVMFS_MAX_PARALLEL_SNAPSHOTS CVMFS_PASSTHROUGH
CVMFS_PUBLISH_VERSIONS_IN_META_FILE CVMFS_SERVER_PROXY CVMFS_SERVER_USE_CATALOG_CACHE
"""
"""What the scripts of 2.12 look for besides."""

ADDED_BY_UPSTREAM = """\
CVMFS_GC_DB_BATCH_SIZE CVMFS_INFO_HEADER CVMFS_INGEST_FAST_DELETE CVMFS_PARTIAL_REPLICATION
CVMFS_PARTIAL_REPLICATION_SPEC
"""
"""What came with 2.14."""


def test_all_are_there_once() -> None:
    names = [key.name for key in KEYS]
    assert len(names) == len(set(names))
    everything = " ".join((MADE_BY_UPSTREAM, DOCUMENTED_BY_UPSTREAM, LOOKED_FOR_BY_UPSTREAM, ADDED_BY_UPSTREAM)).split()
    assert not set(everything) - set(names)


def test_what_is_honoured_is_looked_for() -> None:
    sources = "".join(
        file.read_text() for file in SOURCES.rglob("*.py") if file.name != "server_keys.py" and file.parts[-2] != "cli"
    )
    looked_for = set(re.findall(r'"((?:CVMFS|X509)_[A-Z0-9_]+)"', sources))
    for key in KEYS:
        if key.treatment is Treatment.HONOURED:
            assert key.name in looked_for, key.name


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_each(key: Key) -> None:
    value = "something"
    settings = ServerConfig({key.name: value}, "server.conf")
    if key.treatment is Treatment.REFUSED:
        with pytest.raises(ConfigurationError, match=f"{key.name}={value} in server.conf is not supported") as caught:
            require_supported(settings)
        assert caught.value.remedy == f"Remove it. {key.text}"
        for harmless in key.harmless:
            require_supported(ServerConfig({key.name: harmless.upper()}))
    else:
        require_supported(settings)


@pytest.mark.parametrize("name", ["CVMFS_COMPRESION_ALGORITHM", "CVMFS_", "CVMFS_S3_HOST", "CVMFS_QUOTA_LIMIT"])
def test_what_nobody_knows(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} in server.conf is no setting of a release manager"):
        require_supported(ServerConfig({name: ""}, "server.conf"))


def test_what_has_no_effect_is_said() -> None:
    (warning,) = without_effect(ServerConfig({"CVMFS_LOG_LEVEL": "4", "CVMFS_INFO_HEADER": "OFF", "X": "y"}))
    assert warning == "CVMFS_LOG_LEVEL has no effect: messages do not have levels"


def test_settings_of_others() -> None:
    require_supported(ServerConfig({"HTTP_PROXY": "x", "X": "y"}))


def test_document() -> None:
    """To print it anew: ``python -m cvmfs_publisher.repository.server_keys > docs/server-conf.md``."""
    assert DOCUMENT.read_text() == as_document()
