# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Prometheus is told about repositories. Private to the collection.

Everything is read over anonymous HTTP, so it works on any host, needs no secret, and is the same for either engine:
both keep their statistics in the same database, which ``CVMFS_UPLOAD_STATS_DB=true`` puts beside the repository. The
file of a release manager on the same host, such as /var/spool/cvmfs/software.example.org/stats.db, may take its place.

The role ``monitoring`` runs this file, with those that it imports, by a timer:

    python3 -m ansible_collections.cvmfs.publishing.plugins.module_utils._metrics CONFIGURATION OUTPUT CACHE
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import sqlite3
import statistics
import sys
import time
import typing as t

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._http import ObjectMissing, answer_to
from ansible_collections.cvmfs.publishing.plugins.module_utils._manifest import VerificationError, WhitelistExpired
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import Repository, open_database

STATISTICS_KEY = "stats/stats.db"
_TIMEOUT = 10  # seconds that a server may take for an answer
_LATENCY_READS = 5
_DAY = 86400
_TABLES = {"publish": "publish_statistics", "gc": "gc_statistics"}
_CHANGES = ("added", "removed", "changed")

# All are gauges. Each has the label `repository`; further labels are those that the help text names in brackets.
METRICS = {
    "cvmfs_repository_up": "Whether this [part] of what is known about the repository could be read: repository "
    "(manifest, whitelist and certificate, verified), lease, statistics, bucket",
    "cvmfs_repository_collected_timestamp_seconds": "When these metrics were collected",
    "cvmfs_repository_revision": "Newest revision",
    "cvmfs_repository_garbage_collectable": "Whether the repository is one whose garbage may be collected",
    "cvmfs_repository_published_timestamp_seconds": "When the newest revision was signed",
    "cvmfs_repository_ttl_seconds": "For how long clients take a revision for the newest",
    "cvmfs_repository_whitelist_expiry_timestamp_seconds": "When clients begin to refuse the repository unless it is "
    "resigned",
    "cvmfs_repository_entries": "Entries of the newest revision, by [kind]: file, directory, symlink, special, catalog",
    "cvmfs_repository_file_bytes": "Bytes in the files of the newest revision",
    "cvmfs_repository_named_snapshots": "Named snapshots (tags)",
    "cvmfs_repository_transaction_open": "Whether a transaction is open, on whichever host",
    "cvmfs_repository_lease_acquired_timestamp_seconds": "When the open transaction began",
    "cvmfs_repository_lease_expiry_timestamp_seconds": "When the open transaction's lease ends if nobody renews it",
    "cvmfs_repository_last_run_timestamp_seconds": "When the last [operation], publish or gc, ended",
    "cvmfs_repository_last_run_duration_seconds": "How long the last [operation] took",
    "cvmfs_repository_last_run_success": "Whether the last [operation] succeeded",
    "cvmfs_repository_last_success_timestamp_seconds": "When the last [operation] that succeeded ended",
    "cvmfs_repository_last_failure_timestamp_seconds": "When the last [operation] that failed ended; [error] is the "
    "kind of error, where the engine says it",
    "cvmfs_repository_runs_in_day": "Operations that ended within 24 hours, by [operation] and [result], success "
    "or failure",
    "cvmfs_repository_last_publish_files": "Files of the last publish that made a revision, by [change]: added, "
    "removed, changed",
    "cvmfs_repository_last_publish_objects": "Objects that it uploaded, without catalogs",
    "cvmfs_repository_last_publish_bytes": "Bytes that it uploaded, with catalogs",
    "cvmfs_repository_published_objects_in_day": "Objects that publishes uploaded within 24 hours, without catalogs",
    "cvmfs_repository_published_bytes_in_day": "Bytes that publishes uploaded within 24 hours, with catalogs",
    "cvmfs_repository_last_gc_objects": "Objects that the last successful garbage collection deleted",
    "cvmfs_repository_last_run_s3_requests": "Requests that the last [operation] sent to the storage",
    "cvmfs_repository_last_run_s3_retries": "Requests that the last [operation] had to repeat",
    "cvmfs_repository_last_run_s3_request_seconds": "How long a request of the last [operation] took on average, with "
    "its repetitions",
    "cvmfs_repository_get_seconds": "How long the server takes for a small object on a kept-alive connection (median)",
    "cvmfs_repository_get_retries": "Requests that had to be repeated to collect these metrics",
    "cvmfs_bucket_objects": "Objects in the bucket, as Ceph's RGW counts them",
    "cvmfs_bucket_bytes": "Bytes in the bucket, as Ceph's RGW counts them",
    "cvmfs_bucket_quota_bytes": "Bytes that the bucket may have, by the inventory",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A repository to look at.

    `bucket_url` is that of the bucket, if its usage is wanted, and `statistics_db` a database file on this host, in
    place of the one beside the repository.
    """

    repository: str
    url: str
    public_keys: tuple = ()
    ca_path: t.Optional[str] = None
    bucket_url: t.Optional[str] = None
    quota_bytes: t.Optional[int] = None
    statistics_db: t.Optional[str] = None


class Samples:
    """The values of metrics, and what went wrong."""

    def __init__(self):
        self._values = {}
        self.problems = []

    def add(self, name, value, **labels):
        """Take a value, unless it is None: what is not known has no sample."""
        if value is not None:
            self._values.setdefault(name, []).append((labels, value))

    def render(self):
        """Return all as text in Prometheus's format for exposition."""
        lines = []
        for name, text in METRICS.items():
            if name in self._values:
                lines += [f"# HELP {name} {text}.", f"# TYPE {name} gauge"]
                lines += [f"{name}{{{_labels(labels)}}} {_number(value)}" for labels, value in self._values[name]]
        return "".join(f"{line}\n" for line in lines)


def collect(targets, *, cache=None, now=None):
    """Look at repositories; return :class:`Samples`. One that cannot be read is a sample, too.

    `cache` is a dictionary to keep between calls, with what was read of immutable objects.
    """
    samples, cache = Samples(), {} if cache is None else cache
    for target in targets:
        _Collector(target, samples, cache.setdefault(target.repository, {}), now or time.time()).run()
    for name in cache.keys() - {target.repository for target in targets}:
        del cache[name]
    return samples


def of_release_manager(release_manager):
    """Return the target that a release manager of this host stands for. PublishingError."""
    return Target(
        release_manager.fqrn,
        release_manager.stratum0_url,
        (release_manager.public_key(),),
        ca_path=release_manager.ca_path,
    )


class _Collector:
    """One look at one repository."""

    def __init__(self, target, samples, cache, now):
        self._target = target
        self._samples = samples
        self._cache = cache
        self._now = now

    def run(self):
        target = self._target
        self._add("cvmfs_repository_collected_timestamp_seconds", self._now)
        self._add("cvmfs_bucket_quota_bytes", target.quota_bytes)
        if target.bucket_url is not None:
            self._part("bucket", self._bucket)
        try:
            repository = Repository(
                target.url, target.public_keys, fqrn=target.repository, ca_path=target.ca_path, timeout=_TIMEOUT
            )
        except (PublishingError, OSError) as error:
            self._down("repository", error)
            return
        # A server that gives no manifest is not asked for more: that would only take long.
        if self._part("repository", self._repository, repository):
            self._part("lease", self._lease, repository)
            self._part("statistics", self._statistics, repository)
            self._add("cvmfs_repository_get_retries", repository.retries)

    def _add(self, name, value, **labels):
        self._samples.add(name, value, repository=self._target.repository, **labels)

    def _part(self, part, read, *arguments):
        try:
            read(*arguments)
        except (PublishingError, OSError, sqlite3.DatabaseError) as error:
            self._down(part, error)
            return False
        self._add("cvmfs_repository_up", 1, part=part)
        return True

    def _down(self, part, error):
        self._add("cvmfs_repository_up", 0, part=part)
        self._samples.problems.append(f"{self._target.repository}: {part}: {error}")

    def _repository(self, repository):
        with contextlib.suppress(WhitelistExpired):  # that is one of the metrics
            repository.revision()
        manifest = repository.manifest()
        self._add("cvmfs_repository_revision", manifest.revision)
        self._add("cvmfs_repository_garbage_collectable", manifest.garbage_collectable)
        self._add("cvmfs_repository_published_timestamp_seconds", manifest.published)
        self._add("cvmfs_repository_ttl_seconds", manifest.ttl)
        expires = repository.whitelist().expires
        self._add("cvmfs_repository_whitelist_expiry_timestamp_seconds", expires.timestamp())
        counters = self._remembered("catalog", manifest.root_hash, repository.totals)
        # Both catalogs at a nested catalog's root count that directory; the root catalog is nested in none.
        entries = {
            "file": counters["regular"],
            "directory": counters["dir"] - counters["nested"],
            "symlink": counters["symlink"],
            "special": counters["special"],
            "catalog": counters["nested"] + 1,
        }
        for kind, count in entries.items():
            self._add("cvmfs_repository_entries", count, kind=kind)
        self._add("cvmfs_repository_file_bytes", counters["file_size"])
        tags = self._remembered("history", manifest.history, lambda: len(repository.tags()))
        self._add("cvmfs_repository_named_snapshots", tags)
        self._add("cvmfs_repository_get_seconds", statistics.median(_latencies(repository)))

    def _remembered(self, what, printed_hash, read):
        if self._cache.get(what, [None])[0] != printed_hash:
            self._cache[what] = [printed_hash, read()]
        return self._cache[what][1]

    def _lease(self, repository):
        lease = repository.lease()
        self._add("cvmfs_repository_transaction_open", lease is not None)
        if lease is not None:
            self._add("cvmfs_repository_lease_acquired_timestamp_seconds", lease.acquired)
            self._add("cvmfs_repository_lease_expiry_timestamp_seconds", lease.expires)

    def _bucket(self):
        # RGW of Ceph 19 counts only when it is asked to, and older ones take no notice of that.
        url = f"{self._target.bucket_url}?read-stats=true"
        status, headers = answer_to("HEAD", url, timeout=_TIMEOUT, ca_path=self._target.ca_path)
        if status != 200:
            raise VerificationError(
                f"{self._target.bucket_url} answers {status}", remedy="May everybody list the bucket?"
            )
        for name, header in (("objects", "X-RGW-Object-Count"), ("bytes", "X-RGW-Bytes-Used")):
            self._add(f"cvmfs_bucket_{name}", int(headers[header]) if header in headers else None)

    def _statistics(self, repository):
        if self._target.statistics_db is not None:
            with open(self._target.statistics_db, "rb") as stream:
                data = stream.read()
        else:
            try:
                data = repository.get(STATISTICS_KEY)
            except ObjectMissing:
                return
        with open_database(data) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            runs = _rows(database, "run_statistics") if "run_statistics" in tables else []
            for operation, table in _TABLES.items():
                rows = _rows(database, table) if table in tables else []
                self._runs(operation, rows, [run for run in runs if run["operation"] == operation])
                if operation == "publish":
                    self._publishes(rows)
                else:
                    self._collections(rows)

    def _runs(self, operation, rows, runs):
        """Say what is known about the operation's `rows` and, where the native engine wrote them, `runs`."""
        if not rows:
            return
        last = rows[-1]
        self._add("cvmfs_repository_last_run_timestamp_seconds", _finished(last), operation=operation)
        duration = _finished(last) - _seconds(last["start_time"])
        self._add("cvmfs_repository_last_run_duration_seconds", duration, operation=operation)
        self._add("cvmfs_repository_last_run_success", _succeeded(last), operation=operation)
        good, bad = [row for row in rows if _succeeded(row)], [row for row in rows if not _succeeded(row)]
        if good:
            self._add("cvmfs_repository_last_success_timestamp_seconds", _finished(good[-1]), operation=operation)
        if bad:
            errors = {run["start_time"]: run["error"] for run in runs}
            error = errors.get(bad[-1]["start_time"]) or "unknown"
            finished = _finished(bad[-1])
            self._add("cvmfs_repository_last_failure_timestamp_seconds", finished, operation=operation, error=error)
        for result, found in (("success", good), ("failure", bad)):
            count = len(self._of_day(found))
            self._add("cvmfs_repository_runs_in_day", count, operation=operation, result=result)
        if runs:
            run = runs[-1]
            self._add("cvmfs_repository_last_run_s3_requests", run["s3_requests"], operation=operation)
            self._add("cvmfs_repository_last_run_s3_retries", run["s3_retries"], operation=operation)
            mean = run["s3_seconds"] / run["s3_requests"] if run["s3_requests"] else None
            self._add("cvmfs_repository_last_run_s3_request_seconds", mean, operation=operation)

    def _publishes(self, rows):
        good = [row for row in rows if _succeeded(row)]
        if good:
            for change in _CHANGES:
                self._add("cvmfs_repository_last_publish_files", good[-1][f"files_{change}"], change=change)
            self._add("cvmfs_repository_last_publish_objects", good[-1].get("chunks_added"))
            self._add("cvmfs_repository_last_publish_bytes", _uploaded(good[-1]))
        of_day = self._of_day(rows)
        self._add("cvmfs_repository_published_objects_in_day", sum(row.get("chunks_added") or 0 for row in of_day))
        self._add("cvmfs_repository_published_bytes_in_day", sum(_uploaded(row) for row in of_day))

    def _collections(self, rows):
        good = [row for row in rows if _succeeded(row)]
        if good:
            self._add("cvmfs_repository_last_gc_objects", good[-1]["n_condemned_objects"])

    def _of_day(self, rows):
        return [row for row in rows if _finished(row) > self._now - _DAY]


def _latencies(repository):
    """Yield the seconds that reading the manifest takes, time and again on the same connection."""
    for _number in range(_LATENCY_READS):
        began = time.monotonic()
        repository.get(".cvmfspublished")
        yield time.monotonic() - began


def _rows(database, table):
    """Return a table's rows as dictionaries, from the first to the last. The first column numbers them."""
    cursor = database.execute(f"SELECT * FROM {table} ORDER BY 1")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row)) for row in cursor]


def _finished(row):
    return _seconds(row.get("finish_time") or row["finished_time"])  # what earlier schemas call it


def _seconds(text):
    moment = datetime.datetime.strptime(text, "%Y-%m-%d %H:%M:%S")
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()


def _succeeded(row):
    return row.get("success") != 0  # earlier schemas knew no failures


def _uploaded(row):
    return sum(row.get(name) or 0 for name in ("sz_bytes_uploaded", "sz_catalog_bytes_uploaded"))


def _labels(labels):
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(text):
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value):
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def _load_cache(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (FileNotFoundError, ValueError):
        return {}


def _write(path, text):
    """Replace a file as a whole, for everybody to read."""
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o644)
        stream.write(text)
    os.replace(partial, path)


def main(arguments):
    """Collect what the configuration names, and write it to a file."""
    configuration, output, cache_path = arguments
    with open(configuration, encoding="utf-8") as stream:
        targets = [Target(**fields) for fields in json.load(stream)["repositories"]]
    cache = _load_cache(cache_path)
    samples = collect(targets, cache=cache)
    _write(cache_path, json.dumps(cache))
    _write(output, samples.render())
    for problem in samples.problems:
        sys.stderr.write(f"{problem}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
