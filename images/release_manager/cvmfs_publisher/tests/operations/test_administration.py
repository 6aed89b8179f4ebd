# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks, statistics, descriptions, and the removal of repositories."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import Fault, FaultyStore

from cvmfs_publisher.errors import CorruptObject, LeaseHeld, NotInTransaction, PreconditionFailed, StorageError
from cvmfs_publisher.operations import sweeper as sweeper_module
from cvmfs_publisher.operations import transaction as transaction_module
from cvmfs_publisher.operations.gc import GcOptions, collect
from cvmfs_publisher.operations.rmfs import rmfs
from cvmfs_publisher.operations.statistics import STATISTICS_KEY, GcStatistics, record
from cvmfs_publisher.repository import Lease, Repository, metainfo
from cvmfs_publisher.repository.lease import CLOCK_MARGIN, LEASE_KEY, break_lease, peek
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.storage import Cancellation, LocalStore, Permit
from operations.conftest import from_template
from operations.managers import NAME, SMALL_CHUNKS, ReleaseManager, changes_file, make, merge, mirror, times_of_leases
from operations.stores import FaultyEnvironment, MeanwhileEnvironment

# Hooks

HOOKS = """
echo sourced >> LOG
for kind in transaction publish abort; do
  for when in before after; do
    eval "${kind}_${when}_hook() { local name=\\$1; echo ${kind}_${when} \\$name >> LOG; echo output; }"
  done
done
"""


def write_hooks(manager: ReleaseManager, text: str = HOOKS) -> Path:
    log = manager.tmp / "log"
    (manager.config_dir / "cvmfs_server_hooks.sh").write_text(text.replace("LOG", str(log)))
    return log


def called(log: Path) -> list[str]:
    lines = [line for line in log.read_text().splitlines() if line != "sourced"]
    log.unlink()
    return [line.removesuffix(f" {NAME}") for line in lines]


def test_hooks_are_called(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    log = write_hooks(local)
    changes = changes_file(tmp_path / "changes", {"source": str(source), "base_dir": "sw", "mode": "mirror"})
    outcome = local.server("transaction", "--json").succeeded()
    assert outcome.document["repository"] == NAME  # what hooks print is elsewhere
    assert outcome.stderr == "output\noutput\n"
    assert called(log) == ["transaction_before", "transaction_after"]
    local.server("publish", "--changes", changes).succeeded()
    assert called(log) == ["publish_before", "publish_after"]
    local.server("transaction").succeeded()
    local.server("abort", "-f").succeeded()
    assert called(log) == ["transaction_before", "transaction_after", "abort_before", "abort_after"]
    local.server("ingest", "--directory", source, "-b", "more").succeeded()
    assert called(log) == ["transaction_before", "transaction_after", "publish_before", "publish_after"]
    assert local.server("ingest", "--directory", tmp_path / "none", "-b", "more").code == 1
    assert called(log) == [
        *("transaction_before", "transaction_after", "publish_before", "abort_before", "abort_after")
    ]
    local.server("publish", "--dry-run").succeeded()
    local.server("tag", "-a", "new").succeeded()
    assert not log.exists()


FAILING = [
    # hook, subcommands before, failing subcommand, what is true afterwards
    ("transaction_before", [], "transaction", "No transaction was opened"),
    ("transaction_after", [], "transaction", "The transaction is open all the same"),
    ("publish_before", ["transaction"], "publish -a new", "Nothing was published"),
    ("publish_after", ["transaction"], "publish -a new", "The revision is published all the same"),
    ("abort_before", ["transaction"], "abort -f", "The transaction is still open"),
    ("abort_after", ["transaction"], "abort -f", "The transaction has ended all the same"),
]


@pytest.mark.parametrize(("hook", "before", "command", "says"), FAILING)
def test_failing_hooks(local: ReleaseManager, hook: str, before: list[str], command: str, says: str) -> None:
    write_hooks(local, f"{hook}_hook() {{ return 7; }}\n")
    for earlier in before:
        local.server(earlier).succeeded()
    revision = local.manifest().revision
    outcome = local.server(*command.split())
    assert outcome.code == 7
    assert f"{hook}_hook in {local.config_dir}/cvmfs_server_hooks.sh failed for {NAME} with exit code 7. {says}." in (
        outcome.stderr
    )
    is_open = hook in ("transaction_after", "publish_before", "abort_before")
    assert (local.spool / "transaction.json").exists() == is_open
    assert local.manifest().revision == revision + (hook == "publish_after")


@pytest.mark.parametrize(
    ("hook", "code", "says"),
    [
        ("transaction_before", 7, "No transaction was opened"),
        ("transaction_after", 7, "transaction_after_hook"),
        ("publish_after", 7, "The revision is published all the same"),
        ("abort_before", 1, "Warning: abort_before_hook"),
        ("abort_after", 1, "Warning: abort_after_hook"),
    ],
)
def test_an_ingest_whose_hooks_fail(
    local: ReleaseManager, source: Path, tmp_path: Path, hook: str, code: int, says: str
) -> None:
    write_hooks(local, f"{hook}_hook() {{ return 7; }}\n")
    missing = hook.startswith("abort")
    outcome = local.server("ingest", "--directory", tmp_path / "none" if missing else source, "-b", "sw")
    assert outcome.code == code
    assert says in outcome.stderr
    assert ("none" in outcome.stderr) == missing  # the reason why it is aborted
    assert not (local.spool / "transaction.json").exists()
    lease = local.lease()
    assert lease is not None
    assert lease.is_released
    assert local.manifest().revision == (2 if hook == "publish_after" else 1)


def test_hooks_get_no_secrets(local: ReleaseManager) -> None:
    local.configure(CVMFS_AUTO_TAG="false", CVMFS_GEO_LICENSE_KEY="hidden")
    write_hooks(local, "transaction_before_hook() { env > LOG.environment; cat > LOG.input; }\n")
    local.environ |= {"AWS_SECRET_ACCESS_KEY": "hidden", "CVMFS_S3_SECRET_KEY": "hidden", "TZ": "UTC"}
    local.server("transaction", stdin=b"hidden").succeeded()
    environment = (local.tmp / "log.environment").read_text()
    assert "hidden" not in environment
    assert "TZ=UTC\n" in environment
    assert "CVMFS_AUTO_TAG=false\n" in environment
    assert (local.tmp / "log.input").read_text() == ""


def test_a_file_of_hooks_that_is_no_shell(local: ReleaseManager) -> None:
    write_hooks(local, "this ( is no shell")
    outcome = local.server("transaction")
    assert outcome.code != 0
    assert "transaction_before_hook in " in outcome.stderr


# Statistics


def rows(manager: ReleaseManager, table: str = "publish_statistics") -> list[dict[str, str]]:
    found: list[dict[str, str]] = manager.server("print-stats", "--json", "-t", table).succeeded().document["rows"]
    return found


def test_what_is_counted(local: ReleaseManager, tmp_path: Path) -> None:
    assert local.server("print-stats").stdout == f"No statistics database file for {NAME} repository.\n"
    source = make(tmp_path / "source", a="12345", b="12345", dir__c="", dir__large="x" * 100_000)
    (source / "link").symlink_to("a")
    local.ingest(mirror(source))
    (source / "a").write_text("1234567")
    (source / "b").write_text("12")
    (source / "dir" / "c").unlink()
    (source / "dir" / "c").symlink_to("../a")
    (source / "link").unlink()
    local.ingest(mirror(source))
    local.ingest()  # nothing changed
    first, second = rows(local)
    assert (first["files_added"], first["directories_added"], first["symlinks_added"]) == ("4", "2", "1")
    assert (first["sz_bytes_added"], first["revision"], first["success"]) == ("100010", "2", "1")
    assert int(first["chunks_added"]) >= 3
    assert int(first["chunks_duplicated"]) >= 1  # a and b
    assert int(first["sz_catalog_bytes_uploaded"]) > 0
    assert (second["files_changed"], second["files_removed"], second["symlinks_added"]) == ("2", "1", "1")
    assert (second["symlinks_removed"], second["sz_bytes_added"], second["sz_bytes_removed"]) == ("1", "2", "3")
    assert second["catalogs_added"] == "1"


def test_counts_are_upstreams(local: ReleaseManager, tmp_path: Path) -> None:
    """What upstream counts for the same files, with hard links, and with files, links and directories that change."""
    source = make(tmp_path / "source", one="meaningless text\n", two="more clever text\n", foo__a="", foo__b="123\n")
    os.link(source / "two", source / "too")
    (source / "bar").mkdir()
    for name in ("one", "two"):
        (source / f"to-{name}").symlink_to(name)
    local.ingest(mirror(source))
    with (source / "one").open("a") as file:
        file.write("additional text\n")
    for name in ("two", "to-one", "to-two"):
        (source / name).unlink()
    make(source, two="less\n", **{"to-one": "12345\n"})
    (source / "to-two").symlink_to("one")
    shutil.rmtree(source / "foo")
    os.utime(source / "bar", (5, 5))
    local.ingest(mirror(source))
    counted = ["files", "directories", "symlinks"]
    added, removed, changed = (
        [[int(row[f"{kind}_{what}"]) for kind in counted] for row in rows(local)]
        for what in ("added", "removed", "changed")
    )
    assert added == [[5, 3, 2], [1, 0, 0]]
    assert removed == [[0, 0, 0], [2, 1, 1]]
    assert changed == [[0, 0, 0], [3, 2, 1]]  # the other name of what was a hard link, and the directory above, too
    assert [row["sz_bytes_added"] for row in rows(local)] == ["55", str(16 + 6)]
    assert [row["sz_bytes_removed"] for row in rows(local)] == ["0", str(17 - 5 + 4)]
    assert rows(local)[0]["chunks_added"] == "4"  # one for both names


def test_print_stats(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    local.configure(CVMFS_PRINT_STATISTICS="true")
    outcome = local.server("ingest", "--directory", source, "-b", "sw").succeeded()
    assert "Name|Value|Description\npublish.n_catalogs_added|1|" in outcome.stderr
    lines = local.server("print-stats").succeeded().stdout.splitlines()
    assert lines[0].startswith("publish_id|start_time|finish_time|revision|files_added|files_removed|")
    assert lines[1].startswith("1|20")
    assert len(lines) == 2
    local.server("print-stats", "-s", ",", "-o", tmp_path / "file").succeeded()
    assert (tmp_path / "file").read_text().splitlines() == [line.replace("|", ",") for line in lines]
    assert local.server("print-stats", "-t", "gc_statistics").succeeded().stdout == ""
    assert f"repo_name|{NAME}\n" in local.server("print-stats", "-t", "properties").succeeded().stdout
    local.refuses("print-stats", "-t", "sqlite_master", says=["There is no table 'sqlite_master' of statistics"])
    local.refuses("print-stats", "-o", tmp_path / "no" / "file", says=["Cannot write to"])
    (local.spool / "stats.db").write_bytes(b"nonsense" * 1000)
    local.refuses("print-stats", says=["cannot be read"])
    assert "The statistics were not kept" in local.server("ingest", "-d", "sw").succeeded().stderr


def test_statistics_outlive_their_release_manager(template: Path, tmp_path: Path, source: Path) -> None:
    here = from_template(template, tmp_path)
    here.configure(CVMFS_UPLOAD_STATS_DB="true")
    here.ingest(merge(source))
    there = here.another("there")
    assert there.ingest(merge(source, "more")).warnings == []
    assert [row["revision"] for row in rows(there)] == [row["revision"] for row in rows(here)] == ["2", "3"]
    with here.store() as store:
        store.put(STATISTICS_KEY, b"nonsense" * 1000)
    assert any("statistics were not kept" in text for text in here.ingest(merge(source, "again")).warnings)


def test_failures_are_counted(template: Path, tmp_path: Path, source: Path) -> None:
    here = from_template(template, tmp_path)
    here.configure(CVMFS_UPLOAD_STATS_DB="true", CVMFS_FILE_MBYTE_LIMIT="1", CVMFS_ENFORCE_LIMITS="true")
    (source / "large").write_bytes(b"x" * (3 << 20))
    assert here.server("ingest", "--directory", source, "-b", "sw").code != 0
    there = here.another("there")  # what is known is not on the host
    (row,) = rows(there)
    assert (row["success"], row["revision"]) == ("0", "0")
    (run,) = rows(there, "run_statistics")
    assert (run["operation"], run["error"], run["s3_requests"]) == ("publish", "SourceError", "0")
    assert (run["start_time"], run["finish_time"]) == (row["start_time"], row["finish_time"])
    (source / "large").unlink()
    there.ingest(merge(source))
    assert [row["success"] for row in rows(here)] == ["0", "1"]
    assert [row["error"] for row in rows(here, "run_statistics")] == ["SourceError", ""]


def test_what_garbage_collection_counts(local: ReleaseManager, tmp_path: Path) -> None:
    local.configure(CVMFS_GARBAGE_COLLECTION="true", CVMFS_AUTO_TAG="false")
    for number in range(4):
        local.ingest(mirror(make(tmp_path / f"{number}", file=f"{number}")))
    done = local.server("gc", "-f", "-r", "0", "--json").succeeded().document
    (row,) = rows(local, "gc_statistics")
    assert (row["n_preserved_catalogs"], row["n_condemned_catalogs"], row["success"]) == ("3", "2", "1")
    assert row["n_condemned_objects"] == str(done["condemned_objects"])
    local.server("gc", "-f", "-r", "0").succeeded()
    assert rows(local, "gc_statistics")[1]["n_condemned_objects"] == "0"


def test_bytes_are_counted_where_that_is_asked_for(manager: ReleaseManager, tmp_path: Path) -> None:
    manager.configure(
        CVMFS_GARBAGE_COLLECTION="true", CVMFS_AUTO_TAG="false", CVMFS_COMPRESSION_ALGORITHM="none", **SMALL_CHUNKS
    )
    for number, size in enumerate((1000, 300_000, 10, 20)):
        content = random.Random(number).randbytes(size)  # noqa: S311
        manager.ingest(mirror(make(tmp_path / f"{number}", file=content)))
    manager.configure(CVMFS_EXTENDED_GC_STATS="true")
    assert "bytes" not in manager.server("gc", "-d", "-r", "0").succeeded().stdout
    assert "(301000 bytes of data) deleted" in manager.server("gc", "-f", "-r", "0").succeeded().stdout
    assert rows(manager, "gc_statistics")[0]["sz_condemned_bytes"] == "301000"


def test_failed_garbage_collection_is_counted(template: Path, tmp_path: Path, source: Path) -> None:
    here = from_template(template, tmp_path)
    here.configure(CVMFS_GARBAGE_COLLECTION="true")
    here.ingest(merge(source))
    broken = Fault(operations=("get",), keys="data/*C", error=CorruptObject("It is damaged"))
    with pytest.raises(CorruptObject):
        collect(FaultyEnvironment(here, [broken]), NAME, GcOptions(revisions=0))
    (run,) = [row for row in rows(here, "run_statistics") if row["operation"] == "gc"]
    assert (run["success"], run["error"]) == ("0", "CorruptObject")


def test_statistics_do_not_overwrite_each_other(template: Path, tmp_path: Path, source: Path) -> None:
    here = from_template(template, tmp_path)
    here.configure(CVMFS_UPLOAD_STATS_DB="true")
    here.ingest(merge(source))
    environment, settings = here.environment, here.environment.settings(NAME)
    with here.store() as inner:
        store = FaultyStore(inner, [Fault(operations=("put_if_match",), error=PreconditionFailed("It is another"))])
        (warning,) = record(environment, settings, store, GcStatistics(), started=0.0)
        assert "The statistics were not kept: It is another" in warning
        assert record(environment, settings, inner, GcStatistics(), started=0.0) == []
    assert len(rows(here.another("there"), "gc_statistics")) == 1


def test_old_statistics_go(local: ReleaseManager, tmp_path: Path, source: Path) -> None:
    file = tmp_path / "elsewhere" / "stats.db"
    local.configure(CVMFS_STATISTICS_DB=str(file), CVMFS_STATS_DB_DAYS_TO_KEEP="10")
    local.ingest(merge(source))
    with sqlite3.connect(file) as database:
        database.execute("UPDATE publish_statistics SET start_time = datetime('now', '-12 days')")
    local.ingest(merge(source, "more"))
    assert [row["revision"] for row in rows(local)] == ["3"]
    local.configure(CVMFS_STATISTICS_DB=str(local.spool / "other.db"))
    environment, settings = local.environment, local.environment.settings(NAME)
    with local.store() as store:
        statistics = GcStatistics(n_condemned_objects=3)
        assert record(environment, settings, store, statistics, started=0.0, failure=StorageError("")) == []
    (row,) = rows(local, "gc_statistics")
    assert (row["n_condemned_objects"], row["success"], row["sz_condemned_bytes"]) == ("3", "0", "")


def test_statistics_of_earlier_schemas(local: ReleaseManager, source: Path) -> None:
    local.spool.mkdir(exist_ok=True)
    with sqlite3.connect(local.spool / "stats.db") as database:
        database.executescript(
            "CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));"
            "INSERT INTO properties VALUES ('schema', '1.0'), ('schema_revision', '1');"
            "CREATE TABLE publish_statistics (publish_id INTEGER PRIMARY KEY, start_time TEXT, finished_time TEXT,"
            " files_added INTEGER, files_removed INTEGER, files_changed INTEGER, duplicated_files INTEGER,"
            " directories_added INTEGER, directories_removed INTEGER, directories_changed INTEGER,"
            " sz_bytes_added INTEGER, sz_bytes_removed INTEGER, sz_bytes_uploaded INTEGER);"
            "CREATE TABLE gc_statistics (gc_id INTEGER PRIMARY KEY, start_time TEXT, finished_time TEXT,"
            " n_preserved_catalogs INTEGER, n_condemned_catalogs INTEGER, n_condemned_objects INTEGER,"
            " sz_condemned_bytes INTEGER);"
            "INSERT INTO publish_statistics (start_time, finished_time, duplicated_files)"
            " VALUES (datetime('now'), 'then', 4);"
        )
    assert local.ingest(merge(source)).warnings == []
    old, new = rows(local)
    assert (old["finish_time"], old["chunks_duplicated"], new["revision"]) == ("then", "4", "2")


def test_merge_stats(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    databases = []
    for number in (1, 2):
        databases.append(tmp_path / f"{number}.db")
        local.configure(CVMFS_STATISTICS_DB=str(databases[-1]))
        local.ingest(merge(source, f"sw{number}"))
    merged = tmp_path / "merged.db"
    local.run("merge-stats", "-o", merged, *databases).succeeded()
    with sqlite3.connect(merged) as database:
        assert database.execute("SELECT publish_id, revision FROM publish_statistics").fetchall() == [(1, 2), (2, 3)]
    outcome = local.run("merge-stats", "-o", databases[0], *databases)
    assert "would be overwritten" in outcome.stderr
    with sqlite3.connect(databases[0]) as database:
        database.execute("UPDATE properties SET value = 'other.example.org' WHERE key = 'repo_name'")
    outcome = local.run("merge-stats", "-o", merged, *databases)
    assert "have a different repo_name: other.example.org and test.example.org" in outcome.stderr
    assert outcome.code == 1


# Descriptions


def test_update_repoinfo(local: ReleaseManager, tmp_path: Path) -> None:
    file = tmp_path / "meta.json"
    file.write_text('{"administrator": "Grüße"}')
    before = local.manifest()
    document = local.server("update-repoinfo", "--json", "-f", file).succeeded().document
    after = local.manifest()
    assert (after.revision, after.root_hash) == (before.revision, before.root_hash)
    assert document["meta_info"] == after.meta_info.hex if after.meta_info else False
    assert local.server("info", "--json").document["meta_info"] == file.read_text()
    local.check()
    local.server("ingest", "-d", "new_repository").succeeded()
    local.server("fix-stats", "-f").succeeded()
    assert local.server("info", "--json").document["meta_info"] == file.read_text()
    for text, says in (("{", "is no JSON"), ("[]", "is no JSON object")):
        file.write_text(text)
        local.refuses("update-repoinfo", "-f", file, says=[says])
    local.refuses("update-repoinfo", "-f", tmp_path / "none", says=["Cannot read"])
    local.refuses("update-repoinfo", says=["There is no terminal to edit the document at. Add -f"])
    local.server("transaction").succeeded()
    file.write_text("{}")
    assert "has the transaction" in local.server("update-repoinfo", "-f", file).stderr


@pytest.mark.parametrize(
    "command", [["tag", "-a", "new"], ["tag", "-f", "-r", "old"], ["resign", "-p"], ["update-repoinfo", "-f"]]
)
def test_a_reflog_that_was_not_written_is_told(
    local: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """What was done is done, and the next commit mends the reflog; until then, check finds fault with it."""
    local.server("tag", "-a", "old").succeeded()
    (tmp_path / "meta").write_text("{}")
    command += [str(tmp_path / "meta")] if command[0] == "update-repoinfo" else []

    def fail(*_: object) -> None:
        raise StorageError("The bucket is full")

    with monkeypatch.context() as patch:
        patch.setattr(Repository, "_write_reflog", fail)
        outcome = local.server(*command).succeeded()
    assert "Warning: Revision 1 is published, but the reflog was not written: The bucket is full" in outcome.stderr
    local.server("tag", "-a", "another").succeeded()
    local.check()


def test_update_info(local: ReleaseManager, tmp_path: Path) -> None:
    file = tmp_path / "meta.json"
    file.write_text('{"administrator": "me"}')
    local.run("update-info", "-p", "-f", file).succeeded()
    assert json.loads((tmp_path / metainfo.SERVER_META_KEY).read_bytes()) == {"administrator": "me"}
    listed = json.loads((tmp_path / metainfo.REPOSITORIES_KEY).read_bytes())
    assert [entry["name"] for entry in listed["repositories"]] == [NAME]
    file.write_text("[]")
    assert "is no JSON object" in local.run("update-info", "-f", file).stderr
    (tmp_path / metainfo.REPOSITORIES_KEY).unlink()
    assert local.run("update-info", "-e", "--json").succeeded().document == {"repositories": [NAME]}
    assert json.loads((tmp_path / metainfo.SERVER_META_KEY).read_bytes()) == {"administrator": "me"}
    assert (tmp_path / metainfo.REPOSITORIES_KEY).exists()
    assert "no terminal" in local.run("update-info").stderr


# Removal


def test_rmfs_of_a_directory(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    local.ingest(merge(source))
    local.server("tag", "-a", "new").succeeded()
    assert local.server("rmfs", stdin=b"n\n").succeeded().stdout == ""
    local.manifest()
    local.server("transaction").succeeded()
    assert "has the transaction" in local.server("rmfs", "-f").stderr
    local.server("abort", "-f").succeeded()
    outcome = local.server("rmfs", "--json", "-f").succeeded()
    assert outcome.document["objects"] > 10
    assert outcome.document["warnings"] == []
    assert not (tmp_path / "storage").exists()
    assert not local.spool.exists()
    assert list(local.keys.iterdir()) == []
    assert not local.server_conf.parent.exists()


def test_rmfs_preserves(local: ReleaseManager, tmp_path: Path) -> None:
    outcome = local.server("rmfs", "-p", stdin=b"y\n").succeeded()
    assert "REMOVE THE CERNVM-FS REPOSITORY INFRASTRUCTURE" in outcome.stderr
    assert "is no longer configured here; its content is still in its storage." in outcome.stdout
    assert (tmp_path / "storage" / ".cvmfspublished").exists()
    assert (local.keys / f"{NAME}.masterkey").exists()
    assert not local.server_conf.exists()


def test_rmfs_of_a_bucket(s3: ReleaseManager, source: Path) -> None:
    s3.ingest(merge(source))
    configuration, keys = s3.server_conf.read_text(), {path: path.read_bytes() for path in s3.keys.iterdir()}

    def restore() -> None:
        s3.server_conf.parent.mkdir(exist_ok=True)
        s3.server_conf.write_text(configuration)
        for path, content in keys.items():
            path.write_bytes(content)

    s3.server("rmfs", "-f").succeeded()
    restore()
    s3.check()
    assert s3.server("rmfs", "--delete-storage", stdin=b"y\n").succeeded().stdout == ""
    s3.check()
    outcome = s3.server("rmfs", "--delete-storage", stdin=f"{NAME}\n".encode()).succeeded()
    assert "Type its name to go on" in outcome.stderr
    restore()
    with s3.store() as store:
        assert list(store.list("")) == []


def test_rmfs_spares_other_repositories(local: ReleaseManager, tmp_path: Path) -> None:
    other = tmp_path / "storage" / "other.example.org" / ".cvmfspublished"
    other.parent.mkdir()
    other.touch()
    local.refuses("rmfs", "-f", says=["Another repository is in the storage", "other.example.org/.cvmfspublished"])
    local.check()
    assert other.exists()
    local.configure(CVMFS_UPSTREAM_STORAGE=f"S3,{tmp_path},@{tmp_path}/s3.conf")
    outcome = local.server("rmfs", "-f", "--delete-storage")
    assert outcome.code == 1
    assert "has no prefix in its bucket, so all of the bucket would be deleted" in outcome.stderr


def test_an_interrupted_rmfs_can_be_repeated(local: ReleaseManager, tmp_path: Path) -> None:
    (tmp_path / "storage" / ".cvmfspublished").unlink()
    local.server("rmfs", "-f").succeeded()
    assert not (tmp_path / "storage").exists()


def test_a_long_rmfs_keeps_its_lease(local: ReleaseManager, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is renewed while objects are deleted."""
    local.ingest(merge(source))
    monkeypatch.setattr(transaction_module, "_RENEW_EVERY", 0.1)
    monkeypatch.setattr(sweeper_module, "_BATCH", 1)
    environment = FaultyEnvironment(local, [Fault(operations=("delete_many",), keys="data/*", delay=1)])
    rmfs(environment, NAME)
    operations = environment.faulty.operations
    first = next(
        index for index, (name, key) in enumerate(operations) if name == "delete_many" and key.startswith("data/")
    )
    # The last one gives it back
    assert operations[first:].count(("put_if_match", LEASE_KEY)) > 4


def test_an_rmfs_that_loses_its_lease_deletes_nothing_of_who_has_it(
    local: ReleaseManager, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has slept for long, say: there is another repository meanwhile."""
    local.ingest(merge(source))
    monkeypatch.setattr(sweeper_module, "_BATCH", 2)

    def lose(store: LocalStore, keys: Sequence[str], permit: Permit, cancel: Cancellation | None = None) -> bool:
        with lock:
            if keys[0].startswith("data/") and not taken:
                break_lease(store)
                local.expire_lease(CLOCK_MARGIN + 1)
                taken.append(Lease.acquire(store, NAME, session="other", holder="o", transaction="t", base_revision=0))
                store.put(MANIFEST_KEY, b"of another repository")
        return delete(store, keys, permit, cancel)

    delete, taken, lock = LocalStore.delete_many, list[Lease](), threading.Lock()
    monkeypatch.setattr(LocalStore, "delete_many", lose)
    with pytest.raises(LeaseHeld, match="has a transaction open: o began it"):
        rmfs(local.environment, NAME)
    with local.store() as store:
        assert store.exists(MANIFEST_KEY)
        assert len(list(store.list("data/"))) > 3


def test_an_rmfs_that_sleeps(manager: ReleaseManager, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease ends just before a deletion, and when it wakes up, there is another repository."""
    times_of_leases(monkeypatch, lifetime=2, renew_every=60)
    monkeypatch.setattr(sweeper_module, "_BATCH", 1)
    manager.ingest(merge(source))
    new: list[str] = []

    def sleeps() -> None:
        time.sleep(4.5)
        with manager.store() as store:
            Lease.acquire(store, NAME, session="other", holder="o", transaction="t", base_revision=0)
            new.extend(info.key for info in store.list("data/"))
            store.put(MANIFEST_KEY, b"of another repository")

    environment = MeanwhileEnvironment(manager, "delete data/", sleeps)
    with pytest.raises((NotInTransaction, LeaseHeld)):
        rmfs(environment, NAME, delete_storage=True)
    with manager.store() as store:
        assert new
        assert {info.key for info in store.list("data/")} == set(new)
        assert store.exists(MANIFEST_KEY)


def test_an_rmfs_that_is_not_certain_of_its_deletions_leaves_the_lease(
    local: ReleaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes a repository there has to wait until none can be carried out any more."""
    delete = LocalStore.delete_many

    def delete_unanswered(store: LocalStore, keys: Sequence[str], permit: Permit, cancel: Cancellation) -> bool:
        delete(store, keys, permit, cancel)
        return False

    monkeypatch.setattr(LocalStore, "delete_many", delete_unanswered)
    monkeypatch.setattr("cvmfs_publisher.operations.rmfs._remove_directories", lambda _: None)
    result = rmfs(local.environment, NAME, delete_storage=True)
    assert "So the lease was not given back" in result.warnings[0]
    lease = peek(LocalStore(tmp_path / "storage"))
    assert lease is not None
    assert not lease.is_released


def test_an_rmfs_that_is_interrupted_twice_does_not_give_the_lease_back(
    local: ReleaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deletions may go on; they must not meet the objects of a new repository."""

    class Interrupted(ThreadPoolExecutor):
        def shutdown(self, *arguments: bool, **options: bool) -> None:
            super().shutdown(*arguments, **options)
            raise KeyboardInterrupt

    monkeypatch.setattr(sweeper_module, "ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        rmfs(local.environment, NAME)
    assert not local.state().lease_is_free


def test_skeleton(local: ReleaseManager, tmp_path: Path) -> None:
    directory = tmp_path / "new"
    outcome = local.run("skeleton", directory, stdin=b"\n").succeeded()
    assert "Owner of " in outcome.stderr
    assert len(list((directory / "data").iterdir())) == 257
    local.run("skeleton", "-o", "nobody", directory).succeeded()
    assert {path.owner() for path in (directory / "data").iterdir()} == {"nobody"}
    assert "There is no user" in local.run("skeleton", "-o", "nobody-of-that-name", directory).stderr
    make(tmp_path, file="")
    assert "Cannot make the directories" in local.run("skeleton", "-o", "root", tmp_path / "file" / "x").stderr


def test_old_names_of_tag(local: ReleaseManager) -> None:
    for command in ("lstags", "list-tags"):
        assert local.server(command, "--json").document == local.server("tag", "--json").document
        outcome = local.server(command, "-x").succeeded()
        assert outcome.stdout == local.server("tag", "-l", "-x").stdout
        assert outcome.stderr == f"NOTE: cvmfs_server {command} is deprecated! Use cvmfs_server tag instead\n"
